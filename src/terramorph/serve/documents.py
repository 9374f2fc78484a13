"""Descriptions of layers for clients: TileJSON 3, WMTS 1.0.0 capabilities, QGIS layer definitions."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from terramorph.geo.mercator import HALF_WORLD, tiles_of_degrees
from terramorph.raster.tiles.write import SIZE
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
        layer, view: The view.
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
