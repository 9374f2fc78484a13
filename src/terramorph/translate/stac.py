"""STAC Items (1.1) of a translation and of its model, written beside the output.

Extensions: projection 2.0, raster 1.1, file 2.1, processing 1.1, classification 2.0; for the model, Machine Learning
Model (MLM) 1.4.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from odc.geo.crs import CRS
from odc.geo.geom import Geometry

from terramorph._version import __version__
from terramorph.atomic import write_text
from terramorph.bundle import Bands
from terramorph.errors import InputError
from terramorph.geo import Grid, project_extent
from terramorph.geo.crs import cut_at_line, meet
from terramorph.header import parameter_count
from terramorph.raster import ImageSource, Source
from terramorph.raster.mosaic import Layer, MosaicSource
from terramorph.raster.storage import Remote, as_remote
from terramorph.redaction import redact

if TYPE_CHECKING:
    from terramorph.cartography.palette import Palette
    from terramorph.translate.model import Model

_EXTENSION = "https://stac-extensions.github.io/{}/schema.json"
_OF_AN_OUTPUT = ("projection/v2.0.0", "raster/v1.1.0", "file/v2.1.0", "processing/v1.1.0")
_DEGREES = CRS("EPSG:4326")
_DATE = re.compile(r"\d{4}-[01]\d-[0-3]\d")
_SHA256 = "1220"
"""Prefix of a multihash of SHA-256: its code and its length, 32 bytes."""
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
Place = Path | Remote


def places(output: Place) -> list[Place]:
    """Return the places of the item of an output and of the item of its model."""
    return [output.with_name(f"{output.stem}{end}") for end in (".json", ".model.json")]


def describe(
    path: Path,
    output: Place,
    source: Source,
    ground: Geometry,
    model: Model,
    palette: Palette | None = None,
    spread: Place | None = None,
) -> list[str]:
    """Return the texts of the files at `places`; only the output's if the model is not in a file."""
    beside = places(output)
    of_model = None if model.path is None else _model_item(model, model.path, beside[1])
    with ImageSource(path) as image:
        item = _output_item(image, path, output, source, ground, model, palette)
    if of_model is not None:
        link = {"rel": "derived_from", "href": beside[1].name, "type": "application/geo+json", "title": "The model"}
        item["links"].append(link)
    if spread is not None:
        item["assets"]["uncertainty"] = {
            "href": _href(spread, output),
            "type": _COG,
            "roles": ["data", "uncertainty"],
            "title": "Standard deviation of the draws",
        }
    return [json.dumps(one, indent=2) + "\n" for one in (item, of_model) if one is not None]


def write(texts: list[str], output: Place) -> None:
    """Write the files at `places`."""
    for place, text in reversed(list(zip(places(output), texts, strict=False))):  # the linked item first
        if isinstance(place, Remote):
            place.write_bytes(text.encode())
        else:
            write_text(place, text)


def _output_item(
    image: ImageSource,
    path: Path,
    output: Place,
    source: Source,
    ground: Geometry,
    model: Model,
    palette: Palette | None,
) -> dict[str, Any]:
    grid, header = image.grid, model.header
    if grid.crs is None:
        raise InputError(f"A STAC item needs a georeference, and {output} has none; leave `stac` out.")
    units, resolution = image.units, grid.ground_resolution
    bands = [{"name": name} for name in image.bands] if palette is None else [_classes(palette)]
    extensions = [*_OF_AN_OUTPUT, *([] if palette is None else ["classification/v2.0.0"])]
    values = [
        {
            "data_type": image.dtype.name,
            "spatial_resolution": round(resolution, 6) if resolution else None,
            "scale": units.scales[i] if units else None,
            "offset": units.offsets[i] if units else None,
        }
        for i in range(len(bands))
    ]
    now = _moment(datetime.now(UTC))
    layers = source.under(ground) if isinstance(source, MosaicSource) else []
    asset = {
        "href": output.name,
        "type": _COG,
        "roles": ["data"],
        "bands": bands,
        "raster:bands": [{key: value for key, value in band.items() if value is not None} for band in values],
        **_projection(grid),
        **_file(path),
    }
    made = f"{header.architecture.name}, {header.direction}, mode {model.mode}, bundle {model.digest}"
    properties: dict[str, Any] = {
        **_times(layers, now),
        "created": now,
        "processing:software": {"terramorph": __version__},
        "processing:lineage": f"Generated from {redact(source.name)} by a network ({made}).",
    }
    if resolution:
        properties["gsd"] = round(resolution, 6)
    if source.licence:
        properties["terramorph:source_licence"] = source.licence
    return {
        **_item(output.stem, extensions, properties),
        **_footprint(grid, ground),
        "links": _items(layers, output) if layers else _file_link(source, output),
        "assets": {"data": asset},
    }


