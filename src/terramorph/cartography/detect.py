"""Detection of vector files, by name and content."""

from __future__ import annotations

import mmap
import re
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any

from terramorph.errors import InputError, RasterError, raised_as
from terramorph.raster.storage import as_remote
from terramorph.raster.tiles import ARCHIVES, open_archive

_MOST_KML = 1 << 22
"""Bytes of a KML that are looked at."""
_BAD = (OSError, zipfile.BadZipFile, RuntimeError, ValueError)
"""What opening a file and unpacking it raise; zipfile lets the last two through."""
_ON_THE_WEB = frozenset({".geojson", ".geojsonl", ".geojsons", ".ndjson", ".topojson", ".kml", ".kmz", ".gml", ".gpx"})
_IN_GIS = frozenset(
    {".shp", ".shz", ".fgb", ".gdb", ".parquet", ".geoparquet", ".pq", ".mif", ".dxf", ".dgn", ".jml", ".e00"}
)
VECTOR_SUFFIXES = _ON_THE_WEB | _IN_GIS | {".osm", ".pbf"}
"""Suffixes of files that hold vectors and never an image."""

_SHARED = frozenset(
    {".gpkg", ".json", ".zip", ".pbf", ".pmtiles", ".mbtiles", ".tab", ".vrt", ".xml", ".sqlite", ".kml", ".kmz"}
)
_GEOJSON = re.compile(
    rb'"type"\s*:\s*"(FeatureCollection|Feature|GeometryCollection|Topology|(Multi)?(Polygon|LineString))"|"esriGeometry'
)
_OVERLAYS = re.compile(rb"<(?:\w+:)?(GroundOverlay|NetworkLink)\b")
_FEATURES = re.compile(rb"<(?:\w+:)?(Polygon|LineString|LinearRing|Track)\b")
_TURNED = re.compile(rb"<(?:\w+:)?rotation>\s*([-+.\deE]+)")
_RASTER = re.compile(rb'type\s+"raster"', re.IGNORECASE)


def is_vector(path: str | Path) -> bool:
    """Return whether a file is a vector file that `VectorSource` reads.

    It is told by its suffix, and by its content where a suffix is shared with images (.pmtiles, .mbtiles, .gpkg, .tab,
    .vrt, .kml, .kmz) or with anything (.json, .xml, .sqlite, .zip, .pbf).
    """
    if "://" in str(path):
        return False
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        return suffix == ".gdb" or next(path.glob("*.gdbtable"), None) is not None
    if suffix in VECTOR_SUFFIXES - _SHARED:
        return True
    if suffix not in _SHARED or not path.is_file():
        return False
    try:
        return _holds_vectors(path, suffix)
    except (InputError, *_BAD):
        return False


def _kml(path: Path) -> bytes:
    """Read a KML, or that in a KMZ; its beginning, if it is large."""
    if path.suffix.lower() == ".kml":
        with path.open("rb") as file:
            return file.read(_MOST_KML)
    with zipfile.ZipFile(path) as archive:
        names = sorted((n for n in archive.namelist() if n.lower().endswith(".kml")), key=lambda n: (n.count("/"), n))
        if not names:
            return b""
        with archive.open("doc.kml" if "doc.kml" in names else names[0]) as file:
            return file.read(_MOST_KML)


def _holds_vectors(path: Path, suffix: str) -> bool:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if suffix == ".gpkg":
        return bool(query(path, "SELECT 1 FROM gpkg_contents WHERE data_type = 'features'"))
    if suffix in ARCHIVES:
        with closing(open_archive(path)) as archive:
            return archive.vectors
    if suffix == ".zip":
        return bool(zipped_vectors(path))
    if suffix == ".json":
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _GEOJSON.search(content) is not None
    if suffix == ".tab":
        return b"!table" in head and _RASTER.search(head) is None
    if suffix in (".kml", ".kmz"):
        text = _kml(path)
        return _FEATURES.search(text) is not None or _OVERLAYS.search(text) is None
    if suffix == ".xml":
        return b"//www.opengis.net/gml" in head
    if suffix == ".sqlite":
        return bool(query(path, "SELECT 1 FROM geometry_columns"))
    if suffix == ".vrt":
        return b"<OGRVRTDataSource" in head
    return b"OSMHeader" in head[:32]


def refuse_vectors(spec: str | Path) -> None:
    """Refuse vectors in a form that is not read: on a server, in several files, as a folder of tiles; and images that a
    KML turns, which GDAL would not.

    Raises:
        RasterError: If they are that.
    """
    remote = as_remote(spec)
    if remote is not None:
        if remote.suffix.lower() in VECTOR_SUFFIXES:
            raise RasterError(f"{remote} holds vectors, which are read here only; copy it here.")
        return
    folder = Path(spec)
    if folder.suffix.lower() in (".kml", ".kmz") and folder.is_file():
        with raised_as(RasterError, f"{folder} cannot be read", "copy it again", *_BAD):
            text = _kml(folder)
            turned = any(float(angle) for angle in _TURNED.findall(text))
        kinds = _OVERLAYS.findall(text)
        if turned or (len(kinds) > 1 and b"NetworkLink" not in kinds):
            what = "lays a turned image on the ground" if turned else "lays several images on the ground"
            raise RasterError(f"{folder} {what}, which is not read; save it as a GeoTIFF with a program that reads it.")
    if not folder.is_dir():
        return
    files = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in VECTOR_SUFFIXES and not p.stem.isdigit())
    if files:
        raise RasterError(f"{folder} is a folder of vector files; give one of them: {', '.join(files[:5])}.")
    if next(folder.glob("*/*/*.pbf"), None) or next(folder.glob("*/*/*.mvt"), None):
        raise RasterError(
            f"{folder} is a folder of vector tiles; pack them into one file: tile-join -o {folder.name}.mbtiles "
            f"{folder.name}"
        )


def zipped_vectors(path: Path) -> list[str]:
    """List the vector files in a ZIP, a FileGDB as one; empty where it holds images with their metadata.

    Raises:
        OSError: If it cannot be read.
        zipfile.BadZipFile: If it is none.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    bases = {name[: name.lower().index(".gdb/") + 4] for name in names if ".gdb/" in name.lower()}
    files = [name for name in names if ".gdb/" not in name.lower()]
    suffixes = {name: PurePosixPath(name).suffix.lower() for name in files}
    images = any(suffix in (".tif", ".tiff", ".jp2", ".img", ".vrt", ".png", ".jpg") for suffix in suffixes.values())
    wanted = VECTOR_SUFFIXES - {".kml", ".gml", ".gpx"} if images else VECTOR_SUFFIXES | {".tab"}
    return sorted(bases) + [name for name, suffix in suffixes.items() if suffix in wanted or suffix == ".gpkg"]


def query(path: Path, sql: str) -> list[Any]:
    """Return all rows of a query on an SQLite file, through a connection of its own: SQLite's belong to one thread.

    Raises:
        RasterError: If it gives none, being damaged or of another kind.
    """
    kinds = (sqlite3.Error, ValueError, OverflowError)  # also text that is not UTF-8
    with (
        raised_as(RasterError, f"{path} is not a whole SQLite file", "copy it again", *kinds),
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection,
    ):
        return connection.execute(sql).fetchall()
