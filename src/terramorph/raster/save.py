"""Writing of images, each of which appears whole under its final name or not at all, and previews."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.errors import RasterioError

from terramorph.atomic import atomic
from terramorph.bands import Units, colours_first, default_bands
from terramorph.errors import RasterError, StorageError, raised_as
from terramorph.geo.grid import Grid
from terramorph.raster.crs import to_rasterio_crs
from terramorph.raster.quiet import quiet
from terramorph.raster.raster import Raster
from terramorph.raster.worldfile import beside, prj_text, world_text

_TIFF_DTYPES = frozenset({"uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"})
_JPEG_SIDE = 65500
"""Pixels along a side that libjpeg writes at most."""
_WORLD_SUFFIX = {".png": ".pgw", ".jpg": ".jgw", ".jpeg": ".jgw"}
PREVIEW_PX = 1024
"""Longest side of a preview."""


def write_image(raster: Raster, path: str | Path) -> None:
    """Write a raster as PNG, JPEG or GeoTIFF, chosen by the suffix of ``path``.

    A GeoTIFF (.tif, .tiff; deflate, tiled) takes any number of bands and keeps CRS, transform, band names and
    mask, scale and offset. A PNG takes 1 or 3 bands of uint8, or 1 of uint16; a mask becomes its alpha channel. A JPEG
    (quality 95, full colour resolution) takes 1 or 3 bands of uint8 and no mask. Beside a PNG or JPEG with a
    georeferenced grid a world file (.pgw, .jgw) and, if there is a CRS, a .prj (WKT) are written. What an earlier
    image of that name left there is removed: an .aux.xml, and a world file when the new one has no place.

    Raises:
        RasterError: If the format cannot hold this raster, the suffix is not known, or the .prj is a Shapefile's.
        StorageError: If the file cannot be written. No partial file is left.
    """
    path = Path(path)
    check_format(
        path,
        bands=raster.count,
        dtype=raster.dtype.name,
        masked=not bool(raster.mask.all()),
        side=max(raster.height, raster.width),
    )
    suffix, grid = path.suffix.lower(), raster.grid
    world, prj = path.with_suffix(_WORLD_SUFFIX.get(suffix, ".tfw")), path.with_suffix(".prj")
    placed = suffix in _WORLD_SUFFIX and grid.is_georeferenced
    shapefile = beside(path, ".shp")
    if placed and grid.crs is not None and shapefile is not None:
        raise RasterError(f"{path}: its .prj would replace that of {shapefile}; choose another name, or use .tif.")
    stale = [world] if suffix in _WORLD_SUFFIX and world.is_file() else []
    stale += [prj] if stale and shapefile is None else []
    advice = "check that its folder exists, is writable and has free space"
    with ExitStack() as whole:

        def part(final: Path) -> Path:
            return whole.enter_context(atomic(final, advice=advice, failures=(RasterioError,)))

        if suffix in (".tif", ".tiff"):
            _save_tiff(raster, part(path))
        elif suffix == ".png":
            _pil_image(raster).save(part(path), format="PNG", compress_level=4)
        else:
            _pil_image(raster).save(part(path), format="JPEG", quality=95, subsampling=0)
        if placed:
            stale = [prj] if prj in stale and grid.crs is None else []
            part(world).write_text(world_text(grid.affine), encoding="ascii")
            if grid.crs is not None:
                part(prj).write_text(prj_text(grid.crs), encoding="utf-8")
    remove_leftovers(path, stale)


def remove_leftovers(path: Path, more: Sequence[Path] = ()) -> None:
    """Remove what an earlier image left beside a new one: its .aux.xml, whose place comes before the new one's own.

    Raises:
        StorageError: If a file cannot be removed.
    """
    for leftover in [*more, path.with_name(f"{path.name}.aux.xml")]:
        failed = f"{leftover} is of an earlier image and cannot be removed"
        with raised_as(StorageError, failed, "remove it yourself", OSError):
            leftover.unlink(missing_ok=True)


def check_format(path: str | Path, *, bands: int, dtype: str, masked: bool = False, side: int = 1) -> None:
    """Refuse a file name whose format cannot hold an image, as `write_image` would, before the image exists.

    Args:
        path: Its suffix tells the format.
        bands: Bands of the image.
        dtype: Numpy name of the dtype.
        masked: Whether some pixels have no data.
        side: Pixels along the longer side.

    Raises:
        RasterError: If the format cannot hold the image, or the suffix is not known.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        if dtype not in _TIFF_DTYPES:
            raise RasterError(f"{path}: a GeoTIFF cannot hold {dtype}; convert to float32 first.")
        return
    if suffix not in _WORLD_SUFFIX:
        raise RasterError(f"{path}: images are not written as '{path.suffix}'; use .tif, .png or .jpg.")
    kind = "PNG" if suffix == ".png" else "JPEG"
    sixteen_bit = kind == "PNG" and dtype == "uint16" and bands == 1
    if not (dtype == "uint8" and bands in (1, 3)) and not sixteen_bit:
        raise RasterError(f"{path}: a {kind} cannot hold {bands} band(s) of {dtype}; use .tif.")
    if masked and (kind == "JPEG" or sixteen_bit):
        what = "JPEG" if kind == "JPEG" else "16-bit PNG"
        raise RasterError(f"{path}: a {what} cannot hold pixels without data; use .tif instead.")
    if kind == "JPEG" and side > _JPEG_SIDE:
        raise RasterError(f"{path}: a JPEG cannot be longer than {_JPEG_SIDE} pixels; use .tif instead.")


