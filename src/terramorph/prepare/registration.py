"""Registration: the shift between the two sides of a pair, from their edges.

A photograph and a map of the same ground agree in where edges run and in little else: a road may be brighter than its
surroundings on one side and darker on the other, a tree has no edge on the map and a label none on the ground.
So both sides are reduced to fields of edge directions at doubled angle, in which a step up and a step down are
the same, and the fields are correlated through the Fourier transform. The surfaces of several tiles can be added
before the peak is taken, which finds a common shift that no single tile shows.

    shift = estimate_shift(photo, drawn)                                   # of one pair
    shift = locate_common(correlate(a, b) for a, b in tiles)               # of all pairs of a block together
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.raster.raster import Raster
from terramorph.raster.resample import rounded

MIN_CONFIDENCE = 0.5
"""Least confidence of a reliable shift. Below it, a side shows too little structure, or the sides are unrelated. Of 240
tiles of towns all are above it, of pairs of unrelated tiles 1 %."""

MIN_AGREEMENT = 0.25
"""Least share of confident tiles within 1 px of a consistent shift. Random shifts in a range of 16 px would agree in
0.3 % of tiles."""

LEAST_SHIFT = 8
"""Least range of shifts in pixels: the peak must be told from its surroundings."""

_WHITENING = 0.5
"""Exponent of the magnitude by which the cross spectrum is divided: 0 is plain correlation, 1 phase correlation."""

_BLUR = 1.2
"""Standard deviation in pixels of the smoothing of a surface: edges of the two sides never coincide exactly."""

_PEAK = 4
"""Half the side in pixels of the square around the peak that belongs to it."""


@dataclass(frozen=True, slots=True)
class Shift:
    """Shift of b against a: what a shows at (column, row), b shows at (column + dx, row + dy).

    Attributes:
        dx: Columns, in pixels; positive where b lies to the right of a.
        dy: Rows, in pixels; positive where b lies below a.
        confidence: 0 to 1, m / (1 + m), where m is the height of the peak over the highest correlation more than 4 px
            away, in units of the noise of unrelated sides. On real pairs of a photograph and a map it is close to the
            share of right shifts. Repeating or straight patterns have several equal peaks and so a confidence near 0,
            as have pairs without structure.
    """

    dx: float
    dy: float
    confidence: float


UNKNOWN = Shift(math.nan, math.nan, 0.0)
"""Shift of sides that are too small or have too little data."""


def estimate_shift(
    a: NDArray[Any], b: NDArray[Any], mask: NDArray[np.bool_] | None = None, max_shift: float = 16
) -> Shift:
    """Estimate the shift between the two sides of a pair.

    Args:
        a: (C, H, W), any numeric dtype and range.
        b: (D, H, W) on the same pixels, any numeric dtype and range.
        mask: bool (H, W), True where both sides hold data. Default: everywhere.
        max_shift: Range of shifts in pixels in each direction, from `LEAST_SHIFT` to a quarter of the shorter side.

    Returns:
        The shift of b against a. A peak at the rim of the range has confidence 0.
    """
    return locate(correlate(a, b, mask, max_shift))


def correlate(
    a: NDArray[Any], b: NDArray[Any], mask: NDArray[np.bool_] | None = None, max_shift: float = 16
) -> NDArray[np.float32]:
    """Correlate the edges of two sides under every whole-pixel shift.

    Args:
        a, b, mask, max_shift: As for `estimate_shift`.

    Returns:
        float32 (2 r + 1, 2 r + 1) with r = ``max_shift`` rounded up. Row i, column j hold the correlation under
        dy = i - r, dx = j - r, in units of the standard deviation that fields of random phase have before smoothing.
        All 0 where a side is constant or nothing is valid.
    """
    height, width = a.shape[1:]
    radius = math.ceil(max_shift)
    weight = _full_weight(height, width) if mask is None else _weight(mask)
    cross = cv2.mulSpectrums(_spectrum(b, mask, weight), _spectrum(a, mask, weight), 0, conjB=True)
    magnitude = _length(cross[..., 0], cross[..., 1])
    total = float(magnitude.sum(dtype=np.float64))
    if total == 0:
        return np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    whitening = cv2.pow(magnitude + 1e-9 * magnitude.max(), -_WHITENING)
    surface = cv2.dft(cv2.multiply(cross, cv2.merge([whitening, whitening])), flags=cv2.DFT_INVERSE)[..., 0]
    around = np.arange(-radius - _PEAK, radius + _PEAK + 1)
    near = cv2.GaussianBlur(surface[np.ix_(around, around)], (0, 0), _BLUR)
    scaled: NDArray[np.float32] = near[_PEAK:-_PEAK, _PEAK:-_PEAK] / np.float32(math.sqrt(total))
    return scaled


def locate(surface: NDArray[np.float32]) -> Shift:
    """Return the shift at the peak of a surface of `correlate`, with subpixel accuracy (a parabola along each axis)."""
    radius = surface.shape[0] // 2
    row, column = divmod(int(surface.argmax()), surface.shape[1])
    peak = float(surface[row, column])
    if peak <= 0 or not (0 < row < 2 * radius and 0 < column < 2 * radius):
        return Shift(float(column - radius), float(row - radius), 0.0) if peak > 0 else Shift(0.0, 0.0, 0.0)
    elsewhere = surface.copy()
    elsewhere[max(row - _PEAK, 0) : row + _PEAK + 1, max(column - _PEAK, 0) : column + _PEAK + 1] = -np.inf
    margin = max(peak - float(elsewhere.max()), 0.0)
    dx = column - radius + _vertex(surface[row, column - 1 : column + 2])
    dy = row - radius + _vertex(surface[row - 1 : row + 2, column])
    return Shift(dx, dy, margin / (1 + margin))


def locate_common(surfaces: Iterable[NDArray[np.float32]]) -> Shift:
    """Return the common shift of several pairs, such as all of a block.

    Pairs of a folder may differ in size, and small ones in the range of shifts: only those of the range of the first
    count.

    Returns:
        The shift, with the confidence of the summed surface; `UNKNOWN` of no pairs.
    """
    total: NDArray[np.float32] | None = None
    count = 0
    for surface in surfaces:
        if total is not None and surface.shape != total.shape:
            continue
        total = surface.copy() if total is None else total + surface
        count += bool(surface.any())
    if total is None:
        return UNKNOWN
    return locate(total / np.float32(math.sqrt(max(count, 1))))


def consistent_shift(shifts: Sequence[Shift]) -> Shift | None:
    """Return the shift on which most confident tiles of a block or dataset agree.

    Args:
        shifts: Shift of each tile. Those under `MIN_CONFIDENCE` are left out.

    Returns:
        Confidence-weighted mean of the shifts within 1 px of the commonest one; its ``confidence`` is their share of
        the confident tiles. None if they are fewer than 3 or their share is under `MIN_AGREEMENT`.
    """
    table = np.array([(s.dx, s.dy, s.confidence) for s in shifts if s.confidence >= MIN_CONFIDENCE]).reshape(-1, 3)
    if len(table) == 0:
        return None
    places, trust = table[:, :2], table[:, 2]
    cells = np.floor(places).astype(np.int64)
    cells -= cells.min(axis=0)
    votes = np.zeros(cells.max(axis=0) + 1)
    np.add.at(votes, (cells[:, 0], cells[:, 1]), trust)
    mode = np.unravel_index(cv2.blur(votes, (3, 3), borderType=cv2.BORDER_CONSTANT).argmax(), votes.shape)
    centre = np.median(places[(np.abs(cells - np.array(mode)) <= 1).all(axis=1)], axis=0)
    agree = np.hypot(*(places - centre).T) <= 1
    share = float(agree.mean())
    if agree.sum() < 3 or share < MIN_AGREEMENT:
        return None
    dx, dy = np.average(places[agree], axis=0, weights=trust[agree])
    return Shift(float(dx), float(dy), share)


def shift_raster(raster: Raster, dx: float, dy: float) -> Raster:
    """Shift a raster's content by (-dx, -dy), which puts b of a `Shift` on a.

    Whole pixels are copied exactly; otherwise the values are interpolated (cubic) and rounded to the dtype.

    Args:
        raster: Any dtype.
        dx: Columns, in pixels.
        dy: Rows, in pixels.

    Returns:
        A raster on the same grid. Pixels that come, wholly or partly, from outside or from masked pixels are masked.
    """
    size = (raster.width, raster.height)
    move = np.array([[1, 0, -dx], [0, 1, -dy]], np.float64)
    if float(dx).is_integer() and float(dy).is_integer():
        rows = np.arange(raster.height) + int(dy)
        columns = np.arange(raster.width) + int(dx)
        inside = np.outer(rows == rows.clip(0, raster.height - 1), columns == columns.clip(0, raster.width - 1))
        source = np.ix_(rows.clip(0, raster.height - 1), columns.clip(0, raster.width - 1))
        pixels = np.stack([band[source] for band in raster.pixels])
        return Raster(pixels, raster.mask[source] & inside, raster.grid, raster.bands, raster.units)
    whole = cv2.erode(
        raster.mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    mask = cv2.warpAffine(whole.astype(np.float32), move, size, flags=cv2.INTER_LINEAR) > 0.999
    flags = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
    moved = [
        cv2.warpAffine(np.where(raster.mask, band, 0).astype(np.float64), move, size, **flags) for band in raster.pixels
    ]
    return Raster(rounded(np.stack(moved), raster.dtype), mask, raster.grid, raster.bands, raster.units)


def _spectrum(side: NDArray[Any], mask: NDArray[np.bool_] | None, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the Fourier transform, float32 (H', W', 2), of the weighted edge field of (C, H, W) without its mean."""
    field = cv2.multiply(_edge_field(side, mask), weight)
    mean = np.array(cv2.sumElems(field)[:2]) / max(float(weight[..., 0].sum(dtype=np.float64)), 1e-12)
    field = cv2.subtract(field, cv2.multiply(weight, (*mean.tolist(), 0.0, 0.0)))
    rows, columns = (cv2.getOptimalDFTSize(n) for n in field.shape[:2])
    padding = (0, rows - field.shape[0], 0, columns - field.shape[1])
    spectrum: NDArray[np.float32] = cv2.dft(cv2.copyMakeBorder(field, *padding, cv2.BORDER_CONSTANT, value=0))
    return spectrum


