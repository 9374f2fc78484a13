"""Reading images: PNG, JPEG, BMP and WebP through PIL, TIFF and all the rest through GDAL.

Kinds are told by a file's first bytes, not by its name. EXIF is ignored: pixels stay in the order they are
stored, because a mask or a twin beside them is stored in the same order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError

from terramorph.errors import RasterError
from terramorph.geo.grid import Grid
from terramorph.raster.quiet import quiet
from terramorph.raster.raster import Raster, default_bands
from terramorph.raster.worldfile import read_place, to_odc_crs

IMAGE_SUFFIXES: frozenset[str] = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
"""File suffixes, in lower case, that folders are searched for."""

MAX_PIXELS = 1_500_000_000
"""Most pixels (height x width) that `read_image` takes into memory at once. PIL's own limit, 89 million, is
far under a legitimate mosaic (10^9); a small file that claims more than this is refused before it is
decoded."""

_COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_PIL_MODES = {
    "1": (1, "uint8"),
    "L": (1, "uint8"),
    "LA": (1, "uint8"),
    "I;16": (1, "uint16"),
    "I;16B": (1, "uint16"),
}


def read_image(path: str | Path) -> Raster:
    """Read a whole image into memory.

    Palettes are expanded to red, green, blue. Transparency (alpha 0), nodata, mask bands and non-finite
    values become False in the mask; alpha is never kept as a band. 1-bit images become uint8 0 and 255. The
    grid comes from the file itself, or from a world file (.jgw .pgw .tfw .wld ...) and a .prj beside it;
    otherwise it is a pixel grid.

    Args:
        path: PNG, JPEG, BMP, WebP, TIFF or anything else that GDAL reads.

    Returns:
        Pixels (C, H, W) in the dtype of the file (uint8, uint16, int16, float32 ...).

    Raises:
        RasterError: If the file is missing, empty, truncated, damaged, not an image, has more than
            `MAX_PIXELS` pixels, or has a damaged world file beside it.
    """
    path = Path(path)
    plugin = _pil_plugin(path)
    with _named_errors(path):
        if plugin is None:
            return _read_gdal(path)
        with plugin(path) as image:
            _check_size(path, image.height, image.width)
            pixels, mask = _decode_pil(image)
    place = read_place(path)
    height, width = mask.shape
    grid = Grid.pixels(height, width) if place is None else Grid(height, width, *place)
    return Raster.from_pixels(pixels, grid, mask)


def probe_image(path: str | Path) -> tuple[int, int, int, str]:
    """Size and kind of an image from its header, without decoding it.

    Args:
        path: As for `read_image`.

    Returns:
        (height, width, bands, dtype) as `read_image` would give them: without alpha, palettes expanded.

    Raises:
        RasterError: If the file is missing, empty or not an image. A file that is damaged further on passes.
    """
    path = Path(path)
    plugin = _pil_plugin(path)
    with _named_errors(path):
        if plugin is None:
            with _open_gdal(path) as dataset:
                keep, palette = _gdal_bands(dataset)
                bands = 3 if palette else len(keep)
                return dataset.height, dataset.width, bands, "uint8" if palette else dataset.dtypes[0]
        with plugin(path) as image:
            bands, dtype = _PIL_MODES.get(image.mode, (3, "uint8"))
            return image.height, image.width, bands, dtype


def _pil_plugin(path: Path) -> type[ImageFile] | None:
    """PIL's reader for a file, by its first bytes; None where GDAL should read it.

    The reader's class is called directly: `Image.open` would apply PIL's pixel limit, a global not ours to
    set.
    """
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except IsADirectoryError:
        raise RasterError(f"{path} is a folder, not an image; give the path of a file.") from None
    except FileNotFoundError:
        raise RasterError(f"{path} does not exist; check the path.") from None
    except OSError as error:
        raise RasterError(f"{path} cannot be opened ({error.strerror}); check its permissions.") from error
    if not head:
        raise RasterError(f"{path} is empty (0 bytes); copy it again or remove it.")
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        deep_colour = len(head) > 25 and head[24] == 16 and head[25] != 0
        return None if deep_colour else PngImageFile  # PIL would cut 16-bit colour down to 8
    if head.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if head.startswith(b"BM"):
        return BmpImageFile
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WebPImageFile
    return None


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
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
        raise RasterError(
            f"{path} cannot be read as an image, it is damaged, truncated or of an unknown kind ({error}); "
            "copy it again or remove it."
        ) from error


def _check_size(path: Path, height: int, width: int) -> None:
    """Refuse an image over `MAX_PIXELS`."""
    if height * width > MAX_PIXELS:
        raise RasterError(
            f"{path} claims {height} x {width} pixels, over the limit of {MAX_PIXELS:,} for one image; "
            "cut it into smaller pieces."
        )


def _decode_pil(image: ImageFile) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Pixels (C, H, W) and mask (H, W) of an opened PIL image."""
    image.load()
    decoded: Image.Image = image
    if image.mode in ("P", "PA"):
        decoded = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode == "1":
        decoded = image.convert("L")
    elif image.mode in ("L", "RGB") and "transparency" in image.info:
        decoded = image.convert("LA" if image.mode == "L" else "RGBA")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "I;16", "I;16B"):
        decoded = image.convert("RGB")  # CMYK, YCbCr, RGBX ...
    array = np.asarray(decoded)
    if decoded.mode == "I;16B":
        array = array.astype(np.uint16)
    if array.ndim == 2:
        return array[None].copy(), np.ones(array.shape, np.bool_)
    if decoded.mode in ("LA", "RGBA"):
        mask = array[..., -1] != 0
        array = array[..., :-1]
    else:
        mask = np.ones(array.shape[:2], np.bool_)
    return np.ascontiguousarray(array.transpose(2, 0, 1)), mask


