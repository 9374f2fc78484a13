"""Coordinates across the 180 degree line.

A geographic or cylindrical CRS gives the same ground again after one turn around the Earth. What crosses the line is
kept in one piece, with coordinates that go on; places are compared, and pixels found, up to whole turns.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geom import Geometry

from terramorph.geo.crs import straight_method, unit_in_degrees


def period(crs: CRS | None) -> float | None:
    """Return CRS units of x in one turn around the Earth; None for a CRS without a turn."""
    return None if crs is None else _period(str(crs))


@lru_cache(maxsize=64)
def _period(name: str) -> float | None:
    crs = CRS(name)
    if crs.geographic:
        return round(360 / unit_in_degrees(crs), 9)
    if not any(kind in straight_method(crs) for kind in ("Mercator", "Cylindrical")):
        return None
    x, _ = CRS("EPSG:4326").transformer_to_crs(crs, always_xy=True)(np.array([10.0, 11.0, 12.0]), np.zeros(3))
    return float(360 * np.median(np.diff(x)))


def nearest(x: NDArray[Any], to: float, turn: float | None) -> NDArray[Any]:
    """Move coordinates by whole turns to within half a turn of another; unchanged without a turn."""
    return x if turn is None else x + turn * np.round((to - x) / turn)


def beside(shapes: NDArray[np.object_], other: Geometry) -> NDArray[np.object_]:
    """Move each part of shapely geometries (N,) by whole turns to the turn of another geometry of the same CRS."""
    turn = period(other.crs)
    if turn is None or other.is_empty or not len(shapes):
        return shapes
    box = other.boundingbox
    middle = (box.left + box.right) / 2
    bounds = shapely.bounds(shapes)
    if (abs((bounds[:, 0] + bounds[:, 2]) / 2 - middle) <= turn / 2).all() and (
        bounds[:, 2] - bounds[:, 0] < turn / 2
    ).all():
        return shapes

    def moved(shape: Any) -> Any:
        parts = shapely.get_parts(shape)
        ends = shapely.bounds(parts)
        centres = (ends[:, 0] + ends[:, 2]) / 2
        off = nearest(centres, middle, turn) - centres
        pairs = zip(parts, off.tolist(), strict=True)
        return shapely.union_all([shapely.transform(part, lambda xy, o=o: xy + np.array([o, 0])) for part, o in pairs])

    found = np.empty(len(shapes), dtype=object)
    found[:] = [moved(shape) if len(shapely.get_parts(shape)) else shape for shape in shapes]
    return found


def meet(a: Geometry, b: Geometry) -> Geometry:
    """Return the intersection of two geometries of one CRS, in the turn of the first."""
    return Geometry(shapely.intersection(a.geom, beside(np.array([b.geom], dtype=object), a)[0]), a.crs)


def cut_at_line(shapes: NDArray[np.object_], crs: CRS | None) -> NDArray[np.object_]:
    """Cut shapely polygons (N,) at the 180 degree line; a part beyond it moves to its other side. One without area
    stays as it is."""
    turn = period(crs)
    if turn is None or not len(shapes):
        return shapes
    bounds = shapely.bounds(shapes)
    beyond = (bounds[:, 0] < -turn / 2 - 1e-9 * turn) | (bounds[:, 2] > turn / 2 + 1e-9 * turn)
    found = shapes.copy()
    for at in np.flatnonzero(beyond):
        pieces = []
        for k in (-1, 0, 1):
            world = shapely.box((k - 0.5) * turn, -1e9, (k + 0.5) * turn, 1e9)
            piece = shapely.intersection(shapes[at], world)
            if piece.area > 0:
                pieces.append(shapely.transform(piece, lambda xy, k=k: xy - np.array([k * turn, 0])))
        polygons = shapely.get_parts(np.array(pieces, dtype=object))
        if len(polygons):
            found[at] = shapely.multipolygons(polygons) if len(polygons) > 1 else polygons[0]
    return found