def _edge_field(side: NDArray[Any], mask: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Return edge directions at doubled angle as cosine and sine, float32 (H, W, 2), length 0 to 1.

    The structure tensors of all bands are added, so that a step in any band counts. Lengths are compressed to
    g / (g + 2 mean g), so that the strong edges of a few cars or roofs do not outweigh the many faint ones of streets.
    """
    shape = side.shape[1:]
    valid = side if mask is None else side[:, mask]
    low, high = (float(valid.min()), float(valid.max())) if valid.size else (0.0, 0.0)
    if not high > low:
        return np.zeros((*shape, 2), np.float32)
    cosine, sine, energy = (np.zeros(shape, np.float32) for _ in range(3))
    for band in side:
        unit = ((band if mask is None else np.where(mask, band, low)) - low) / (high - low)
        unit = unit.astype(np.float32)
        gx, gy = cv2.Sobel(unit, cv2.CV_32F, 1, 0), cv2.Sobel(unit, cv2.CV_32F, 0, 1)
        sine += gx * gy
        gx *= gx
        gy *= gy
        cosine += gx - gy
        energy += gx + gy
    sine *= 2
    strength = cv2.sqrt(energy)
    length = strength / ((strength + 2 * cv2.mean(strength)[0]) * _length(cosine, sine) + 1e-12)
    field: NDArray[np.float32] = cv2.merge([cosine * length, sine * length])
    return field


def _length(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return lengths of vectors. The last bits of cv2.magnitude depend on the addresses of its arrays."""
    length: NDArray[np.float32] = np.sqrt(x * x + y * y)
    return length


@lru_cache(maxsize=4)
def _full_weight(height: int, width: int) -> NDArray[np.float32]:
    """Return `_weight` of a tile that is valid throughout."""
    weight = _weight(np.ones((height, width), np.bool_))
    weight.setflags(write=False)
    return weight


def _weight(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return weights, float32 (H, W, 2), both equal: 0 at the rim of the valid part, 1 from 1/8 of a side inwards."""
    rim = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(rim, cv2.DIST_L2, 3)[1:-1, 1:-1]
    ramp = np.clip((distance - 1) / (min(mask.shape) // 8), 0, 1)
    weight: NDArray[np.float32] = np.sin(ramp * np.float32(math.pi / 2)) ** 2
    doubled: NDArray[np.float32] = cv2.merge([weight, weight])
    return doubled


def _vertex(three: NDArray[np.float32]) -> float:
    """Return the vertex of the parabola through three values at -1, 0, 1, of which the middle one is the highest."""
    before, here, after = (float(v) for v in three)
    bend = before - 2 * here + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
