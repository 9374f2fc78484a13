"""Vector files through GDAL (pyogrio) and GeoParquet: layers, attributes as text, flat geometries."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from pyogrio.errors import DataSourceError, GeometryError

from terramorph.cartography.detect import query, zipped_vectors
from terramorph.cartography.shapes import read_wkb, simple_parts
from terramorph.documents import parse_json
from terramorph.errors import RasterError, converted
from terramorph.geo import project_shapes
from terramorph.raster.crs import crs_of_wkt

INDEXED = ("GPKG", "FlatGeobuf", "ESRI Shapefile", "OpenFileGDB", "MapInfo File", "SQLite")
"""Drivers that find what lies in a box without reading all there is."""

_INDEXED_BY_SUFFIX = {".gpkg": "GPKG", ".fgb": "FlatGeobuf", ".shp": "ESRI Shapefile", ".gdb": "OpenFileGDB"}
_PARQUET = (".parquet", ".geoparquet", ".pq")
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""
Columns = dict[str, list[str | None]]

# What GDAL remarks about a file goes to a log of ours or nowhere: on the terminal it stands beside no file's name.
# Datum parameters of a file count though GDAL knows the datum's name.
pyogrio.set_gdal_config_options({"CPL_LOG": os.devnull, "OSR_STRIP_TOWGS84": "NO"})
for module in (r"pyogrio\.", "contextlib"):  # the second is what opens a stream of pyogrio's
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=module)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that may hold lines or polygons.

    Attributes:
        path: The file, for people.
        source: What GDAL opens.
        driver: GDAL's name of the format.
        features: How many features it holds; -1 where the format does not say.
        stated: What it covers in its CRS, where the file says so.
    """

    path: Path
    source: str | bytes
    driver: str
    name: str
    crs: CRS | None
    fields: tuple[str, ...]
    features: int
    stated: Box | None

    def bounds(self) -> Box | None:
        """Return its bounds in its CRS, reading all of it if need be; None for an empty layer."""
        if self.stated is not None:
            return self.stated
        with library_errors(self.path):
            return _box(pyogrio.read_info(self.source, layer=self.name, force_total_bounds=True)["total_bounds"])

    def read(
        self, fields: Iterable[str], box: Box | None = None, where: str | None = None, most: int | None = None
    ) -> tuple[Columns, NDArray[Any]]:
        """Read attributes as text, and geometries in its CRS. GeoParquet is read whole in any case.

        Args:
            box: Only what touches left, bottom, right, top.
            where: Only what meets a condition in SQL.
            most: The first features only, at most so many.

        Returns:
            Columns of N values, and object (N,): shapely geometries in two dimensions, or None.
        """
        with library_errors(self.path):
            if self.driver == "Parquet":
                return _read_parquet(self.path, list(fields))
            options: dict[str, Any] = {"columns": list(fields), "bbox": box, "where": where, "max_features": most}
            options |= {"CLIP": "NO"} if self.driver == "MVT" else {}
            meta, _, wkb, values = pyogrio.raw.read(self.source, layer=self.name, force_2d=True, **options)
            kinds = zip(values, meta["ogr_types"], meta["ogr_subtypes"], strict=True)
            values = [_as_written(column, kind, subtype, self.driver) for column, kind, subtype in kinds]
            return _texts(meta["fields"], values), read_wkb(wkb)


def library_errors(path: Path) -> AbstractContextManager[None]:
    """Convert errors of pyogrio, shapely, pyproj and pyarrow to a RasterError that names the file."""

    def unreadable(reason: str) -> RasterError:
        failed = f"{path} cannot be read as a vector file, it is damaged or of an unknown kind"
        if "supported file format" in reason:  # what GDAL goes on to propose is of no use here
            return RasterError(f"{failed}; copy it again, or save it as GeoPackage or GeoJSON.")
        return RasterError(f"{failed} ({reason}); copy it again.")

    return converted(unreadable)


