"""Footprints of surfaces with heights (3D buildings).

GEOS, and so shapely, has no PolyhedralSurface, TIN and Triangle. They are read here from well-known binary (OGC
06-103r4). Arcs are straightened by pyogrio, unless they lie in a collection, which then is not read.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

_POINT, _LINE, _POLYGON, _TRIANGLE = 1, 2, 3, 17
_COLLECTION = 7
_COLLECTIONS = (4, 5, 6, _COLLECTION, 15, 16)
_DEEPEST = 32


def read_wkb(wkb: NDArray[Any]) -> NDArray[Any]:
    """Read geometries from well-known binary, in two dimensions.

    Args:
        wkb: object (N,), bytes or None.

    Returns:
        object (N,): shapely geometries, or None. A surface is the union of its faces seen from above; what cannot be
        read is an empty collection.
    """
    geometries: NDArray[Any] = shapely.from_wkb(wkb, on_invalid="ignore")
    unread = np.array([g is not None for g in wkb], np.bool_) & shapely.is_missing(geometries)
    for row in np.flatnonzero(unread).tolist():
        try:
            geometries[row] = _flat(_parts(wkb[row], 0, 0)[0])
        except (struct.error, ArithmeticError, IndexError, ValueError, shapely.errors.ShapelyError):
            geometries[row] = shapely.GeometryCollection()
    for row in np.flatnonzero(shapely.get_type_id(geometries) == _COLLECTION).tolist():
        try:
            simple_parts(geometries[row : row + 1])
        except NotImplementedError:  # GEOS does not take arcs apart
            geometries[row] = shapely.GeometryCollection()
    return geometries


def simple_parts(geometries: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Split geometries into single, non-empty ones, object (M,), and the index of the input of each."""
    owner = np.flatnonzero(~(shapely.is_missing(geometries) | shapely.is_empty(geometries)))
    parts = np.asarray(geometries[owner], object)
    while np.isin(shapely.get_type_id(parts), _COLLECTIONS[:4]).any():
        parts, index = shapely.get_parts(parts, return_index=True)
        owner = owner[index]
    keep = ~shapely.is_empty(parts)
    return np.asarray(parts[keep], object), owner[keep]


def oriented(polygons: NDArray[Any]) -> NDArray[Any]:
    """Orient polygons, object (N,), exteriors counterclockwise; those with infinite coordinates stay as they are."""
    xy, owner = shapely.get_coordinates(polygons, return_index=True)
    finite = np.ones(len(polygons), np.bool_)
    finite[owner[~np.isfinite(xy).all(axis=1)]] = False
    turned = polygons.copy()
    turned[finite] = shapely.orient_polygons(polygons[finite])
    return turned


def _parts(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    """Read the lines and polygons of the geometry at an offset, and the offset after it."""
    order = "<" if data[at] == 1 else ">"
    kind, count = struct.unpack_from(f"{order}II", data, at + 1)
    if kind == _POINT:
        return [], at + 21
    at += 9
    if kind == _LINE:
        points, at = _points(data, at, order, count)
        return [shapely.LineString(points)], at
    if kind in (_POLYGON, _TRIANGLE):
        rings = []
        for _ in range(count):
            (length,) = struct.unpack_from(f"{order}I", data, at)
            ring, at = _points(data, at + 4, order, length)
            rings.append(ring)
        return [shapely.Polygon(rings[0], rings[1:])] if rings else [], at
    if depth > _DEEPEST or kind not in _COLLECTIONS:
        raise ValueError(f"geometry type {kind}")
    found: list[Any] = []
    for _ in range(count):
        more, at = _parts(data, at, depth + 1)
        found += more
    return found, at


def _points(data: bytes, at: int, order: str, count: int) -> tuple[NDArray[np.float64], int]:
    """Read points, float64 (count, 2), and the offset after them."""
    if at + 16 * count > len(data):
        raise ValueError("it ends early")
    return np.frombuffer(data, f"{order}f8", 2 * count, at).reshape(-1, 2), at + 16 * count


def _flat(parts: list[Any]) -> Any:
    """Union the polygons of parts to one area, beside the lines. Upright faces cover nothing and are left out."""
    each = np.array(parts, object)
    faces = shapely.get_type_id(each) == _POLYGON
    area = shapely.union_all(shapely.make_valid(each[faces & (shapely.area(each) > 0)]))
    return shapely.GeometryCollection([area, *each[~faces]]) if (~faces).any() else area
