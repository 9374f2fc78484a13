"""How far a translation is from the truth, pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of (N, C, H, W) over the pixels where mask (N, 1, H, W) is 1; 0 if there are none. A scalar."""
    if mask is None:
        return values.mean()
    return (values * mask).sum() / (mask.sum() * values.shape[1]).clamp_min(1.0)


def l1_loss(translated: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error in float32, a scalar; Isola et al. 2017 (arXiv:1611.07004), equation 3.

    Args:
        translated, truth: float (N, C, H, W) in [-1, 1].
        mask: (N, 1, H, W), 1 where pixels count; None counts all.
    """
    return masked_mean(torch.abs(translated.float() - truth.float()), mask)
