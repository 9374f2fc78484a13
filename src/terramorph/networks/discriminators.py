"""Discriminators: one of patches, several of them on the pair at different scales, or small ones on the features of a
frozen network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from terramorph.networks.layers import Norm, make_norm

_MIXED = 64
"""Channels that the features of each stride are mixed to in a projected discriminator."""


class PatchGAN(nn.Module):
    """The patch discriminator of pix2pix (Isola et al. 2017, arXiv:1611.07004, section 3.3 and appendix 6.1.2).

    One logit per patch; 2.769 M parameters for 70x70 on 6 bands. 4x4 convolutions with zero padding; 256x256 in gives
    30x30 logits at three layers.

    Args:
        in_bands: Bands of source and target together (the discriminator is conditional).
        width: Channels after the first convolution.
        layers: stride-2 convolutions; 3 judges 70x70 patches, 1 judges 16x16, 5 judges 286x286, 0 single pixels.
        norm: batch, instance or none.
        spectral_norm: Divide every weight by its largest singular value (Miyato et al. 2018, arXiv:1802.05957,
            equation 8), which bounds how steep the discriminator is; a norm is then not needed.
    """

    def __init__(
        self, in_bands: int = 6, width: int = 64, layers: int = 3, norm: Norm = "batch", spectral_norm: bool = False
    ) -> None:
        super().__init__()
        # As in the public networks, but that those of spectral normalisation alone need one to be shifted at all.
        bias = norm == "instance" or (spectral_norm and norm == "none")
        if layers == 0:
            parts: list[nn.Module] = [
                nn.Conv2d(in_bands, width, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 2 * width, 1, bias=bias),
                make_norm(norm, 2 * width),
                nn.LeakyReLU(0.2),
                nn.Conv2d(2 * width, 1, 1, bias=bias),
            ]
        else:
            parts, inner = [nn.Conv2d(in_bands, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)], width
            for level in range(1, layers + 1):
                out, stride = width * min(2**level, 8), 2 if level < layers else 1
                conv = nn.Conv2d(inner, out, 4, stride=stride, padding=1, bias=bias)
                parts += [conv, make_norm(norm, out), nn.LeakyReLU(0.2)]
                inner = out
            parts.append(nn.Conv2d(inner, 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*parts)
        for part in parts if spectral_norm else ():
            if isinstance(part, nn.Conv2d):
                parametrizations.spectral_norm(part)

    def forward(self, pair: Tensor) -> Tensor:
        """float (N, in_bands, H, W), source and target stacked -> logits (N, 1, h, w), one a patch."""
        logits: Tensor = self.layers(pair)
        return logits

    def features(self, pair: Tensor) -> list[list[Tensor]]:
        """Return every activation and, last, the logits, in a list of one scale."""
        seen = []
        for layer in self.layers:
            pair = layer(pair)
            if isinstance(layer, nn.LeakyReLU):
                seen.append(pair)
        return [[*seen, pair]]


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
    values |= {"layers": 0} if name == "pixelgan" else {}
    discriminators = [PatchGAN(**values) for _ in range(scales)]
    return discriminators[0] if scales == 1 else MultiScale(discriminators)


class ProjectedDiscriminator(nn.Module):
    """One small discriminator a stride, on the features of an image beside those of its source, in a frozen network
    (Sauer et al. 2021, Projected GANs, arXiv:2111.01007).

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
                parametrizations.spectral_norm(nn.Conv2d(2 * _MIXED, width, 3, padding=1)),
                nn.LeakyReLU(0.2),
                parametrizations.spectral_norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
                nn.LeakyReLU(0.2),
                parametrizations.spectral_norm(nn.Conv2d(2 * width, 1, 3, padding=1)),
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
