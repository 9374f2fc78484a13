"""LPIPS and deep features from SqueezeNet 1.1, in plain torch.

The layout follows torchvision's ``squeezenet1_1().features`` and the LPIPS v0.1 "lin" heads (Iandola et al.,
arXiv:1602.07360; Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR 2018). The weights are two state dicts in one folder:

    squeeze.backbone.pth     '0.weight', '3.squeeze.weight', ... (torchvision's names under ``features.``)
    lpips_squeeze_v01.pth    'lin0.model.1.weight' ... 'lin6.model.1.weight'
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from terramorph.errors import InputError
from terramorph.tensors import read_weights

BACKBONE_FILE = "squeeze.backbone.pth"
HEADS_FILE = "lpips_squeeze_v01.pth"

_SLICE_ENDS = (2, 5, 8, 10, 11, 12, 13)  # LPIPS looks at the activations after these layers
_SLICE_CHANNELS = (64, 128, 256, 384, 384, 512, 512)
# Mean and deviation of ImageNet, carried from [0, 1] to [-1, 1] and rounded as in LPIPS' ScalingLayer.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-8
_NEEDED = f"LPIPS, FD and KD need {BACKBONE_FILE} and {HEADS_FILE}, so give the folder that holds both"


class Fire(nn.Module):
    """SqueezeNet's block: squeeze to few channels by 1x1, then expand by 1x1 and 3x3 side by side."""

    def __init__(self, channels_in: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels_in, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """float32 ``(N, channels_in, H, W)`` -> ``(N, 2 * expanded, H, W)``, never negative."""
        x = F.relu(self.squeeze(x))
        return torch.cat((F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))), dim=1)


class Features(NamedTuple):
    """Features of N images."""

    slices: tuple[Tensor, ...]
    """Seven float32 tensors ``(N, C_k, H_k, W_k)``, channels 64, 128, 256, 384, 384, 512, 512."""
    pooled: Tensor
    """float32 ``(N, 512)``: the last slice averaged over height and width."""
    heads: tuple[Tensor, ...]
    """Seven float32 tensors ``(1, C_k, 1, 1)``, the weights of LPIPS."""

    def repeated(self, count: int) -> Features:
        """Repeat the features of a single image, without a copy."""
        slices = tuple(one.expand(count, -1, -1, -1) for one in self.slices)
        return Features(slices, self.pooled.expand(count, -1), self.heads)


class Lpips(nn.Module):
    """LPIPS v0.1 on SqueezeNet 1.1: 0 for identical images, about 0.3 to 0.5 for a translation that is far off.

    ``d(a, b) = sum_k mean_hw w_k . (a_k / |a_k| - b_k / |b_k|)^2`` over the seven slices (Zhang et al. 2018,
    eq. 1).

    Attributes:
        layers: The thirteen layers of SqueezeNet under torchvision's numbers, so that its state dict fits as it is.
        heads: Seven float32 tensors ``(1, C_k, 1, 1)``.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()

        def pool() -> nn.Module:
            return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)

        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=3, stride=2),
            nn.ReLU(),
            pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.heads = nn.ParameterList(torch.ones(1, channels, 1, 1) for channels in _SLICE_CHANNELS)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Lpips:
        """Read ``squeeze.backbone.pth`` and ``lpips_squeeze_v01.pth`` from a folder.

        Raises:
            InputError: A file is missing, is not a state dict, or does not fit.
        """
        made = cls()
        named = {f"lin{k}.model.1.weight": head for k, head in enumerate(made.heads)}
        heads = read_weights(Path(folder) / HEADS_FILE, named, _NEEDED, "the LPIPS v0.1 heads on SqueezeNet")
        layers = made.layers.state_dict()
        path = Path(folder) / BACKBONE_FILE
        made.layers.load_state_dict(read_weights(path, layers, _NEEDED, "the features of SqueezeNet 1.1"))
        for name, head in named.items():
            head.copy_(heads[name])
        return made

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each image in ``a`` from its partner in ``b``.

        Args:
            a: float32 ``(N, 3, H, W)`` in [-1, 1].
            b: float32 ``(N, 3, H, W)`` in [-1, 1].

        Returns:
            float32 ``(N,)``, 0 or more.

        Raises:
            InputError: A shape, dtype or range is not as above, or the shapes differ.
        """
        if a.shape != b.shape:
            raise InputError(f"LPIPS compares images of one shape, but got {tuple(a.shape)} and {tuple(b.shape)}.")
        return lpips(self.look(a), self.look(b))

    def look(self, images: Tensor) -> Features:
        """Return the features of images that `lpips` compares.

        Args:
            images: float32 ``(N, 3, H, W)`` in [-1, 1], red, green, blue; each side 17 or more.

        Raises:
            InputError: The shape, the dtype or the range is not as above.
        """
        what = "SqueezeNet looks at float32 images (N, 3, H, W) in [-1, 1], of 17 pixels or more a side"
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.float32 or min(images.shape[-2:]) < 17:
            raise InputError(f"{what}, but got {images.dtype} {tuple(images.shape)}.")
        if images.numel() and (images.min() < -1.001 or images.max() > 1.001):
            raise InputError(f"{what}, but these run from {images.min().item():.3g} to {images.max().item():.3g}.")
        x, slices = (images - self.shift) / self.scale, []
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if number in _SLICE_ENDS:
                slices.append(x)
        return Features(tuple(slices), x.mean(dim=(2, 3)), tuple(self.heads))


def lpips(a: Features, b: Features, mask: Tensor | None = None) -> Tensor:
    """Return the distance of `Lpips` from features; one side may hold a single image that is compared with all.

    Args:
        a, b: From `Lpips.look`, of N images or of one.
        mask: Not used: what does not count is made equal before a network looks.

    Returns:
        float32 ``(N,)``, 0 or more.
    """
    parts = [
        ((_unit_length(left) - _unit_length(right)).square() * head).sum(dim=1).mean(dim=(1, 2))
        for left, right, head in zip(a.slices, b.slices, b.heads, strict=True)
    ]
    return torch.stack(parts).sum(dim=0)


def _unit_length(x: Tensor) -> Tensor:
    return x / torch.sqrt(_EPSILON + x.square().sum(dim=1, keepdim=True))
