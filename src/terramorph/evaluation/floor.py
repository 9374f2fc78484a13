"""The floor: what one constant colour for every image scores. A result means something only beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import CLASSES, PALETTE

MAP_TOLERANCE = 12
"""Grey levels: a pixel whose every channel is this near to a palette colour counts as map-like."""
MAP_SHARE = 0.5
"""A target is taken for a map when this share of its valid pixels is map-like."""
SAMPLE = 64
"""Images, spread evenly over the split, that decide what the target is and what its mean colour is."""

ReadTarget = Callable[[int], tuple[NDArray[np.uint8], NDArray[np.bool_]] | None]
"""Reads target number i: uint8 ``(C, H, W)`` and its bool mask ``(H, W)``, or ``None`` where there is
nothing usable."""


@dataclass(frozen=True)
class Floor:
    """One colour, and why this one.

    Attributes:
        colour: 8-bit value per band of the target.
        is_map: Whether the target was taken for a map of the palette, so that class figures make sense.
        map_share: Share of sampled truth pixels near a palette colour, 0 to 1; ``None`` when not three bands.
        why: A sentence on where the colour comes from.
    """

    colour: tuple[int, ...]
    is_map: bool
    map_share: float | None
    why: str


def choose_floor(truth: ReadTarget, count: int, training: ReadTarget | None = None, training_count: int = 0) -> Floor:
    """Find the constant colour to compare with.

    Folders of pairs do not say which side is a map, so the truth is looked at: it is one when at least
    `MAP_SHARE` of its pixels lie within `MAP_TOLERANCE` of a palette colour. For a map the colour is land;
    otherwise it is the mean colour, of the training split where there is one (what a model could know), else
    of the truth itself.

    Args:
        truth: Reads one truth.
        count: Number of truths, 1 or more.
        training: The same for the training split, or ``None``.
        training_count: Number of training targets.
    """
    sums, pixels, near, bands = _sample(truth, count)
    share = near / pixels if bands == 3 and pixels else None
    if looks_like_map(share):
        land = tuple(int(v) for v in PALETTE[CLASSES.index("land")])
        return Floor(land, True, share, "the land colour of the map palette")
    where = "the truths themselves (there is no training split)"
    if training is not None and training_count:
        other_sums, other_pixels, _, other_bands = _sample(training, training_count)
        if other_pixels and bands in (0, other_bands):
            sums, pixels = other_sums, other_pixels
            where = f"{min(training_count, SAMPLE)} training targets"
    colour = tuple(int(v) for v in np.rint(sums / max(pixels, 1)))
    return Floor(colour, False, share, f"the mean colour of {where}")


def map_share(read: ReadTarget, count: int) -> float | None:
    """Share of sampled pixels near a palette colour, 0 to 1; ``None`` where there are not three bands or no pixels.

    Args:
        read: Reads one image of either side.
        count: Number of images, 1 or more.
    """
    _, pixels, near, bands = _sample(read, count)
    return near / pixels if bands == 3 and pixels else None


def looks_like_map(share: float | None) -> bool:
    """Whether a side with this `map_share` is taken for a map."""
    return share is not None and share >= MAP_SHARE


def _sample(read: ReadTarget, count: int) -> tuple[NDArray[np.float64], int, int, int]:
    """Channel sums, valid pixels, map-like pixels, and bands of a sample; the rest is tried if it holds nothing."""
    sums: NDArray[np.float64] = np.zeros(1)
    pixels = near = bands = 0
    spread = [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).round())]
    for number, index in enumerate([*spread, *sorted(set(range(count)) - set(spread))]):
        if number >= len(spread) and pixels:
            break
        found = read(index)
        if found is None:
            continue
        image, mask = found
        bands = image.shape[0]
        valid = image[:, mask].astype(np.int16)
        sums = sums + valid.sum(axis=1, dtype=np.float64)
        pixels += valid.shape[1]
        if bands == 3:
            like = np.zeros(valid.shape[1], np.bool_)
            for colour in PALETTE.astype(np.int16):
                like |= np.abs(valid - colour[:, None]).max(axis=0) <= MAP_TOLERANCE
            near += int(like.sum())
    return sums, pixels, near, bands
