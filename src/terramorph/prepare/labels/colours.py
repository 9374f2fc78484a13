"""Palette colours of pixels, looked up in a table; values spread to the pixels around them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

OUTSIDE = -2
"""Colour index of pixels outside the image."""
_Value = TypeVar("_Value", bound=np.generic)
_ALIKE = 16
"""Largest distance in grey levels between palette colours of one group, such as houses and the land around them."""


class Colours:
    """A palette, with a table of the nearest of its colours for every pixel value (in steps of 4 grey levels).

    Attributes:
        palette: uint8 (K, 3), the most frequent first, K < 255.
        group: int16 (K,): index of the most frequent colour of each colour's group.
    """

    def __init__(self, palette: NDArray[np.uint8]) -> None:
        self.palette = palette
        self.group = np.arange(len(palette), dtype=np.int16)
        for k, colour in enumerate(palette.astype(np.int16)):
            leaders = [j for j in range(k) if self.group[j] == j and np.abs(colour - palette[j]).max() <= _ALIKE]
            self.group[k] = leaders[0] if leaders else k
        self._nearest, self._distance = _table(palette.tobytes())

    def number(self, pixels: NDArray[np.uint8], within: int) -> NDArray[np.int16]:
        """Return palette indices of pixels (..., 3), int16 (...); -1 where none is within ``within`` grey levels."""
        six = pixels >> 2
        place = (six[..., 0].astype(np.int32) << 12) | (six[..., 1].astype(np.int32) << 6) | six[..., 2]
        return np.where(self._distance[place] <= within, self._nearest[place], np.int16(-1))

    def groups(self, pixels: NDArray[np.uint8], within: int) -> NDArray[np.int16]:
        """Return the group of pixels (..., 3), int16 (...); -1 where none is within ``within`` grey levels."""
        return np.append(self.group, np.int16(-1))[self.number(pixels, within)]

    def snapped(self, pixels: NDArray[np.uint8], within: int) -> NDArray[np.uint8]:
        """Replace pixels (..., 3) by the palette colour within ``within`` grey levels."""
        number = self.number(pixels, within)
        if not len(self.palette):
            return pixels
        return np.where((number >= 0)[..., None], self.palette[number], pixels)


def spread(values: NDArray[_Value], known: NDArray[np.bool_]) -> NDArray[_Value]:
    """Give every pixel (H, W) the value of the nearest known one; without known ones nothing changes."""
    if not known.any():
        return values
    _, numbers = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(numbers.max()) + 1, values.dtype)
    table[numbers[known]] = values[known]
    return np.asarray(table[numbers])


def seen_at(groups: NDArray[np.int16], y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int16]:
    """Return the colour indices (H, W) at places; `OUTSIDE` beyond the image."""
    rows, columns = groups.shape
    inside = (y >= 0) & (x >= 0) & (y < rows) & (x < columns)
    return np.where(inside, groups[y.clip(0, rows - 1), x.clip(0, columns - 1)], np.int16(OUTSIDE))


@lru_cache(maxsize=8)
def _table(palette: bytes) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Return, for every colour of 6 bits per band, the nearest palette colour and its largest difference in a band."""
    levels = np.arange(64, dtype=np.int16) * 4 + 2
    nearest = np.full((64, 64, 64), -1, np.int16)
    distance = np.full((64, 64, 64), 256, np.int16)
    for k, (red, green, blue) in enumerate(np.frombuffer(palette, np.uint8).reshape(-1, 3).astype(np.int16)):
        apart: NDArray[Any] = np.maximum(
            np.maximum(np.abs(levels - red)[:, None, None], np.abs(levels - green)[None, :, None]),
            np.abs(levels - blue)[None, None, :],
        )
        closer = apart < distance
        nearest[closer], distance[closer] = k, apart[closer]
    return nearest.ravel(), distance.ravel()
