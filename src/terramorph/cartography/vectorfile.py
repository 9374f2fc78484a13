"""Vector files that GDAL or pyarrow reads, as shapes with kinds."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS

from terramorph.cartography.coast import Coast
from terramorph.cartography.ogr import INDEXED, Box, Layer, open_layers
from terramorph.cartography.shapes import Shapes, oriented, simple_parts
from terramorph.cartography.table import COASTLINE, KINDS, Table, load_table
from terramorph.errors import RasterError
from terramorph.geo.crs import crs_name, transformer
from terramorph.raster.source import Closing

_OSM_KEYS = frozenset({"highway", "building", "landuse", "natural", "waterway", "railway", "leisure"})
_PACKED = "other_tags"
_OTHER_TAGS = re.compile(r'"((?:[^"\\]|\\.)*)"=>"((?:[^"\\]|\\.)*)"')


class VectorFile(Closing, ABC):
    """Base of vector files: gives the shapes around a box.

    Attributes:
        crs: CRS of ``bounds``.
        bounds: What it covers; the box around its features.
        table: Table of kinds.
        licence: What is known of the terms of use.
        skipped: Features with a kind that could not be drawn, of those read when it was opened.
    """

    path: Path
    crs: CRS
    bounds: Box
    table: Table
    licence: str | None = None
    skipped: int = 0

    def level(self, metres: float) -> int:
        """Return which store of features suits a resolution in metres per pixel; 0 where there is one store."""
        return 0

    @abstractmethod
    def read(self, box: Box, crs: CRS, metres: float) -> Shapes:
        """Read the shapes whose bounds touch a box.

        Args:
            box: Box in ``crs``.
            crs: Of the box and of the shapes that are given.
            metres: Metres a pixel on the ground.

        Raises:
            RasterError: If the file cannot be read.
        """


class Features(NamedTuple):
    """Features of a layer that have a kind.

    Attributes:
        geometries: object (N,), shapely geometries; empty where one cannot be read.
        kinds: int64 (N,), places in `KINDS`.
        widths_m: float64 (N,).
    """

    geometries: NDArray[Any]
    kinds: NDArray[np.int64]
    widths_m: NDArray[np.float64]

    def shapes(self) -> Shapes:
        """Convert the features to shapes."""
        return Shapes.from_geometries(*self)


def features_of(
    layer: Layer, table: Table, *, box: Box | None = None, where: str | None = None, most: int | None = None
) -> Features:
    """Read the features of a layer that have a kind, in its CRS; ``box``, ``where`` and ``most`` as for
    `Layer.read`."""
    columns, geometries = layer.read([f for f in layer.fields if f in table.keys or f == _PACKED], box, where, most)
    if _PACKED in columns:
        columns |= _unpacked(columns.pop(_PACKED), table.keys - columns.keys())
    dimensions = shapely.get_dimensions(geometries)
    keep = np.flatnonzero((dimensions > 0) | shapely.is_empty(geometries))
    columns = {key: [values[i] for i in keep] for key, values in columns.items()}
    kinds, widths = table.assign(layer.name, columns, dimensions[keep] == 2)
    chosen = kinds >= 0
    return Features(geometries[keep][chosen], kinds[chosen], widths[chosen])


class GdalFile(VectorFile):
    """A file that GDAL or pyarrow reads.

    Files with a spatial index are read around the requested box. Others (GeoJSON, OpenStreetMap, KML, GML, DXF,
    GeoParquet ...) are read whole, once, and stay in memory as columns. Coastlines are always read at once.
    """

    def __init__(self, path: Path, table: Table | None, crs: CRS | None) -> None:
        """Look at the layers.

        Args:
            path: The file, a FileGDB, or a .zip with one of them.
            table: None: chosen by layers and attributes.
            crs: Takes the place of the file's own.

        Raises:
            RasterError: If the file cannot be read, has no CRS, or no feature of it gets a kind.
        """
        self.path = path
        if path.suffix.lower() == ".shp" and not _beside(path, ".shx"):
            raise RasterError(f"{path} has no .shx beside it; copy all parts of it (.shp .shx .dbf .prj) together.")
        layers = [(each, _crs_of(each, crs)) for each in open_layers(path)]
        self.driver = layers[0][0].driver
        if not any(each.features for each, _ in layers):
            raise RasterError(f"{path} has no features; give a file with some.")
        seen = {each.name: each.fields for each, _ in layers}
        self.table = table or _choose(self.driver, seen)
        if path.suffix.lower() == ".shp" and table is None and not _beside(path, ".dbf"):
            raise RasterError(f"{path} has no .dbf beside it, which holds its attributes; copy it too, or give a kind.")
        known = {name: self.table.keys if _PACKED in fields else fields for name, fields in seen.items()}
        self._used = [(each, own) for each, own in layers if self.table.can_match(each.name, known[each.name])]
        no_kind = RasterError(no_kind_message(path, self.table, seen))
        if not self._used:
            raise no_kind
        self.crs = self._used[0][1]
        if self.driver == "OSM":
            self.licence = "ODbL 1.0, © OpenStreetMap contributors"
        self._whole: dict[str, Shapes] = {}
        if self.driver in INDEXED:
            if not self._has_kinds():
                raise no_kind
            boxes = [(box, own) for each, own in self._used if (box := each.bounds())]
            coasts = [(self._coastlines(each), own) for each, own in self._used]
        else:
            coasts = [(features_of(each, self.table), own) for each, own in self._used]
            self._whole = {each.name: f.shapes() for (each, _), (f, _) in zip(self._used, coasts, strict=True)}
            self.skipped = sum(shapes.skipped for shapes in self._whole.values())
            boxes = [(_hull(shapes), own) for each, own in self._used if len(shapes := self._whole[each.name])]
            if not boxes:
                raise no_kind
            if self.driver == "OSM" and any((f.kinds == COASTLINE).any() for f, _ in coasts):
                boxes += [(box, own) for each, own in self._used[:1] if (box := each.stated)]
        self.bounds = self._around(boxes)
        lines = np.concatenate([self._lines(features, own) for features, own in coasts])
        self._coast = Coast(lines, self.bounds) if len(lines) else None

    def read(self, box: Box, crs: CRS, metres: float) -> Shapes:
        """Read the shapes whose bounds touch a box, with the sea; see `VectorFile.read`."""
        parts = []
        for layer, own in self._used:
            local = project_box(box, crs, own)
            if self.driver in INDEXED:
                part = features_of(layer, self.table, box=local).shapes()
            else:
                whole = self._whole[layer.name]
                part = replace(whole.take(whole.inside(*local)), skipped=0)
            part = part.take(np.flatnonzero(part.kinds != COASTLINE))
            parts.append(part.moved(project(part.xy, own, crs)))
        if self._coast is not None:
            sea, gaps = self._coast.sea(project_box(box, crs, self.crs))
            kinds = np.array([KINDS.index("water")] * len(sea) + [COASTLINE] * len(gaps), np.int64)
            part = Features(np.array([*sea, *gaps], object), kinds, np.full(len(kinds), np.nan)).shapes()
            parts.append(part.moved(project(part.xy, self.crs, crs)))
        return Shapes.join(parts)

    def _coastlines(self, layer: Layer) -> Features:
        """Read all coastlines of a layer."""
        tests = []
        for key, value in self.table.values_of(KINDS[COASTLINE]):
            if key in layer.fields:
                tests.append(f"\"{key}\" = '{value}'")
            elif _PACKED in layer.fields:
                tests.append(f'{_PACKED} LIKE \'%"{key}"=>"{value}"%\'')
        return features_of(layer, self.table, where=" OR ".join(tests) or "1 = 0")

    def _lines(self, features: Features, crs: CRS) -> NDArray[Any]:
        """Return the coastlines among features, in the file's CRS, with land on their left, object (N,).

        Rings of areas have any direction, except in OpenStreetMap files, which keep it; elsewhere an area is an island.
        """
        parts = simple_parts(features.geometries[features.kinds == COASTLINE])[0]
        areas = shapely.get_type_id(parts) == 3
        islands = parts[areas] if self.driver == "OSM" else oriented(parts[areas])
        lines = np.concatenate([parts[shapely.get_type_id(parts) == 1], shapely.get_exterior_ring(islands)])
        if crs == self.crs or len(lines) == 0:
            return lines
        return np.asarray(shapely.transform(lines, lambda xy: project(xy, crs, self.crs)))

    def _has_kinds(self) -> bool:
        """Return whether a feature gets a kind; most files show one among the first."""
        return any(len(features_of(each, self.table, most=m).kinds) for m in (2000, None) for each, _ in self._used)

    def _around(self, boxes: list[tuple[Box, CRS]]) -> Box:
        """Return the box around boxes, in the file's CRS."""
        if not boxes:
            raise RasterError(f"{self.path} has no features; give a file with some.")
        for box, own in boxes:
            _check_degrees(self.path, own, box)
        lefts, bottoms, rights, tops = zip(*(project_box(box, own, self.crs) for box, own in boxes), strict=True)
        return min(lefts), min(bottoms), max(rights), max(tops)


