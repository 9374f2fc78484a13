"""The R1 penalty: a discriminator that is flat where the data is."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add

import torch
from torch import Tensor

from terramorph.losses.adversarial import Logits, by_scale
from terramorph.losses.reconstruction import pooled_mask


def r1_penalty(discriminator: Callable[[Tensor], Logits], real: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return half the squared length of the gradient of D at real pairs, the mean over them; a float32 scalar.

    Mescheder et al. 2018 (arXiv:1801.04406), equation 9, to be multiplied by its gamma. D is one number a pair: the
    mean of its logits, as in the losses, added up over scales. All of it is float32, inside of autocast too, for a
    gradient of a gradient has few digits to lose.

    Args:
        discriminator: float (N, C, H, W) -> logits.
        real: Real pairs as the discriminator sees them, (N, C, H, W).
        mask: Mask of the image, (N, 1, H, W); a patch counts by the share of real pixels under its centre.
    """
    with torch.autocast(real.device.type, enabled=False):
        pair = real.detach().float().requires_grad_()
        judged = reduce(
            add, (_mean_of_each(logits, pooled_mask(mask, logits)) for logits in by_scale(discriminator(pair)))
        )
        (slope,) = torch.autograd.grad(judged.sum(), pair, create_graph=True)
        return 0.5 * slope.square().sum(dim=(1, 2, 3)).mean()


def _mean_of_each(logits: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean logit of each image, (N,); 0 for an image without a real pixel."""
    if weight is None:
        return logits.mean(dim=(1, 2, 3))
    return (logits * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)).clamp_min(1e-6)
