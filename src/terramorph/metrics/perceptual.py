"""LPIPS and deep features from SqueezeNet 1.1, in plain torch.

The layout follows torchvision's ``squeezenet1_1().features`` and the LPIPS v0.1 "lin" heads (Iandola et al.,
arXiv:1602.07360; Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR 2018). The weights are two state dicts in one folder, both read with ``weights_only``:

    squeeze.backbone.pth     '0.weight', '3.squeeze.weight', ... (torchvision's names under ``features.``)
    lpips_squeeze_v01.pth    'lin0.model.1.weight' ... 'lin6.model.1.weight'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from terramorph.errors import InputError

BACKBONE_FILE = "squeeze.backbone.pth"
HEADS_FILE = "lpips_squeeze_v01.pth"
POOLED_CHANNELS = 512

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
    heads: tuple[Tensor, ...] = ()
    """Seven float32 tensors ``(1, C_k, 1, 1)``, the weights of LPIPS; empty where only SqueezeNet looked."""

    def repeated(self, count: int) -> Features:
        """Features of a single image repeated for so many, without a copy."""
        slices = tuple(one.expand(count, -1, -1, -1) for one in self.slices)
        return Features(slices, self.pooled.expand(count, -1), self.heads)


class SqueezeNetFeatures(nn.Module):
    """SqueezeNet 1.1 without its classifier.

    Attributes:
        layers: The thirteen layers under torchvision's numbers, so that its state dict fits as it is.
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
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: str | Path) -> SqueezeNetFeatures:
        """Read ``squeeze.backbone.pth`` from a folder.

        Raises:
            InputError: The file is missing, is not a state dict, or does not fit.
        """
        network = cls()
        _load(network.layers, read_weights(Path(folder) / BACKBONE_FILE, _NEEDED), Path(folder) / BACKBONE_FILE)
        return network

    def forward(self, images: Tensor) -> Features:
        """Look at images.

        Args:
            images: float32 ``(N, 3, H, W)`` in [-1, 1], red, green, blue; each side 17 or more.

        Returns:
            The seven slices and the pooled features.

        Raises:
            InputError: The shape, the dtype or the range is not as above.
        """
        _check_images(images)
        x = (images - self.shift) / self.scale
        slices: list[Tensor] = []
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if number in _SLICE_ENDS:
                slices.append(x)
        return Features(tuple(slices), x.mean(dim=(2, 3)))


class Lpips(nn.Module):
    """LPIPS v0.1 on SqueezeNet: 0 for identical images, about 0.3 to 0.5 for a translation that is far off.

    ``d(a, b) = sum_k mean_hw w_k . (a_k / |a_k| - b_k / |b_k|)^2`` over the seven slices (Zhang et al. 2018,
    eq. 1).
    """

    def __init__(self, features: SqueezeNetFeatures, heads: Sequence[Tensor]) -> None:
        """Put features and heads together.

        Args:
            features: The backbone.
            heads: Seven float32 tensors ``(1, C_k, 1, 1)``.

        Raises:
            InputError: There are not seven heads of these shapes.
        """
        super().__init__()
        shapes = [tuple(head.shape) for head in heads]
        expected = [(1, channels, 1, 1) for channels in _SLICE_CHANNELS]
        if shapes != expected:
            raise InputError(f"LPIPS heads must have the shapes {expected}, but they have {shapes}.")
        self.features = features
        self.heads = nn.ParameterList([nn.Parameter(head, requires_grad=False) for head in heads])
        self.eval().requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Lpips:
        """Read ``squeeze.backbone.pth`` and ``lpips_squeeze_v01.pth`` from a folder.

        Raises:
            InputError: A file is missing, is not a state dict, or does not fit.
        """
        path = Path(folder) / HEADS_FILE
        state = read_weights(path, _NEEDED)
        names = [f"lin{k}.model.1.weight" for k in range(len(_SLICE_CHANNELS))]
        missing = [name for name in names if name not in state]
        if missing:
            raise InputError(
                f"{path} holds no {missing[0]!r} and is not a set of LPIPS v0.1 SqueezeNet heads; download it again."
            )
        try:
            return cls(SqueezeNetFeatures.from_folder(folder), [state[name] for name in names])
        except InputError as error:
            if "heads must" in str(error):
                raise InputError(f"{path} does not fit ({str(error).rstrip('.')}); download it again.") from error
            raise

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each image in ``a`` from its partner in ``b``.

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
        """Features of images, with the heads, as `lpips` compares them; arguments as `forward`."""
        seen: Features = self.features(images)
        return seen._replace(heads=tuple(self.heads))


def lpips(a: Features, b: Features, mask: Tensor | None = None) -> Tensor:
    """The distance of `Lpips` from features; one side may hold a single image that is compared with all.

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


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.float32:
        raise InputError(
            f"SqueezeNet looks at float32 images (N, 3, H, W), but got {images.dtype} {tuple(images.shape)}."
        )
    if min(images.shape[-2:]) < 17:
        raise InputError(
            f"SqueezeNet needs images of 17 pixels or more a side, but got {images.shape[-1]} x {images.shape[-2]}."
        )
    if images.numel() and (images.min() < -1.001 or images.max() > 1.001):
        raise InputError(
            f"SqueezeNet looks at values in [-1, 1], but these run from {images.min().item():.3g} to "
            f"{images.max().item():.3g}."
        )


def read_weights(path: Path, needed: str) -> dict[str, Tensor]:
    """Read a state dict.

    Args:
        path: A file saved by PyTorch, read with ``weights_only``.
        needed: What needs it, for the error.

    Raises:
        InputError: It is missing, damaged or not a state dict.
    """
    if not path.is_file():
        raise InputError(f"There is no {path.name} in {path.parent}; {needed}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler answers damage with almost any exception there is
        raise InputError(f"{path} cannot be read as a PyTorch state dict; download it again.") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise InputError(f"{path} is not a state dict of tensors; download it again.")
    return dict(state)


def _load(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path} does not hold the features of SqueezeNet 1.1; download it again.") from error
