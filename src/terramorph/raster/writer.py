"""Cloud Optimized GeoTIFFs of any size, written from rows as they come.

A COG starts with its overviews, which are known last. So the rows go into an uncompressed GeoTIFF first, which costs
disk and hardly any time; GDAL makes the overviews there and then writes the COG in one pass. Memory is in proportion to
the width: a row of blocks, twice, and GDAL's cache of 64 MiB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import DTypeLike, NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.shutil import copy as gdal_copy
from rasterio.windows import Window

from terramorph._version import __version__
from terramorph.atomic import atomic
from terramorph.bands import Units
from terramorph.errors import RasterError
from terramorph.geo.grid import Grid
from terramorph.raster.dataset import gdal_session
from terramorph.raster.save import check_format, describe_bands, remove_leftovers, tiff_profile
from terramorph.raster.source import Source

Strip = tuple[slice, NDArray[Any], NDArray[np.bool_]]
"""Rows of a raster: which, their pixels (C, h, W), and their mask, bool (h, W), True where they hold data."""
Progress = Callable[[int, int], None]
"""Called with what is done, and of how much."""

BLOCK = 512
"""Side of the blocks, pixels; also the most that the coarsest overview measures."""

STRIP_PIXELS = 1 << 22
"""Pixels of a strip that is read from a source."""


def write_cog(
    path: str | Path,
    grid: Grid,
    bands: Sequence[str],
    dtype: DTypeLike,
    strips: Iterable[Strip],
    *,
    units: Units | None = None,
    tags: Mapping[str, str] | None = None,
    colours: Sequence[tuple[int, int, int]] | None = None,
    masked: bool,
    progress: Progress | None = None,
) -> None:
    """Write a Cloud Optimized GeoTIFF from strips of rows.

    It has blocks of `BLOCK` pixels, overviews down to one block, CRS, transform, band names, and a mask where
    ``masked``. Pixels without data hold 0, and blocks of nothing else take no room. What was written is read back and
    compared, because GDAL does not tell of a disk that fills up late.

    Args:
        path: The file, .tif or .tiff; it is replaced, and an .aux.xml beside it removed.
        dtype: Dtype of the pixels; a type that GeoTIFF has.
        strips: Rows from the top, without gaps, of any heights and full width. They are requested one by one, and an
            array may be reused once the next strip is requested.
        units: Scale and offset of stored values; None: 1 and 0.
        tags: Metadata of the file, beside TIFFTAG_SOFTWARE.
        colours: RGB of each value of one band of uint8, which are classes then: overviews keep them.
        masked: Whether pixels may be without data.
        progress: Called with rows written and rows read back: (done, 2 x height).

    Raises:
        RasterError: If strips and grid do not agree, or a GeoTIFF cannot hold such pixels.
        StorageError: If it cannot be written. Nothing is left behind.
    """
    path, stored = Path(path), np.dtype(dtype)
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise RasterError(f"{path}: a Cloud Optimized GeoTIFF is called .tif; give such a name.")
    check_format(path, bands=len(bands), dtype=stored.name)
    tell = progress or (lambda done, total: None)
    with (
        gdal_session({"GDAL_TIFF_INTERNAL_MASK": True, "GDAL_NUM_THREADS": "ALL_CPUS"}),
        atomic(path, failures=(RasterioError, CPLE_BaseError)) as part,
    ):
        # Beside the file, with room for 4/3 of its pixels; named as a part, so that it is swept as one where a process
        # is killed.
        raw = part.with_name(part.name.replace(path.name, f"{path.name}.scratch", 1))
        try:
            profile = {**tiff_profile(grid, len(bands), stored, BLOCK), "sparse_ok": True}
            if colours is not None:
                profile["photometric"] = "palette"
            rows = _block_rows(path, grid, len(bands), stored, strips, masked)
            digests = _write_raw(raw, profile, rows, grid.height, masked, tell)
            _finish_raw(raw, grid, bands, units, tags or {}, colours)
            gdal_copy(
                raw,
                part,
                driver="COG",
                BLOCKSIZE=BLOCK,
                COMPRESS="DEFLATE",
                PREDICTOR="YES",
                OVERVIEWS="FORCE_USE_EXISTING",
                SPARSE_OK="YES",
                BIGTIFF="IF_SAFER",
            )
        finally:
            with suppress(OSError):
                raw.unlink(missing_ok=True)
        _verify(part, digests, masked, tell)
    remove_leftovers(path)


def rows_of(source: Source, grid: Grid) -> Iterator[Strip]:
    """Yield the rows of a source on a grid, from the top, some 4 million pixels at a time."""
    high = max(16, STRIP_PIXELS // grid.width)
    for top in range(0, grid.height, high):
        rows = slice(top, min(top + high, grid.height))
        raster = source.read(grid.crop(top, 0, rows.stop - top, grid.width))
        yield rows, raster.pixels, raster.mask


def _block_rows(
    path: Path, grid: Grid, count: int, dtype: np.dtype[Any], strips: Iterable[Strip], masked: bool
) -> Iterator[tuple[int, NDArray[Any], NDArray[np.bool_]]]:
    """Regroup strips of any heights into rows of whole blocks.

    Yields:
        First row; pixels (C, h, W), 0 where masked; mask, bool (h, W); h is `BLOCK` but for the last. The arrays are
        used again.
    """
    pixels = np.zeros((count, min(BLOCK, grid.height), grid.width), dtype)
    mask = np.zeros(pixels.shape[1:], np.bool_)
    top = filled = 0
    for rows, values, real in strips:
        at = top + filled
        wanted = (count, rows.stop - rows.start, grid.width)
        if rows.start != at or rows.stop > grid.height or values.shape != wanted or real.shape != wanted[1:]:
            raise RasterError(
                f"{path}: pixels {values.shape} and mask {real.shape} were given as rows {rows.start} to {rows.stop}, "
                f"where {at} of {grid.height} is next, for {count} bands and {grid.width} columns."
            )
        if values.dtype != dtype:
            raise RasterError(f"{path}: pixels of {values.dtype} were given for a file of {dtype}; convert them.")
        if not masked and not real.all():
            raise RasterError(
                f"{path}: rows {rows.start} to {rows.stop} have pixels without data; say that it is masked."
            )
        taken = 0
        while taken < values.shape[1]:
            high = min(pixels.shape[1] - filled, values.shape[1] - taken)
            into, out = slice(filled, filled + high), slice(taken, taken + high)
            np.copyto(pixels[:, into], values[:, out])
            mask[into] = real[out]
            pixels[:, into][:, ~mask[into]] = 0
            filled, taken = filled + high, taken + high
            if filled == pixels.shape[1] or top + filled == grid.height:
                yield top, pixels[:, :filled], mask[:filled]
                top, filled = top + filled, 0
    if top != grid.height:
        raise RasterError(f"{path}: {top + filled} rows were given of {grid.height}; give all of them.")


def _write_raw(
    raw: Path,
    profile: dict[str, Any],
    block_rows: Iterable[tuple[int, NDArray[Any], NDArray[np.bool_]]],
    height: int,
    masked: bool,
    tell: Progress,
) -> list[bytes]:
    """Write full resolution, uncompressed and without empty blocks; return a digest of each row of blocks."""
    digests = []
    with rasterio.open(raw, "w", **profile) as dataset:
        if masked:  # there is a mask even where every block is passed over
            dataset.write_mask(np.zeros((1, 1), np.bool_), window=Window(0, 0, 1, 1))
        for top, pixels, mask in block_rows:
            digests.append(_digest(pixels, mask))
            for left in range(0, pixels.shape[2], BLOCK):
                columns = slice(left, left + BLOCK)
                if not mask[:, columns].any():
                    continue
                window = Window(left, top, mask[:, columns].shape[1], len(mask))
                dataset.write(pixels[..., columns], window=window)
                if masked:
                    dataset.write_mask(mask[:, columns], window=window)
            tell(top + len(mask), 2 * height)
    return digests


def _finish_raw(
    raw: Path,
    grid: Grid,
    bands: Sequence[str],
    units: Units | None,
    tags: Mapping[str, str],
    colours: Sequence[tuple[int, int, int]] | None,
) -> None:
    """Add overviews, band names, units, colours and metadata."""
    factors: list[int] = []
    while max(grid.height, grid.width) / (1 << len(factors)) > BLOCK:
        factors.append(2 << len(factors))
    with rasterio.Env(SPARSE_OK_OVERVIEW="YES"), rasterio.open(raw, "r+", driver="GTiff") as dataset:
        dataset.update_tags(**{"TIFFTAG_SOFTWARE": f"terramorph {__version__}", **tags})
        describe_bands(dataset, bands, units)
        if colours is not None:
            dataset.write_colormap(1, {value: (*colour, 255) for value, colour in enumerate(colours)})
        if factors:
            dataset.build_overviews(factors, Resampling.average if colours is None else Resampling.nearest)


def _verify(part: Path, digests: Sequence[bytes], masked: bool, tell: Progress) -> None:
    """Read everything once: GDAL does not report a disk that fills up while a dataset is closed."""
    with rasterio.open(part) as dataset:
        levels = len(dataset.overviews(1))
        height = int(dataset.height)
        for top, digest in zip(range(0, height, BLOCK), digests, strict=True):
            window = Window(0, top, dataset.width, min(BLOCK, height - top))
            pixels = dataset.read(window=window)
            mask = dataset.read_masks(1, window=window) != 0 if masked else np.ones(pixels.shape[1:], np.bool_)
            if _digest(pixels, mask) != digest:
                raise OSError("it did not reach the disk whole")
            tell(height + top + len(mask), 2 * height)
    for level in range(levels):
        with rasterio.open(part, OVERVIEW_LEVEL=level) as dataset:
            for top in range(0, dataset.height, BLOCK):
                dataset.read(window=Window(0, top, dataset.width, min(BLOCK, dataset.height - top)))


def _digest(pixels: NDArray[Any], mask: NDArray[np.bool_]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for band in pixels:
        digest.update(np.ascontiguousarray(band).data)
    digest.update(np.ascontiguousarray(mask).data)
    return digest.digest()
