"""Differentiable augmentation of what the discriminator is shown: Zhao et al. 2020 (arXiv:2006.10738), section 3.2.

The same random change is applied to real and to fake pairs, with gradients through it, so the discriminator cannot
memorise the pairs and the generator does not learn the changes. Both sides of a pair get one change: moved apart they
would show different ground, and their fit is what a conditional discriminator checks; with colours changed apart, their
relation would be noise.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

DIFFAUGMENTS = ("color", "translation", "cutout")

# The paper's strengths: shares of the image's side.
_SHIFT, _HOLE = 1 / 8, 1 / 2


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