def open_layers(path: Path) -> list[Layer]:
    """Open the layers of a file that may hold lines or polygons.

    Raises:
        RasterError: If the file cannot be read or has no such layer.
    """
    if path.suffix.lower() in _PARQUET:
        return [_parquet_layer(path)]
    with library_errors(path):
        source = _source_of(path)
        try:
            opened, names = _listed(source)
        except GeometryError:  # a layer of surfaces only, which pyogrio has no name for
            return [_as_unknown(path, source, name) for name in _names_of(path)]
    with library_errors(path):
        found = [layer_of(path, opened, name) for name, kind in names if kind is not None and "Point" not in kind]
    if not found:
        held = ", ".join(str(name) for name, _ in names) or "none"
        raise RasterError(f"{path} holds no lines or polygons; its layers are {held}.")
    return found


def has_layers(path: Path) -> bool:
    """Return whether GDAL reads lines or polygons from a file, whatever its name says."""
    try:
        return bool(open_layers(path))
    except RasterError:
        return False


def read_polygons(path: Path) -> tuple[Any, CRS | None]:
    """Read all polygons of a file in two dimensions, as one shapely geometry (empty without any), and its CRS.

    Layers of other CRS are projected to that of the first one. Rings of lines are no polygons.

    Raises:
        RasterError: If the file cannot be read, or some of its layers have a CRS and others have none.
    """
    found: list[Any] = []
    first: CRS | None = None
    with library_errors(path):
        for layer in open_layers(path):
            parts = simple_parts(shapely.make_valid(simple_parts(layer.read([])[1])[0]))[0]
            parts = parts[shapely.area(parts) > 0]
            if len(parts) == 0:
                continue
            first = first if found else layer.crs
            if (layer.crs is None) != (first is None):
                raise RasterError(f"{path} has layers with a CRS and others without; give a file with one CRS.")
            if first is not None and layer.crs != first:
                parts = project_shapes(parts, layer.crs, first)
            found.extend(parts)
        return shapely.union_all(found), first


def _listed(source: str) -> tuple[str | bytes, list[list[Any]]]:
    """Return what GDAL opens, and (name, type of geometry) of its layers."""
    try:
        return source, pyogrio.list_layers(source).tolist()
    except DataSourceError:
        # GDAL looks for what makes GeoJSON at its beginning only, and a WFS writes links and numbers there.
        found = parse_json(Path(source).read_bytes()) if source.lower().endswith("json") else None
        if not (isinstance(found, dict) and "features" in found):
            raise
        named = {key: found[key] for key in ("type", "crs", "features") if key in found} | {"name": Path(source).stem}
        bare = json.dumps(named).encode()
        return bare, pyogrio.list_layers(bare).tolist()


def layer_of(path: Path, source: str | bytes, name: str) -> Layer:
    """Read GDAL's description of a layer."""
    info = pyogrio.read_info(source, layer=name)
    crs = None if info["crs"] is None else _own_datum(source, name, info["driver"]) or CRS(info["crs"])
    fields, count = tuple(map(str, info["fields"])), int(info["features"])
    return Layer(path, source, info["driver"], str(name), crs, fields, count, _box(info["total_bounds"]))


def _own_datum(source: str | bytes, name: str, driver: str) -> CRS | None:
    """Return the CRS of a layer if it has datum parameters of its own (TOWGS84, BOUNDCRS), else None.

    Where GDAL finds a code, pyogrio gives the code alone; an Arrow schema has all.
    """
    if driver not in INDEXED:
        return None
    try:
        with pyogrio.raw.open_arrow(source, layer=name, use_pyarrow=True) as (meta, reader):
            field = reader.schema.field(meta["geometry_name"] or "wkb_geometry")
            own = pyproj.CRS(json.loads((field.metadata or {})[b"ARROW:extension:metadata"])["crs"])
    except Exception:  # whatever a column of an unusual kind makes GDAL and pyarrow say
        return None
    return crs_of_wkt(own.to_wkt()) if own.is_bound else None


def _box(stated: Any) -> Box | None:
    """Convert GDAL's bounds; None where they are not finite."""
    if stated is None or not np.isfinite(stated).all():
        return None
    left, bottom, right, top = (float(v) for v in stated)
    return left, bottom, right, top


