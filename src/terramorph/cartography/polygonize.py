"""Polygons of a class raster, written to a vector file."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from pyogrio.errors import DataLayerError, DataSourceError

from terramorph.atomic import atomic
from terramorph.errors import InputError, warn
from terramorph.geo import Grid, project_shapes
from terramorph.geo.crs import on_earth, plane
from terramorph.raster.tracing import DRIVERS, trace, zonal_means

SIMPLIFY_PX, LEAST_PX = 1.0, 9.0
_GEODESIC_PX = 16
"""Pixels of an outline that are measured as one geodesic."""


def write_polygons(
    classes: str | Path,
    out: str | Path,
    names: Mapping[int, str],
    *,
    confidence: str | Path | None = None,
) -> int:
    """Write the areas of a class raster as polygons, one layer with columns class, confidence and area_m2.

    Outlines are simplified by `SIMPLIFY_PX` pixels (Visvalingam & Whyatt 1993, as a coverage: neighbours keep a common
    edge); areas and holes of fewer than `LEAST_PX` pixels are left out. Ground area is in square metres on the
    ellipsoid (in square units of the grid without a CRS).

    Args:
        classes: Path of a raster whose first band is uint8 class indices.
        out: .gpkg or .fgb in the raster's CRS, or .geojson in degrees (RFC 7946); it appears whole or not at all.
        names: class index -> name, of the classes to write.
        confidence: Path of a raster on the same grid, 0 to 1, of which each polygon gets the mean; without it, NULL.

    Returns:
        The number of polygons.

    Raises:
        InputError: If the suffix is of another format, or a .geojson is asked for and the raster has no CRS.
        RasterError: If a raster cannot be read.
        StorageError: If the file cannot be written.
    """
    out = Path(out)
    driver = DRIVERS.get(out.suffix.lower())
    if driver is None:
        raise InputError(f"{out}: polygons are written as {', '.join(DRIVERS)}; give such a name.")
    polygons, values, grid = trace(classes, names)
    if driver == "GeoJSON" and not on_earth(grid.crs):
        raise InputError(f"{classes} has no CRS on Earth and GeoJSON is in degrees; write .gpkg or .fgb instead.")
    if grid.crs is None:
        warn(f"{out} has no CRS, as its raster has none: it is in the coordinates of the pixels.")
    pixel = abs(grid.affine.determinant)
    large = shapely.area(polygons) >= LEAST_PX * pixel
    polygons, values = polygons[large], values[large]
    means = zonal_means(confidence, polygons) if confidence is not None else np.full(len(polygons), np.nan)
    if len(polygons):
        # The tolerance is the side of a triangle's area (shapely.coverage_simplify).
        polygons = shapely.coverage_simplify(polygons, SIMPLIFY_PX * math.sqrt(pixel))
    polygons = _without_small_holes(polygons, LEAST_PX * pixel)
    frame = geopandas.GeoDataFrame(
        {
            "class": [names[int(value)] for value in values],
            "confidence": means.round(4),
            "area_m2": _ground_areas(polygons, grid).round(2),
        },
        geometry=polygons,
        crs=grid.crs.proj if grid.crs is not None else None,
    )
    if driver == "GeoJSON":
        frame = frame.to_crs(4326)
    _write(frame, out, driver)
    return len(frame)


def _ground_areas(polygons: NDArray[np.object_], grid: Grid) -> NDArray[np.float64]:
    """Return ground areas in square metres, each by the scale of the projection where it lies."""
    pixel = abs(grid.affine.determinant)
    areas: NDArray[np.float64] = shapely.area(polygons) * (grid.ground_resolution or 1.0) ** 2 / pixel
    geod = None if grid.crs is None else plane(grid.crs.proj).get_geod()
    if grid.crs is None or geod is None or not len(polygons) or not on_earth(grid.crs):
        return areas
    # Between their corners the sides of pixels are no geodesics, and over many pixels that shows.
    fine = shapely.segmentize(polygons, _GEODESIC_PX * math.sqrt(pixel))
    shapes = shapely.orient_polygons(project_shapes(fine, grid.crs, CRS("EPSG:4326")))
    inside = np.isfinite(shapely.bounds(shapes)).all(axis=1)  # elsewhere the projection is not defined
    areas[inside] = [abs(geod.geometry_area_perimeter(shape)[0]) for shape in shapes[inside]]
    return areas


def _write(frame: geopandas.GeoDataFrame, out: Path, driver: str) -> None:
    with (
        atomic(out, failures=(DataSourceError, DataLayerError), make_folder=True) as part,
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=part.parent) as folder,
    ):
        whole = Path(folder) / out.name  # drivers go by the suffix
        # GeoPackages have no layers with such names.
        layer = f"_{out.stem}" if out.stem.lower().startswith(("gpkg", "sqlite_", "-")) else out.stem
        more = {"RFC7946": "YES"} if driver == "GeoJSON" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a missing CRS, which is said already
            pyogrio.write_dataframe(frame, whole, layer=layer, driver=driver, geometry_type="Polygon", **more)
        whole.replace(part)


def _without_small_holes(polygons: NDArray[np.object_], least: float) -> NDArray[np.object_]:
    if not len(polygons) or not shapely.get_num_interior_rings(polygons).any():
        return polygons

    def filled(polygon: shapely.Polygon) -> shapely.Polygon:
        holes = [ring for ring in polygon.interiors if shapely.Polygon(ring).area >= least]
        return shapely.Polygon(polygon.exterior, holes)

    out = np.empty(len(polygons), object)
    out[:] = [filled(polygon) for polygon in polygons]
    return out
