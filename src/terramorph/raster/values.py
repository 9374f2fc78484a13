"""Tests of stored values: nodata, alpha, and bands that hold classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.errors import warn

_USUAL = (-9999.0, -99999.0, -999999.0, -999.0, 9999.0, 99999.0, -32768.0, -32767.0, 32767.0, 65535.0, -2147483648.0)
_HUGE = 1e19
"""Magnitude from which a float holds no measurement: 1e20, 9.97e36 (netCDF), 3.4e38."""
_MOST_CLASSES = 64
_FLAT = 0.6
"""Share of neighbours of the same value, over which a band may hold classes: noise has less."""


def settle(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Fill single bands without data, in pixels where another band has data, as GDAL's dataset mask has it.

    There, 0 and all values of 8 bits count as measurements (near infrared of water). Other nodata values, and values
    that are not finite, would be far outside the range: they become the mean of the pixel's other bands.

    Args:
        pixels: (C, H, W).
        valid: bool (C, H, W), False where a band has its nodata value or is not finite.

    Returns:
        Pixels of the same dtype, and the mask (H, W).
    """
    mask: NDArray[np.bool_] = np.any(valid, axis=0)
    if pixels.dtype == np.uint8 or valid.all():
        return pixels, mask
    holes = mask & ~valid & (pixels != 0)
    if not holes.any():
        return pixels, mask
    at = holes.any(axis=0)
    known = valid[:, at]
    mean = np.where(known, pixels[:, at], 0).sum(axis=0, dtype=np.float64) / known.sum(axis=0)
    settled = pixels.copy()
    settled[:, at] = np.where(holes[:, at], mean if pixels.dtype.kind == "f" else np.rint(mean), pixels[:, at])
    return settled, mask


def is_value(pixels: NDArray[Any], value: float) -> NDArray[np.bool_]:
    """Return where pixels equal a value; floats to 6 digits, huge ones to 3, since few programs write -3.4028235e38 in
    full."""
    if pixels.dtype.kind != "f":
        found: NDArray[np.bool_] = pixels == value
        return found
    close: NDArray[np.bool_] = np.isclose(pixels, value, rtol=1e-3 if abs(value) > _HUGE else 1e-6, atol=0)
    return close


class Suspects:
    """Finds undeclared nodata: the usual nodata values, where they lie far from all other values."""

    def __init__(self) -> None:
        self._usual: set[float] = set()
        self._low, self._high = np.inf, -np.inf

    def add(self, values: NDArray[Any]) -> None:
        """Add values of pixels with data, of any shape."""
        while values.size and values.dtype != np.uint8:
            ends = float(values.min()), float(values.max())
            usual = [v for v in ends if v in _USUAL or abs(v) >= _HUGE]
            if not usual:
                self._low, self._high = min(self._low, ends[0]), max(self._high, ends[1])
                return
            self._usual.update(usual)
            values = values[~np.isin(values, usual)]

    def found(self) -> list[float]:
        """Return usual nodata values that are farther from all others than these are from each other."""
        far = self._high - self._low
        near = (v for v in sorted(self._usual) if max(self._low - v, v - self._high) > far)
        return [] if far < 0 else list(near)


def tell_suspects(values: Sequence[float], where: str) -> None:
    """Warn of values that `Suspects` found."""
    for value in values:
        warn(
            f"Some values of {where} are {value:g}, far from all others, and likely mean no data; declare it "
            f"(gdal_edit.py -a_nodata {value:g}), or give it as nodata."
        )


def is_alpha(blocks: Sequence[NDArray[Any]]) -> bool:
    """Return whether a band tagged as alpha is one, from blocks of its values.

    Over half of the pixels that an alpha shows share one opacity, or a fifth have the highest where edges fade widely.
    No value of near infrared, which many programs store as a fourth band that GDAL tags as alpha, is so common.
    """
    values = np.concatenate([block.ravel() for block in blocks])
    shown = values[values != 0]
    if not shown.size:
        return True
    counts = np.unique(shown, return_counts=True)[1]
    return bool(counts.max() > shown.size / 2 or counts[-1] > shown.size / 5)


def count_classes(blocks: Sequence[NDArray[Any]]) -> int | None:
    """Count the classes in blocks (h, w) of a band; None where the values are measurements.

    Classes are few, most neighbours are equal, and changes often skip values; measurements in few steps change by one.
    So blocks that each lie in one of several large fields are of classes.
    """
    values = np.unique(np.concatenate([block.ravel() for block in blocks]))
    if not 2 <= len(values) <= _MOST_CLASSES:
        return None
    if len(values) == 2:
        return 2
    steps = np.concatenate(
        [np.abs(np.diff(np.searchsorted(values, block), axis=axis)).ravel() for block in blocks for axis in (0, 1)]
    )
    changed = steps[steps > 0]
    skips = changed.size == 0 or (changed > 1).mean() > 0.05
    return len(values) if changed.size < (1 - _FLAT) * steps.size and skips else None
