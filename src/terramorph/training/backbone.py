"""The frozen network that losses look through: an EfficientNet-Lite0, which scores no evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from terramorph.errors import ConfigError
from terramorph.networks import EfficientNetLite, load_imagenet
from terramorph.training.config import LossConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Backbone:
    """Features of images at strides 2, 4, 8, 16 and 32, each computed once a step.

    Args:
        loss: says whether its weights are those of ImageNet, or random ones.
        fabric: device and precision.

    Attributes:
        channels: of the features.

    Raises:
        MissingPackageError: if the package that carries the weights is not installed.
    """

    def __init__(self, loss: LossConfig, fabric: Fabric) -> None:
        self._fabric = fabric
        network = EfficientNetLite("lite0")
        if loss.backbone == "imagenet":
            load_imagenet(network, "loss.backbone=none")
        else:
            random = torch.Generator().manual_seed(0)
            for module in network.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, generator=random)
        self.channels = network.channels
        self.network = network.eval().requires_grad_(False)
        self.network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._seen: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Features of float (N, 3, H, W) in [-1, 1], finest first; with its gradient, if it has one."""
        if id(image) not in self._seen:
            with self._fabric.autocast():
                self._seen[id(image)] = image, self.network(image.contiguous(memory_format=torch.channels_last))
        return self._seen[id(image)][1]

    def forget(self) -> None:
        self._seen.clear()


def require_colours(setting: str, bands: int, side: str) -> None:
    """Raises ConfigError, naming a setting, if a side is not of red, green and blue."""
    if bands != 3:
        raise ConfigError(f"{setting} looks at red, green and blue, and the {side} has {bands} band(s); set it to 0.")
