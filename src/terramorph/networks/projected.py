"""Discriminators on the features of a frozen network (Sauer et al. 2021, Projected GANs, arXiv:2111.01007)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

_MIXED = 64
"""Channels that the features of each stride are mixed to."""


class ProjectedDiscriminator(nn.Module):
    """One small discriminator a stride, on the features of an image beside those of its source.

    The features of both are mixed by one fixed random 1x1 convolution a stride (section 3.2 of the paper, across
    channels). 3x3, 4x4 at stride 2 and 3x3 convolutions with spectral normalisation follow.

    Args:
        channels: Channels of the features, finest first.
        width: Channels after the first convolution.
    """

    def __init__(self, channels: Sequence[int], width: int = 64) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        for number, count in enumerate(channels):
            mix = torch.randn(_MIXED, count, 1, 1, generator=random) / math.sqrt(count)
            self.register_buffer(f"mix{number}", mix)
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(2 * _MIXED, width, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(2 * width, 1, 3, padding=1)),
            )
            for _ in channels
        )

    def forward(self, image: Sequence[Tensor], source: Sequence[Tensor]) -> list[Tensor]:
        """Features (N, C, h, w) of an image and of its source, finest first -> logits (N, 1, h / 2, w / 2) of each."""
        logits = []
        for number, (head, *sides) in enumerate(zip(self.heads, image, source, strict=True)):
            mix = self.get_buffer(f"mix{number}")
            mixed = [functional.conv2d(features, mix.to(features.dtype)) for features in sides]
            logits.append(head(torch.cat(mixed, dim=1)))
        return logits
