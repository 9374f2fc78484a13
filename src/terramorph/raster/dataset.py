"""What GDAL opens: its place, and windows of its pixels with their mask."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window

from terramorph.errors import RasterError
from terramorph.raster.crs import to_odc_crs
from terramorph.raster.quiet import quiet
from terramorph.raster.raster import default_bands
from terramorph.raster.storage import Remote, sentence
from terramorph.raster.worldfile import read_crs, read_place

GDAL_OPTIONS = {
    # World files and .tab are left to `read_place`: GDAL takes a damaged number in one for 0. Its drivers of PNG, JPEG
    # and BMP read them all the same, which is why `dataset_place` does not ask those.
    "GDAL_GEOREF_SOURCES": "PAM,INTERNAL",
    # GDAL's way of decoding a whole PNG at once takes a truncated one for whole, and holds it in memory.
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    "GDAL_CACHEMAX": 64 * 2**20,
}
"""GDAL's settings while we read. Its cache of decoded blocks, bytes, is one for the process and not one for each file;
left alone it would grow to a twentieth of the machine's memory."""

_PLACELESS = frozenset({"PNG", "JPEG", "BMP", "GIF", "WEBP"})
_COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


@contextmanager
def named_errors(path: Path | Remote) -> Iterator[None]:
    """Turn whatever a decoder raises into a RasterError that names the file."""
    try:
        yield
    except RasterError:
        raise
    except MemoryError as error:
        raise RasterError(f"{path} does not fit into memory; cut it into smaller pieces.") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        IndexError,
        KeyError,
        TypeError,
        RasterioError,
    ) as error:
        reason = str(error.__cause__ or error)
        if "supported file format" in reason:
            raise RasterError(
                f"{path} is not an image of a kind that is read; if it is one (ECW, MrSID, OZF), convert it to GeoTIFF "
                f"with a program that reads it: gdal_translate {path.name} {path.stem}.tif"
            ) from error
        if "libjpeg to allocate" in reason:
            raise RasterError(
                f"{path} is a progressive JPEG, which can only be decoded whole, and too large for that; save it as a "
                "baseline JPEG or as a GeoTIFF."
            ) from error
        if isinstance(path, Remote):
            raise RasterError(sentence(path, "read", reason)) from error
        raise RasterError(
            f"{path} cannot be read as an image, it is damaged, truncated or of an unknown kind ({reason}); "
            "copy it again or remove it."
        ) from error


@contextmanager
def gdal_session(options: Mapping[str, Any] | None = None) -> Iterator[None]:
    """GDAL with our settings and more, for this thread and while it reads; two of rasterio's warnings are silenced here
    only: a missing georeference is no fault, and `read_dataset` takes nodata and alpha together."""
    with quiet(), rasterio.Env(**GDAL_OPTIONS, **(options or {})):
        yield


@contextmanager
def open_dataset(path: Path) -> Iterator[Any]:
    """Open a dataset with rasterio.

    Raises:
        RasterError: If the dataset cannot be used, as `check_dataset` says.
    """
    with gdal_session(), rasterio.open(path) as dataset:
        check_dataset(dataset, path)
        yield dataset


def check_dataset(dataset: Any, path: Path | Remote) -> None:
    """Refuse a dataset that is no image.

    Raises:
        RasterError: If it has no bands, nothing but alpha, complex numbers, or bands of several types.
    """
    if dataset.count == 0:
        raise RasterError(f"{path} holds no bands of its own; give one of the images inside it.")
    keep, _ = band_layout(dataset)
    if not keep:
        raise RasterError(f"{path} holds nothing but an alpha band; give an image with colours.")
    types = sorted({dataset.dtypes[i - 1] for i in keep})
    if any("complex" in name for name in types):
        raise RasterError(f"{path} holds complex numbers; take their magnitude first.")
    if len(types) > 1:
        raise RasterError(f"{path} holds bands of several types ({', '.join(types)}); convert them to one.")


