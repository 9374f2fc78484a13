"""What stands behind a path or a URL, as a source of pixels."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from odc.geo.crs import CRS

from terramorph.errors import RasterError
from terramorph.raster.image_source import ImageSource
from terramorph.raster.layout import ReadOptions
from terramorph.raster.mapfile import is_calibration
from terramorph.raster.source import Source
from terramorph.raster.storage import Remote, as_remote
from terramorph.raster.tiles import FolderTiles, MBTiles, PMTiles, ServerTiles, TileSource
from terramorph.raster.zipped import as_zipped, unpacked

_ON_THE_WEB = frozenset({".geojson", ".geojsonl", ".geojsons", ".ndjson", ".topojson", ".kml", ".kmz", ".gml", ".gpx"})
_IN_GIS = frozenset({".shp", ".fgb", ".gdb", ".parquet", ".geoparquet", ".mif", ".dxf", ".dgn", ".jml", ".e00"})
VECTOR_SUFFIXES = _ON_THE_WEB | _IN_GIS | {".osm", ".pbf", ".mvt"}
"""Suffixes of files that hold vectors and never an image."""

_VECTOR_ADVICE = "holds vectors, which `terramorph prepare --target` draws as a map; an image is needed here."
_ADVICE = {
    suffix: advice
    for suffixes, advice in (
        (".dwg", "is an AutoCAD drawing, which is not read; save it as DXF"),
        (".mdb .accdb", "is a database of Microsoft Access, which is not read; export its layers as GeoPackage"),
        (".json", "is no GeoJSON, TopoJSON or Esri JSON; convert it to GeoPackage with a program that reads it"),
        (".csv .tsv .xls .xlsx .ods", "is a table; make a GeoPackage of it with QGIS and give that"),
        (".qgs .qgz .qlr .lyr .lyrx .mxd .aprx", "says where data are and holds none; give the file that it names"),
        (".tab", "says where an image or vectors lie; give the image, or the .tab as --target if they are vectors"),
        (".shx .dbf .sbn .cpg", "is a part of a Shapefile; give the .shp beside it"),
        (".gdbtable .gdbtablx", "is a part of a FileGDB; give the folder that ends in .gdb"),
    )
    for suffix in suffixes.split()
}
_FILES = frozenset({".tif", ".tiff", ".vrt", ".jp2", ".pmtiles", ".mbtiles"})
_DATABASES = frozenset({".sqlitedb", ".rmaps", ".sdb"})


def open_source(
    spec: str | Path,
    *,
    zoom: int | None = None,
    any_zoom: bool = False,
    crs: CRS | None = None,
    terms: str | None = None,
    cache: Path | None = None,
    layout: str | None = None,
    options: ReadOptions | None = None,
) -> Source:
    """Opens an image, a folder of tiles, an MBTiles or PMTiles file, or the tiles of a server.

    Images and PMTiles may be on object storage or on a web server: what is asked for is read, and not the whole file.

    Args:
        spec: a path; a URL with {z}, {x} and {y}; or one of a file, s3://bucket/ortho.tif, gs://, az:// or https://.
        zoom: of tiles; default: the finest that covers the ground. A URL needs one. Nothing to images.
        any_zoom: take the default where a folder or an archive has no tiles of that zoom.
        crs: of an image that does not say it itself; for tiles EPSG:3857 (default) or EPSG:3395.
        terms: licence or terms of use; a URL needs them, and elsewhere they stand for what the source says itself.
        cache: folder for what is fetched from a server; a URL needs it.
        layout: of a folder of tiles, one of `tiles.LAYOUTS`; default: told by the folder's content.
        options: of an image: which bands, and what their values mean.

    Raises:
        RasterError: If there is nothing there, or nothing that is read, or something is missing to read it.
        StorageError: If the cache cannot be written.
        MissingPackageError: If the package for such a URL is not installed.
    """
    as_tiles = partial(TileSource, zoom=zoom, any_zoom=any_zoom, crs=crs)
    source = _open(spec, as_tiles, zoom, crs, terms, cache, layout, options)
    if isinstance(source, TileSource) and options and (options.bands or options.categorical):
        source.close()
        raise RasterError(f"{source.name} holds tiles; bands and categorical are of images, leave them out.")
    if terms and terms.strip():
        source.licence = terms.strip()
    return source


def _open(
    spec: str | Path,
    as_tiles: Callable[..., TileSource],
    zoom: int | None,
    crs: CRS | None,
    terms: str | None,
    cache: Path | None,
    layout: str | None,
    options: ReadOptions | None,
) -> Source:
    """`open_source`, without the terms of what is no server."""
    if isinstance(spec, str) and spec.lower().startswith(("http://", "https://")) and not _is_file(spec):
        size = 512 if re.search(r"@2x|\{r\}", spec) else None
        return as_tiles(ServerTiles(spec, zoom, terms, cache), tile_size=size)
    remote = as_remote(spec)
    if remote is not None:
        return _open_remote(remote, as_tiles, crs, options)
    zipped = as_zipped(spec)
    if zipped is not None:
        with ExitStack() as stack:
            image, name = stack.enter_context(unpacked(*zipped))
            source = ImageSource(image, crs=crs, options=options)
            source.name = f"zip://{zipped[0]}!{name}"
            weakref.finalize(source, stack.pop_all().close)
            return source
    path = Path(spec)
    if path.is_dir():
        _refuse_vectors(path)
        return as_tiles(FolderTiles(path, layout))
    if not path.exists():
        raise RasterError(f"{path} does not exist; check the path, or give a URL with {{z}}, {{x}} and {{y}}.")
    if layout is not None:
        raise RasterError(f"{path} is a file, and a layout is of folders of tiles; leave it out.")
    suffix = path.suffix.lower()
    if suffix == ".mbtiles":
        return as_tiles(MBTiles(path))
    if suffix == ".pmtiles":
        return as_tiles(PMTiles(path))
    if suffix in _DATABASES:
        raise RasterError(f"{path} is a tile database of a kind that is not read; convert it to MBTiles.")
    if suffix in VECTOR_SUFFIXES:
        raise RasterError(f"{path} {_VECTOR_ADVICE}")
    if suffix in _ADVICE and not (suffix == ".tab" and is_calibration(path)):
        raise RasterError(f"{path} {_ADVICE[suffix]}.")
    return ImageSource(path, crs=crs, options=options)


def _refuse_vectors(folder: Path) -> None:
    """Say what to do with a folder of vector files or vector tiles.

    Raises:
        RasterError: If it is one.
    """
    if folder.suffix.lower() == ".gdb":
        raise RasterError(f"{folder} {_VECTOR_ADVICE}")
    files = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in VECTOR_SUFFIXES and not p.stem.isdigit())
    if files:
        raise RasterError(f"{folder} is a folder of vector files; give one of them: {', '.join(files[:5])}.")
    if next(folder.glob("*/*/*.pbf"), None) or next(folder.glob("*/*/*.mvt"), None):
        raise RasterError(
            f"{folder} is a folder of vector tiles; pack them into one file: tile-join -o {folder.name}.mbtiles "
            f"{folder.name}"
        )


def _is_file(url: str) -> bool:
    """Whether a URL is of one file, and not of the tiles of a server."""
    return "{" not in url and PurePosixPath(urlsplit(url).path).suffix.lower() in _FILES


def _open_remote(
    remote: Remote, as_tiles: Callable[..., TileSource], crs: CRS | None, options: ReadOptions | None
) -> Source:
    """What can be read in parts."""
    suffix = remote.suffix.lower()
    if suffix == ".pmtiles":
        return as_tiles(PMTiles(remote))
    if suffix == ".mbtiles":
        raise RasterError(f"{remote} is a database, which cannot be read in parts; copy it here, or make it PMTiles.")
    if suffix in VECTOR_SUFFIXES:
        raise RasterError(f"{remote} holds vectors, which are read here only; copy it here.")
    return ImageSource(remote, crs=crs, options=options)
