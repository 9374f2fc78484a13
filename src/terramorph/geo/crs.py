"""Properties of a CRS's plane, whatever wraps it (a vertical part, datum parameters), and projection of geometries.

A geographic or cylindrical CRS gives the same ground again after one turn around the Earth. What crosses the line of
180 degrees is kept in one piece, with coordinates that go on; places are compared, and pixels found, up to whole turns.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geom import Geometry, box
from pyproj.exceptions import ProjError

from terramorph.errors import RasterError, raised_as


def crs_name(crs: CRS | None) -> str:
    """Return what messages call a CRS: its code, else its name and kind; never its definition, which fills a page."""
    if crs is None:
        return "no CRS"
    return f"EPSG:{crs.epsg}" if crs.epsg else f"{crs.proj.name} ({crs.proj.type_name})"


class PointScale(NamedTuple):
    """Scale of a projection at a point: lengths in the CRS to those on the ground (Tissot's indicatrix).

    Attributes:
        largest, smallest: Largest and smallest scale over all directions.
    """

    largest: float
    smallest: float
    areal: float


def plane(crs: pyproj.CRS) -> pyproj.CRS:
    """Return the horizontal CRS without vertical part and bound transformation."""
    while crs.is_bound or crs.is_compound:
        inner = crs.source_crs if crs.is_bound else crs.sub_crs_list[0]
        if inner is None:
            break
        crs = inner
    return crs


def horizontal(crs: pyproj.CRS) -> pyproj.CRS:
    """Return the CRS without a vertical part; its datum parameters (TOWGS84, BOUNDCRS) stay."""
    if crs.is_compound:
        return horizontal(crs.sub_crs_list[0])
    if crs.is_bound and crs.source_crs is not None and crs.source_crs.is_compound:
        return pyproj.crs.BoundCRS(
            source_crs=horizontal(crs.source_crs),
            target_crs=crs.target_crs,
            transformation=crs.coordinate_operation,
        )
    return crs.to_2d()


def straight_method(crs: CRS) -> str:
    """Return the name of a CRS's projection, such as Mercator; '' of transverse and oblique ones, and without one."""
    operation = plane(crs.proj).coordinate_operation
    name = str(operation.method_name) if operation is not None else ""
    return "" if "Transverse" in name or "Oblique" in name else name


def is_mercator(crs: CRS) -> bool:
    """Return whether a CRS is a Mercator about the equator, of any ellipsoid: its metres shrink towards the poles."""
    return "Mercator" in straight_method(crs)


def unit_in_metres(crs: CRS) -> float:
    """Return metres per unit of a projected CRS."""
    axes = plane(crs.proj).axis_info
    return float(axes[0].unit_conversion_factor) if axes else 1.0


def unit_in_degrees(crs: CRS) -> float:
    """Return degrees per unit of a geographic CRS: 0.9 of grads."""
    axes = plane(crs.proj).axis_info
    return round(math.degrees(axes[0].unit_conversion_factor), 12) if axes else 1.0


def degrees_in_metres(crs: CRS, longitude: float, latitude: float) -> tuple[float, float]:
    """Return metres along the ellipsoid of a degree of longitude and of one of latitude, at a place in degrees."""
    geod, step, latitude = crs.proj.get_geod(), 1e-4, min(max(latitude, -89.999999), 89.999999)
    _, _, east = geod.inv(longitude - step, latitude, longitude + step, latitude)
    _, _, north = geod.inv(longitude, latitude - step, longitude, latitude + step)
    return east / (2 * step), north / (2 * step)


def point_scale(crs: CRS, x: float, y: float) -> PointScale | None:
    """Return the scale of a projected CRS at a point, in its units; None where the projection is not defined.

    For web mercator it is the scale of its sphere.
    """
    projection = _projection(plane(crs.proj))
    if projection is None:
        return None
    try:
        longitude, latitude = projection(x, y, inverse=True, errcheck=True)
        factors = projection.get_factors(longitude, latitude, errcheck=True)
    except ProjError:
        return None
    scale = PointScale(float(factors.tissot_semimajor), float(factors.tissot_semiminor), float(factors.areal_scale))
    return scale if all(0 < value < 1e6 for value in scale) else None


@lru_cache(maxsize=64)
def transformer(source: CRS, target: CRS) -> pyproj.Transformer:
    """Return PROJ's way from one CRS to another, longitude or easting first. Threads may share it.

    Raises:
        RasterError: If there is none, as from a building site or the Moon to the Earth.
    """
    failed = f"There is no way from the CRS {crs_name(source)} to {crs_name(target)}"
    with raised_as(RasterError, failed, "give the right one", ProjError):
        return pyproj.Transformer.from_crs(source.proj, target.proj, always_xy=True)


def on_earth(crs: CRS | None) -> bool:
    """Return whether there is a CRS and it has longitudes and latitudes on Earth: that of a building site or the Moon
    has none."""
    if crs is None:
        return False
    try:
        transformer(crs, CRS("EPSG:4326"))
    except RasterError:
        return False
    return True


@lru_cache(maxsize=64)
def _projection(crs: pyproj.CRS) -> pyproj.Proj | None:
    """Return PROJ's projection of a CRS; None where PROJ has no formula of it (a local CRS of a building site)."""
    try:
        return pyproj.Proj(crs) if crs.is_projected else None
    except ProjError:
        return None


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
    projection = _projection(plane(crs.proj))
    assert projection is not None  # it has a method
    x, _ = projection(np.array([10.0, 11.0, 12.0]), np.zeros(3))
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


def box_of_degrees(west: float, south: float, east: float, north: float) -> Geometry | None:
    """Return a box in degrees, across the 180 degree line where west > east; None where it is none.

    A box across the line that is more than half the Earth wide has west and east swapped.
    """
    wide = east - west if west < east else (east + 360 - west) * 2
    if not (-180 <= west <= 180 and -180 <= east <= 360 and 0 < wide <= 360 and -90 <= south < north <= 90):
        return None
    return box(west, south, east if west < east else east + 360, north, "EPSG:4326")


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
    """Project shapely geometries (N,) as `project` does. What crosses 180 degrees stays in one piece.

    Raises:
        RasterError: See `transformer`.
    """
    given = np.asarray(shapes, dtype=object)
    if of == to:
        return given
    transform, turn = transformer(of, to).transform, period(to)

    def moved(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(transform(xy[:, 0], xy[:, 1]), axis=1)

    found: NDArray[np.object_] = shapely.transform(given, moved)
    if turn is not None:
        for at in np.flatnonzero(np.ptp(shapely.bounds(found)[:, ::2], axis=1) > turn / 2):
            # Torn apart, unless it is as wide as it looks.
            middle, _ = transform(*np.array(shapely.bounds(given[at])).reshape(2, 2).mean(0)[:, None])
            found[at] = shapely.transform(
                found[at], lambda xy, x=float(middle[0]): np.stack([nearest(xy[:, 0], x, turn), xy[:, 1]], axis=1)
            )
    return found


def near(area: Geometry, ground: Geometry) -> Geometry:
    """Return the part of an area around an extent, in the extent's CRS: far from it projections have no values."""
    around = project_extent(ground, area.crs)
    around = around.buffer(max(around.boundingbox.span_x, around.boundingbox.span_y))
    return project_extent(meet(around, area) if np.isfinite(around.geom.bounds).all() else area, ground.crs)


def project_extent(geometry: Geometry, crs: CRS | str) -> Geometry:
    """Project an extent, with points added along its long edges, which bend, so that it keeps its shape."""
    if geometry.is_empty or geometry.crs == CRS(crs):
        return Geometry(geometry.geom, CRS(crs))
    return project(geometry.segmented(max(geometry.boundingbox.span_x, geometry.boundingbox.span_y) / 16), crs)
