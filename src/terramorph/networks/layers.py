"""Layers that the networks share: normalisation and upsampling by name, dropout with its own generator, padding to a
stride.

There are three ways to double the size of a feature map, each with learned weights:

- `transposed`: a transposed convolution of stride 2, as in the pix2pix paper.
- `resize`: nearest neighbour, then a 3x3 convolution (Odena, Dumoulin, Olah 2016, "Deconvolution and Checkerboard
  Artifacts"), padded by zeros as the other convolutions of these networks are.
- `pixelshuffle`: a 3x3 convolution to four times the channels, which become the four pixels of a 2x2 block (Shi et al.
  2016, arXiv:1609.05158), started as a resize-convolution (ICNR: Aitken et al. 2017, arXiv:1707.02937).

The last two are transposed convolutions of stride 2 themselves, with tied 4x4 kernels and with free 6x6 ones. They
learn otherwise and compute the same, so that `for_inference` gives what everything can run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from terramorph.networks.convolutions import KERNEL, DoublingConv2d

Norm = Literal["batch", "instance", "none"]
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


class InstanceNorm(nn.Module):
    """Normalisation of every plane alone (instance norm: Ulyanov et al. 2016, arXiv:1607.08022); nothing is remembered.

    A plane of a single pixel is its own mean and becomes 0.

    Args:
        norm: Batch norm whose scale, shift and epsilon it takes. In training mode that one does this to a single image;
            here it is done to every image of a batch. None: neither scale nor shift.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, norm: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        self.eps = 1e-5 if norm is None else norm.eps
        for name in ("weight", "bias"):
            value = getattr(norm, name, None)
            self.register_buffer(name, None if value is None else value.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """float (N, C, H, W) -> the same shape, every (H, W) plane at mean 0 and variance 1 before scale and shift."""
        # torch.nn.functional.instance_norm refuses planes of a single pixel.
        made = torch.instance_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps, False)
        if made.requires_grad and len(made) == 1 and made.device.type == "cpu":
            # There torch 2.13 reads a channels_last gradient as if it were a contiguous one.
            made.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
        return made


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Make the normalisation after a convolution: (N, channels, H, W) -> the same shape.

    Args:
        norm: batch (affine, with running statistics), instance (neither) or none, which changes nothing.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return InstanceNorm() if norm == "instance" else nn.Identity()


class NoiseDropout(nn.Module):
    """Dropout as the noise input of a conditional GAN (Isola et al. 2017, section 3.2).

    It draws from `generator`, never from the global state, so that a run can be repeated and resumed; without a
    generator, from torch's default one. It follows train() and eval(), and can be set by itself: paper mode samples
    with dropout in a network that is otherwise in evaluation mode.

    Args:
        p: Share that is dropped.
        planes: Drop whole (H, W) planes.
    """

    def __init__(self, p: float, *, planes: bool = False) -> None:
        super().__init__()
        self.p, self.planes = p, planes
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape; in training mode a share p of the values is 0 and the rest grow by 1/(1-p)."""
        if not self.training or self.p == 0.0:
            return x
        like = x[..., :1, :1] if self.planes else x
        keep = torch.empty_like(like).bernoulli_(1.0 - self.p, generator=self.generator)
        return x * keep.div_(1.0 - self.p)


def set_noise(network: nn.Module, generator: torch.Generator | None) -> None:
    """Let every dropout of the network draw from the generator, which lives on the network's device."""
    for module in network.modules():
        if isinstance(module, NoiseDropout):
            module.generator = generator


def reflected(length: int, before: int, after: int, device: torch.device | None = None) -> Tensor:
    """Return indices that extend [0, length) by reflection, as often as needed: int64 (before + length + after,).

    torch's own reflection pad cannot reach further than the image is long; this one can.
    """
    period = _at_least(2 * (length - 1), 1)
    index = torch.arange(-before, length + after, device=device).remainder(period)
    return torch.where(index >= length, period - index, index)


def on_stride(run: Callable[[Tensor], Tensor], x: Tensor, stride: int, least: int = 1) -> Tensor:
    """Run a network that needs multiples of `stride` on any size.

    The image is extended by reflection at the bottom and right, and the result cropped back; also in a traced graph,
    for any size.

    Args:
        run: The network; (N, C, H, W) -> (N, D, H, W) for H and W that are multiples of the stride.
        x: (N, C, H, W), any H and W from 1.
        stride: Stride of the network, pixels.
        least: Pixels that the network needs on a side.

    Returns:
        (N, D, H, W) with the input's H and W.
    """
    sides = x.shape[-2:]
    wanted = [(_at_least(side, least) + stride - 1) // stride * stride for side in sides]
    # One index per axis and only where it is needed: index_select keeps the memory format.
    traced = torch.jit.is_tracing()  # type: ignore[no-untyped-call, attr-defined]
    changed = [traced or whole != side for side, whole in zip(sides, wanted, strict=True)]
    for axis in (0, 1):
        if changed[axis]:
            x = x.index_select(axis + 2, reflected(sides[axis], 0, wanted[axis] - sides[axis], x.device))
    made = run(x)
    return made[..., : sides[0], : sides[1]] if any(changed) else made


def _at_least(value: int, least: int) -> int:
    # A side that is traced is a tensor of torch, and `max` would write its value into the graph.
    return value.clamp(min=least) if isinstance(value, Tensor) else max(value, least)


def initialize(network: nn.Module, generator: torch.Generator, gain: float = 0.02) -> None:
    """Draw weights from N(0, gain), as the pix2pix paper's appendix 6.2: norm scales around 1, every bias 0.

    The four pixels of a `SubpixelConv` start alike, and the singular vectors that spectral normalisation follows
    come from the generator too.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                spectral = is_parametrized(module, "weight")
                if spectral:
                    remove_parametrizations(module, "weight", leave_parametrized=False)
                module.weight.normal_(0.0, gain, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
                if spectral:
                    with torch.random.fork_rng(devices=[]):  # it draws from the global state and from no other
                        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
                        spectral_norm(module)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.normal_(1.0, gain, generator=generator)
                module.bias.zero_()
        for module in network.modules():
            if isinstance(module, SubpixelConv):
                module.tie()
