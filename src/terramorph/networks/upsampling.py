"""Three ways to double the size of a feature map, each with learned weights.

- `transposed`: a transposed convolution of stride 2, as in the pix2pix paper.
- `resize`: nearest neighbour, then a 3x3 convolution (Odena, Dumoulin, Olah 2016, "Deconvolution and Checkerboard
  Artifacts"), padded by zeros as the other convolutions of these networks are.
- `pixelshuffle`: a 3x3 convolution to four times the channels, which become the four pixels of a 2x2 block (Shi et al.
  2016, arXiv:1609.05158), started as a resize-convolution (ICNR: Aitken et al. 2017, arXiv:1707.02937).

The last two are transposed convolutions of stride 2 themselves, with tied 4x4 kernels and with free 6x6 ones. They
learn otherwise and compute the same, so that `for_inference` gives what everything can run.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from terramorph.networks.convolutions import KERNEL, DoublingConv2d

Upsampling = Literal["transposed", "resize", "pixelshuffle"]

# Rows of a 4x4 kernel of stride 2 from those of the 3x3 kernel that looks at every pixel twice.
_TWICE = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


def make_upsampling(kind: Upsampling, inner: int, out: int, *, kernel: int, bias: bool) -> nn.Module:
    """Make a layer (N, inner, H, W) -> (N, out, 2 H, 2 W).

    Args:
        kind: See the module's text.
        kernel: Side of the kernel of a transposed convolution, 3 or 4.
        bias: Whether there is one; a value a channel.
    """
    if kind == "transposed" and kernel == KERNEL:
        return DoublingConv2d(inner, out, bias=bias)
    if kind == "transposed":
        return nn.ConvTranspose2d(inner, out, kernel, stride=2, padding=1, output_padding=kernel % 2, bias=bias)
    if kind == "resize":
        return ResizeConv(inner, out, bias=bias)
    return SubpixelConv(inner, out, bias=bias)


class ResizeConv(nn.Module):
    """Nearest neighbour, then a 3x3 convolution: every output pixel is the work of equally many weights."""

    def __init__(self, inner: int, out: int, *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, out, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inner, H, W) -> (N, out, 2 H, 2 W)."""
        doubled: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled

    def for_inference(self) -> nn.ConvTranspose2d:
        """Return the 4x4 transposed convolution that is equal to rounding, with less than half the arithmetic."""
        weight = self.conv.weight.detach()
        twice = weight.new_tensor(_TWICE)
        return _transposed(torch.einsum("ar,bc,oirc->ioab", twice, twice, weight), self.conv.bias, padding=1)


class SubpixelConv(nn.Module):
    """A 3x3 convolution whose outputs are the pixels of 2x2 blocks.

    The bias is one a channel, not one a pixel of the block: four different ones would be a checkerboard.
    """

    def __init__(self, inner: int, out: int, *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, 4 * out, 3, padding=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inner, H, W) -> (N, out, 2 H, 2 W)."""
        doubled = functional.pixel_shuffle(self.conv(x), 2)
        return doubled if self.bias is None else doubled + self.bias[:, None, None]

    @torch.no_grad()
    def tie(self) -> None:
        """Start the four pixels of a block with the weights of the first (ICNR), so there is no pattern to unlearn."""
        four = self.conv.weight.view(-1, 4, *self.conv.weight.shape[1:])
        four.copy_(four[:, :1].expand_as(four).clone())

    def for_inference(self) -> nn.ConvTranspose2d:
        """Return the 6x6 transposed convolution that is equal to rounding."""
        weight = self.conv.weight.detach()
        four = weight.view(-1, 2, 2, *weight.shape[1:]).flip(-2, -1)  # (out, row, column, inner, 3, 3)
        return _transposed(four.permute(3, 0, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3), self.bias, padding=2)


def _transposed(weight: Tensor, bias: Tensor | None, *, padding: int) -> nn.ConvTranspose2d:
    """Make a transposed convolution of stride 2 from a weight (inner, out, k, k) and a bias (out,)."""
    inner, out, kernel, _ = weight.shape
    with torch.device("meta"):
        conv = nn.ConvTranspose2d(inner, out, kernel, stride=2, padding=padding, bias=bias is not None)
    conv.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return conv
