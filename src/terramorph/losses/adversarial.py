"""Adversarial losses on patch logits, float (N, 1, h, w) of any range; each loss is a float32 scalar.

- `bce`: cross-entropy with the non-saturating generator loss, Goodfellow et al. 2014 (arXiv:1406.2661), as in pix2pix.
- `lsgan`: least squares with labels 1 and 0, Mao et al. 2017 (arXiv:1611.04076), equation 9 without its factor 1/2.
- `hinge`: Lim and Ye 2017 (arXiv:1705.02894); Miyato et al. 2018 (arXiv:1802.05957), equations 16 and 17.

A discriminator of several scales gives several maps of logits, and its losses are added up: Wang et al. 2018
(arXiv:1711.11585), equation 3. A mask of the image, float (N, 1, H, W) of 0 and 1, weighs each patch by the share of
real pixels under its centre.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from terramorph.losses.reconstruction import masked_mean, pooled_mask

AdversarialLoss = Literal["bce", "lsgan", "hinge"]
# One map of logits, or one a scale.
Logits = Tensor | Sequence[Tensor]
# The logit from which on a discriminator takes a patch for real.
UNDECIDED: dict[AdversarialLoss, float] = {"bce": 0.0, "lsgan": 0.5, "hinge": 0.0}
# The discriminator's loss at a real and at a fake logit, and the generator's at a fake one.
_LOSSES: dict[AdversarialLoss, tuple[Callable[[Tensor], Tensor], ...]] = {
    "bce": (lambda real: functional.softplus(-real), functional.softplus, lambda fake: functional.softplus(-fake)),
    "lsgan": (lambda real: (real - 1.0).square(), torch.square, lambda fake: (fake - 1.0).square()),
    "hinge": (lambda real: functional.relu(1.0 - real), lambda fake: functional.relu(1.0 + fake), torch.neg),
}


def discriminator_loss(kind: AdversarialLoss, real: Logits, fake: Logits, mask: Tensor | None = None) -> Tensor:
    """Sum the loss on real and on fake pairs, over all scales.

    Args:
        kind: The loss; see the module's text.
        real, fake: Logits of as many scales, those of a scale alike in shape.
        mask: Mask of the image; None counts all patches.

    Returns:
        float32 scalar, 0 or more.

    Raises:
        ValueError: If there are more scales of one than of the other.
    """
    at_real, at_fake, _ = _LOSSES[kind]
    scales = zip(by_scale(real), by_scale(fake), strict=True)
    return reduce(add, (masked_mean(at_real(r.float()) + at_fake(f.float()), pooled_mask(mask, r)) for r, f in scales))


def generator_loss(kind: AdversarialLoss, fake: Logits, mask: Tensor | None = None) -> Tensor:
    """Sum the loss of fake pairs that the discriminator tells from real ones, over all scales.

    Args:
        kind: The loss; see the module's text.
        fake: Logits of the fake pairs.
        mask: Mask of the image; None counts all patches.

    Returns:
        float32 scalar, 0 or more; with `hinge`, minus the mean logit, of any sign.
    """
    *_, fooled = _LOSSES[kind]
    return reduce(add, (masked_mean(fooled(one.float()), pooled_mask(mask, one)) for one in by_scale(fake)))


def share_accepted(kind: AdversarialLoss, logits: Logits) -> Tensor:
    """Return the share of patches taken for real, the mean over scales; without a gradient.

    Args:
        kind: Says from which logit on that is so, `UNDECIDED`.
        logits: One map, or one a scale.

    Returns:
        float32 scalar in [0, 1].
    """
    maps = by_scale(logits)
    shares = [(one.detach() > UNDECIDED[kind]).float().mean() for one in maps]
    return shares[0] if len(maps) == 1 else torch.stack(shares).mean()


def by_scale(logits: Logits) -> Sequence[Tensor]:
    """Return the maps of logits, float (N, 1, h, w) each, as a sequence, also for one scale."""
    return (logits,) if isinstance(logits, Tensor) else logits
