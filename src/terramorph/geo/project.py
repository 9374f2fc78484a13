"""Projection of geometries, and coordinates across the 180 degree line.

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


def project(geometry: Geometry, crs: CRS | str) -> Geometry:
    """Project each point of a geometry to another CRS.

    Args:
        geometry: Geometry with a CRS. Add points to long edges that bend first (`Geometry.segmented`).
        crs: The other CRS; longitude or easting comes first in both.

    Raises:
        ValueError: If the geometry has no CRS.
    """
    if geometry.crs is None:
        raise ValueError("a geometry without a CRS cannot be projected")
    crs = CRS(crs)
    return geometry if geometry.crs == crs else Geometry(project_shapes([geometry.geom], geometry.crs, crs)[0], crs)


def project_shapes(shapes: NDArray[np.object_] | list[shapely.Geometry], of: CRS, to: CRS) -> NDArray[np.object_]:
    """Project shapely geometries (N,) as `project` does. What crosses 180 degrees stays in one piece."""
    transformer, turn = of.transformer_to_crs(to, always_xy=True), period(to)
    given = np.asarray(shapes, dtype=object)

    def moved(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(transformer(xy[:, 0], xy[:, 1]), axis=1)

    found: NDArray[np.object_] = shapely.transform(given, moved)
    if turn is not None:
        for at in np.flatnonzero(np.ptp(shapely.bounds(found)[:, ::2], axis=1) > turn / 2):
            # Torn apart, unless it is as wide as it looks.
            middle, _ = transformer(*np.array(shapely.bounds(given[at])).reshape(2, 2).mean(0)[:, None])
            found[at] = shapely.transform(
                found[at], lambda xy, x=float(middle[0]): np.stack([nearest(xy[:, 0], x, turn), xy[:, 1]], axis=1)
            )
    return found


def project_extent(geometry: Geometry, crs: CRS | str) -> Geometry:
    """Project an extent, with points added along its long edges, which bend, so that it keeps its shape."""
    if geometry.is_empty or geometry.crs == CRS(crs):
        return Geometry(geometry.geom, CRS(crs))
    return project(geometry.segmented(max(geometry.boundingbox.span_x, geometry.boundingbox.span_y) / 16), crs)
