"""Networks made ready for inference: copies whose normalisation is folded away, or measured on each image alone.

Whatever form a generator was trained in, its copy is a `UNet` or a `ResNet` of plain and transposed convolutions, so
that what runs or exports it needs to know no other.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor, nn

from terramorph.networks.layers import NoiseDropout
from terramorph.networks.unet import EncoderDecoder, UNet
from terramorph.networks.upsampling import ResizeConv, SubpixelConv


class PerImageNorm(nn.Module):
    """Batch normalisation with the statistics of a batch of one: each image its own, whatever the batch.

    That is what a batch norm in training mode does to a single image, and instance norm with the batch
    norm's scale and shift does the same for every image of a batch. Nothing is remembered between calls.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(norm.bias.detach().clone(), requires_grad=False)
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) with H * W > 1 -> the same shape."""
        return nn.functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


def per_image_statistics(network: nn.Module, *, dropout: bool) -> nn.Module:
    """A copy for paper mode: the statistics of each image alone, and dropout live or not.

    Args:
        network: a generator; it is not changed.
        dropout: whether `NoiseDropout` stays live in the copy although it is in evaluation mode.
    """
    ready = _plain(network)
    for parent in list(ready.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, PerImageNorm(child))
            elif isinstance(child, NoiseDropout):
                child.train(dropout)
    return ready


def norm_as_scale(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """What a norm makes of the convolution before it: a scale of each output's weights, and another bias.

    Args:
        conv: ungrouped.
        norm: a BatchNorm2d with fixed statistics, or an Identity.

    Returns:
        Scale and bias, float32 (out,) each; None where there is nothing to scale or to add.
    """
    bias = None if conv.bias is None else conv.bias.detach().float()
    if isinstance(norm, nn.Identity):
        return None, None if bias is None else bias.clone()
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # In float64: a channel that hardly varies has a scale of up to 300 and would cost the shift digits.
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.detach().double() - norm.running_mean.double() * scale
    if bias is not None:
        shift += bias.double() * scale
    return scale.float(), shift.float()


def doubling_kernels(weight: Tensor, scale: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The plain convolutions that a 4x4 transposed one is: one for each pixel of the 2x2 block it makes of a pixel.

    Output row 2 i + a sees the input rows i - 1 + a and i + a, through the kernel rows 3 - a and 1 - a; columns alike.

    Args:
        weight: (inner, out, 4, 4) of a transposed convolution of stride 2 and padding 1.
        scale: (out,), of the weights of each output.
        dtype: of the result.

    Returns:
        (4, out, inner, 2, 2), for the pixels (0, 0), (0, 1), (1, 0) and (1, 1) of a block.
    """
    inner, out = weight.shape[:2]
    # A matrix (inner, out) for each place in the kernel: transposing matrices is far faster than permuting axes.
    taps = weight.reshape(inner * out, 16).t().contiguous().view(4, 4, inner, out)
    kernels = weight.new_empty(2, 2, out, 2, 2, inner, dtype=dtype)
    for row, column, y, x in product(range(2), repeat=4):
        tap = taps[3 - row - 2 * y, 3 - column - 2 * x].t().contiguous()
        kernels[row, column, :, y, x] = tap if scale is None else tap * scale[:, None]
    return kernels.flatten(0, 1).permute(0, 1, 4, 2, 3)


def fold_batchnorm(network: nn.Module) -> nn.Module:
    """A copy for raster mode in which every batch norm is folded into the convolution before it.

    Works on networks of the catalogue: sequences in which a norm follows its convolution, and the lists of a U-Net.
    Dropout is off. Where there is no batch norm the copy is just that.
    """
    ready = _plain(network)
    for parent in list(ready.modules()):
        if isinstance(parent, nn.Sequential):
            for index in range(1, len(parent)):
                conv, norm = parent[index - 1], parent[index]
                if isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                    _fold(conv, norm)
                    parent[index] = nn.Identity()
        for convs, norms in (("down", "down_norm"), ("up", "up_norm")):
            lists = getattr(parent, convs, None), getattr(parent, norms, None)
            if isinstance(lists[0], nn.ModuleList) and isinstance(lists[1], nn.ModuleList):
                for index, (conv, norm) in enumerate(zip(lists[0], lists[1], strict=True)):
                    if isinstance(norm, nn.BatchNorm2d):
                        assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
                        _fold(conv, norm)
                        lists[1][index] = nn.Identity()
    return ready


def _plain(network: nn.Module) -> nn.Module:
    """A frozen copy in which every upsampling is a transposed convolution, and every encoder-decoder a `UNet`."""
    plain = copy.deepcopy(network).eval().requires_grad_(False)
    for parent in list(plain.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ResizeConv | SubpixelConv):
                setattr(parent, name, child.transposed())
    if not isinstance(plain, EncoderDecoder) or isinstance(plain, UNet):
        return plain
    if not plain.config.skips:  # a decoder that does not see the encoder is one whose weights for it are 0
        for conv in (*plain.up[1:], plain.head):
            assert isinstance(conv, nn.ConvTranspose2d)
            conv.in_channels *= 2
            conv.weight = nn.Parameter(torch.cat([torch.zeros_like(conv.weight), conv.weight]), requires_grad=False)
    with torch.device("meta"):
        unet = UNet(replace(plain.config, skips=True, upsampling="transposed"))
    for name, child in plain.named_children():
        setattr(unet, name, child)
    return unet.eval()


def _fold(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> None:
    scale, bias = norm_as_scale(conv, norm)
    assert scale is not None
    assert bias is not None
    shape = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    conv.weight = nn.Parameter(conv.weight.detach().float() * scale.view(shape), requires_grad=False)
    conv.bias = nn.Parameter(bias, requires_grad=False)
