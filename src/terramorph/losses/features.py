"""Distance of made images from real ones in the features of a discriminator, or of a frozen network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from terramorph.losses.reconstruction import masked_mean, pooled_mask

_STAGE = 0.2
"""Weight of the features of each stride."""


def feature_matching_loss(
    real: Sequence[Sequence[Tensor]], made: Sequence[Sequence[Tensor]], mask: Tensor | None = None
) -> Tensor:
    """Return the mean absolute difference of features, summed over layers and scales; a float32 scalar.

    Wang et al. 2018 (pix2pixHD, arXiv:1711.11585), equation 4, which equation 5 weighs by 10; over the layers before
    the logits, as in their code.

    Args:
        real, made: One list a scale of a discriminator's activations (N, C, h, w) and, last and not compared, its
            logits.
        mask: Mask of the image, (N, 1, H, W), 1 where pixels count; a place of a feature counts by the share under it.
    """
    layers = [pair for r, m in zip(real, made, strict=True) for pair in zip(r[:-1], m[:-1], strict=True)]
    return reduce(
        add, (masked_mean(torch.abs(m.float() - r.detach().float()), pooled_mask(mask, r)) for r, m in layers)
    )


def feature_distance(output: Sequence[Tensor], target: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """Return the absolute difference of features, scaled to length 1 at each place; a float32 scalar.

    Summed over channels and strides (times 0.2), the mean over places. The idea of Johnson et al. 2016
    (arXiv:1603.08155), with the unit vectors of Zhang et al. 2018 (arXiv:1801.03924), equation 1.

    Args:
        output, target: Features (N, C, h, w) at as many strides.
        mask: Mask of the image, (N, 1, H, W); a place counts by the share of real pixels under it.
    """
    return reduce(
        add,
        (
            _STAGE * masked_mean((_unit(o) - _unit(t)).abs().sum(dim=1, keepdim=True), pooled_mask(mask, t))
            for o, t in zip(output, target, strict=True)
        ),
    )


def _unit(features: Tensor) -> Tensor:
    """Scale vectors over channels to length 1, float32."""
    features = features.float()
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()
