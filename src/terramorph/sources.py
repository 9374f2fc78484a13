"""`open_source`: the source of a path, a URL or an array."""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from odc.geo.crs import CRS

from terramorph.bands import RGB
from terramorph.errors import ConfigError, InputError, RasterError, raised_as, warn
from terramorph.geo import Grid
from terramorph.geo.crs import crs_name
from terramorph.raster import ImageSource, Raster, ReadOptions, Source, TileSource
from terramorph.raster.array_source import ArraySource, RasterSource
from terramorph.raster.dataset import NoImageError
from terramorph.raster.image import IMAGE_SUFFIXES
from terramorph.raster.mapfile import is_calibration
from terramorph.raster.mosaic import MosaicSource
from terramorph.raster.packed import is_packed, is_subdataset, named_as, unpacked
from terramorph.raster.stac import open_stac
from terramorph.raster.storage import Remote, as_remote
from terramorph.raster.tiles import ARCHIVES, FolderTiles, MBTiles, PMTiles, ServerTiles, open_archive
from terramorph.raster.worldfile import WORLD_SUFFIXES

if TYPE_CHECKING:
    import xarray

_ADVICE = {
    suffix: advice
    for suffixes, advice in (
        (".dwg", "is an AutoCAD drawing, which is not read; save it as DXF"),
        (".mdb .accdb", "is a database of Microsoft Access, which is not read; export its layers as GeoPackage"),
        (".json", "is not GeoJSON, TopoJSON or Esri JSON; convert it to GeoPackage with a program that reads it"),
        (".csv .tsv .xls .xlsx .ods", "is a table; make a GeoPackage of it with QGIS and give that"),
        (".qgs .qgz .qlr .lyr .lyrx .mxd .aprx", "says where data are and holds none; give the file that it names"),
        (".tab", "places no image and holds no vectors; give the image, or save the vectors as GeoPackage"),
        (".shx .dbf .sbn .cpg", "is a part of a Shapefile; give the .shp beside it"),
        (".gdbtable .gdbtablx", "is a part of a FileGDB; give the folder that ends in .gdb"),
        (".sqlitedb .rmaps .sdb", "is a tile database of a kind that is not read; convert it to MBTiles"),
        (".gz .bz2 .xz .zst .7z .rar .tar .tgz", "is packed; unpack it and give what it holds (ZIP is read as it is)"),
        (".feather .arrow", "is a table of Arrow; save it as GeoParquet"),
        (".prj .qpj", "says a coordinate system and holds no data; give the file beside it"),
        (" ".join(WORLD_SUFFIXES), "says where an image lies; give the image beside it"),
    )
    for suffix in suffixes.split()
}
_ZARR = (".zgroup", ".zattrs", ".zarray", "zarr.json", ".zmetadata")
_FILES = frozenset({".tif", ".tiff", ".vrt", ".jp2"})


