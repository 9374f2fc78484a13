"""Losses of an output against the truth: of its pixels, of features that another network sees in both, and of a map's
classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor
from torch.nn import functional

_STAGE = 0.2
"""Weight of the features of each stride."""
# A pixel of a map has the class of the nearest colour of a palette.
_NEAR = 0.12
"""Largest distance from a colour, in [-1, 1] units, of a pixel of its class; pixels between colours are edges."""
_HEAVIEST = 12.0
"""Largest class weight."""


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of (N, C, H, W) over the pixels where mask (N, 1, H, W) is 1; 0 if there are none. A scalar.

    A mask of shares in [0, 1] weighs the pixels.
    """
    if mask is None:
        # As the mean, whose gradient torch lays out band by band whatever the layout of the values.
        return values.sum() / values.numel()
    return (values * mask).sum() / (mask.sum() * values.shape[1]).clamp_min(1e-6)


def pooled_mask(mask: Tensor | None, maps: Tensor) -> Tensor | None:
    """Return the share of real pixels under each place of maps (N, C, h, w): (N, 1, h, w)."""
    return None if mask is None else functional.adaptive_avg_pool2d(mask, (maps.shape[-2], maps.shape[-1]))


def l1_loss(translated: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean absolute error in float32, a scalar; Isola et al. 2017 (arXiv:1611.07004), equation 3.

    Args:
        translated, truth: float (N, C, H, W) in [-1, 1].
        mask: (N, 1, H, W), 1 where pixels count; None counts all.
    """
    return masked_mean(torch.abs(translated.float() - truth.float()), mask)


def l2_loss(translated: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared error in float32, a scalar, with the arguments of `l1_loss`; it blurs more."""
    return masked_mean((translated.float() - truth.float()).square(), mask)


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


def palette_shares(images: Iterable[Tensor], palette: Tensor) -> Tensor:
    """Return the share of pixels nearest to each colour: float32 (K,), its sum is 1.

    Args:
        images: float (N, C, H, W) in [-1, 1] each, one or more.
        palette: float32 (K, C).
    """
    counts = sum(_nearest(image, palette)[1].flatten().bincount(minlength=len(palette)) for image in images)
    assert isinstance(counts, Tensor)
    return counts.float() / counts.sum()


def palette_weights(shares: Tensor) -> Tensor:
    """Return class weights for shares (K,): share^-0.5, at most 12, scaled so that the mean over pixels is 1."""
    weights = (shares + 1e-4).rsqrt().clamp_max(_HEAVIEST)
    return weights / (weights * shares).sum()


def palette_cross_entropy(
    scores: Tensor, target: Tensor, palette: Tensor, weights: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Return the weighted cross-entropy of class scores, the mean over pixels near a colour; a float32 scalar.

    Args:
        scores: float (N, K, H, W), before the softmax.
        target: float (N, C, H, W) in [-1, 1].
        palette: float32 (K, C).
        weights: Class weights, float32 (K,); see `palette_weights`.
        mask: (N, 1, H, W), 1 where pixels count; None counts all.
    """
    distance, classes = _nearest(target, palette)
    counts = (distance < _NEAR).float()
    if mask is not None:
        counts = counts * mask[:, 0]
    losses = functional.cross_entropy(scores.float(), classes, weight=weights, reduction="none")
    return (losses * counts).sum() / counts.sum().clamp_min(1.0)


def _nearest(image: Tensor, palette: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance to the nearest colour, float32 (N, H, W), and its number."""
    pixels = image.float().movedim(1, -1)
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(pixels.flatten(1, 2), palette.expand(len(image), -1, -1), compute_mode=exact)
    nearest = distance.min(dim=-1)
    return nearest.values.view(pixels.shape[:-1]), nearest.indices.view(pixels.shape[:-1])
