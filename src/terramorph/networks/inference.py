"""Networks made ready for inference: copies with normalisation folded away, or measured on each image alone; and
networks that give the probabilities of map classes in place of colours.

What differs between networks they say themselves; see `generator.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from terramorph.networks.layers import InstanceNorm, NoiseDropout

if TYPE_CHECKING:
    from terramorph.networks.cpu_unet import CpuUNet


def per_image_statistics(network: nn.Module, *, dropout: bool) -> nn.Module:
    """Return a copy for paper mode: the statistics of each image alone, and dropout live or not.

    Args:
        network: A generator; it is not changed.
        dropout: Whether `NoiseDropout` stays live in the copy although it is in evaluation mode.
    """
    ready = plain(network)
    for parent in list(ready.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, InstanceNorm(child))
            elif isinstance(child, NoiseDropout):
                child.train(dropout)
    return ready


def norm_as_scale(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Return a norm as a scale of the weights of the convolution before it, and another bias.

    Args:
        conv: Ungrouped convolution.
        norm: A BatchNorm2d with fixed statistics, or an Identity.

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
    """Return a 4x4 transposed convolution as plain ones: one for each pixel of the 2x2 block made of a pixel.

    Output row 2 i + a sees the input rows i - 1 + a and i + a, through the kernel rows 3 - a and 1 - a; columns alike.

    Args:
        weight: (inner, out, 4, 4) of a transposed convolution of stride 2 and padding 1.
        scale: (out,), of the weights of each output.

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
    """Return a copy for raster mode: batch norms are folded into the convolutions before them, and dropout is off.

    The network's `norms()` say which norm follows which convolution; a network without it is only copied.
    """
    ready = plain(network)
    pairs: Any = getattr(ready, "norms", tuple)
    for before, after in list(pairs()):
        conv, norm = ready.get_submodule(before), ready.get_submodule(after)
        if isinstance(norm, nn.BatchNorm2d):
            assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
            scale, bias = norm_as_scale(conv, norm)
            assert scale is not None
            assert bias is not None
            shape = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
            conv.weight = nn.Parameter(conv.weight.detach().float() * scale.view(shape), requires_grad=False)
            conv.bias = nn.Parameter(bias, requires_grad=False)
            ready.set_submodule(after, nn.Identity())
    return ready


def sequential_norms(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the `norms()` of a network whose norms follow their convolutions in sequences."""
    for name, parent in network.named_modules():
        if isinstance(parent, nn.Sequential):
            for index in range(1, len(parent)):
                if isinstance(parent[index - 1], nn.Conv2d | nn.ConvTranspose2d):
                    yield f"{name}.{index - 1}", f"{name}.{index}"


def plain(network: nn.Module) -> nn.Module:
    """Return a frozen copy in evaluation mode, with layers in their form `for_inference`."""
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            setattr(parent, name, _for_inference(child))
    return _for_inference(copied)


def cpu_form(network: nn.Module) -> Callable[[torch.dtype], CpuUNet] | None:
    """Return what makes the form for a CPU, its weights of a dtype; None if a network has none."""
    made: Callable[[torch.dtype], CpuUNet] | None = getattr(network, "rearranged", None)
    return made


def _for_inference(module: nn.Module) -> nn.Module:
    other: Callable[[], nn.Module] | None = getattr(module, "for_inference", None)
    return module if other is None else other()


class ClassProbabilities(nn.Module):
    """A generator with class scores, made to output the probability of each map class.

    The softmax of the scores gives a share to each colour of the generator's palette; the probability of a class is the
    sum of the shares of its colours.

    Args:
        generator: Has `scores` and `palette` (see `generator.py`).
        classes: int64 (colours,), the class of each colour of the palette, from 0.
        count: Number of classes.
    """

    def __init__(self, generator: nn.Module, classes: Tensor, count: int) -> None:
        super().__init__()
        self.generator = generator
        self.register_buffer("members", nn.functional.one_hot(classes, count).T.float())
        for name in ("stride", "halo", "overlap", "noise", "takes_core", "channels_last"):
            if hasattr(generator, name):
                setattr(self, name, getattr(generator, name))

    def forward(self, source: Tensor, noise: Tensor | None = None, **core: Any) -> Tensor:
        """Return probabilities p as 2 p - 1.

        Args:
            source: float (N, in_bands, H, W) in [-1, 1], any H and W.

        Returns:
            float32 (N, classes, h, w) in [-1, 1], of the core.
        """
        scores: Any = self.generator.scores  # of whatever class the generator is
        shares = scores(source, noise, **core).float().softmax(dim=1)
        members = self.get_buffer("members").float()
        return torch.einsum("nkhw,ck->nchw", shares, members).clamp(0.0, 1.0) * 2.0 - 1.0

    def norms(self) -> Iterator[tuple[str, str]]:
        """Yield the generator's norms."""
        pairs: Any = getattr(self.generator, "norms", tuple)
        return ((f"generator.{before}", f"generator.{after}") for before, after in pairs())
