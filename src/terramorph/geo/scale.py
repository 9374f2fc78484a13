"""Grids of a wanted ground resolution."""

from __future__ import annotations

import math

from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geom import Geometry

from terramorph.errors import RasterError
from terramorph.geo.grid import Grid
from terramorph.geo.project import project, project_extent


def grid_at(ground: Geometry, resolution: float) -> Grid:
    """The grid of square pixels that covers a piece of ground.

    Its pixels lie at multiples of the resolution: areas side by side, cut on different days, share one lattice.

    Args:
        ground: with a CRS.
        resolution: metres on the ground per pixel.

    Returns:
        A grid in the ground's CRS if that is in metres (and not web mercator, whose metres shrink towards the poles),
        else in the UTM zone of its middle.

    Raises:
        RasterError: if the middle lies where there is no UTM zone.
    """
    crs = metric_crs(ground)
    b = project_extent(ground, crs).boundingbox
    left, top = math.floor(b.left / resolution + 1e-6), math.ceil(b.top / resolution - 1e-6)
    right, bottom = math.ceil(b.right / resolution - 1e-6), math.floor(b.bottom / resolution + 1e-6)
    affine = Affine(resolution, 0.0, left * resolution, 0.0, -resolution, top * resolution)
    return Grid(max(top - bottom, 1), max(right - left, 1), affine, crs)


def metric_crs(ground: Geometry) -> CRS:
    """The CRS in which metres are metres on the ground: the one at hand, or the UTM zone of the middle.

    Raises:
        RasterError: if the middle lies where there is no UTM zone.
    """
    crs: CRS = ground.crs
    operation = crs.proj.coordinate_operation
    method = operation.method_name if operation is not None else ""
    mercator = "Mercator" in method and "Transverse" not in method and "Oblique" not in method
    metres = bool(crs.proj.axis_info) and float(crs.proj.axis_info[0].unit_conversion_factor) == 1.0
    if not crs.geographic and metres and not mercator:
        return crs
    east, north = project(ground.centroid, "EPSG:4326").coords[0]
    if not -80 <= north <= 84:
        raise RasterError(
            f"At latitude {north:.4g} there is no UTM zone to measure metres in; reproject the source to a polar CRS."
        )
    zone = min(max(int((east + 180) // 6) + 1, 1), 60)
    return CRS(f"EPSG:{(32600 if north >= 0 else 32700) + zone}")
