"""The frozen network of feature losses, an EfficientNet-Lite0; no metric uses it."""

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
    """Features of images at strides 2, 4, 8, 16 and 32, computed once per step.

    Args:
        loss: Whether the weights are those of ImageNet or random.
        fabric: The device and precision.

    Attributes:
        channels: Channels of the features at each stride.

    Raises:
        MissingPackageError: If the package with the weights is not installed.
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
        """Return the features of float (N, 3, H, W) in [-1, 1], finest first; differentiable where the images are."""
        if id(image) not in self._seen:
            with self._fabric.autocast():
                self._seen[id(image)] = image, self.network(image.contiguous(memory_format=torch.channels_last))
        return self._seen[id(image)][1]

    def forget(self) -> None:
        self._seen.clear()


def require_colours(setting: str, bands: int, side: str) -> None:
    """Raise ConfigError, naming the setting, unless a side has three bands."""
    if bands != 3:
        raise ConfigError(f"{setting} needs a {side} of red, green and blue, got {bands} band(s); set it to 0.")
