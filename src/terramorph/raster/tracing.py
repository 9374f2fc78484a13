"""Polygons of equal pixel values, and raster means over polygons, in bounded memory."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import rasterio.features
import shapely
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from terramorph.geo.grid import Grid
from terramorph.raster.crs import to_odc_crs
from terramorph.raster.dataset import named_errors, open_dataset

DRIVERS = {".gpkg": "GPKG", ".fgb": "FlatGeobuf", ".geojson": "GeoJSON"}
"""Formats of vector files that outlines are written in, by suffix: GDAL's drivers."""
ROWS = 512
"""Rows of a raster at a time."""


def trace(path: str | Path, values: Collection[int]) -> tuple[NDArray[np.object_], NDArray[np.uint8], Grid]:
    """Trace connected pixels of equal value (GDAL's Polygonize, which streams), along the edges of pixels.

    Pixels are connected over their sides. What is without data belongs to nothing.

    Args:
        path: A raster whose first band is uint8.
        values: Pixel values to outline.

    Returns:
        Polygons (N,) in the raster's CRS, the value of each, uint8 (N,), and the raster's grid.

    Raises:
        RasterError: If the raster cannot be read.
    """
    path = Path(path)
    shapes, found = [], []
    with named_errors(path), open_dataset(path) as dataset:
        band = rasterio.band(dataset, 1)
        # A mask as an array would take a byte a pixel; where there is none, no array is made.
        whole = all(MaskFlags.all_valid in flags for flags in dataset.mask_flag_enums)
        mask = None if whole else dataset.dataset_mask()
        crs = to_odc_crs(dataset.crs) if dataset.crs else None
        grid = Grid(dataset.height, dataset.width, dataset.transform, crs)
        for geometry, value in rasterio.features.shapes(band, mask=mask, transform=dataset.transform):
            if int(value) in values:
                rings = [np.asarray(ring) for ring in geometry["coordinates"]]
                shapes.append(shapely.Polygon(rings[0], rings[1:]))
                found.append(int(value))
    polygons = np.empty(len(shapes), object)
    polygons[:] = shapes
    return polygons, np.array(found, np.uint8), grid


def zonal_means(path: str | Path, polygons: NDArray[np.object_]) -> NDArray[np.float64]:
    """Compute the mean of a raster's first band over the pixels whose centres each polygon holds.

    Args:
        polygons: (N,) in its CRS, which do not overlap.

    Returns:
        float64 (N,); NaN where a polygon holds no valid pixel.

    Raises:
        RasterError: If the raster cannot be read.
    """
    path = Path(path)
    sums, counts = np.zeros(len(polygons)), np.zeros(len(polygons))
    tree = shapely.STRtree(polygons)
    with named_errors(path), open_dataset(path) as dataset:
        for top in range(0, dataset.height, ROWS):
            window = Window(0, top, dataset.width, min(ROWS, dataset.height - top))
            numbers = tree.query(shapely.box(*dataset.window_bounds(window)))
            if not len(numbers):
                continue
            burnt = rasterio.features.rasterize(
                zip(polygons[numbers], (numbers + 1).tolist(), strict=True),
                out_shape=(window.height, window.width),
                transform=dataset.window_transform(window),
                dtype="int32",
            )
            valid = (burnt > 0) & (dataset.dataset_mask(window=window) > 0)
            values = dataset.read(1, window=window)[valid].astype(np.float64)
            sums += np.bincount(burnt[valid] - 1, values, minlength=len(polygons))
            counts += np.bincount(burnt[valid] - 1, minlength=len(polygons))
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = sums / counts
    return means
