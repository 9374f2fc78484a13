"""Pixel losses of an output against the truth."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
