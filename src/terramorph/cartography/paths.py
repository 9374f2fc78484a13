"""Skia paths from arrays of coordinates.

skia-python builds a path from one Python object per point, which takes longer than drawing it; a path in Skia's serial
form is made from arrays in one step. That form may change between versions, so it is tried once on a known path, and
not used where the result differs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import skia
from numpy.typing import NDArray

_MOVE, _LINE = 0, 1


def make_path(xy: NDArray[np.float32], starts: NDArray[np.int64]) -> Any:
    """Make a Skia path, filled by the winding rule.

    Args:
        xy: float32 (P, 2), finite, pixels.
        starts: int64 (R + 1,), where each contour starts; each has at least one point.
    """
    version = _serial_version()
    return _by_points(xy, starts) if version is None else _from_bytes(xy, starts, version)


def _from_bytes(xy: NDArray[np.float32], starts: NDArray[np.int64], version: int) -> Any:
    """Make a path from its serial form: a header, the points, and a verb per point."""
    verbs = np.full(len(xy), _LINE, np.uint8)
    verbs[starts[:-1]] = _MOVE
    header = np.array([version, len(xy), 0, len(verbs)], np.int32)
    data = b"".join([header.tobytes(), np.ascontiguousarray(xy).tobytes(), verbs.tobytes(), bytes(-len(verbs) % 4)])
    path = skia.Path()
    path.readFromMemory(data)
    return path


def _by_points(xy: NDArray[np.float32], starts: NDArray[np.int64]) -> Any:
    path = skia.Path()
    points = [skia.Point(x, y) for x, y in xy.tolist()]
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        path.addPoly(points[begin:end], False)
    return path


@lru_cache(maxsize=1)
def _serial_version() -> int | None:
    """Return the first word of this Skia's serial form of a path; None where the form is not the known one."""
    xy = np.array([[1, 2], [3, 4], [5, 7], [10, 20], [30, 40]], np.float32)
    starts = np.array([0, 3, 5])
    known = _by_points(xy, starts)
    version = int(np.frombuffer(bytes(known.serialize())[:4], np.int32)[0])
    return version if _from_bytes(xy, starts, version) == known else None