def _crs_of(layer: Layer, given: CRS | None) -> CRS:
    if given is not None:
        return given
    if layer.crs is None:
        beside = " (the .prj beside a Shapefile)" if layer.path.suffix.lower() == ".shp" else ""
        raise RasterError(f"{layer.path}, layer {layer.name}: has no CRS{beside}; name it, such as EPSG:4326.")
    return layer.crs


def _choose(driver: str, layers: Mapping[str, Iterable[str]]) -> Table:
    fields = {f for each in layers.values() for f in each}
    if driver == "OSM" or fields & _OSM_KEYS:
        return load_table("osm")
    return load_table("protomaps" if {"earth", "roads"} <= set(layers) or "pmap:kind" in fields else "plain")


def no_kind_message(path: Path, table: Table, layers: Mapping[str, Iterable[str]]) -> str:
    """Return the error sentence for a file in which no feature gets a kind."""
    seen = "; ".join(f"{name} ({', '.join(sorted(fields)[:12]) or 'no attributes'})" for name, fields in layers.items())
    return (
        f"{path}: the table {table.name!r} gives no feature a kind. Its layers and attributes are {seen}. Give "
        "a kind if all of it is one, such as building, or a table (a .toml file) that names them."
    )


def _beside(path: Path, suffix: str) -> bool:
    """Return whether a part of a Shapefile exists."""
    return path.with_suffix(suffix).exists() or path.with_suffix(suffix.upper()).exists()