def _pil_image(raster: Raster) -> Image.Image:
    """Convert a raster that fits a PNG or JPEG to a PIL image, its mask as alpha."""
    pixels = raster.pixels
    if not raster.mask.all():
        pixels = np.concatenate([pixels, np.where(raster.mask, 255, 0).astype(np.uint8)[None]])
    return image_of(pixels)


def image_of(bands: NDArray[Any]) -> Image.Image:
    """Convert bands (C, H, W) to a PIL image: grey for one band, else colours, opacity last."""
    return Image.fromarray(np.ascontiguousarray(bands[0] if len(bands) == 1 else bands.transpose(1, 2, 0)))


def tiff_profile(grid: Grid, count: int, dtype: np.dtype[Any], block: int) -> dict[str, Any]:
    """Return rasterio's profile of a GeoTIFF with square blocks."""
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": count,
        "dtype": dtype.name,
        "tiled": True,
        "blockxsize": block,
        "blockysize": block,
        "bigtiff": "if_safer",
        "photometric": "rgb" if count == 3 and dtype == np.uint8 else "minisblack",
    }
    if grid.is_georeferenced:
        profile["transform"] = grid.affine
    if grid.crs is not None:
        profile["crs"] = to_rasterio_crs(grid.crs)
    return profile


def describe_bands(dataset: Any, bands: Sequence[str], units: Units | None) -> None:
    """Write band names other than the default ones, scales and offsets."""
    if tuple(bands) != default_bands(len(bands)):
        for number, name in enumerate(bands, start=1):
            dataset.set_band_description(number, name)
    if units:
        dataset.scales, dataset.offsets = units.scales, units.offsets


def _save_tiff(raster: Raster, path: Path) -> None:
    """Write a tiled, deflated GeoTIFF and check that it can be read back whole."""
    profile = tiff_profile(raster.grid, raster.count, raster.dtype, 256)
    profile |= {"compress": "deflate", "predictor": 3 if raster.dtype.kind == "f" else 2, "zlevel": 6}
    with quiet(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        with rasterio.open(path, "w", **profile) as dataset:
            dataset.write(raster.pixels)
            if not raster.mask.all():
                dataset.write_mask(raster.mask)
            describe_bands(dataset, raster.bands, raster.units)
        _verify_tiff(raster, path)


def _verify_tiff(raster: Raster, path: Path) -> None:
    """Read every block once: GDAL does not report a disk that fills up while a dataset is closed."""
    with rasterio.open(path) as dataset:
        for _, window in dataset.block_windows(1):
            rows, columns = window.toslices()
            written = dataset.read(window=window)
            if not np.array_equal(written, raster.pixels[:, rows, columns], equal_nan=raster.dtype.kind == "f"):
                raise OSError("it did not reach the disk whole")


def preview(raster: Raster, side: int = PREVIEW_PX, limits: tuple[float, float] | None = None) -> Image.Image:
    """Return a preview of at most ``side`` pixels a side.

    Three bands and more show red, green and blue (the first three where none are named so), fewer the first as grey.
    uint8 is shown as it is. Pixels without data are transparent.

    Args:
        side: Longest side in pixels.
        limits: Values of another dtype that become black and white; None: their 2nd and 98th percentile.
    """
    # Thinned before anything else: what is left is small whatever the raster.
    step = max(1, max(raster.height, raster.width) // (2 * side))
    order = colours_first(raster.bands)[:3] if raster.count > 2 else [0]
    mask = raster.mask[::step, ::step]
    shown = _as_bytes(raster.pixels[order, ::step, ::step], mask, limits)
    layers = np.concatenate([shown, mask[None] * np.uint8(255)]) if not mask.all() else shown
    image = image_of(layers)
    image.thumbnail((side, side))
    return image


def _as_bytes(pixels: NDArray[Any], mask: NDArray[np.bool_], limits: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Convert pixels (C, H, W) to uint8, stretching other dtypes."""
    if pixels.dtype == np.uint8:
        return pixels
    values = pixels.astype(np.float64)
    real = values[:, mask]
    real = real[np.isfinite(real)]
    low, high = limits or (np.percentile(real, [2, 98]) if real.size else (0.0, 1.0))
    scaled = (np.nan_to_num(values, nan=low) - low) * (255 / max(high - low, np.finfo(np.float64).tiny))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
