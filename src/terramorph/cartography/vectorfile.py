"""Vector files that GDAL reads (GeoPackage, GeoJSON, FlatGeobuf, Shapefile, OpenStreetMap), as shapes with kinds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from pyogrio.errors import DataLayerError, DataSourceError

from terramorph.cartography.kinds import KINDS
from terramorph.cartography.shapes import Shapes
from terramorph.cartography.table import Table, load_table
from terramorph.errors import RasterError

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

_WHOLE = ("OSM", "GeoJSON", "GeoJSONSeq")
_OSM_KEYS = frozenset({"highway", "building", "landuse", "natural", "waterway", "railway", "leisure"})
_OTHER_TAGS = re.compile(r'"((?:[^"\\]|\\.)*)"=>"((?:[^"\\]|\\.)*)"')


class VectorFile(Protocol):
    """Shapes around a box.

    Attributes:
        crs: Of ``bounds``.
        bounds: What it covers.
        table: What gives features their kinds.
        licence: What is known of the terms of use.
    """

    crs: CRS
    table: Table
    licence: str | None

    @property
    def bounds(self) -> Box:
        """What it covers, in ``crs``."""
        ...

    def level(self, metres: float) -> int:
        """Which of several stores of features is read for so many metres a pixel; 0 where there is one."""
        ...

    def read(self, box: Box, crs: CRS, metres: float) -> Shapes:
        """The shapes whose bounds touch a box.

        Args:
            box: In ``crs``.
            crs: Of the box and of the shapes that are given.
            metres: Metres a pixel on the ground.

        Raises:
            RasterError: If the file cannot be read.
        """
        ...


class _Layer(NamedTuple):
    """What is known of a layer before it is read."""

    name: str
    crs: CRS
    fields: tuple[str, ...]


class GdalFile:
    """A file that GDAL reads.

    GeoPackage, FlatGeobuf and Shapefile are read around the box that is asked for. GeoJSON and OpenStreetMap have no
    index: they are read whole, once, and stay in memory as columns.
    """

    def __init__(self, path: Path, table: Table | None, layer: str | None, crs: CRS | None) -> None:
        """Look at the layers.

        Args:
            path: The file, or a .zip with a Shapefile.
            table: None: chosen by layers and attributes.
            layer: Read this layer only.
            crs: Takes the place of the file's own.

        Raises:
            RasterError: If the file cannot be read, has no CRS, or no feature of it gets a kind.
        """
        self.path = path
        self._whole: dict[str, Shapes] = {}
        try:
            self.driver, found = _look(path, layer)
        except (DataSourceError, DataLayerError) as error:
            raise RasterError(_cannot_open(path, error)) from error
        if found and not any(info["features"] for _, info in found):
            raise RasterError(f"{path} has no features; give a file with some.")
        self._layers = [_Layer(n, _crs_of(path, n, info["crs"], crs), tuple(info["fields"])) for n, info in found]
        fields = {name: tuple(info["fields"]) for name, info in found}
        self.table = table or _choose(self.driver, fields)
        self._seen = fields
        if path.suffix.lower() == ".shp" and table is None and not _beside(path, ".dbf"):
            raise RasterError(f"{path} has no .dbf beside it, which holds its attributes; copy it too, or give --kind.")
        self._used = [each for each in self._layers if self.table.can_match(each.name, self._known(each))]
        if not self._used:
            raise RasterError(no_kind_message(path, self.table, fields))
        self.crs = self._used[0].crs
        self.licence = "ODbL 1.0, © OpenStreetMap contributors" if self.driver == "OSM" else None
        if self.driver not in _WHOLE:
            self._bounds = self._bounds_of_layers()
            self._check_kinds()

    @property
    def bounds(self) -> Box:
        """What the features cover; a file without an index is read for it."""
        if self.driver in _WHOLE:
            boxes = [project_box(_hull(s), each.crs, self.crs) for each in self._used if len(s := self._all(each))]
            return _around(boxes)
        return self._bounds

    def level(self, metres: float) -> int:
        """Always 0."""
        return 0

    def read(self, box: Box, crs: CRS, metres: float) -> Shapes:
        """The shapes whose bounds touch a box. As `VectorFile.read`."""
        parts = []
        for layer in self._used:
            local = project_box(box, crs, layer.crs)
            if self.driver in _WHOLE:
                whole = self._all(layer)
                part = whole.take(whole.inside(*local))
            else:
                part = self._read(layer, local)
            parts.append(part.moved(project(part.xy, layer.crs, crs)))
        return Shapes.join(parts)

    def _known(self, layer: _Layer) -> frozenset[str]:
        """Attributes that may be found in a layer."""
        return self.table.keys if "other_tags" in layer.fields else frozenset(layer.fields)

    def _all(self, layer: _Layer) -> Shapes:
        """All shapes of a layer, read at the first call."""
        if not self._whole:
            self._whole = {each.name: self._read(each, None) for each in self._used}
            if not any(len(shapes) for shapes in self._whole.values()):
                raise RasterError(no_kind_message(self.path, self.table, self._seen))
            for each in self._used:
                if len(self._whole[each.name]):
                    _check_degrees(self.path, each.crs, _hull(self._whole[each.name]))
        return self._whole[layer.name]

    def _read(self, layer: _Layer, box: Box | None) -> Shapes:
        """The shapes of a layer that have a kind, in its CRS."""
        columns, wkb = self._columns(layer, bbox=box)
        geometries = shapely.from_wkb(wkb, on_invalid="ignore")
        unknown = np.array([g is not None for g in wkb], np.bool_) & shapely.is_missing(geometries)
        dimensions = shapely.get_dimensions(geometries)
        keep = np.flatnonzero((dimensions > 0) | unknown)
        columns = {key: [values[i] for i in keep] for key, values in columns.items()}
        kinds, widths = self.table.assign(layer.name, columns, dimensions[keep] == 2)
        chosen = kinds >= 0
        return Shapes.from_geometries(geometries[keep][chosen], kinds[chosen], KINDS, widths[chosen])

    def _columns(self, layer: _Layer, **options: Any) -> tuple[dict[str, list[str | None]], NDArray[Any]]:
        """Attributes that the table asks for, as text, and WKB (None where it was not asked for)."""
        keys = self.table.keys
        wanted = [f for f in layer.fields if f in keys or f == "other_tags"]
        try:
            meta, _, wkb, values = pyogrio.raw.read(
                self.path, layer=layer.name, columns=wanted, force_2d=True, **options
            )
        except (DataSourceError, DataLayerError, ValueError) as error:
            raise RasterError(f"{self.path}, layer {layer.name}: cannot be read ({error}); copy it again.") from error
        columns = {str(f): _text(v) for f, v in zip(meta["fields"], values, strict=True)}
        if "other_tags" in columns:
            for key, column in _other_tags(columns.pop("other_tags"), keys - columns.keys()).items():
                columns[key] = column
        return columns, wkb

    def _check_kinds(self) -> None:
        """Refuse a file none of whose features gets a kind; most files show one among the first features."""
        for limit in ({"max_features": 2000}, {}):
            for layer in self._used:
                if not self.table.keys.intersection(layer.fields):
                    return  # the layer's name alone decides
                columns, _ = self._columns(layer, read_geometry=False, **limit)
                rows = len(next(iter(columns.values())))
                for areas in (False, True):
                    if (self.table.assign(layer.name, columns, np.full(rows, areas)).kinds >= 0).any():
                        return
        raise RasterError(no_kind_message(self.path, self.table, self._seen))

    def _bounds_of_layers(self) -> Box:
        """What the layers cover, from their headers."""
        boxes = []
        for layer in self._used:
            box = pyogrio.read_info(self.path, layer=layer.name, force_total_bounds=True)["total_bounds"]
            if box is not None and np.isfinite(box).all():
                _check_degrees(self.path, layer.crs, box)
                boxes.append(
                    project_box((float(box[0]), float(box[1]), float(box[2]), float(box[3])), layer.crs, self.crs)
                )
        if not boxes:
            raise RasterError(f"{self.path} has no features; give a file with some.")
        return _around(boxes)


def _look(path: Path, only: str | None) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """The driver, and layers that may hold lines or polygons, with what GDAL says of them."""
    names = pyogrio.list_layers(path)
    if only is not None and only not in names[:, 0]:
        raise RasterError(f"{path} has no layer {only!r}; it has {', '.join(map(str, names[:, 0]))}.")
    found, driver = [], ""
    for name, kind in names.tolist():
        if kind is None or "Point" in kind or only not in (None, name):
            continue
        info = pyogrio.read_info(path, layer=name)
        driver = info["driver"]
        found.append((str(name), info))
    if not found:
        raise RasterError(f"{path} holds no lines or polygons; its layers are {', '.join(map(str, names[:, 0]))}.")
    return driver, found


def _crs_of(path: Path, layer: str, found: str | None, given: CRS | None) -> CRS:
    """The CRS of a layer."""
    if given is not None:
        return given
    if found is None:
        beside = " (the .prj beside a Shapefile)" if path.suffix.lower() == ".shp" else ""
        raise RasterError(f"{path}, layer {layer}: has no CRS{beside}; name it with --target-crs, such as EPSG:4326.")
    return CRS(found)


def _choose(driver: str, layers: Mapping[str, Iterable[str]]) -> Table:
    """The table that suits layers and their attributes."""
    fields = {f for each in layers.values() for f in each}
    if driver == "OSM" or fields & _OSM_KEYS:
        return load_table("osm")
    return load_table("protomaps" if {"earth", "roads"} <= set(layers) or "pmap:kind" in fields else "plain")


def no_kind_message(path: Path, table: Table, layers: Mapping[str, Iterable[str]]) -> str:
    """What is said of a file none of whose features gets a kind."""
    seen = "; ".join(f"{name} ({', '.join(sorted(fields)[:12]) or 'no attributes'})" for name, fields in layers.items())
    return (
        f"{path}: the table {table.name!r} gives no feature a kind. Its layers and attributes are {seen}. Give --kind "
        "if all of it is one kind, such as building, or --table with a .toml file that names them."
    )


def _cannot_open(path: Path, error: Exception) -> str:
    """What is said of a file that GDAL does not open."""
    if path.suffix.lower() == ".shp" and not _beside(path, ".shx"):
        return f"{path} has no .shx beside it; copy all parts of the Shapefile (.shp .shx .dbf .prj) together."
    return f"{path} cannot be read as a vector file, it is damaged or of an unknown kind ({error}); copy it again."


def _beside(path: Path, suffix: str) -> bool:
    """Whether a part of a Shapefile is there."""
    return path.with_suffix(suffix).exists() or path.with_suffix(suffix.upper()).exists()


def _text(values: NDArray[Any]) -> list[str | None]:
    """A column as text; None where there is no value."""
    return [None if v is None or v != v else str(v) for v in values.tolist()]


def _other_tags(column: list[str | None], wanted: Iterable[str]) -> dict[str, list[str | None]]:
    """Columns of the wanted tags that GDAL packs into one field: "key"=>"value" ..."""
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
            f"{path} reaches from x={left:g}, y={bottom:g} to x={right:g}, y={top:g}, which are no longitudes and "
            f"latitudes ({crs}); if they are swapped, write longitude first, if they are metres, name "
            "the CRS with --target-crs."
        )


def _hull(shapes: Shapes) -> Box:
    """The box around all shapes."""
    low, high = shapes.bounds[:, :2].min(0), shapes.bounds[:, 2:].max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _around(boxes: list[Box]) -> Box:
    """The box around boxes."""
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    return min(lefts), min(bottoms), max(rights), max(tops)


def project(xy: NDArray[np.float64], source: CRS, target: CRS) -> NDArray[np.float64]:
    """Coordinates (P, 2) in another CRS; infinite where it has none for them. Longitude or easting comes first."""
    if source == target or len(xy) == 0:
        return xy
    transformer = pyproj.Transformer.from_crs(source.proj, target.proj, always_xy=True)
    return np.stack(transformer.transform(xy[:, 0], xy[:, 1]), axis=1)


def project_box(box: Box, source: CRS, target: CRS) -> Box:
    """The box around a box in another CRS.

    Raises:
        RasterError: If the other CRS has no coordinates there.
    """
    if source == target:
        return box
    transformer = pyproj.Transformer.from_crs(source.proj, target.proj, always_xy=True)
    found = transformer.transform_bounds(*box, densify_pts=21)
    if not all(math.isfinite(v) for v in found):
        raise RasterError(f"The place {box} ({source}) has no coordinates in {target}; use a CRS that reaches there.")
    return found[0], found[1], found[2], found[3]