def _unpacked(column: list[str | None], wanted: Iterable[str]) -> dict[str, list[str | None]]:
    """Unpack the wanted tags from the field into which GDAL packs tags: "key"=>"value" ..."""
    found: dict[str, list[str | None]] = {key: [None] * len(column) for key in wanted}
    for row, text in enumerate(column):
        for key, value in _OTHER_TAGS.findall(text or ""):
            if key in found:
                found[key][row] = value
    return found


def _check_degrees(path: Path, crs: CRS, box: Iterable[float]) -> None:
    """Refuse coordinates that are no degrees in a CRS of degrees."""
    left, bottom, right, top = box
    if crs.geographic and (max(abs(bottom), abs(top)) > 90.001 or max(abs(left), abs(right)) > 540):
        raise RasterError(
            f"{path} reaches from x={left:g}, y={bottom:g} to x={right:g}, y={top:g}, which are not longitudes and "
            f"latitudes ({crs_name(crs)}); if they are swapped, write longitude first, if they are metres, name its "
            "CRS."
        )


def _hull(shapes: Shapes) -> Box:
    low, high = shapes.bounds[:, :2].min(0), shapes.bounds[:, 2:].max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def project(xy: NDArray[np.float64], source: CRS, target: CRS) -> NDArray[np.float64]:
    """Project coordinates (P, 2); infinite where the target has none. Longitude or easting comes first."""
    if source == target or len(xy) == 0:
        return xy
    return np.stack(transformer(source, target).transform(xy[:, 0], xy[:, 1]), axis=1)


def project_box(box: Box, source: CRS, target: CRS) -> Box:
    """Return the box around a box in another CRS.

    Raises:
        RasterError: If the other CRS has no coordinates there.
    """
    if source == target:
        return box
    try:
        found = transformer(source, target).transform_bounds(*box, densify_pts=21)
    except pyproj.exceptions.ProjError:
        found = (math.nan,) * 4
    if not all(math.isfinite(v) for v in found):
        raise RasterError(f"The place {box} ({source}) has no coordinates in {target}; use a CRS that reaches there.")
    return found[0], found[1], found[2], found[3]
