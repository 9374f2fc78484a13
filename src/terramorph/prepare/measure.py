"""Measures of a pair from its pixels, which are recorded whether or not the pair is kept.

All measures but the shift are taken on 8 bits: uint8 unchanged, other dtypes stretched between given or robust limits.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pandas
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from terramorph.bands import colour_of
from terramorph.prepare.registration import UNKNOWN, Shift
from terramorph.raster.raster import Raster

_SAME = 8
"""Largest difference per band, of 255 levels, between pixels of one colour: JPEG noise."""

_VEIL = 140
"""Level of 255 that cloud and thick haze exceed in red, green and blue. Bright ground exceeds it too, but seldom in a
whole patch, without a shadow, a joint or a car."""

_PATCH = 15
"""Side in pixels of the patches that are hazy where they are bright throughout."""


_ALIKE = 3
"""Largest number of different bits, of 64, in the hashes of look-alikes."""


class Measures(BaseModel):
    """Measures of a pair; `MEASURE_NAMES` are its columns.

    Attributes:
        nodata: Share 0 to 1 of the pixels that hold no data on the source's or the target's side.
        source_blank: Share 0 to 1 of the source's valid pixels within 8 of 255 levels of its commonest colour, in its
            first four bands. 1 where nothing is valid.
        target_blank: As `source_blank`, of the target.
        source_detail: Mean gradient of the source's mean band, in levels of 255 per pixel: 0 a plain area, about
            2 a built-up map, about 8 a built-up photograph. 0 where nothing is valid.
        target_detail: As `source_detail`, of the target.
        haze: Share 0 to 1 of the source's valid pixels in patches of 15 px that are bright throughout in red, green
            and blue: cloud, thick haze, and also snow, bright sand and large white roofs. A rough estimate. NaN where
            the source has no bands of these names.
        labels: Share 0 to 1 of the target under text and icons, as given, else NaN.
        dx: Shift of the target against the source to the right, in pixels. NaN for tiles that are too small.
        dy: Shift of the target against the source downwards, in pixels. NaN for tiles that are too small.
        confidence: Confidence of dx and dy, 0 to 1; see `Shift`.
        hash: Difference hash of the source, 64 bits; see `near_duplicates`.
    """

    nodata: float
    source_blank: float
    target_blank: float
    source_detail: float
    target_detail: float
    haze: float
    labels: float
    dx: float
    dy: float
    confidence: float
    hash: int = Field(ge=0, lt=2**64)


MEASURE_NAMES: tuple[str, ...] = tuple(Measures.model_fields)
"""Names of the measures in the order of tables."""


def measure_pair(
    source: Raster,
    target: Raster,
    *,
    shift: Shift = UNKNOWN,
    labels: float = math.nan,
    source_range: tuple[float, float] | None = None,
    target_range: tuple[float, float] | None = None,
) -> Measures:
    """Measure a pair.

    Args:
        source: Imagery, any dtype and number of bands.
        target: Map on the same grid, any dtype and number of bands.
        shift: Shift of the target, if it was estimated.
        labels: Share 0 to 1 of the target under text and icons.
        source_range: Stored values (low, high) that become 0 and 255 where the dtype is not uint8. Give that of the
            whole source: with the default, the tile's own 1st and 99th percentiles, noise in a blank tile counts as
            detail.
        target_range: As `source_range`, of the target.
    """
    valid = source.mask & target.mask
    photo = _to_levels(source, source_range)
    drawn = _to_levels(target, target_range)
    grey = _mean_band(photo)
    return Measures(
        nodata=1 - float(valid.mean()),
        source_blank=_blank(photo, source.mask),
        target_blank=_blank(drawn, target.mask),
        source_detail=_detail(grey, source.mask),
        target_detail=_detail(_mean_band(drawn), target.mask),
        haze=_haze(photo, source),
        labels=labels,
        dx=shift.dx,
        dy=shift.dy,
        confidence=shift.confidence,
        hash=_difference_hash(grey),
    )


def near_duplicates(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Group images whose hashes differ in at most 3 bits. Groups chain: where a is near b and b near c, all are one.

    Args:
        hashes: `Measures.hash` of N images, uint64 (N,).

    Returns:
        int64 (N,): the group of each image, numbered from 0 in order of first appearance. An image without a near
        duplicate has its own group.
    """
    distinct, member = np.unique(hashes, return_inverse=True)
    near = _close_pairs(distinct)
    graph = coo_array((np.ones(len(near)), near.T), shape=(len(distinct),) * 2)
    groups = connected_components(graph, directed=False)[1] if len(distinct) else np.zeros(0, np.int64)
    return np.asarray(pandas.factorize(groups[member])[0])


