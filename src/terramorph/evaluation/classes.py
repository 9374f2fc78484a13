"""Map classes of a side, and the floor of the scores: what the best constant colour reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import CLASSES, CLASSIC, NEAR, Palette, load_style, measure_palette, palette_of
from terramorph.errors import ConfigError, warn
from terramorph.report.numbers import percent

SAMPLE = 64
"""Number of images, spread evenly over the split, in a sample."""
_PSNR_CAP = 1e-3  # mean squared error under which an image counts as exact

Image = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""uint8 ``(C, H, W)`` and its bool mask ``(H, W)``, True where valid."""
Read = Callable[[int], Image | None]
"""Reads image number i of a side; ``None`` where it cannot be used."""
FITS = 0.5
"""Least share of valid pixels within `NEAR` levels of a palette's colours for the palette to fit."""
_OF_CLASSIC = ("classic", "classes")


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
    """Read at most `SAMPLE` images, spread evenly; if none of them is usable, the first usable one of the rest."""
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
            why = (
                f"{percent(share)} of the pixels are within {NEAR} grey levels of a colour of the style {palette.name}"
            )
            return Classes(palette, share, why)
        what = f"{percent(share)} lie within {NEAR} grey levels of a colour of {palette.name}"
        if share >= FITS:
            what += ", most of them of roads and buildings where land should be"
        tried.append(Classes(None, share, what))
    if asked is None:
        measured, share = measure_palette(images)
        if measured is not None and share >= FITS:
            fills = f"in flat fills of {len(measured.classes)} colours, which were measured"
            return Classes(measured, share, f"{percent(share)} of the pixels lie {fills}")
    best = max(tried, key=lambda one: one.share or 0.0)
    why = (
        f"No palette of map classes fits: of the pixels {best.why}; {percent(FITS)} are needed. For a map in "
        "another style, name the style."
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
