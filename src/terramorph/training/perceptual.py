"""The perceptual loss: how far a translation is from the truth to a network that knows photographs."""

from __future__ import annotations

import torch
from torch import Tensor

from terramorph.errors import ConfigError
from terramorph.metrics import Lpips
from terramorph.training.config import LossConfig


class PerceptualLoss:
    """LPIPS as a loss: the idea of Johnson et al. 2016 (arXiv:1603.08155), with the distance of Zhang et al. 2018
    (arXiv:1801.03924), equation 1, on SqueezeNet's features.

    Args:
        lpips: the features and their weights, frozen.
    """

    def __init__(self, lpips: Lpips) -> None:
        self.lpips = lpips

    @staticmethod
    def of(loss: LossConfig, bands: int, device: torch.device) -> PerceptualLoss | None:
        """What the settings ask for: None if its weight is 0.

        Raises:
            ConfigError: if the target is not of three bands.
            InputError: if the folder loss.perceptual_weights does not hold the features.
        """
        if not loss.perceptual:
            return None
        if bands != 3:
            raise ConfigError(
                f"loss.perceptual looks at red, green and blue, and the target has {bands} band(s); set it to 0."
            )
        return PerceptualLoss(Lpips.from_folder(loss.perceptual_weights).to(device))

    def __call__(self, translated: Tensor, truth: Tensor) -> Tensor:
        """The mean distance, a float32 scalar; float (N, 3, H, W) in [-1, 1] each, alike where nothing counts."""
        with torch.autocast(truth.device.type, enabled=False):
            distance: Tensor = self.lpips(translated.float(), truth.float()).mean()
        return distance
