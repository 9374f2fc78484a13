"""Losses of a map's classes: the class of a target pixel is the nearest colour of a palette."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

_NEAR = 0.12
"""Largest distance from a colour, in [-1, 1] units, of a pixel of its class; pixels between colours are edges."""
_HEAVIEST = 12.0
"""Largest class weight."""


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
