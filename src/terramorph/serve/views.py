"""Values of a layer at a point, and export of a view as a GeoTIFF."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from affine import Affine
from odc.geo.crs import CRS

from terramorph.errors import InputError
from terramorph.geo import Grid
from terramorph.geo.crs import transformer
from terramorph.raster import Source
from terramorph.raster.warp import footprint
from terramorph.raster.writer import write_cog
from terramorph.serve.layers import Layer, View


def values_at(layer: Layer, longitude: float, latitude: float) -> dict[str, Any]:
    """Return the stored values of input, output and truth at a point, and the map class of the output.

    Args:
        layer: The layer.
        longitude, latitude: Degrees (EPSG:4326).

    Returns:
        x and y in the CRS of the translation, and for each side a list of values, or None where there is no data.
    """
    assert layer.grid.crs is not None
    x, y = transformer(CRS("EPSG:4326"), layer.grid.crs).transform(longitude, latitude)
    found: dict[str, Any] = {"lon": longitude, "lat": latitude, "crs": str(layer.grid.crs), "x": x, "y": y}
    if not (math.isfinite(x) and math.isfinite(y)):
        raise InputError("lon and lat lie outside the layer's CRS.")
    column, row = (math.floor(value) for value in ~layer.grid.affine @ (x, y))
    pixel = layer.grid.crop(row, column, 1, 1)
    inside = 0 <= row < layer.grid.height and 0 <= column < layer.grid.width
    sides: dict[str, Source | None] = {"input": layer.source, "output": layer.output, "truth": layer.truth}
    for name, source in sides.items():
        if source is None:
            continue
        raster = source.read(pixel) if inside else None
        there = raster is not None and bool(raster.mask[0, 0])
        found[name] = raster.pixels[:, 0, 0].tolist() if raster is not None and there else None
        if name == "output" and layer.palette is not None and raster is not None and there:
            found["class"] = layer.palette.names[int(layer.palette.classify(raster.pixels)[0, 0])]
    return found


def export_view(layer: Layer, view: View, bounds: Sequence[float], most: int) -> bytes:
    """Export a window of a view as a Cloud Optimized GeoTIFF, on the grid of the translation.

    Args:
        layer, view: The view.
        bounds: (west, south, east, north), degrees (EPSG:4326).
        most: Largest number of pixels.

    Raises:
        InputError: If the bounds do not meet the layer, or hold more pixels.
    """
    grid = _window(layer.grid, bounds)
    if grid is None:
        raise InputError("bbox lies outside the layer.")
    pixels = grid.height * grid.width
    if pixels > most:
        west, south, east, north = bounds
        raise InputError(
            f"{pixels / 1e6:.0f} million pixels are more than the {most / 1e6:.0f} million that are exported at once; "
            f"zoom in, or run: terramorph translate {layer.about.get('model', 'MODEL')} {Path(layer.source.name).name} "
            f"out.tif --area {west:.6f},{south:.6f},{east:.6f},{north:.6f}"
        )
    own = {"output": layer.output, "input": layer.source, "truth": layer.truth}.get(view.name)
    raster = own.read(grid) if own is not None else view.read(grid)
    tags = {
        "TERRAMORPH_SYNTHETIC": "no" if view.name in ("input", "truth") else "yes",
        "TERRAMORPH_VIEW": view.name,
        "TERRAMORPH_BUNDLE": str(layer.about.get("model", "")),
        "TERRAMORPH_BUNDLE_DIGEST": str(layer.about.get("digest", "")),
    }
    if layer.attribution:
        tags["TERRAMORPH_SOURCE_LICENCE"] = layer.attribution
    with tempfile.TemporaryDirectory(prefix="terramorph-") as folder:
        path = Path(folder) / "view.tif"
        strip = (slice(0, grid.height), raster.pixels, raster.mask)
        masked = not bool(raster.mask.all())
        write_cog(path, grid, raster.bands, raster.dtype, [strip], units=raster.units, tags=tags, masked=masked)
        return path.read_bytes()


def _window(grid: Grid, bounds: Sequence[float]) -> Grid | None:
    """Return the window of a grid around bounds in degrees; None where they do not meet.

    Raises:
        InputError: If the bounds are empty.
    """
    west, south, east, north = bounds
    if not (west < east and south < north):
        raise InputError("bbox must be west,south,east,north in degrees, such as 11.2,43.7,11.3,43.8.")
    box = Grid(1, 1, Affine(east - west, 0, west, 0, south - north, north), CRS("EPSG:4326"))
    place = footprint(grid, box)
    if place is None:
        return None
    x0, x1 = max(math.floor(place.left), 0), min(math.ceil(place.right), grid.width)
    y0, y1 = max(math.floor(place.top), 0), min(math.ceil(place.bottom), grid.height)
    return grid.crop(y0, x0, y1 - y0, x1 - x0) if x1 > x0 and y1 > y0 else None
