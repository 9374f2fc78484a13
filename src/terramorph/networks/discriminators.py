"""Discriminators: one PatchGAN, or several that see the pair at different scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from terramorph.networks.patchgan import PatchGAN

_FIXED: dict[str, dict[str, Any]] = {"patchgan": {}, "pixelgan": {"layers": 0}}
"""Discriminators by name, and what the name decides."""


class MultiScale(nn.Module):
    """Patch discriminators of one architecture, each on the pair halved once more than for the one before it.

    Wang et al. 2018 (pix2pixHD, arXiv:1711.11585), section 3.2, equation 3. The coarser ones see more ground at once.

    Args:
        discriminators: The first sees the pair in full.
    """

    def __init__(self, discriminators: Sequence[PatchGAN]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(discriminators)

    def forward(self, pair: Tensor) -> list[Tensor]:
        """float (N, in_bands, H, W) -> logits (N, 1, h, w) of every scale, finest first."""
        return [scale[-1] for scale in self.features(pair)]

    def features(self, pair: Tensor) -> list[list[Tensor]]:
        """Return the activations and, last, the logits of every scale."""
        seen = []
        for number, discriminator in enumerate(self.scales):
            pair = functional.avg_pool2d(pair, 2) if number else pair
            assert isinstance(discriminator, PatchGAN)
            seen += discriminator.features(pair)
        return seen


def build_discriminator(
    name: Literal["patchgan", "pixelgan"], *, scales: int = 1, **values: Any
) -> PatchGAN | MultiScale:
    """Build a discriminator by name, `patchgan` or `pixelgan` (for single pixels), or one for each scale."""
    discriminators = [PatchGAN(**{**values, **_FIXED[name]}) for _ in range(scales)]
    return discriminators[0] if scales == 1 else MultiScale(discriminators)