def _close_pairs(distinct: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return pairs (P, 2) of indices of distinct hashes at most `_ALIKE` bits apart; some occur twice.

    Two such hashes agree in at least one of `_ALIKE` + 1 parts, so only those that share a part are compared.
    """
    edges = np.linspace(0, 64, _ALIKE + 2).astype(np.int64)
    found = [np.empty((0, 2), np.int64)]
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        piece = (distinct >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(piece, kind="stable")
        piece, sorted_hashes = piece[order], distinct[order]
        left = np.arange(len(order) - 1)
        for step in range(1, len(order)):
            left = left[left < len(order) - step]
            left = left[piece[left] == piece[left + step]]
            if len(left) == 0:
                break
            near = left[np.bitwise_count(sorted_hashes[left] ^ sorted_hashes[left + step]) <= _ALIKE]
            found.append(np.stack([order[near], order[near + step]], 1))
    return np.concatenate(found)


def _to_levels(raster: Raster, limits: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Convert pixels to uint8 (C, H, W), 0 where there is no data."""
    if raster.dtype == np.uint8:
        pixels: NDArray[np.uint8] = raster.pixels
        return pixels if raster.mask.all() else np.where(raster.mask, pixels, np.uint8(0))
    valid = raster.pixels[:, raster.mask]
    if valid.size == 0:
        return np.zeros(raster.pixels.shape, np.uint8)
    low, high = (float(v) for v in (np.percentile(valid, (1, 99)) if limits is None else limits))
    filled = np.where(raster.mask, raster.pixels, low).astype(np.float64)
    scale = 255 / (high - low) if high > low else 0.0
    levels: NDArray[np.uint8] = np.rint(((filled - low) * scale).clip(0, 255)).astype(np.uint8)
    return levels


def _mean_band(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean over bands, uint8 (H, W)."""
    if len(levels) == 1:
        only: NDArray[np.uint8] = levels[0]
        return only
    total = levels[0].astype(np.float32)
    for band in levels[1:]:
        total += band
    mean: NDArray[np.uint8] = cv2.convertScaleAbs(total, alpha=1 / len(levels))
    return mean


def _blank(levels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Return the share of valid pixels that have the commonest colour.

    First the commonest colour at 16 levels per band is found. Then pixels near the mean of its pixels are counted, as
    noise may cross a border between levels.
    """
    bands = levels[:4] if mask.all() else levels[:4, mask]
    if bands.size == 0:
        return 1.0
    code = np.zeros(bands.shape[1:], np.uint16)
    for band in bands:
        code = (code << np.uint16(4)) | (band >> np.uint8(4))
    commonest = code == np.bincount(code.ravel()).argmax()
    same = np.ones_like(commonest)
    for band in bands:
        centre = float(band[commonest].mean())
        same &= (band >= centre - _SAME) & (band <= centre + _SAME)
    return float(same.mean())


def _detail(grey: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Return the mean gradient over valid pixels with valid neighbours, in levels per pixel."""
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    gx, gy = cv2.Sobel(grey, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(grey, cv2.CV_32F, 0, 1, scale=1 / 8)
    return float(cv2.mean(cv2.magnitude(gx, gy), inner)[0])


def _haze(levels: NDArray[np.uint8], raster: Raster) -> float:
    """Return the share of valid pixels in patches without a dark pixel in any colour.

    Without haze, some pixel of every patch is dark in some colour: the dark channel of He, Sun and Tang, Single Image
    Haze Removal Using Dark Channel Prior, 2009.
    """
    names = [colour_of(name) for name in raster.bands]
    if not {"red", "green", "blue"} <= set(names) or not raster.mask.any():
        return math.nan
    red, green, blue = (levels[names.index(name)] for name in ("red", "green", "blue"))
    darkest = cv2.min(cv2.min(red, green), blue)
    darkest[~raster.mask] = 0
    patch = np.ones((_PATCH, _PATCH), np.uint8)
    veiled = cv2.morphologyEx(darkest, cv2.MORPH_OPEN, patch) > _VEIL
    return float(veiled.sum() / raster.mask.sum())


def _difference_hash(grey: NDArray[Any]) -> int:
    """Return 64 bits: whether each of 8 x 8 cells is darker than its right neighbour; 0 for a constant image."""
    cells = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")
