"""ImageSource: one image file as a source, read in windows and never whole.

Memory: GDAL's cache of decoded blocks (64 MiB for the process) and the requested pixels. Some kinds cannot be decoded
in parts: progressive JPEG (3 to 6 bytes a pixel), WebP (3 or 4), BMP other than 24 bit and PNG under 8 bits of grey
(up to `stored.MAX_WHOLE` pixels).

Pixels are those of `read_image`, bit for bit, but for colour JPEG: GDAL's libjpeg interpolates subsampled colour
(4:2:0) more smoothly, so colour differs along edges.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geom import polygon

from terramorph.errors import RasterError, warn
from terramorph.geo.crs import crs_name
from terramorph.geo.grid import Grid
from terramorph.raster.dataset import named_errors
from terramorph.raster.layout import ReadOptions
from terramorph.raster.mapfile import calibrated_image, read_map_file
from terramorph.raster.raster import Raster
from terramorph.raster.resample import INVERSE, MIN_WEIGHT, Resampling, upright_grid, upright_shape
from terramorph.raster.source import Source
from terramorph.raster.storage import Remote, as_remote
from terramorph.raster.stored import Level, StoredImage
from terramorph.raster.values import count_classes
from terramorph.raster.warp import MAX_SHRINK, footprint, needed, placed, reached, stored_on, warp
from terramorph.raster.worldfile import place_files

LEFT = 1.98
"""Least factor by which an overview is reduced further, so that the filter that made it hardly shows. Under 2, so
that windows of a grid of a factor of 4 or 8 are all read from the same overview."""

_WARP_PIXELS = 2**19
"""Limit on source pixels warped at once. Small, since only pieces without masked pixels and away from the edge are
warped as they are; the others take 16 bytes and more a pixel."""
_CACHED_BYTES = 24 * 2**20
"""Bytes of decoded rows of a sequential image that may be read piece by piece: GDAL's cache holds them, and those of
another image."""


class ImageSource(Source):
    """An image file that GDAL reads (GeoTIFF, COG, VRT, JPEG, PNG, BMP ...), by grid.

    The georeference is the file's own, else that of the files beside it (`worldfile` has their order). Ground control
    points become an affine that fits them to within half a pixel; otherwise GDAL warps the image by them, as by RPCs
    (at the height or DEM of ``options``) or geolocation arrays, and the warped image counts as stored. A file without a
    georeference has a pixel grid, turned as its EXIF says.

    A grid that is not a window of the source's own is read by `warp`, anti-aliased; from an overview where pixels are
    several times larger and the overviews hold means (not for "nearest" and palettes). A pixel made from masked pixels,
    or from beyond the edge, is masked.

    On object storage and web servers only images that can be read in parts are read, without files beside them (world
    file, .aux.xml, .ovr, .msk). Images that can only be decoded from the top (``sequential``) have one handle, for
    which threads queue; others one per thread.

    Attributes:
        resampling: The filter of the warp; "nearest" for palettes and what else holds classes.
        least: See `warp`.
    """

    grid: Grid

    def __init__(
        self,
        path: str | Path | Remote,
        *,
        crs: CRS | None = None,
        least: float = MIN_WEIGHT,
        options: ReadOptions | None = None,
        made_of: Sequence[Path] = (),
    ) -> None:
        """Open the file and read its header; no pixel is decoded.

        Args:
            path: The image, or the .map (OziExplorer) or .tab (MapInfo) beside it, which then georeferences it; or a
                URL (`storage.Remote`).
            crs: Used where the file has a place but does not say in which CRS. A CRS that the file gives comes first.
            least: Share of the filter's weights that must fall on real pixels for a warped pixel to be real.
            options: Bands, nodata and units, where the file does not say it.
            made_of: Files that the image is made of, beside those that it names.

        Raises:
            RasterError: If the file is missing, a folder, empty, not an image or of a kind that is not read; holds
                complex numbers, or bands of several types; claims more pixels than its size can hold; or a file beside
                it that says its place is damaged; or a server cannot be asked, or the image on it cannot be read in
                parts.
            MissingPackageError: If it is on object storage and the package for that is not installed.
        """
        if not isinstance(path, Remote):
            path = as_remote(path) or Path(path)
        self.name = str(path)
        self.options = options or ReadOptions()
        self.resampling: Resampling = "nearest" if self.options.categorical else "bicubic"
        self.least = least
        image = calibrated_image(path) if isinstance(path, Path) else None
        self._path = image or path
        self._calibration = path if image and isinstance(path, Path) else None
        self._lock = threading.Lock()
        self._kind_known = self.options.categorical is not None
        self._levels: list[Level] | None = None
        file = StoredImage(self._path, self.options, self.resampling, placed=self._calibration is not None)
        self._file = file
        self.bands, self.dtype, self.units = file.layout.names, file.layout.dtype, file.layout.units
        self.sequential, self.licence = file.sequential, file.licence
        file.files += made_of
        if file.layout.palette and not self._kind_known:
            self.resampling, self._kind_known = "nearest", True
        shape, place = file.shape, file.place
        if self._calibration:
            place = read_map_file(self._calibration, shape)
        affine, own_crs = place or (Affine.identity(), None)
        self.grid = self._stored = Grid(*shape, affine, own_crs or (crs if place else None))
        if file.orientation != 1:
            self.grid = Grid.pixels(*upright_shape(shape, file.orientation))
            self._stored = upright_grid(self.grid, INVERSE.get(file.orientation, file.orientation))
        high, wide = self.grid.shape
        corners = [self.grid.affine @ corner for corner in ((0, 0), (wide, 0), (wide, high), (0, high), (0, 0))]
        self.extent = polygon(corners, self.grid.crs)

    @property
    def files(self) -> tuple[Path | Remote, ...]:
        """The file, the files that it refers to (a VRT), and its georeference files."""
        beside: list[Path] = []
        if isinstance(self._path, Path):
            beside = [self._calibration] if self._calibration else place_files(self._path)
        return tuple(dict.fromkeys([*self._file.files, *beside]))

    def read(self, grid: Grid) -> Raster:
        """Read the pixels on a grid; see `Source.read`.

        Raises:
            RasterError: If the file is damaged or truncated there, was closed, has no CRS and the grid has one (or the
                reverse), or is over `MAX_SHRINK` times finer than the grid.
        """
        if (self.grid.crs is None) != (grid.crs is None):
            raise RasterError(self._crs_advice(grid))
        found = Raster.empty(grid, self.bands, self.dtype, self.units)
        if stored_on(self.grid, grid) is None:
            self._look_for_classes()
            self._warp_into(found.pixels, found.mask, grid, self._level(grid))
            return found
        window = needed(self._stored, grid)
        if window is None:
            return found
        return placed(Raster(*self._file.read(*window), self._stored.crop(*window), self.bands, self.units), grid)

    def fingerprint(self) -> str:
        """Return a hex digest (blake2b, 16 bytes) of the file, the files it refers to, and its georeference files.

        Of what is on a server, of the checksum that the server gives: nothing is downloaded.
        """
        others = sorted({*self.files} - {self._path}, key=str)
        whole = hashlib.blake2b(digest_size=16)
        if self.options != ReadOptions():
            whole.update(repr(self.options).encode())
        for file in [self._path, *others]:
            if isinstance(file, Remote):
                whole.update(file.identity().encode())
            elif file.is_file():
                with named_errors(file), file.open("rb") as opened:
                    whole.update(hashlib.file_digest(opened, hashlib.blake2b).digest())
        return whole.hexdigest()

    def close(self) -> None:
        """Close files. Reading afterwards is an error."""
        self._file.close()

    def _look_for_classes(self) -> None:
        """Switch to nearest neighbour if the pixels are classes; tested once, before the first warp."""
        with self._lock:
            if self._kind_known:
                return
            self._kind_known = True
        sample = self._file.sample()
        found = count_classes(sample) if sample else None
        if found is not None and self.resampling != "nearest":
            self.resampling = "nearest"
            warn(
                f"{self.name} holds {found} values, as rasters of classes do: its pixels are moved by nearest "
                "neighbour; say `categorical=False` if they are measurements."
            )

    def _level(self, grid: Grid) -> Level:
        """Choose what to warp to a grid: the image, or one of its overviews."""
        place, full = footprint(self.grid, grid), Level(self._stored, self._file.read)
        step = min(place.step_x, place.step_y) if place else 1.0
        if not self._file.overview_count or self.resampling == "nearest" or step < LEFT:
            return full
        with self._lock:
            self._levels = self._levels or self._file.levels(self.grid)

        def reduction(level: Level) -> float:
            return max(self.grid.width / level.grid.width, self.grid.height / level.grid.height)

        return next((level for level in self._levels[:0:-1] if reduction(level) * LEFT <= step), full)

    def _warp_into(self, pixels: NDArray[Any], mask: NDArray[np.bool_], grid: Grid, level: Level) -> None:
        """Warp to a grid; in halves, top first, where too many source pixels would be held at once."""
        place = footprint(level.grid, grid)
        if place is None:
            return
        if max(place.step_x, place.step_y) > MAX_SHRINK:
            raise RasterError(
                f"{self.name}: one pixel of the grid asked for is {max(place.step_x, place.step_y):.0f} of its own "
                f"wide, over the limit of {MAX_SHRINK}; ask for a finer grid."
            )
        window = reached(place, level.grid, self.resampling)
        if window is None:
            return
        _, _, height, width = window
        if height * width > _WARP_PIXELS and grid.height * grid.width > 1:
            # Pieces side by side decode the same rows of a sequential image: they must still be in the cache.
            row = level.grid.width * len(self.bands) * self.dtype.itemsize
            rows_first = self.sequential and height * row > _CACHED_BYTES
            high, wide = grid.shape
            if high > 1 and (rows_first or high >= wide):
                cuts = [(slice(high // 2), slice(wide)), (slice(high // 2, high), slice(wide))]
            else:
                cuts = [(slice(high), slice(wide // 2)), (slice(high), slice(wide // 2, wide))]
            for rows, columns in cuts:
                top, left = rows.start or 0, columns.start or 0
                part = grid.crop(top, left, rows.stop - top, columns.stop - left)
                self._warp_into(pixels[:, rows, columns], mask[rows, columns], part, level)
            return
        stored = Raster(*level.read(*window), level.grid.crop(*window), self.bands)
        warped = warp(stored, grid, self.resampling, self.least)
        pixels[...], mask[...] = warped.pixels, warped.mask

    def _crs_advice(self, grid: Grid) -> str:
        """Return the error sentence where only one of image and grid has a CRS."""
        if grid.crs is None:
            own = crs_name(self.grid.crs)
            return f"{self.name} is in {own} and the grid asked for has no CRS; give the other image one too."
        if self.grid.is_georeferenced:
            return (
                f"{self.name} has a place but does not say in which CRS; say it (EPSG:3857 for what SAS.Planet exports "
                "of most maps), or lay a .prj beside it."
            )
        return f"{self.name} does not say where on Earth it is; lay a world file, .map or .tab beside it."
