"""Surfaces with heights (3D buildings) as what they cover on the ground, and arcs as lines.

GEOS, and so shapely, has no PolyhedralSurface, TIN and Triangle, and cannot use arcs, which pyogrio straightens unless
they lie in a collection. What shapely cannot use is read here from well-known binary (OGC 06-103r4, ISO 19125).
"""

from __future__ import annotations

import cmath
import math
import struct
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

_POINT, _LINE, _POLYGON, _ARCS, _COMPOUND, _CURVE_POLYGON, _TRIANGLE = 1, 2, 3, 8, 9, 10, 17
_COLLECTION = 7
_COLLECTIONS = (4, 5, 6, _COLLECTION, 11, 12, 15, 16)
_DEEPEST = 32
_STEP = math.radians(4)  # of arcs, as GDAL has it


def read_wkb(wkb: NDArray[Any]) -> NDArray[Any]:
    """Geometries of well-known binary in two dimensions.

    Args:
        wkb: object (N,), bytes or None.

    Returns:
        object (N,): shapely geometries, or None. A surface is the union of its faces seen from above; what cannot be
        read is an empty collection.
    """
    geometries: NDArray[Any] = shapely.from_wkb(wkb, on_invalid="ignore")
    unread = np.array([g is not None for g in wkb], np.bool_) & shapely.is_missing(geometries)
    for row in np.flatnonzero(unread | (shapely.get_type_id(geometries) == _COLLECTION)).tolist():
        if unread[row] or (shapely.get_type_id(simple_parts(geometries[row : row + 1])[0]) > _COLLECTION).any():
            try:
                geometries[row] = _flat(_parts(wkb[row], 0, 0)[0])
            except (struct.error, ArithmeticError, IndexError, ValueError, shapely.errors.ShapelyError):
                geometries[row] = shapely.GeometryCollection()
    return geometries


def simple_parts(geometries: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Single geometries that are not empty, object (M,), and the input that each is of; collections are taken apart."""
    owner = np.flatnonzero(~(shapely.is_missing(geometries) | shapely.is_empty(geometries)))
    parts = np.asarray(geometries[owner], object)
    while np.isin(shapely.get_type_id(parts), _COLLECTIONS[:4]).any():
        parts, index = shapely.get_parts(parts, return_index=True)
        owner = owner[index]
    keep = ~shapely.is_empty(parts)
    return np.asarray(parts[keep], object), owner[keep]


def _parts(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    """Lines and polygons of the geometry at a place, and the place after it."""
    order = "<" if data[at] == 1 else ">"
    kind, count = struct.unpack_from(f"{order}II", data, at + 1)
    if kind == _POINT:
        return [], at + 21
    at += 9
    if kind in (_LINE, _ARCS):
        points, at = _points(data, at, order, count)
        return [shapely.LineString(_straight(points) if kind == _ARCS else points)], at
    if kind in (_POLYGON, _TRIANGLE):
        rings = []
        for _ in range(count):
            (length,) = struct.unpack_from(f"{order}I", data, at)
            ring, at = _points(data, at + 4, order, length)
            rings.append(ring)
        return [shapely.Polygon(rings[0], rings[1:])] if rings else [], at
    if depth > _DEEPEST or kind not in (*_COLLECTIONS, _COMPOUND, _CURVE_POLYGON):
        raise ValueError(f"geometry type {kind}")
    found: list[Any] = []
    for _ in range(count):
        more, at = _parts(data, at, depth + 1)
        found += more
    if kind == _COMPOUND and found:
        found = [shapely.LineString(shapely.get_coordinates(found))]
    if kind == _CURVE_POLYGON and found:
        found = [shapely.Polygon(found[0], found[1:])]
    return found, at


def _points(data: bytes, at: int, order: str, count: int) -> tuple[NDArray[np.float64], int]:
    """float64 (count, 2), and the place after them."""
    if at + 16 * count > len(data):
        raise ValueError("it ends early")
    return np.frombuffer(data, f"{order}f8", 2 * count, at).reshape(-1, 2), at + 16 * count


def _straight(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (P, 2) along arcs, each of which has its start, a point on it, and its end, where the next one starts."""
    places = (points[:, 0] + 1j * points[:, 1]).tolist()
    found = places[:1]
    for start, middle, end in zip(places[:-2:2], places[1:-1:2], places[2::2], strict=True):
        found += _arc(start, middle, end)
    return np.array([[p.real, p.imag] for p in found])


def _arc(start: complex, middle: complex, end: complex) -> list[complex]:
    """Points after the start of an arc, up to its end; a whole circle where it ends on its start."""
    if start == middle or middle == end:
        return [middle, end]
    ratio = (end - start) / (middle - start)
    if start == end:
        centre, sweep = (start + middle) / 2, 2 * math.pi
    elif abs(ratio.imag) < 1e-12:
        return [middle, end]
    else:
        centre = start - (start - middle) * (ratio - abs(ratio) ** 2) / (2j * ratio.imag)
        at_middle, sweep = (cmath.phase((p - centre) / (start - centre)) % (2 * math.pi) for p in (middle, end))
        sweep -= 2 * math.pi if at_middle > sweep else 0
    steps = math.ceil(abs(sweep) / _STEP)
    return [centre + (start - centre) * cmath.rect(1, sweep * i / steps) for i in range(1, steps)] + [end]


def _flat(parts: list[Any]) -> Any:
    """The polygons of parts as one area, beside the lines. Upright faces cover nothing and are left out."""
    each = np.array(parts, object)
    faces = shapely.get_type_id(each) == _POLYGON
    area = shapely.union_all(shapely.make_valid(each[faces & (shapely.area(each) > 0)]))
    return shapely.GeometryCollection([area, *each[~faces]]) if (~faces).any() else area
