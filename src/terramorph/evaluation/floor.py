"""Floor of the scores: what the best constant colour reaches. Every score is shown beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import Palette

SAMPLE = 64
"""Number of images, spread evenly over the split, in a sample."""
_PSNR_CAP = 1e-3  # mean squared error under which an image counts as exact

Image = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""uint8 ``(C, H, W)`` and its bool mask ``(H, W)``, True where valid."""
Read = Callable[[int], Image | None]
"""Reads image number i of a side; ``None`` where it cannot be used."""


@dataclass(frozen=True)
class Floor:
    """A constant colour.

    Attributes:
        colour: 8-bit value per band of the target.
        why: Origin of the colour, as text.
    """

    colour: tuple[int, ...]
    why: str


def sampled(read: Read, count: int) -> list[Image]:
    """Read at most `SAMPLE` images, spread evenly; if none of them is usable, the first usable one of the rest.

    Args:
        read: Reads one image.
        count: Number of images.
    """
    spread = [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).round())]
    found = [image for index in spread if (image := read(index)) is not None and image[1].any()]
    if not found:
        rest = (image for index in sorted(set(range(count)) - set(spread)) if (image := read(index)) is not None)
        found = [image for image in (next((one for one in rest if one[1].any()), None),) if image is not None]
    return found


def choose_floor(targets: list[Image], where: str, palette: Palette | None = None) -> Floor:
    """Choose the constant colour nearest to targets: the candidate with the highest mean PSNR.

    For a map, candidates are the colours of its palette, so that the floor is a blank sheet in the colour of the
    ground. Otherwise they are the mean, the median of each band, and the most frequent colour.
    """
    if not targets:
        return Floor((128,), "the middle of the range, as no target can be read")
    pixels = [image[:, mask] for image, mask in targets]
    if palette is not None:
        ways = {f"colour {place}": colour.astype(np.float64) for place, colour in enumerate(palette.colours)}
    else:
        everything = np.concatenate(pixels, axis=1)
        colours, counts = np.unique(everything, axis=1, return_counts=True)
        ways = {
            "mean": np.rint(everything.mean(axis=1)),
            "median": np.floor(np.median(everything, axis=1)),
            "most frequent colour": colours[:, counts.argmax()].astype(np.float64),
        }
    way = max(ways, key=lambda name: _mean_psnr(pixels, ways[name]))
    what = f"the {way} of" if palette is None else f"of the map's {len(palette.colours)} colours the one nearest to"
    return Floor(tuple(int(value) for value in ways[way]), f"{what} {where}")


def _mean_psnr(pixels: list[NDArray[np.uint8]], colour: NDArray[np.float64]) -> float:
    """Return the mean over images of minus the logarithm of the mean squared error: PSNR up to scale."""
    errors = [float(((one - colour[:, None].astype(np.float32)) ** 2).mean()) for one in pixels]
    return -float(np.log(np.maximum(errors, _PSNR_CAP)).mean())