def open_source(
    data: str | Path | Raster | NDArray[Any] | xarray.DataArray,
    options: ReadOptions | None = None,
    *,
    crs: CRS | str | None = None,
    zoom: int | None = None,
    any_zoom: bool = False,
    layout: str | None = None,
    terms: str | None = None,
    cache: Path | None = None,
    style: str | Path = "classic",
    table: str | Path | None = None,
    kind: str | None = None,
    wanted: Sequence[str] = RGB,
    **reading: Any,
) -> Source:
    """Open an image, tiles, vectors or an array as a source of pixels for any grid.

        open_source("ortho.tif")                       # a GeoTIFF, COG, VRT, JPEG with a world file, ...
        open_source("ortho.tif", bands=(4, 3, 2), nodata=0)
        open_source("s3://bucket/ortho.tif")           # read in parts; likewise gs://, az://, https://
        open_source("items.json", asset="visual")      # STAC items, the newest on top
        open_source('NETCDF:"scene.nc":B4')            # a part of a file, by GDAL's name of it; likewise HDF5
        open_source("a.zip"), open_source("cache/")    # an image in an archive; a folder of tiles
        open_source("city.mbtiles")                    # MBTiles and PMTiles, of images or of vectors
        open_source("https://tiles.example/{z}/{x}/{y}.png", zoom=17, terms="...", cache=Path("tiles"))
        open_source("streets.gpkg", style="osm")       # vectors, drawn
        open_source(dataarray), open_source(raster), open_source(array)

        >>> import terramorph
        >>> with terramorph.open_source("aerial.tif") as source:
        ...     source.grid.shape, source.read(source.grid.crop(0, 0, 32, 32)).pixels.shape
        ((128, 128), (3, 32, 32))

    Args:
        data: A path or a URL; a Raster; a DataArray with a CRS, lazy or not; or an array (C, H, W) without a place.
        options: Bands, nodata and units of an image or array, where it does not state them. Tiles and vectors have no
            bands and classes to name, and no use for the rest.
        crs: Such as EPSG:32633, of what has a place and does not say its CRS (elsewhere not used, with a warning); of
            tiles EPSG:3857 (default) or EPSG:3395; it takes the place of the CRS of vectors.
        zoom: Zoom of tiles; default: the finest that covers the ground. Required for a server; ignored elsewhere.
        any_zoom: Take the default where a folder or an archive has no tiles of that zoom.
        layout: Layout of a folder of tiles, one of `raster.tiles.LAYOUTS`; default: recognised from its content.
        terms: Licence or terms of use; a server needs them, and elsewhere they stand for what the source says itself.
        cache: Folder for what is fetched from a server, which needs one.
        style: How vectors are drawn: classic, osm, classes, or a TOML file.
        table: Table of the classes of vectors' tags and layers: osm, protomaps, plain, or a TOML file; default: chosen
            from their content.
        kind: Class of all vectors of a file without tags.
        wanted: Names of the bands for which the assets of STAC items are chosen, where ``options`` name none.
        reading: Fields of ``options``, such as bands.

    Raises:
        RasterError: If there is nothing there, or nothing that is read, or something is missing to read it.
        ConfigError: If the CRS, style, table or kind is none, or bands or classes are named of what has none.
        InputError: If ``data`` is of a type that holds no pixels.
        StorageError: If the cache cannot be written.
        MissingPackageError: If the package for such a URL, or for DataArrays, is not installed.
    """
    place = crs if crs is None or isinstance(crs, CRS) else _crs(crs)
    options = replace(options or ReadOptions(), **reading) if reading else options
    if isinstance(data, str) and not data:
        raise RasterError("The path is empty; give that of an image, tiles or vectors.")
    if not isinstance(data, str | Path):
        return _under(_said(_of_memory(data, options, place), place), terms)
    items = open_stac(data, options, wanted=wanted, crs=place)
    if options is not None and items is None:
        if options.asset:
            raise ConfigError(f"{data} is not a STAC item and has no assets; leave the asset out.")
        options = replace(options, sign=None)
    archive = None if items else _archive(data)
    as_tiles = partial(TileSource, zoom=zoom, any_zoom=any_zoom, crs=place)

    def drawn(path: str | Path) -> Source:
        from terramorph.cartography import VectorSource, load_style  # half a second

        return VectorSource(path, load_style(style), crs=place, table=table, kind=kind)

    if items is not None:
        source: Source = items
    elif (archive.vectors and as_remote(data) is None) if archive else _holds_vectors(data):
        if archive:
            archive.close()
        source = drawn(data)
    elif archive is not None:
        source = as_tiles(archive)
    else:
        as_image = partial(ImageSource, crs=place, options=options)
        server = partial(ServerTiles, zoom=zoom, terms=terms, cache=cache)
        try:
            source = _of_pixels(data, as_image, as_tiles, server, layout)
        except NoImageError:
            if not _has_layers(data):
                raise
            source = drawn(data)
    if not isinstance(source, ImageSource | MosaicSource) and options and (options.bands or options.categorical):
        source.close()
        raise ConfigError(f"{source.name} is not an image, and bands and categorical are of images; leave them out.")
    return _under(_said(source, place), terms)


def _said(source: Source, crs: CRS | None) -> Source:
    """Warn of a CRS that was given for what states another one, or has no place."""
    if crs is None or source.grid is None or source.grid.crs == crs:
        return source
    own, given = crs_name(source.grid.crs), crs_name(crs)
    if source.grid.crs is not None:
        warn(f"{source.name} says itself that it is in {own}; {given}, which was given, is not used.")
    elif not source.grid.is_georeferenced:
        warn(f"{source.name} has no georeference; the CRS {given} is not used.")
    return source


def _under(source: Source, terms: str | None) -> Source:
    """Give a source a licence in place of its own."""
    if terms and terms.strip():
        source.licence = terms.strip()
    return source


