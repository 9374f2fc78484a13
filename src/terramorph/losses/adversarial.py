"""What discriminators are trained by: adversarial losses, the R1 penalty, and differentiable augmentation.

Adversarial losses are float32 scalars of patch logits, float (N, 1, h, w) of any range:

- `bce`: cross-entropy with the non-saturating generator loss, Goodfellow et al. 2014 (arXiv:1406.2661), as in pix2pix.
- `lsgan`: least squares with labels 1 and 0, Mao et al. 2017 (arXiv:1611.04076), equation 9 without its factor 1/2.
- `hinge`: Lim and Ye 2017 (arXiv:1705.02894); Miyato et al. 2018 (arXiv:1802.05957), equations 16 and 17.

A discriminator of several scales gives several maps of logits, and its losses are added up: Wang et al. 2018
(arXiv:1711.11585), equation 3. A mask of the image, float (N, 1, H, W) of 0 and 1, weighs each patch by the share of
real pixels under its centre.

Differentiable augmentation is that of Zhao et al. 2020 (arXiv:2006.10738), section 3.2: the same random change is
applied to real and to fake pairs, with gradients through it, so the discriminator cannot memorise the pairs and the
generator does not learn the changes. Both sides of a pair get one change: moved apart they would show different ground,
and their fit is what a conditional discriminator checks; with colours changed apart, their relation would be noise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
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
DIFFAUGMENTS = ("color", "translation", "cutout")
# The strengths of DiffAugment's paper: shares of the image's side.
_SHIFT, _HOLE = 1 / 8, 1 / 2


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
    shares = [(one.detach() > UNDECIDED[kind]).float().mean() for one in by_scale(logits)]
    return torch.stack(shares).mean()


def by_scale(logits: Logits) -> Sequence[Tensor]:
    """Return the maps of logits, float (N, 1, h, w) each, as a sequence, also for one scale."""
    return (logits,) if isinstance(logits, Tensor) else logits


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


@dataclass(frozen=True)
class PairChange:
    """One change per pair, the same wherever it is applied. A field that is None changes nothing.

    Attributes:
        colour: Brightness added (of a range of 2), and factors of saturation and contrast: float32 (N, 1, 1, 1) each.
        shift: How far down and to the right the content moves, pixels: int64 (N,) each; what comes in is 0.
        visible: 0 in the hole and 1 elsewhere: float32 (N, 1, H, W).
    """

    colour: tuple[Tensor, Tensor, Tensor] | None = None
    shift: tuple[Tensor, Tensor] | None = None
    visible: Tensor | None = None

    def __call__(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Change float (N, C, H, W), same shape; 0 where the mask (N, 1, H, W) of the input is 0."""
        if self.colour is not None:
            brightness, saturation, contrast = self.colour
            image = image + brightness
            image = torch.lerp(image.mean(dim=1, keepdim=True), image, saturation)
            image = torch.lerp(image.mean(dim=(1, 2, 3), keepdim=True), image, contrast)
            if mask is not None:
                image = image * mask
        if self.shift is not None:
            image = _moved(image, *self.shift)
        return image if self.visible is None else image * self.visible

    def moved_mask(self, mask: Tensor | None) -> Tensor | None:
        """Return the mask (N, 1, H, W) of a changed pair. A hole stays in it: a discriminator may score what it cannot
        see."""
        return mask if mask is None or self.shift is None else _moved(mask, *self.shift)


def draw_change(kinds: Collection[str], like: Tensor, generator: torch.Generator) -> PairChange:
    """Draw a change of the given `DIFFAUGMENTS` for each of N pairs.

    Args:
        kinds: Some of `DIFFAUGMENTS`.
        like: An image of the pairs, (N, C, H, W).
        generator: All that it depends on; on the images' device.
    """
    count, _, height, width = like.shape

    def uniform() -> Tensor:
        return torch.rand(count, 1, 1, 1, device=like.device, generator=generator)

    def whole(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (count,), device=like.device, generator=generator)

    colour = (uniform() - 0.5, uniform() * 2.0, uniform() + 0.5) if "color" in kinds else None
    shift = None
    if "translation" in kinds:
        rows, columns = round(height * _SHIFT), round(width * _SHIFT)
        shift = whole(-rows, rows), whole(-columns, columns)
    visible = None
    if "cutout" in kinds:
        hidden = [
            _within(whole(0, side), round(side * _HOLE), side)  # centres anywhere, so holes may reach over the edge
            for side in (height, width)
        ]
        visible = 1.0 - (hidden[0][:, :, None] & hidden[1][:, None, :])[:, None].float()
    return PairChange(colour, shift, visible)


def _within(centre: Tensor, length: int, side: int) -> Tensor:
    """Return whether each of `side` positions is within a stretch of some length around its centre: bool (N, side)."""
    places = torch.arange(side, device=centre.device)
    start = (centre - length // 2)[:, None]
    return (places >= start) & (places < start + length)


def _moved(image: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move each image of (N, C, H, W) by its own number of pixels; 0 comes in."""
    count, _, height, width = image.shape
    row = torch.arange(height, device=image.device) - down[:, None]
    column = torch.arange(width, device=image.device) - right[:, None]
    number = torch.arange(count, device=image.device)[:, None, None]
    taken = image.permute(0, 2, 3, 1)[
        number, row.clamp(0, height - 1)[:, :, None], column.clamp(0, width - 1)[:, None, :]
    ]
    inside = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None, :]
    return taken.permute(0, 3, 1, 2) * inside[:, None]
