"""Grids of a given ground resolution."""

from __future__ import annotations

import math

from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geom import Geometry

from terramorph.errors import RasterError
from terramorph.geo.crs import is_mercator, point_scale, unit_in_metres
from terramorph.geo.grid import SQUARE, Grid
from terramorph.geo.project import project, project_extent


def grid_at(ground: Geometry, resolution: float) -> Grid:
    """Return the grid of square pixels that covers a geometry.

    Pixels lie at multiples of the resolution, so that areas side by side share one lattice.

    Args:
        ground: Geometry with a CRS.
        resolution: Metres on the ground per pixel.

    Returns:
        A grid in the ground's CRS if its metres are metres on the ground, else in the UTM zone of its middle
        (`metric_crs`).

    Raises:
        RasterError: If the middle lies where there is no UTM zone.
    """
    crs = metric_crs(ground)
    b = project_extent(ground, crs).boundingbox
    left, top = math.floor(b.left / resolution + 1e-6), math.ceil(b.top / resolution - 1e-6)
    right, bottom = math.ceil(b.right / resolution - 1e-6), math.floor(b.bottom / resolution + 1e-6)
    affine = Affine(resolution, 0.0, left * resolution, 0.0, -resolution, top * resolution)
    return Grid(max(top - bottom, 1), max(right - left, 1), affine, crs)


def metric_crs(ground: Geometry) -> CRS:
    """Return the CRS in which metres are metres on the ground: the geometry's own, or the UTM zone of its middle.

    The geometry's own CRS is taken if it is projected, in metres, no Mercator (whose scale changes from place to
    place), and enlarges the ground at the middle by less than a tenth in every direction.

    Raises:
        RasterError: If the middle lies where there is no UTM zone.
    """
    crs: CRS = ground.crs
    if crs.projected and unit_in_metres(crs) == 1.0 and not is_mercator(crs):
        scale = point_scale(crs, *ground.centroid.coords[0])
        if scale is None or 1 / SQUARE < scale.smallest <= scale.largest < SQUARE:
            return crs
    east, north = project(ground.centroid, "EPSG:4326").coords[0]
    if not -80 <= north <= 84:
        raise RasterError(
            f"At latitude {north:.4g} there is no UTM zone to measure metres in; reproject the source to a polar CRS."
        )
    zone = int((east + 180) % 360 // 6) + 1
    return CRS(f"EPSG:{(32600 if north >= 0 else 32700) + zone}")