@contextmanager
def _open_gdal(path: Path) -> Iterator[Any]:
    """Open a dataset with rasterio, two of its warnings silenced here only: a missing georeference is no fault, and
    `_gdal_mask` takes nodata and alpha together.

    World files are left to `read_place`: GDAL takes a damaged number in one for 0.
    """
    with quiet(), rasterio.Env(GDAL_GEOREF_SOURCES="PAM,INTERNAL,TABFILE"), rasterio.open(path) as dataset:
        if dataset.count == 0:
            raise RasterError(f"{path} holds no bands of its own; give one of the images inside it.")
        yield dataset


def _gdal_bands(dataset: Any) -> tuple[list[int], bool]:
    """Numbers (from 1) of the bands that are not alpha, and whether the only one is a palette."""
    keep = [i + 1 for i, kind in enumerate(dataset.colorinterp) if kind != ColorInterp.alpha]
    return keep, len(keep) == 1 and dataset.colorinterp[keep[0] - 1] == ColorInterp.palette


def _read_gdal(path: Path) -> Raster:
    """Read through rasterio."""
    with _open_gdal(path) as dataset:
        _check_size(path, dataset.height, dataset.width)
        keep, palette = _gdal_bands(dataset)
        if not keep:
            raise RasterError(f"{path} holds nothing but an alpha band; give an image with colours.")
        pixels = dataset.read(keep)
        mask = _gdal_mask(dataset, keep)
        if palette:
            pixels, opaque = _expand_palette(pixels[0], dataset.colormap(keep[0]))
            mask &= opaque
        names = [dataset.descriptions[i - 1] for i in keep]
        affine, crs = dataset.transform, to_odc_crs(dataset.crs) if dataset.crs else None
    if affine == Affine.identity():
        place = read_place(path)
        if place is not None:
            affine, crs = place[0], place[1] or crs
    if pixels.dtype.kind == "c":
        raise RasterError(f"{path} holds complex numbers; take their magnitude first.")
    if pixels.dtype.kind == "f":
        mask &= np.isfinite(pixels).all(axis=0)
    count, height, width = pixels.shape
    bands = default_bands(count) if palette or not all(names) else tuple(str(n) for n in names)
    return Raster(pixels, mask, Grid(height, width, affine, crs), bands)


def _gdal_mask(dataset: Any, keep: list[int]) -> NDArray[np.bool_]:
    """Mask (H, W): True where every kept band holds data and no alpha band is 0.

    Red, green and blue of uint8 are one colour and not three measurements, so their nodata value means the colour that
    has it in all three: with nodata 0, black holds no data and pure red does.
    """
    mask = np.ones((dataset.height, dataset.width), np.bool_)
    colour = np.zeros_like(mask)
    has_colour = False
    for band, kind in enumerate(dataset.colorinterp, start=1):
        if kind == ColorInterp.alpha:
            mask &= dataset.read(band) != 0
            continue
        if band not in keep or MaskFlags.all_valid in dataset.mask_flag_enums[band - 1]:
            valid = np.ones_like(mask)
        else:
            valid = dataset.read_masks(band) != 0
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
