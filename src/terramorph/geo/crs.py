"""Properties of a CRS's plane, whatever wraps it: a vertical part, datum parameters."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import pyproj
from odc.geo.crs import CRS
from pyproj.exceptions import ProjError

from terramorph.errors import RasterError, raised_as


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
        RasterError: If there is none, as from the Moon to the Earth.
    """
    with raised_as(RasterError, f"There is no way from the CRS {source} to {target}", "give the right one", ProjError):
        return pyproj.Transformer.from_crs(source.proj, target.proj, always_xy=True)


@lru_cache(maxsize=64)
def _projection(crs: pyproj.CRS) -> pyproj.Proj | None:
    """Return PROJ's projection of a CRS; None where PROJ has no formula of it (a local CRS of a building site)."""
    try:
        return pyproj.Proj(crs) if crs.is_projected else None
    except ProjError:
        return None
