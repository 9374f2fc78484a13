"""Descriptions of layers for clients: TileJSON 3, WMTS 1.0.0 capabilities, QGIS layer definitions."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from terramorph.geo.mercator import HALF_WORLD, tiles_of_degrees
from terramorph.raster.tiles.write import SIZE
from terramorph.serve.layers import ENLARGED, TITLES, Layer, View

SCALE = 559082264.0287178
"""Scale denominator of zoom 0 in WebMercatorQuad (OGC 17-083r4, annex D)."""
_PAGE = "image/png"


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
    west, south, east, north = (round(value, 7) for value in layer.bounds)
    low, high = zooms(layer, view)
    return {
        "tilejson": "3.0.0",
        "name": f"{layer.title}: {TITLES[view.name].lower()}",
        "tiles": [f"{base}{tile_path(layer, view, format)}"],
        "bounds": [west, south, east, north],
        "center": [round((west + east) / 2, 7), round((south + north) / 2, 7), layer.native],
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
    listed = list(layers)
    top = max(layer.max_zoom for layer in listed) + ENLARGED
    parts = [_wmts_layer(layer, view, base) for layer in listed for view in layer.views.values()]
    matrices = "".join(
        f"<TileMatrix><ows:Identifier>{zoom}</ows:Identifier><ScaleDenominator>{SCALE / 2**zoom!r}</ScaleDenominator>"
        f"<TopLeftCorner>{-HALF_WORLD!r} {HALF_WORLD!r}</TopLeftCorner><TileWidth>{SIZE}</TileWidth>"
        f"<TileHeight>{SIZE}</TileHeight><MatrixWidth>{1 << zoom}</MatrixWidth>"
        f"<MatrixHeight>{1 << zoom}</MatrixHeight></TileMatrix>"
        for zoom in range(top + 1)
    )

    def operation(name: str) -> str:
        constraint = (
            '<ows:Constraint name="GetEncoding"><ows:AllowedValues><ows:Value>KVP</ows:Value></ows:AllowedValues>'
            "</ows:Constraint>"
        )
        link = quoteattr(f"{base}/wmts?")
        return (
            f'<ows:Operation name="{name}"><ows:DCP><ows:HTTP><ows:Get xlink:href={link}>{constraint}</ows:Get>'
            "</ows:HTTP></ows:DCP></ows:Operation>"
        )

    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Capabilities xmlns="http://www.opengis.net/wmts/1.0" xmlns:ows="http://www.opengis.net/ows/1.1" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" version="1.0.0">'
        "<ows:ServiceIdentification><ows:Title>terramorph</ows:Title><ows:ServiceType>OGC WMTS</ows:ServiceType>"
        "<ows:ServiceTypeVersion>1.0.0</ows:ServiceTypeVersion></ows:ServiceIdentification>"
        f"<ows:OperationsMetadata>{operation('GetCapabilities')}{operation('GetTile')}</ows:OperationsMetadata>"
        f"<Contents>{''.join(parts)}<TileMatrixSet><ows:Identifier>WebMercatorQuad</ows:Identifier>"
        "<ows:SupportedCRS>urn:ogc:def:crs:EPSG::3857</ows:SupportedCRS>"
        "<WellKnownScaleSet>http://www.opengis.net/def/wkss/OGC/1.0/GoogleMapsCompatible</WellKnownScaleSet>"
        f"{matrices}</TileMatrixSet></Contents>"
        f"<ServiceMetadataURL xlink:href={quoteattr(f'{base}/wmts/1.0.0/WMTSCapabilities.xml')}/></Capabilities>"
    )


def wmts_name(layer: Layer, view: View) -> str:
    """Return the name of a view in WMTS: LAYER for the output, LAYER.VIEW for the others."""
    return layer.name if view.name == "output" else f"{layer.name}.{view.name}"


def _wmts_layer(layer: Layer, view: View, base: str) -> str:
    west, south, east, north = layer.bounds
    low, high = zooms(layer, view)
    limits = "".join(
        f"<TileMatrixLimits><TileMatrix>{zoom}</TileMatrix><MinTileRow>{box.top}</MinTileRow>"
        f"<MaxTileRow>{box.bottom - 1}</MaxTileRow><MinTileCol>{box.left}</MinTileCol>"
        f"<MaxTileCol>{box.right - 1}</MaxTileCol></TileMatrixLimits>"
        for zoom in range(low, high + ENLARGED + 1)
        for box in [tiles_of_degrees(zoom, west, south, east, north)]
    )
    template = f"{base}{tile_path(layer, view, 'png', '{TileMatrix}', '{TileCol}', '{TileRow}')}"
    title = escape(f"{layer.title}: {TITLES[view.name].lower()}")
    return (
        f"<Layer><ows:Title>{title}</ows:Title><ows:WGS84BoundingBox>"
        f"<ows:LowerCorner>{west:.7f} {south:.7f}</ows:LowerCorner><ows:UpperCorner>{east:.7f} {north:.7f}"
        f"</ows:UpperCorner></ows:WGS84BoundingBox><ows:Identifier>{wmts_name(layer, view)}</ows:Identifier>"
        '<Style isDefault="true"><ows:Identifier>default</ows:Identifier></Style>'
        f"<Format>{_PAGE}</Format><TileMatrixSetLink><TileMatrixSet>WebMercatorQuad</TileMatrixSet>"
        f"<TileMatrixSetLimits>{limits}</TileMatrixSetLimits></TileMatrixSetLink>"
        f"<ResourceURL format={quoteattr(_PAGE)} resourceType={quoteattr('tile')} template={quoteattr(template)}/>"
        "</Layer>"
    )


def qlr(layers: Iterable[Layer], base: str, only: str | None = None) -> str:
    """Return a QGIS layer definition; dragged into QGIS it adds a group of the views, the output on top.

    Args:
        layers: Layers to offer.
        base: Base of links.
        only: Name of one view; default: input and output, and the truth where there is one.
    """
    tree, maps = [], []
    for layer in layers:
        for name in ("output", "truth", "input") if only is None else (only,):
            view = layer.views.get(name)
            if view is None:
                continue
            low, high = zooms(layer, view)
            url = f"{base}{tile_path(layer, view, 'png')}"
            source = f"type=xyz&url={quote(url, safe='')}&zmin={low}&zmax={high + ENLARGED}&tilePixelRatio=1"
            title = f"{layer.title}: {TITLES[name].lower()}"
            key = f"terramorph_{uuid.uuid5(uuid.NAMESPACE_URL, url).hex}"
            checked = "Qt::Checked" if name == "output" else "Qt::Unchecked"
            tree.append(
                f'<layer-tree-layer id="{key}" name={quoteattr(title)} providerKey="wms" source={quoteattr(source)} '
                f'checked="{checked}" expanded="0"/>'
            )
            rights = f"<attribution>{escape(layer.attribution)}</attribution>" if layer.attribution else ""
            west, south, east, north = _mercator(layer.bounds)
            maps.append(
                '<maplayer type="raster"><extent>'
                f"<xmin>{west!r}</xmin><ymin>{south!r}</ymin><xmax>{east!r}</xmax><ymax>{north!r}</ymax></extent>"
                f"<id>{key}</id><datasource>{escape(source)}</datasource><layername>{escape(title)}</layername>"
                f"<srs><spatialrefsys><authid>EPSG:3857</authid></spatialrefsys></srs>{rights}"
                '<provider>wms</provider><pipe><rasterrenderer type="singlebandcolordata" band="1" opacity="1"/>'
                "</pipe></maplayer>"
            )
    return (
        '<!DOCTYPE qgis-layer-definition>\n<qlr><layer-tree-group name="terramorph" checked="Qt::Checked" '
        f'expanded="1">{"".join(tree)}</layer-tree-group><maplayers>{"".join(maps)}</maplayers></qlr>'
    )


def _mercator(bounds: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Convert degrees to metres of EPSG:3857."""
    west, south, east, north = bounds

    def y(latitude: float) -> float:
        return HALF_WORLD / math.pi * math.asinh(math.tan(math.radians(latitude)))

    return west / 180 * HALF_WORLD, y(south), east / 180 * HALF_WORLD, y(north)