def _of_memory(data: Any, options: ReadOptions | None, crs: CRS | None) -> Source:
    if isinstance(data, Raster):
        if data.grid.crs is None and data.grid.is_georeferenced:
            data = replace(data, grid=replace(data.grid, crs=crs))
        return RasterSource(data, options)
    if isinstance(data, np.ndarray):
        return RasterSource(Raster.from_pixels(data), options)
    xarray = sys.modules.get("xarray")  # whoever holds a DataArray has imported it
    if xarray and isinstance(data, xarray.DataArray):
        return ArraySource(data, options, crs=crs)
    if xarray and isinstance(data, xarray.Dataset):
        raise InputError("A Dataset holds several variables; pick one, or use .to_dataarray().")
    if hasattr(data, "__array_interface__") or hasattr(data, "__array__"):
        raise InputError(f"A {type(data).__name__} is not a numpy array; give numpy.asarray of it.")
    raise InputError(
        f"A {type(data).__name__} holds no pixels; give a path, a URL, a Raster, a DataArray, or an array "
        "(bands, height, width)."
    )


def _archive(spec: str | Path) -> MBTiles | PMTiles | None:
    """Open the tile archive in a file here or on a server; None for other paths and URLs."""
    place = (None if "{" in str(spec) else as_remote(spec)) or Path(spec)
    is_archive = place.suffix.lower() in ARCHIVES and (isinstance(place, Remote) or place.is_file())
    return open_archive(place) if is_archive else None


def _holds_vectors(spec: str | Path) -> bool:
    if Path(spec).suffix.lower() in IMAGE_SUFFIXES or is_subdataset(spec):
        return False
    from terramorph.cartography.detect import is_vector, refuse_vectors  # half a second

    if is_vector(spec):
        return True
    refuse_vectors(spec)
    return False


def _has_layers(spec: str | Path) -> bool:
    if as_remote(spec) is not None or is_packed(spec):
        return False
    from terramorph.cartography.ogr import has_layers  # half a second

    return has_layers(Path(spec))


def _of_pixels(
    spec: str | Path,
    as_image: partial[ImageSource],
    as_tiles: Callable[..., TileSource],
    server: Callable[[str], ServerTiles],
    layout: str | None,
) -> Source:
    """Open an image, or tiles that are in no archive, by path or URL."""
    if isinstance(spec, str) and spec.lower().startswith(("http://", "https://")) and not _is_file(spec):
        return as_tiles(server(spec), tile_size=512 if re.search(r"@2x|\{r\}", spec) else None)
    remote = as_remote(spec)
    if remote is not None:
        return as_image(remote)
    if is_packed(spec):
        with ExitStack() as stack:
            image, name, files = stack.enter_context(unpacked(spec))
            with named_as(name, image):
                source = _PackedImage(image, **as_image.keywords, made_of=files)
            source.name = name
            weakref.finalize(source, stack.pop_all().close)  # the temporary file is gone with it
            return source
    path = Path(spec)
    if path.is_dir():
        if any((path / name).is_file() for name in _ZARR):
            raise RasterError(f'{path} is a Zarr store; name it, or an array in it, as GDAL does: ZARR:"{path}":/NAME.')
        return as_tiles(FolderTiles(path, layout))
    if not path.exists():
        raise RasterError(f"{path} does not exist; check the path, or give a URL with {{z}}, {{x}} and {{y}}.")
    if layout is not None:
        raise RasterError(f"{path} is a file, and a layout is of folders of tiles; leave it out.")
    suffix = path.suffix.lower()
    if suffix in _ADVICE and not (suffix == ".tab" and is_calibration(path)):
        raise RasterError(f"{path} {_ADVICE[suffix]}.")
    return as_image(path)


class _PackedImage(ImageSource):
    """An image inside another file, which its errors name."""

    def read(self, grid: Grid) -> Raster:
        """Read the pixels on a grid; see `ImageSource.read`."""
        assert isinstance(self._path, Path)
        with named_as(self.name, self._path):
            return super().read(grid)


def _is_file(url: str) -> bool:
    """Return whether a URL is of one file, not of a server's tiles."""
    return "{" not in url and PurePosixPath(urlsplit(url).path).suffix.lower() in _FILES


def _crs(text: str) -> CRS:
    with raised_as(ConfigError, f"{text!r} is not a coordinate system", "give one such as EPSG:32633"):
        return CRS(text)
