"""Surfaces with heights (3D buildings) as what they cover on the ground.

GEOS, and so shapely, has no PolyhedralSurface, TIN and Triangle (OGC 06-103r4, 6.1.12). In well-known binary they are
built as MultiPolygon and Polygon are, so another number of type is enough to read their faces.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

_POLYGON, _MULTI_POLYGON, _COLLECTION = 3, 6, 7
_AS_READ = {15: _MULTI_POLYGON, 16: _MULTI_POLYGON, 17: _POLYGON}
_DEEPEST = 32


def read_wkb(wkb: NDArray[Any]) -> NDArray[Any]:
    """Geometries of well-known binary in two dimensions.

    Args:
        wkb: object (N,), bytes or None.

    Returns:
        object (N,): shapely geometries, or None. A surface is the union of its faces seen from above; what cannot be
        read is an empty collection.
    """
    geometries: NDArray[Any] = shapely.from_wkb(wkb, on_invalid="ignore")
    unread = np.flatnonzero(np.array([g is not None for g in wkb], np.bool_) & shapely.is_missing(geometries))
    for row in unread.tolist():
        data = bytearray(wkb[row])
        try:
            _retype(data, 0, 0)
            geometries[row] = _flat(shapely.from_wkb(bytes(data)))
        except (struct.error, IndexError, ValueError, shapely.errors.ShapelyError):
            geometries[row] = shapely.GeometryCollection()
    return geometries


def _retype(data: bytearray, at: int, depth: int) -> int:
    """Write other numbers of type over those of surfaces, in place; gives the place after the geometry at ``at``."""
    order = "<" if data[at] == 1 else ">"
    (kind,) = struct.unpack_from(f"{order}I", data, at + 1)
    if kind in _AS_READ:
        struct.pack_into(f"{order}I", data, at + 1, _AS_READ[kind])
        kind = _AS_READ[kind]
    if kind == 1:
        return at + 21
    (count,) = struct.unpack_from(f"{order}I", data, at + 5)
    at += 9
    if kind == 2:
        return at + 16 * int(count)
    if kind == _POLYGON:
        for _ in range(count):
            (points,) = struct.unpack_from(f"{order}I", data, at)
            at += 4 + 16 * points
        return at
    if not 4 <= kind <= _COLLECTION or depth > _DEEPEST:
        raise ValueError(f"geometry type {kind}")
    for _ in range(count):
        at = _retype(data, at, depth + 1)
    return at


def simple_parts(geometries: NDArray[Any]) -> NDArray[Any]:
    """object (M,): points, lines and polygons that are not empty; collections are taken apart."""
    parts = geometries
    while (shapely.get_type_id(parts) >= 4).any():
        parts = shapely.get_parts(parts)
    return np.asarray(parts[~(shapely.is_missing(parts) | shapely.is_empty(parts))], object)


def _flat(geometry: Any) -> Any:
    """The faces of a geometry as one area, beside what else it holds. Upright faces cover nothing and are left out."""
    parts = simple_parts(np.array([geometry], object))
    faces = shapely.get_type_id(parts) == _POLYGON
    faces_with_area = parts[faces & (shapely.area(parts) > 0)]
    area = shapely.union_all(shapely.make_valid(faces_with_area))
    return shapely.GeometryCollection([area, *parts[~faces]]) if (~faces).any() else area
