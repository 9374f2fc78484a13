"""Geometries, read and split into parts, and features with a kind: their coordinates as columns, ready to be drawn.

GEOS, and so shapely, has no PolyhedralSurface, TIN and Triangle, as 3D buildings are. They are read here from
well-known binary (OGC 06-103r4). Arcs are straightened by pyogrio, unless they lie in a collection, which then is not
read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from terramorph.cartography.table import KINDS

_POINT, _LINE, _POLYGON, _TRIANGLE = 1, 2, 3, 17  # types of well-known binary
_COLLECTION = 7
_COLLECTIONS = (4, 5, 6, _COLLECTION, 15, 16)
_DEEPEST = 32
_LINES = (1, 2)  # shapely's numbers of lines and linear rings; from polygons on they are those of well-known binary


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


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One thing on the ground.

    Attributes:
        geometry: A shapely geometry in the CRS of the grid it is drawn on, in metres.
        kind: What it is, one of `KINDS`.
        width_m: Width of a line in metres, where it is known.
    """

    geometry: BaseGeometry
    kind: str
    width_m: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """R rows, each a line or one ring of a polygon. Outer rings run counterclockwise and holes clockwise.

    Rings of one kind are filled together by the winding rule, so a hole needs no tie to its polygon, and polygons that
    overlap do not cancel.

    Attributes:
        xy: float64 (P, 2), CRS units.
        starts: int64 (R + 1,), where each row starts in ``xy``. A ring ends on the point it starts on.
        kinds: int64 (R,), places in `KINDS`.
        areas: bool (R,), True for rings of polygons.
        widths_m: float64 (R,), width of a line in metres, NaN where unknown.
        bounds: float64 (R, 4), left, bottom, right, top.
        skipped: Features with a kind that no line or polygon could be made of.
    """

    xy: NDArray[np.float64]
    starts: NDArray[np.int64]
    kinds: NDArray[np.int64]
    areas: NDArray[np.bool_]
    widths_m: NDArray[np.float64]
    bounds: NDArray[np.float64]
    skipped: int = 0

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.kinds)

    @classmethod
    def of(
        cls,
        xy: NDArray[np.float64],
        starts: NDArray[np.int64],
        kinds: NDArray[np.int64],
        areas: NDArray[np.bool_],
        widths_m: NDArray[np.float64],
        skipped: int = 0,
    ) -> Self:
        """Make shapes with their bounds. Each row holds at least one point; rows that are not finite are left out."""
        if len(kinds) == 0:
            bounds = np.zeros((0, 4))
        else:
            low, high = np.minimum.reduceat(xy, starts[:-1]), np.maximum.reduceat(xy, starts[:-1])
            bounds = np.concatenate([low, high], axis=1)
        shapes = cls(xy, starts, kinds, areas, widths_m, bounds, skipped)
        finite = np.isfinite(bounds).all(axis=1)
        if finite.all():
            return shapes
        return replace(shapes.take(np.flatnonzero(finite)), skipped=skipped + int((~finite).sum()))

    @classmethod
    def from_features(cls, features: Iterable[Feature]) -> Self:
        """Make shapes from features."""
        listed = list(features)
        geometries = np.empty(len(listed), object)
        geometries[:] = [f.geometry for f in listed]
        kinds = np.array([KINDS.index(f.kind) for f in listed], np.int64)
        widths = np.array([np.nan if f.width_m is None else f.width_m for f in listed], np.float64)
        return cls.from_geometries(geometries, kinds, widths)

    @classmethod
    def from_geometries(cls, geometries: NDArray[Any], kinds: NDArray[np.int64], widths_m: NDArray[np.float64]) -> Self:
        """Make shapes from shapely geometries. Z and M are dropped; points, None and empty geometries count as skipped.

        Args:
            geometries: object (N,).
            kinds: int64 (N,), places in `KINDS`.
            widths_m: float64 (N,), NaN where unknown.
        """
        simple, owner = simple_parts(geometries)
        types = shapely.get_type_id(simple)
        is_line, is_polygon = np.isin(types, _LINES), types == _POLYGON
        rings, ring_owner = shapely.get_rings(oriented(simple[is_polygon]), return_index=True)
        rows = np.concatenate([simple[is_line], rings])
        owners = np.concatenate([owner[is_line], owner[is_polygon][ring_owner]]).astype(np.int64)
        areas = np.repeat([False, True], [int(is_line.sum()), len(rings)])
        counts = shapely.get_num_coordinates(rows)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        skipped = len(geometries) - len(np.unique(owners))
        return cls.of(shapely.get_coordinates(rows), starts, kinds[owners], areas, widths_m[owners], skipped)

    def points(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the places in ``xy`` of the points of rows, and where each row starts among them."""
        counts = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return np.arange(starts[-1]) + np.repeat(self.starts[:-1][rows] - starts[:-1], counts), starts

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Select rows, in the given order."""
        points, starts = self.points(rows)
        return replace(
            self,
            xy=self.xy[points],
            starts=starts,
            kinds=self.kinds[rows],
            areas=self.areas[rows],
            widths_m=self.widths_m[rows],
            bounds=self.bounds[rows],
        )

    def inside(self, left: float, bottom: float, right: float, top: float) -> NDArray[np.int64]:
        """Return the rows whose bounds touch a box in CRS units, int64 (K,)."""
        b = self.bounds
        return np.flatnonzero((b[:, 0] <= right) & (b[:, 2] >= left) & (b[:, 1] <= top) & (b[:, 3] >= bottom))

    def moved(self, xy: NDArray[np.float64]) -> Self:
        """Replace the coordinates (P, 2); rows that are no longer finite are left out and counted."""
        return type(self).of(xy, self.starts, self.kinds, self.areas, self.widths_m, self.skipped)

    @classmethod
    def join(cls, parts: Sequence[Shapes]) -> Self:
        """Concatenate shapes."""
        if not parts:
            return cls.from_features([])
        offsets = np.cumsum([0, *(len(p.xy) for p in parts)])
        starts = [p.starts[:-1] + o for p, o in zip(parts, offsets[:-1], strict=True)]
        return cls(
            np.concatenate([p.xy for p in parts]),
            np.concatenate([*starts, offsets[-1:]]).astype(np.int64),
            np.concatenate([p.kinds for p in parts]),
            np.concatenate([p.areas for p in parts]),
            np.concatenate([p.widths_m for p in parts]),
            np.concatenate([p.bounds for p in parts]),
            sum(p.skipped for p in parts),
        )