def _as_unknown(path: Path, source: str, name: str) -> Layer:
    """Open a layer whose geometry type pyogrio does not know, through a VRT that does not state it."""
    virtual = (
        f"<OGRVRTDataSource><OGRVRTLayer name={quoteattr(name)}><SrcDataSource>{escape(source)}</SrcDataSource>"
        f"<SrcLayer>{escape(name)}</SrcLayer><GeometryType>wkbUnknown</GeometryType></OGRVRTLayer></OGRVRTDataSource>"
    )
    return replace(layer_of(path, virtual, name), driver=_INDEXED_BY_SUFFIX.get(path.suffix.lower(), "OGR_VRT"))


def _names_of(path: Path) -> list[str]:
    """Return names of layers that pyogrio does not list."""
    if path.suffix.lower() == ".gpkg":
        return [str(row[0]) for row in query(path, "SELECT table_name FROM gpkg_geometry_columns")]
    return [path.stem]


def _source_of(path: Path) -> str:
    """Return what GDAL opens for a path; a file inside a ZIP has a name of its own."""
    whole = str(path.absolute())
    if path.suffix.lower() != ".zip":
        return whole
    inside = zipped_vectors(path)
    folders = {str(PurePosixPath(name).parent) for name in inside}
    if len(inside) > 1 and len(folders) == 1 and all(name.lower().endswith(".shp") for name in inside):
        inside = sorted(folders)
    if len(inside) == 1 and inside[0].lower().endswith(_PARQUET):
        raise RasterError(f"{path} holds {inside[0]}, which is read unpacked only; unpack it and give that.")
    if len(inside) > 1:
        raise RasterError(f"{path} holds several vector files ({', '.join(inside[:5])}); unpack it and give one.")
    return f"/vsizip/{whole}/{inside[0]}" if inside and inside[0] != "." else f"/vsizip/{whole}"


def _texts(fields: Iterable[Any], values: Iterable[NDArray[Any]]) -> Columns:
    """Convert columns to text; None where there is no value."""
    return {str(field): list(map(_text, column.tolist())) for field, column in zip(fields, values, strict=True)}


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and value != value):
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_written(column: NDArray[Any], kind: str, subtype: str, driver: str) -> NDArray[Any]:
    """Return whole numbers and truth values as what they are: GDAL's are floats where a feature has none.

    The numbers of tiles, of which an attribute may be whole in one tile and not in another, become text without ".0".
    """
    if column.dtype.kind == "f" and driver == "MVT" and kind == "OFTReal":
        convert: Callable[[float], Any] = "{:.15g}".format
    elif column.dtype.kind in "iuf" and subtype == "OFSTBoolean":
        convert = bool
    elif column.dtype.kind == "f" and kind in ("OFTInteger", "OFTInteger64"):
        convert = int
    else:
        return column
    found = np.empty(len(column), object)
    found[:] = [None if value != value else convert(value) for value in column.tolist()]
    return found


def _parquet_layer(path: Path) -> Layer:
    """Open the layer of a GeoParquet file (https://geoparquet.org, version 1.1)."""
    from pyarrow import parquet

    with library_errors(path):
        file = parquet.ParquetFile(path)
        schema, rows = file.schema_arrow, file.metadata.num_rows
        stated = (schema.metadata or {}).get(b"geo")
        if stated is None:
            raise RasterError(f"{path} is a table without geometry; give GeoParquet, or another format with geometry.")
        geo = parse_json(stated)
        column = geo["columns"][geo["primary_column"]]
        # Without a word about it the CRS is longitude and latitude; null says that it is not known.
        projjson = column.get("crs", pyproj.CRS("OGC:CRS84").to_json_dict())
        crs = None if projjson is None else CRS(pyproj.CRS.from_json_dict(projjson))
        fields = tuple(name for name in schema.names if name not in geo["columns"])
        return Layer(path, str(path), "Parquet", path.stem, crs, fields, rows, None)


def _read_parquet(path: Path, fields: list[str]) -> tuple[Columns, NDArray[Any]]:
    import geopandas
    from pyarrow import ArrowException

    try:
        frame = geopandas.read_parquet(path)
        values = [frame[field].astype(object).where(frame[field].notna(), None).to_numpy(object) for field in fields]
    except ArrowException as error:
        raise ValueError(str(error)) from error
    return _texts(fields, values), np.asarray(shapely.force_2d(frame.geometry.to_numpy(object)), object)
