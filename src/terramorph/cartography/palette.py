"""The classes of a map and their colours, and which class a pixel is.

Colours are those of protocol maps-256 (docs/protocols.md): the flat fills of the Google maps in the "maps"
pairs of Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (arXiv:1611.07004),
as they stand in the JPEG files.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from terramorph.errors import RasterError


class MapClass(NamedTuple):
    """A class of map content.

    Attributes:
        name: For people and for JSON.
        rgb: Its fill colour, 0-255.
    """

    name: str
    rgb: tuple[int, int, int]


MAP_CLASSES: tuple[MapClass, ...] = (
    MapClass("land", (232, 228, 220)),
    MapClass("building", (242, 241, 235)),
    MapClass("road", (254, 254, 253)),
    MapClass("highway", (252, 164, 44)),
    MapClass("arterial", (252, 228, 116)),
    MapClass("park", (203, 223, 175)),
    MapClass("water", (178, 209, 254)),
)
"""The seven classes of protocol maps-256; a class index is a place in this tuple."""

CLASSES: tuple[str, ...] = tuple(c.name for c in MAP_CLASSES)
"""Class names by index."""

PALETTE: NDArray[np.uint8] = np.array([c.rgb for c in MAP_CLASSES], np.uint8)
"""uint8 (7, 3): RGB by class index. Read-only."""
PALETTE.setflags(write=False)

_CHUNK = 1 << 16  # pixels at a time: 7 float32 scores each stay within a core's cache


def classify(rgb: NDArray[Any], palette: NDArray[np.uint8] = PALETTE) -> NDArray[np.uint8]:
    """The class of every pixel: the palette colour nearest in RGB (Euclidean; the first of equals).

    Args:
        rgb: uint8 (H, W, 3) or (3, H, W). Where both could be meant (3, W, 3), height first is taken.
        palette: uint8 (K, 3), K <= 255.

    Returns:
        uint8 (H, W), indices into ``palette``. Memory beyond input and output stays under 4 MB.

    Raises:
        RasterError: If ``rgb`` is not uint8 or has no axis of three colours first or last.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or 3 not in (rgb.shape[0], rgb.shape[2]):
        raise RasterError(f"Pixels of {rgb.dtype} {rgb.shape} cannot be classified; give uint8 (H, W, 3) or (3, H, W).")
    last = rgb.shape[2] == 3
    height, width = rgb.shape[:2] if last else rgb.shape[1:]
    colours = palette.astype(np.float32)
    weights, offset = -2.0 * colours.T, (colours * colours).sum(axis=1)
    classes = np.empty((height, width), np.uint8)
    rows = max(1, _CHUNK // max(width, 1))
    for top in range(0, height, rows):
        part = rgb[top : top + rows] if last else rgb[:, top : top + rows].transpose(1, 2, 0)
        # ||x - p||^2 = ||x||^2 - 2 x.p + ||p||^2, and ||x||^2 is the same for every p. Exact: all under 2^24.
        scores = part.reshape(-1, 3).astype(np.float32) @ weights
        scores += offset
        classes[top : top + rows] = _argmin(scores).reshape(part.shape[:2])
    return classes


def _argmin(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Index of the smallest score of each row; faster than np.argmin over a short axis.

    Args:
        scores: float32 (N, K).

    Returns:
        uint8 (N,).
    """
    columns = np.ascontiguousarray(scores.T)
    best, smallest = np.zeros(scores.shape[0], np.uint8), columns[0].copy()
    for k in range(1, columns.shape[0]):
        best[columns[k] < smallest] = k
        np.minimum(smallest, columns[k], out=smallest)
    return best
