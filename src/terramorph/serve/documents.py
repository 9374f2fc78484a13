"""What clients get of a layer beside its tiles.

Descriptions: TileJSON 3, WMTS 1.0.0 capabilities, QGIS layer definitions. Pixels: values at a point, and a view as a
GeoTIFF.
"""

from __future__ import annotations

import math
import tempfile
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from affine import Affine
from odc.geo.crs import CRS

from terramorph.errors import InputError
from terramorph.geo import Grid
from terramorph.geo.crs import transformer
from terramorph.geo.mercator import HALF_WORLD, tiles_of_degrees
from terramorph.raster import Source
from terramorph.raster.tiles.write import SIZE
from terramorph.raster.warp import footprint
from terramorph.raster.writer import write_cog
from terramorph.report.pages import render_page
from terramorph.serve.layers import ENLARGED, TITLES, Layer, View

SCALE = 559082264.0287178
"""Scale denominator of zoom 0 in WebMercatorQuad (OGC 17-083r4, annex D)."""


def zooms(layer: Layer, view: View) -> tuple[int, int]:
    """Return the least and the largest zoom at which a view has tiles."""
    return (layer.min_zoom, layer.max_zoom) if view.computed else (0, layer.max_zoom)


def tilejson(layer: Layer, view: View, base: str, format: str) -> dict[str, Any]:
    """Return the TileJSON 3.0.0 of a view.

    Args:
        base: Base of links, without a slash at the end.
        format: Suffix of the tiles.
    """
    west, south, east, north = (round(value, 7) for value in _listed(layer))
    middle = ((layer.bounds[0] + layer.bounds[2]) / 2 + 180) % 360 - 180
    low, high = zooms(layer, view)
    return {
        "tilejson": "3.0.0",
        "name": _title(layer, view),
        "tiles": [f"{base}{tile_path(layer, view, format)}"],
        "bounds": [west, south, east, north],
        "center": [round(middle, 7), round((south + north) / 2, 7), layer.native],
        "minzoom": low,
        "maxzoom": high,
        "scheme": "xyz",
        **({"attribution": layer.attribution} if layer.attribution else {}),
    }


def tile_path(layer: Layer, view: View, format: str, z: str = "{z}", x: str = "{x}", y: str = "{y}") -> str:
    """Return the path of a view's tiles, with the identity of the layer, so that cached tiles are never outdated."""
    return f"/t/{layer.name}/{view.name}/{layer.identity}/{z}/{x}/{y}.{format}"


def wmts(layers: Iterable[Layer], base: str) -> str:
    """Return the WMTS capabilities, RESTful and KVP, of all views of all layers on the matrix set WebMercatorQuad."""
    views, top = [], 0
    for layer in layers:
        for view in layer.views.values():
            low, high = zooms(layer, view)
            top = max(top, high + ENLARGED)
            views.append(
                {
                    "name": wmts_name(layer, view),
                    "title": _title(layer, view),
                    "bounds": _listed(layer),
                    "tiles": [(z, tiles_of_degrees(z, *_listed(layer))) for z in range(low, high + ENLARGED + 1)],
                    "template": base + tile_path(layer, view, "png", "{TileMatrix}", "{TileCol}", "{TileRow}"),
                }
            )
    matrices = [(zoom, SCALE / 2**zoom) for zoom in range(top + 1)]
    return render_page(
        "terramorph.serve", "wmts.xml.j2", views=views, matrices=matrices, base=base, corner=HALF_WORLD, size=SIZE
    )


def wmts_name(layer: Layer, view: View) -> str:
    """Return the name of a view in WMTS: LAYER for the output, LAYER.VIEW for the others."""
    return layer.name if view.name == "output" else f"{layer.name}.{view.name}"


def qlr(layers: Iterable[Layer], base: str) -> str:
    """Return a QGIS layer definition; dragged into QGIS it adds a group: output, truth where there is one, input."""
    views = []
    for layer in layers:
        for view in (layer.views[name] for name in ("output", "truth", "input") if name in layer.views):
            low, high = zooms(layer, view)
            url = base + tile_path(layer, view, "png")
            views.append(
                {
                    "id": f"terramorph_{uuid.uuid5(uuid.NAMESPACE_URL, url).hex}",
                    "title": _title(layer, view),
                    "source": f"type=xyz&url={quote(url, safe='')}&zmin={low}&zmax={high + ENLARGED}&tilePixelRatio=1",
                    "checked": view.name == "output",
                    "extent": _mercator(_listed(layer)),
                    "attribution": layer.attribution,
                }
            )
    return render_page("terramorph.serve", "layers.qlr.j2", views=views)


def _listed(layer: Layer) -> tuple[float, float, float, float]:
    """Return the bounds of a layer for documents, in which they do not wrap around."""
    west, south, east, north = layer.bounds
    return (-180.0, south, 180.0, north) if west < -180 or east > 180 else layer.bounds


def _title(layer: Layer, view: View) -> str:
    return f"{layer.title}: {TITLES[view.name].lower()}"


def _mercator(bounds: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Convert degrees to metres of EPSG:3857."""
    west, south, east, north = bounds

    def y(latitude: float) -> float:
        return HALF_WORLD / math.pi * math.asinh(math.tan(math.radians(latitude)))

    return west / 180 * HALF_WORLD, y(south), east / 180 * HALF_WORLD, y(north)


def values_at(layer: Layer, longitude: float, latitude: float) -> dict[str, Any]:
    """Return the stored values of input, output and truth at a point, and the map class of the output.

    Args:
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
