"""Adversarial losses on patch logits (N, 1, h, w), each a float32 scalar.

- `bce`: cross-entropy with the non-saturating generator loss, Goodfellow et al. 2014 (arXiv:1406.2661), as in pix2pix.
- `lsgan`: least squares with labels 1 and 0, Mao et al. 2017 (arXiv:1611.04076), equation 9 without its factor 1/2.
- `hinge`: Lim and Ye 2017 (arXiv:1705.02894); Miyato et al. 2018 (arXiv:1802.05957), equations 16 and 17.

A mask (N, 1, H, W) of the image weighs each patch by the share of real pixels under its centre.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from terramorph.losses.reconstruction import masked_mean

AdversarialLoss = Literal["bce", "lsgan", "hinge"]
# The logit from which on a discriminator takes a patch for real.
UNDECIDED: dict[AdversarialLoss, float] = {"bce": 0.0, "lsgan": 0.5, "hinge": 0.0}


def discriminator_loss(kind: AdversarialLoss, real: Tensor, fake: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of the loss on real and on made pairs."""
    weight = _weight(mask, real)
    real, fake = real.float(), fake.float()
    if kind == "bce":
        losses = functional.softplus(-real) + functional.softplus(fake)
    elif kind == "lsgan":
        losses = (real - 1.0).square() + fake.square()
    else:
        losses = functional.relu(1.0 - real) + functional.relu(1.0 + fake)
    return masked_mean(losses, weight)


def generator_loss(kind: AdversarialLoss, fake: Tensor, mask: Tensor | None = None) -> Tensor:
    """How far the discriminator is from taking the made pairs for real."""
    weight = _weight(mask, fake)
    fake = fake.float()
    if kind == "bce":
        losses = functional.softplus(-fake)
    elif kind == "lsgan":
        losses = (fake - 1.0).square()
    else:
        losses = -fake
    return masked_mean(losses, weight)


def _weight(mask: Tensor | None, logits: Tensor) -> Tensor | None:
    return None if mask is None else functional.adaptive_avg_pool2d(mask, (logits.shape[-2], logits.shape[-1]))
