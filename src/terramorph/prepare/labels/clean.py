"""Finding the text and icons on a map, and painting them over from their surroundings.

A map has flat areas, against which text stands out. Every pixel is compared with the nearest flat areas: parts of the
size of letters or signs that are much darker or more colourful are ink. Ink and its halo are painted with the nearest
flat colour, roads are continued under their names, and the pixels that this changes are the label.

    palette = map_palette(samples)
    cleaned, mask = remove_labels(rgb, palette)
    share = mask.mean()
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.errors import RasterError
from terramorph.prepare.labels.colours import Colours, spread
from terramorph.prepare.labels.roads import lead_on

MARGIN = 128
"""Pixels around a window that are needed to find and paint its labels as in the whole map."""

_MOST = 24  # colours of a style
_FLAT = 8  # grey levels across 3 x 3 pixels of a flat area; JPEG moves them by a few
_INK = 45  # grey levels below the nearest flat areas, in red or green, from which a pixel is ink
_INK_BLUE = 130  # and in blue, where yellow outlines are dark too
_NEAR = 8  # grey levels from a palette colour
_DRAWN = 0.5  # dark pixels of the map's own colours beside an ink pixel, above which it is the rim of what they draw
_FAINT = 12  # grey levels below the nearest flat areas up to which a pixel may be one of them
_PALE = 244  # a pixel with all bands from here on may be halo
_LETTER = 28  # px: ink shorter than this may have any shape
_PLATE = 44  # px: flat areas shorter than this may be the inside of an icon or a shield
_WORD = 96  # px: ink longer than this is no label
_STROKE = 3.0  # px of ink for each px of length, below which long ink is a line and not a word
_HALO = 3  # px around ink that a halo may reach
_EDGE = 11  # px across: edges of flat areas are mixed with colours that near
_SNAP = 14  # grey levels from a palette colour within which a flat colour is taken for it
_CHANGED = 6  # grey levels; pixels that painting changes less keep their colour
_BLOCK = 2048  # columns at a time


class Cleaned(NamedTuple):
    """A map without labels, uint8 (3, H, W), and where they were painted over, bool (H, W)."""

    rgb: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def map_palette(samples: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the flat colours of a map style, 24 at most, from samples of it.

    Args:
        samples: uint8 (3, H, W) each; a few dozen tiles are better than one.

    Returns:
        uint8 (K, 3), the most frequent first: colours of areas at least seven pixels across, more than 6 grey levels
        apart, each at least 0.1 % of such areas.

    Raises:
        RasterError: If a sample is not uint8 (3, H, W).
    """
    counts, sums = np.zeros(1 << 18), np.zeros((3, 1 << 18))
    for sample in samples:
        image = _interleaved(sample)
        wide = cv2.erode(_flat(image).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        six = (image[wide] >> 2).astype(np.int32)
        bins = six[:, 0] << 12 | six[:, 1] << 6 | six[:, 2]
        counts += np.bincount(bins, minlength=counts.size)
        for total, band in zip(sums, image[wide].T, strict=True):
            total += np.bincount(bins, weights=band, minlength=counts.size)
    bins = np.argsort(counts, kind="stable")[::-1]
    bins = bins[counts[bins] > counts.sum() * 1e-5]
    colours = np.rint(sums[:, bins] / counts[bins]).T
    share = counts[bins] / max(counts.sum(), 1.0)
    leaders: list[int] = []
    for k in range(len(bins)):
        near = [j for j in leaders if np.abs(colours[k] - colours[j]).max() <= 6]
        if near:
            share[near[0]] += share[k]
        elif len(leaders) < 4 * _MOST:
            leaders.append(k)
    kept = sorted((j for j in leaders if share[j] >= 1e-3), key=lambda j: -share[j])[:_MOST]
    return np.asarray(colours[kept].astype(np.uint8).reshape(-1, 3))


def remove_labels(rgb: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Cleaned:
    """Find labels and paint them over; wide images are processed in blocks.

    Args:
        rgb: uint8 (3, H, W).
        palette: uint8 (K, 3), from `map_palette`.
    """
    colours = Colours(palette)
    image = _interleaved(rgb)
    mask = np.zeros(image.shape[:2], np.bool_)
    cleaned = rgb.copy()
    for left in range(0, image.shape[1], _BLOCK):
        start, right = max(left - MARGIN, 0), min(left + _BLOCK, image.shape[1])
        window = np.ascontiguousarray(image[:, start : right + MARGIN])
        painted, found = _remove(window, colours)
        inner = slice(left - start, right - start)
        mask[:, left:right] = found[:, inner]
        cleaned[:, :, left:right][:, found[:, inner]] = painted[:, inner][found[:, inner]].T
    return Cleaned(cleaned, mask)


def _remove(image: NDArray[np.uint8], colours: Colours) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the map (H, W, 3) without labels, and where it changed (H, W)."""
    flat = _flat(image)
    sure = _large(image, flat, colours)
    below = _below(image, sure)
    ink = _ink(image, below, colours)
    if not ink.any():
        return image, np.zeros(flat.shape, np.bool_)
    area = _around(ink)
    free = area & ~(flat & (_highest(below) < _FAINT) & (_highest(~image) > 255 - _PALE))
    painted = image.copy()
    painted[free] = colours.snapped(_nearest(image, flat & ~free)[free], _SNAP)
    lead_on(painted, image, area, free, colours)
    moved = _highest(cv2.absdiff(image, painted)) > _CHANGED
    return painted, free & moved


def _interleaved(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copy the map to (H, W, 3)."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[0] != 3:
        raise RasterError(f"A map must be uint8 (3, H, W), got {rgb.dtype} {rgb.shape}; convert it.")
    return np.ascontiguousarray(rgb.transpose(1, 2, 0))


def _flat(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where the 3 x 3 pixels around have one colour, bool (H, W)."""
    square = np.ones((3, 3), np.uint8)
    spread = cv2.subtract(cv2.dilate(image, square), cv2.erode(image, square))
    return np.asarray(cv2.inRange(spread, (0, 0, 0), (_FLAT, _FLAT, _FLAT)) > 0)


def _large(image: NDArray[np.uint8], flat: NDArray[np.bool_], colours: Colours) -> NDArray[np.bool_]:
    """Return flat areas too large for a part of a letter, an icon or (in a colour not of the map) a shield."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(flat.astype(np.uint8), connectivity=4)
    longest = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    large = longest >= _PLATE
    large[0] = False
    for k in (1 + np.flatnonzero((longest[1:] >= _LETTER) & ~large[1:])).tolist():
        left, top, width, height = stats[k, :4].tolist()
        window = slice(top, top + height), slice(left, left + width)
        colour = np.rint(image[window][parts[window] == k].mean(axis=0)).astype(np.uint8)
        large[k] = colour.min() < _PALE and bool(colours.number(colour, _NEAR) >= 0)
    return np.asarray(large[parts])


def _nearest(image: NDArray[np.uint8], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Give every pixel (H, W, 3) the colour of the nearest known one; without known ones the image is unchanged."""
    packed = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA).view(np.uint32)[..., 0]  # one gather instead of three
    return np.ascontiguousarray(spread(packed, known)[..., None].view(np.uint8)[..., :3])


def _highest(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the largest band of each pixel, (H, W, 3) -> (H, W); much faster than a maximum over a short axis."""
    return np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])


def _below(image: NDArray[np.uint8], sure: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return by how much each band is darker than the flat areas beside it, or away from them than the lightest pixels
    around, (H, W, 3).

    Between a dark road and light land, letters are compared with the land, and mixed edges of the road with the road.
    """
    close, far = np.ones((_EDGE, _EDGE), np.uint8), np.ones((2 * _EDGE + 1, 2 * _EDGE + 1), np.uint8)
    nearest = _nearest(image, sure)
    touching = cv2.erode(np.where(sure[..., None], image, np.uint8(255)), close)
    apart = cv2.dilate(sure.astype(np.uint8), close) == 0
    beside = np.where(apart[..., None], cv2.dilate(nearest, far), cv2.min(nearest, touching))
    return np.asarray(cv2.subtract(beside, image))


def _ink(image: NDArray[np.uint8], below: NDArray[np.uint8], colours: Colours) -> NDArray[np.bool_]:
    """Return ink, bool (H, W): pixels much darker than the flat areas beside them, in parts of a label's size that have
    no map colour."""
    dark = (np.maximum(below[..., 0], below[..., 1]) >= _INK) | (below[..., 2] >= _INK_BLUE)
    drawn = np.zeros_like(dark)
    drawn[dark] = colours.number(image[dark], _NEAR) >= 0
    _, parts, stats, _ = cv2.connectedComponentsWithStats((dark & ~drawn).astype(np.uint8), connectivity=8)
    longest = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    area = stats[:, cv2.CC_STAT_AREA]
    good = (longest <= _LETTER) | (longest <= _WORD) & (area >= _STROKE * longest)
    good &= area >= 3
    beside = cv2.dilate(parts.astype(np.float32), np.ones((3, 3), np.uint8))[drawn].astype(np.int32)
    good &= np.bincount(beside, minlength=len(good)) <= _DRAWN * area  # not the rim of a small thing on the map
    good[0] = False
    return np.asarray(good[parts])


def _around(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return ink with its halo and the pixels that it encloses."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _HALO + 1, 2 * _HALO + 1))
    area = cv2.dilate(ink.astype(np.uint8), disc)
    return np.asarray(cv2.morphologyEx(area, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0)
