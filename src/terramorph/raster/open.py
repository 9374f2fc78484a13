"""What stands behind a path or a URL, as a source of pixels."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from odc.geo.crs import CRS

from terramorph.errors import RasterError
from terramorph.raster.image_source import ImageSource
from terramorph.raster.source import Source
from terramorph.raster.storage import Remote, as_remote
from terramorph.raster.tiles import FolderTiles, MBTiles, PMTiles, ServerTiles, TileSource

_VECTORS = frozenset(
    {".geojson", ".geojsonl", ".shp", ".fgb", ".osm", ".parquet", ".geoparquet", ".kml", ".gml", ".pbf"}
)
_FILES = frozenset({".tif", ".tiff", ".vrt", ".jp2", ".pmtiles", ".mbtiles"})
_DATABASES = frozenset({".sqlitedb", ".rmaps", ".sdb"})


def open_source(
    spec: str | Path,
    *,
    zoom: int | None = None,
    crs: CRS | None = None,
    terms: str | None = None,
    cache: Path | None = None,
    layout: str | None = None,
) -> Source:
    """Opens an image, a folder of tiles, an MBTiles or PMTiles file, or the tiles of a server.

    Images and PMTiles may be on object storage or on a web server: what is asked for is read, and not the whole file.

    Args:
        spec: a path; a URL with {z}, {x} and {y}; or one of a file, s3://bucket/ortho.tif, gs://, az:// or https://.
        zoom: of tiles; default: the finest there is. A URL needs one. Nothing to images.
        crs: of an image that does not say it itself; for tiles EPSG:3857 (default) or EPSG:3395.
        terms: licence or terms of use; a URL needs them, and elsewhere they stand for what the source says itself.
        cache: folder for what is fetched from a server; a URL needs it.
        layout: of a folder of tiles, one of `tiles.LAYOUTS`; default: told by the folder's content.

    Raises:
        RasterError: If there is nothing there, or nothing that is read, or something is missing to read it.
        StorageError: If the cache cannot be written.
        MissingPackageError: If the package for such a URL is not installed.
    """
    source = _open(spec, zoom, crs, terms, cache, layout)
    if terms and terms.strip():
        source.licence = terms.strip()
    return source


def _open(
    spec: str | Path, zoom: int | None, crs: CRS | None, terms: str | None, cache: Path | None, layout: str | None
) -> Source:
    """`open_source`, without the terms of what is no server."""
    if isinstance(spec, str) and spec.lower().startswith(("http://", "https://")) and not _is_file(spec):
        size = 512 if "@2x" in spec else None
        return TileSource(ServerTiles(spec, zoom, terms, cache), zoom, tile_size=size, crs=crs)
    remote = as_remote(spec)
    if remote is not None:
        return _open_remote(remote, zoom, crs)
    path = Path(spec)
    if path.is_dir():
        return TileSource(FolderTiles(path, layout), zoom, crs=crs)
    if not path.exists():
        raise RasterError(f"{path} does not exist; check the path, or give a URL with {{z}}, {{x}} and {{y}}.")
    if layout is not None:
        raise RasterError(f"{path} is a file, and a layout is of folders of tiles; leave it out.")
    suffix = path.suffix.lower()
    if suffix == ".mbtiles":
        return TileSource(MBTiles(path), zoom, crs=crs)
    if suffix == ".pmtiles":
        return TileSource(PMTiles(path), zoom, crs=crs)
    if suffix in _DATABASES:
        raise RasterError(f"{path} is a tile database of a kind that is not read; convert it to MBTiles.")
    if suffix in _VECTORS:
        raise RasterError(f"{path} holds vectors; give it as --target to be drawn.")
    return ImageSource(path, crs=crs)


def _is_file(url: str) -> bool:
    """Whether a URL is of one file, and not of the tiles of a server."""
    return "{" not in url and PurePosixPath(urlsplit(url).path).suffix.lower() in _FILES


def _open_remote(remote: Remote, zoom: int | None, crs: CRS | None) -> Source:
    """What can be read in parts."""
    suffix = remote.suffix.lower()
    if suffix == ".pmtiles":
        return TileSource(PMTiles(remote), zoom, crs=crs)
    if suffix == ".mbtiles":
        raise RasterError(f"{remote} is a database, which cannot be read in parts; copy it here, or make it PMTiles.")
    if suffix in _VECTORS:
        raise RasterError(f"{remote} holds vectors, which are read here only; copy it here.")
    return ImageSource(remote, crs=crs)
