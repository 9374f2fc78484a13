"""Image files as stored: windows and overviews read by GDAL; kinds that GDAL cannot read in parts are decoded whole.

An image that is georeferenced by control points that no affine fits, by RPCs or by geolocation arrays is warped, and
the warped image counts as stored.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geom import point
from PIL.BmpImagePlugin import BmpImageFile
from PIL.PngImagePlugin import PngImageFile
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.windows import Window

from terramorph.bands import default_bands
from terramorph.errors import RasterError, warn
from terramorph.geo.grid import Grid, metric_crs
from terramorph.raster.crs import to_odc_crs, to_rasterio_crs
from terramorph.raster.dataset import DEM, Handles, check_blocks, dataset_place, gdal_session, named_errors
from terramorph.raster.image import MAX_PIXELS, check_pixels, exif_orientation, pil_plugin, probe_image, read_image
from terramorph.raster.layout import Layout, ReadOptions, layout_of, piece_starts, sample_blocks
from terramorph.raster.mapfile import fit_affine
from terramorph.raster.raster import Raster
from terramorph.raster.resample import Resampling
from terramorph.raster.source import Closing
from terramorph.raster.storage import Remote, from_gdal
from terramorph.raster.virtual import VrtFiles
from terramorph.raster.warp import GDAL_RESAMPLING, footprint, reached, warp

MAX_WHOLE = 16_000_000
"""Limit on pixels of an image that must be decoded whole."""

MAX_RATIO = 300
"""Decoded bytes to one stored, above which an image of more than `MAX_PIXELS` pixels in one stream is taken for a bomb.
Photographs reach 20 and maps in flat colours 200; deflate reaches 1032."""
MAX_BLOCK = 2**28
"""Limit on bytes of one block, the least that can be decoded."""

_SEQUENTIAL = frozenset({"JPEG", "PNG", "BMP", "GIF", "WEBP"})
_SIDE = 32
"""Side of the places where an overview is compared, pixels."""
_ALIKE = 0.25
"""Share of the variance of chosen pixels about their means by which an overview may miss these means."""
_LICENCE_TAGS = ("TIFFTAG_COPYRIGHT", "EXIF_Copyright", "Copyright", "copyright", "LICENSE", "license")


class Level(NamedTuple):
    """An image, or one of its overviews.

    Attributes:
        read: Gives stored pixels (C, h, w) and mask (h, w) of a window (y, x, height, width) that lies inside.
    """

    grid: Grid
    read: Callable[[int, int, int, int], tuple[NDArray[Any], NDArray[np.bool_]]]


class StoredImage(Closing):
    """An image file, open for reading.

    Attributes:
        shape: (height, width) as stored.
        orientation: EXIF orientation of an image without a place.
        place: Affine and CRS; None where the file does not say it.
        sequential, licence: See `Source`.
        layout: Layout of the bands that GDAL reads.
        files: The file, and those that it refers to.
        overview_count: Overviews that GDAL may read in its place.
    """

    shape: tuple[int, int]
    place: tuple[Affine, CRS | None] | None
    files: list[Path | Remote]
    layout: Layout
    _has_crs: bool

    def __init__(self, path: Path | Remote, options: ReadOptions, resampling: Resampling, *, placed: bool) -> None:
        """Open the file and read its header; pixels are decoded only where the kind can only be decoded whole.

        Args:
            options: Bands, units, and the height of the ground where RPCs georeference the image.
            resampling: Filter of an image warped by control points and the like.
            placed: Whether the place is known from elsewhere, so that the file is not asked.

        Raises:
            RasterError: See `ImageSource`.
        """
        self._path, self._options = path, options
        self._others: list[Handles] = []
        whole = isinstance(path, Path) and _is_whole_kind(path)
        self._decoded = _decoded(path) if whole and isinstance(path, Path) else None
        name = self._decoded.name if self._decoded else None
        with named_errors(path):
            warping = self._look(Handles(path, name=name, single=False, driver=options.driver), placed)
            self.orientation = 1
            if not (whole or placed or self.place or warping) and isinstance(path, Path):
                self.orientation = exif_orientation(path)
            self._handles = Handles(path, name=name, single=self.sequential, warping=warping, driver=options.driver)
            if warping:
                indices = self.layout.palette and options.categorical is None
                warping["resampling"] = GDAL_RESAMPLING["nearest" if indices else resampling]
                with self._handles.lend() as dataset:
                    self.layout = layout_of(dataset, path, options)
                    self.shape = (int(dataset.height), int(dataset.width))
                    self.place = dataset.transform, to_odc_crs(dataset.crs) if self._has_crs else None
        if warping or self.orientation != 1:
            self.overview_count = 0

    def _look(self, handles: Handles, placed: bool) -> dict[str, Any] | None:
        """Read the header; return the warp options where only GDAL's warper can georeference the image."""
        path, options = self._path, self._options
        with closing(handles), handles.lend() as dataset:
            self.sequential = dataset.driver in _SEQUENTIAL
            if dataset.count:
                _check_claims(path, dataset, self.sequential)
            self.layout = layout_of(dataset, path, options)
            tags = dataset.tags()
            self.licence = next((tags[key].strip() for key in _LICENCE_TAGS if tags.get(key, "").strip()), None)
            self._vrt_files = VrtFiles(path) if dataset.driver == "VRT" and isinstance(path, Path) else None
            named = [] if self._decoded else dataset.files
            self.files = [from_gdal(f) if isinstance(path, Remote) else Path(f) for f in named] or [path]
            self.shape = (int(dataset.height), int(dataset.width))
            self.overview_count = 0 if self.sequential else len(dataset.overviews(1))
            self.place = None if placed else dataset_place(dataset, path)
            return None if placed or self.place else self._place_otherwise(dataset)

    def read(self, y: int, x: int, height: int, width: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read pixels (C, h, w) and mask (h, w) of a window inside the image.

        Raises:
            RasterError: If the file is damaged there.
        """
        return self._read(self._handles, y, x, height, width)

    def _read(
        self, handles: Handles, y: int, x: int, height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        with named_errors(self._path), handles.lend() as dataset:
            if self._vrt_files is not None:
                high, wide = self.shape[0] / dataset.height, self.shape[1] / dataset.width  # of an overview's pixels
                self._vrt_files.check(x * wide, y * high, (x + width) * wide, (y + height) * high)
            return self.layout.read(dataset, Window(x, y, width, height))

    def levels(self, grid: Grid) -> list[Level]:
        """Return the image and GDAL's overviews of it, finest first.

        Many files have overviews of every second pixel, gdaladdo's default, which lack thin lines and have stepped
        edges. So the first overview is compared with the image in a few places; if it does not hold means, no overview
        is used.

        Raises:
            RasterError: If one cannot be read.
        """
        full, overviews = Level(grid, self.read), []
        for number in range(self.overview_count):
            handles = Handles(self._path, single=False, overview=number, driver=self._options.driver)
            self._others.append(handles)
            with named_errors(self._path), handles.lend() as dataset:
                overview = grid.resized(int(dataset.height), int(dataset.width))
            overviews.append(Level(overview, partial(self._read, handles)))
        return [full, *overviews] if overviews and _holds_means(full, overviews[0]) else [full]

    def sample(self) -> list[NDArray[Any]]:
        """Read values of a single band in some places; empty for several bands or floats."""
        if len(self.layout.numbers) > 1 or self.layout.dtype.kind == "f":
            return []
        with named_errors(self._path), self._handles.lend() as dataset:
            return sample_blocks(dataset, self.layout.numbers[0])

    def close(self) -> None:
        """Close the handles."""
        for handles in (self._handles, *self._others):
            handles.close()
        if self._decoded:
            self._decoded.close()

    def _place_otherwise(self, dataset: Any) -> dict[str, Any] | None:
        """Set the georeference from control points if an affine fits them; else return options for GDAL's warper."""
        gcps, gcp_crs = dataset.gcps
        crs: Any
        if gcps:
            crs = to_odc_crs(gcp_crs) if gcp_crs else None
            affine, off = fit_affine(np.array([(p.col, p.row, p.x, p.y) for p in gcps]))
            if affine is None:
                raise RasterError(
                    f"{self._path} is placed by {len(gcps)} ground control point{'s' * (len(gcps) != 1)}, and it takes "
                    "three that are not on one line; set others, or remove them (gdal_edit.py -unsetgt)."
                )
            if off <= 0.5:
                self.place = affine, crs
                return None
            # Without a CRS the points lie on a plane, which any projected one stands for.
            how = {"src_crs": gcp_crs or "EPSG:3857", "crs": gcp_crs or "EPSG:3857"}
        elif dataset.rpcs:
            how = self._by_rpcs(dataset.rpcs)
        elif dataset.tags(ns="GEOLOCATION"):
            crs = dataset.tags(ns="GEOLOCATION").get("SRS", "EPSG:4326")
            how = {"src_crs": crs, "crs": crs, "SRC_METHOD": "GEOLOC_ARRAY"}
        else:
            return None
        with_alpha = ColorInterp.alpha in dataset.colorinterp
        self._has_crs = bool(gcp_crs or not gcps)
        return how | {"tolerance": 0, "add_alpha": not with_alpha and dataset.nodata is None}

    def _by_rpcs(self, rpcs: Any) -> dict[str, Any]:
        """Return warp options of a scene with rational polynomial coefficients, in metres where there is a UTM zone.

        They give the pixel of a point of known height. Without a DEM, all terrain is taken to have one height.
        """
        options = self._options
        height = rpcs.height_off if options.height is None else options.height
        if options.height is None and options.dem is None:
            warn(
                f"{self._path} is placed by RPCs: it is laid on the ground as if all of it lay {height:.0f} m high, so "
                "that hills are shifted; give the height of the ground, or a raster of heights (DEM)."
            )
        centre = point(rpcs.long_off, rpcs.lat_off, "EPSG:4326")
        crs = to_rasterio_crs(metric_crs(centre)) if -80 <= rpcs.lat_off <= 84 else "EPSG:4326"
        how: dict[str, Any] = {"src_crs": "EPSG:4326", "crs": crs, "SRC_METHOD": "RPC", "RPC_HEIGHT": repr(height)}
        if options.dem is None:
            return how
        if not Path(options.dem).is_file():
            raise RasterError(f"{options.dem} does not exist; give a raster of the heights of the ground.")
        self.files.append(Path(options.dem))
        return how | {DEM: str(Path(options.dem).absolute())}


def _check_claims(path: Path | Remote, dataset: Any, sequential: bool) -> None:
    """Refuse an image that cannot be what its header claims, or cannot be read in parts, before decoding a pixel."""
    # GDAL's complex integers, which numpy does not know, are refused with the layout.
    pixel = sum(4 if name == "complex_int16" else np.dtype(name).itemsize for name in dataset.dtypes)
    if sequential:
        if isinstance(path, Remote):
            raise RasterError(
                f"{path} can only be decoded from the top; copy it here, or store it as a GeoTIFF in blocks."
            )
        claimed, stored = dataset.height * dataset.width * pixel, path.stat().st_size
        if dataset.height * dataset.width > MAX_PIXELS and claimed > MAX_RATIO * stored:
            raise RasterError(
                f"{path} claims {dataset.height} x {dataset.width} pixels in {stored:,} bytes, far more than any "
                "real image; cut it into smaller pieces if it is meant."
            )
    check_blocks(path, dataset)
    rows, columns = dataset.block_shapes[0]
    if rows * columns * pixel > MAX_BLOCK and dataset.driver != "VRT":
        raise RasterError(
            f"{path} is stored in blocks of {rows} x {columns} pixels, too large to be read in parts; convert it: "
            f"gdal_translate -co TILED=YES {path.name} tiled.tif"
        )


def _decoded(path: Path) -> MemoryFile:
    """Decode an image that GDAL cannot read in parts, to a GeoTIFF in memory."""
    height, width, _, _ = probe_image(path)
    advice = "convert it to GeoTIFF, for its kind is decoded whole: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE"
    check_pixels(path, height, width, MAX_WHOLE, advice)
    raster, file = read_image(path), MemoryFile()
    profile = {"height": raster.height, "width": raster.width, "count": raster.count, "dtype": raster.dtype.name}
    with gdal_session({"GDAL_TIFF_INTERNAL_MASK": True}), file.open(driver="GTiff", **profile) as dataset:
        dataset.write(raster.pixels)
        if not raster.mask.all():
            dataset.write_mask(raster.mask)
    return file


def _is_whole_kind(path: Path) -> bool:
    """Return whether GDAL cannot read this kind in parts, or reads it otherwise than `read_image`."""
    plugin = pil_plugin(path)
    with path.open("rb") as file:
        head = file.read(34).ljust(34, b"\0")
    if plugin is PngImageFile:
        return head[24] < 8 and head[25] == 0
    if plugin is BmpImageFile:
        bits, compression = struct.unpack("<HI", head[28:34])
        return (bits, compression) != (24, 0)
    return False


def _holds_means(full: Level, overview: Level) -> bool:
    """Return whether an overview is nearer to means of the image's pixels than to single pixels."""
    off = spread = 0.0
    high, wide = min(_SIDE, overview.grid.height), min(_SIDE, overview.grid.width)
    for y in piece_starts(overview.grid.height, high):
        for x in piece_starts(overview.grid.width, wide):
            stored, real = overview.read(y, x, high, wide)
            means, chosen, known = _both_ways(full, overview.grid.crop(y, x, high, wide))
            known &= real
            off += float(np.square(stored - means)[:, known].sum())
            spread += float(np.square(chosen - means)[:, known].sum())
    return off <= _ALIKE * spread


def _both_ways(full: Level, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Warp an image to a grid by means and by nearest neighbour: both (C, h, w), and where both have data (h, w)."""
    place = footprint(full.grid, grid)
    assert place is not None
    window = reached(place, full.grid)
    assert window is not None
    pixels, mask = full.read(*window)
    raster = Raster(pixels, mask, full.grid.crop(*window), default_bands(len(pixels)))
    means, chosen = warp(raster, grid), warp(raster, grid, "nearest")
    return means.pixels.astype(np.float64), chosen.pixels.astype(np.float64), means.mask & chosen.mask