def _model_item(model: Model, path: Path, place: Place) -> dict[str, Any]:
    """Return the item of a model, after the MLM extension."""
    header = model.header
    kind = "onnx" if path.suffix == ".onnx" else "safetensors"
    seen = {"size": header.size, "stride": header.stride, "halo": header.halo, "mode": model.mode}
    trained = header.data.get("date")
    written = _moment(datetime.fromtimestamp(path.stat().st_mtime, UTC))
    properties: dict[str, Any] = {
        "datetime": f"{trained}T00:00:00Z" if isinstance(trained, str) and _DATE.fullmatch(trained) else written,
        "description": header.note or f"A bundle of terramorph {header.made_by}, {header.direction}.",
        "mlm:name": f"terramorph {header.architecture.name} {model.digest[:12]}",
        "mlm:architecture": header.architecture.name,
        "mlm:framework": "ONNX" if kind == "onnx" else "PyTorch",
        "mlm:tasks": ["generative"],
        "mlm:input": [
            {
                "name": "source",
                "bands": list(header.source.names),
                "input": _tensor(header.source),
                "value_scaling": [_scaling(header.source)],
            }
        ],
        "mlm:output": [{"name": "target", "tasks": ["generative"], "result": _tensor(header.target)}],
        "mlm:hyperparameters": {key: value for key, value in seen.items() if value is not None},
        "bands": [{"name": name} for name in header.source.names],
        "terramorph:bundle": model.digest,
    }
    if kind == "safetensors":
        properties["mlm:total_parameters"] = parameter_count(path)
    if header.ground_resolution:
        properties["gsd"] = header.ground_resolution
    scores = {name: value for name, value in header.scores.items() if value is not None}
    if scores:
        properties["terramorph:scores"] = scores
    asset = {
        "href": _href(path, place),
        "type": f"application/octet-stream; application={kind}",
        "roles": ["mlm:model"],
        "mlm:artifact_type": kind,
        "bands": properties["bands"],
        **_file(path),
    }
    item = _item(f"{path.stem}-{model.digest[:12]}", ["mlm/v1.4.0", "file/v2.1.0"], properties)
    return {**item, "geometry": None, "links": [], "assets": {"model": asset}}


def _item(name: str, extensions: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that all items have."""
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [_EXTENSION.format(one) for one in extensions],
        "id": name,
        "properties": properties,
    }


def _classes(palette: Palette) -> dict[str, Any]:
    """Return the description of a band of classes, with their colours."""
    legend = [
        {"value": value, "name": re.sub(r"[^0-9A-Za-z_-]", "-", one.name), "color_hint": bytes(one.rgb).hex().upper()}
        for value, one in enumerate(palette.classes)
    ]
    return {"name": "class", "classification:classes": legend}


def _tensor(bands: Bands) -> dict[str, Any]:
    """Return the MLM description of a batch of images of any size."""
    dimensions = {"batch": -1, "bands": bands.count, "height": -1, "width": -1}
    return {"shape": list(dimensions.values()), "dim_order": list(dimensions), "data_type": bands.dtype}


def _scaling(bands: Bands) -> dict[str, str]:
    """Return the MLM description of the scaling from stored values to [-1, 1]."""
    line = f"(x - {bands.low:g}) / ({bands.high:g} - {bands.low:g}) * 2 - 1"
    return {"type": "processing", "format": "python", "expression": line}


def _projection(grid: Grid) -> dict[str, Any]:
    assert grid.crs is not None
    place = {"proj:code": f"EPSG:{grid.crs.epsg}"} if grid.crs.epsg else {"proj:wkt2": grid.crs.to_wkt()}
    bounds = grid.bounds
    return {
        **place,
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.affine[:6]),
        "proj:bbox": [bounds.left, bounds.bottom, bounds.right, bounds.top],
    }


def _footprint(grid: Grid, seen: Geometry) -> dict[str, Any]:
    """Return footprint and box in degrees; across 180 degrees the footprint has two parts and west > east."""
    ground = project_extent(grid.geobox.extent, _DEGREES)
    if seen.crs is not None:
        common = meet(ground, project_extent(seen, _DEGREES))
        ground = ground if common.is_empty else common
    box = ground.boundingbox
    shape = ground.geom.simplify(1e-4 * max(box.span_x, box.span_y))
    shape = shapely.transform(shape, lambda xy: np.round(xy, 9))
    west, south, east, north = shape.bounds
    (parts,) = cut_at_line(np.array([shape], dtype=object), _DEGREES)
    wrapped = [east if east <= 180 else east - 360, west if west >= -180 else west + 360]
    return {
        "geometry": shapely.geometry.mapping(shapely.orient_polygons(parts)),
        "bbox": [wrapped[1], south, wrapped[0], north],
    }


def _items(layers: list[Layer], output: Place) -> list[dict[str, str]]:
    """Return links to the items of the source."""
    items = {_href(as_remote(layer.href) or Path(layer.href), output): layer.name for layer in layers}
    common = {"rel": "derived_from", "type": "application/geo+json"}
    return [{**common, "href": href, "title": name} for href, name in items.items()]


def _file_link(source: Source, output: Place) -> list[dict[str, str]]:
    """Return a link to the file of the source; none for an array or the tiles of a server."""
    place = (as_remote(source.name) if "{" not in source.name else None) or Path(source.name)
    found = isinstance(place, Remote) or place.exists()
    return [{"rel": "derived_from", "href": _href(place, output)}] if found else []


def _times(layers: list[Layer], now: str) -> dict[str, Any]:
    """Return the acquisition times of the source; where it states none, the time of the translation."""
    starts = [layer.start for layer in layers if layer.start]
    ends = [layer.end for layer in layers if layer.end]
    if not starts or not ends:
        return {"datetime": now}
    first, last = _moment(min(starts)), _moment(max(ends))
    if first == last:
        return {"datetime": first}
    return {"datetime": None, "start_datetime": first, "end_datetime": last}


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _file(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file:size": path.stat().st_size, "file:checksum": _SHA256 + digest}


def _href(place: Place, output: Place) -> str:
    """Return the address of a place in an item beside the output: relative between local files, without secrets."""
    if isinstance(place, Remote):
        return redact(str(place))
    if isinstance(output, Remote):
        return place.absolute().as_uri()
    try:
        return Path(os.path.relpath(place.absolute(), output.absolute().parent)).as_posix()
    except ValueError:  # on another drive, in Windows
        return place.absolute().as_uri()
