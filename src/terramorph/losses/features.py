"""How far what a discriminator sees in a made pair is from what it sees in the real one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from terramorph.losses.reconstruction import masked_mean, pooled_mask


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