def band_layout(dataset: Any) -> tuple[list[int], bool]:
    """Numbers (from 1) of the bands that are not alpha, and whether the only one is a palette."""
    keep = [i + 1 for i, kind in enumerate(dataset.colorinterp) if kind != ColorInterp.alpha]
    return keep, len(keep) == 1 and dataset.colorinterp[keep[0] - 1] == ColorInterp.palette


def band_names(dataset: Any) -> tuple[str, ...]:
    """Names of the bands that `read_dataset` gives."""
    keep, palette = band_layout(dataset)
    names = [dataset.descriptions[i - 1] for i in keep]
    count = 3 if palette else len(keep)
    return default_bands(count) if palette or not all(names) else tuple(str(n) for n in names)


def dataset_dtype(dataset: Any) -> np.dtype[Any]:
    """Of the pixels that `read_dataset` gives."""
    keep, palette = band_layout(dataset)
    return np.dtype("uint8" if palette else dataset.dtypes[keep[0] - 1])


def dataset_place(dataset: Any, path: Path | Remote) -> tuple[Affine, CRS | None] | None:
    """Affine and CRS of a dataset: what it says itself (PAM's .aux.xml included), else what lies beside a file.

    Raises:
        RasterError: If a file beside it is damaged.
    """
    crs = to_odc_crs(dataset.crs) if dataset.crs else None
    if dataset.driver not in _PLACELESS and dataset.transform != Affine.identity():
        return dataset.transform, crs or (read_crs(path) if isinstance(path, Path) else None)
    place = None if isinstance(path, Remote) else read_place(path, (dataset.height, dataset.width))
    return None if place is None else (place[0], place[1] or crs)


def read_dataset(dataset: Any, window: Window | None = None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Decode a dataset, or a window that lies inside it.

    Returns:
        Stored pixels (C, H, W) without alpha, palettes expanded to red, green and blue; and the mask (H, W).
    """
    keep, palette = band_layout(dataset)
    pixels = dataset.read(keep, window=window)
    mask = _read_mask(dataset, keep, window, pixels.shape[1:])
    if palette:
        pixels, opaque = _expand_palette(pixels[0], dataset.colormap(keep[0]))
        mask &= opaque
    if pixels.dtype.kind == "f":
        mask &= np.isfinite(pixels).all(axis=0)
    return pixels, mask


def _read_mask(dataset: Any, keep: list[int], window: Window | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask (H, W): True where every kept band holds data and no alpha band is 0.

    Red, green and blue of uint8 are one colour and not three measurements, so their nodata value means the colour that
    has it in all three: with nodata 0, black holds no data and pure red does.
    """
    mask = np.ones(shape, np.bool_)
    colour = np.zeros_like(mask)
    has_colour = False
    for band, kind in enumerate(dataset.colorinterp, start=1):
        if kind == ColorInterp.alpha:
            mask &= dataset.read(band, window=window) != 0
            continue
        if band not in keep or MaskFlags.all_valid in dataset.mask_flag_enums[band - 1]:
            valid = np.ones_like(mask)
        else:
            valid = dataset.read_masks(band, window=window) != 0
        if kind in _COLOURS and dataset.dtypes[band - 1] == "uint8":
            colour |= valid
            has_colour = True
        else:
            mask &= valid
    return mask & colour if has_colour else mask


def _expand_palette(
    index: NDArray[Any], colormap: dict[int, tuple[int, int, int, int]]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """RGB (3, H, W) and opacity (H, W) of palette indices (H, W)."""
    table = np.zeros((max(int(index.max(initial=0)), *colormap) + 1, 4), np.uint8)
    for key, colour in colormap.items():
        table[key] = colour
    rgba = table[index]
    return np.ascontiguousarray(rgba[..., :3].transpose(2, 0, 1)), rgba[..., 3] != 0
