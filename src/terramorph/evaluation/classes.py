"""Map classes of a side: those of its style, of its flat colours, or none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import CLASSES, CLASSIC, NEAR, Palette, load_style, measure_palette, palette_of
from terramorph.errors import ConfigError, warn
from terramorph.evaluation.floor import Image

FITS = 0.5
"""Least share of valid pixels within `NEAR` levels of a palette's colours for the palette to fit."""
_OF_CLASSIC = ("classic", "classes")


@dataclass(frozen=True)
class Classes:
    """The palette of a side, or the reason why there is none.

    Attributes:
        palette: Colours and classes; ``None`` where none fits.
        share: Share of pixels near the colours of the palette, or of the best one if none fits, 0 to 1; ``None`` where
            the images do not have three bands.
        why: The reason, one sentence.
    """

    palette: Palette | None
    share: float | None
    why: str


def find_classes(images: list[Image], declared: str | None = None, asked: str | None = None) -> Classes:
    """Return the first palette that fits. With ``asked`` that is the style's or none, else the style's that the dataset
    declares, the classic one, or one measured on the images.
    """
    if not images or images[0][0].shape[0] != 3:
        return Classes(None, None, "Map classes are colours, and this side does not have three bands.")
    pixels = np.concatenate([image[:, mask] for image, mask in images], axis=1).T
    tried: list[Classes] = []
    for palette in _palettes(declared, asked):
        near = palette.near(pixels)
        share = float(near.mean())
        known = asked is not None or (declared is not None and palette.name == declared)
        if share >= FITS and (known or _ground_is_land(palette, pixels[near])):
            why = f"{share:.0%} of the pixels are within {NEAR} grey levels of a colour of the style {palette.name}"
            return Classes(palette, share, why)
        what = f"{share:.0%} lie within {NEAR} grey levels of a colour of {palette.name}"
        if share >= FITS:
            what += ", most of them of roads and buildings where land should be"
        tried.append(Classes(None, share, what))
    if asked is None:
        measured, share = measure_palette(images)
        if measured is not None and share >= FITS:
            why = f"{share:.0%} of the pixels lie in flat fills of {len(measured.classes)} colours, which were measured"
            return Classes(measured, share, why)
    best = max(tried, key=lambda one: one.share or 0.0)
    why = (
        f"No palette of map classes fits: of the pixels {best.why}; {FITS:.0%} are needed. For a map in another style, "
        "name the style."
    )
    return Classes(None, best.share, why)


def _ground_is_land(palette: Palette, pixels: NDArray[np.uint8]) -> bool:
    """Return whether land is common enough; in other styles the ground has the colours of buildings or roads."""
    counts = np.bincount(palette.classify(pixels[None])[0], minlength=len(CLASSES))
    land, building, road = (int(counts[CLASSES.index(name)]) for name in ("land", "building", "road"))
    return 2 * land >= max(building, road)


def _palettes(declared: str | None, asked: str | None) -> list[Palette]:
    """Return palettes of styles, in the order in which they are tried."""
    if asked is not None:
        return [CLASSIC if asked in _OF_CLASSIC else palette_of(load_style(asked))]
    if declared is None or declared in _OF_CLASSIC:
        return [CLASSIC]
    try:
        return [palette_of(load_style(declared)), CLASSIC]
    except ConfigError as error:
        warn(f"The style of the dataset cannot be used ({error}); map classes are found without it.")
        return [CLASSIC]
