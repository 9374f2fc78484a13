"""Reading whole images: PNG, JPEG, BMP and WebP through PIL, everything else through GDAL.

The kind is recognised from a file's first bytes, not its name. An image without a georeference is turned upright by its
EXIF orientation; a georeferenced one keeps its pixel order.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from terramorph.errors import RasterError, unreadable
from terramorph.geo.grid import Grid
from terramorph.raster.dataset import check_blocks, dataset_place, named_errors, open_dataset
from terramorph.raster.layout import ReadOptions, layout_of, picked
from terramorph.raster.packed import is_packed, named_as, unpacked
from terramorph.raster.raster import Raster
from terramorph.raster.resample import upright, upright_shape
from terramorph.raster.virtual import VrtFiles
from terramorph.raster.worldfile import read_place, text_place

IMAGE_SUFFIXES: frozenset[str] = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
"""File suffixes, in lower case, that folders are searched for."""

MAX_PIXELS = 1_500_000_000
"""Limit on pixels (height x width) that `read_image` reads. PIL's own limit, 89 million, is far under a real mosaic
(10^9). A small file that claims more is refused before it is decoded."""

MAX_WEBP = 2**27
"""Limit on pixels of a WebP: PIL allocates them (4 bytes each) when it opens the file."""

_LITTER = frozenset({"@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "__MACOSX", "System Volume Information"})
_CUT = "cut it into smaller pieces"
_ORIENTATION = 0x112
"""EXIF's tag."""
_PIL_MODES = {
    "1": (1, "uint8"),
    "L": (1, "uint8"),
    "LA": (1, "uint8"),
    "I;16": (1, "uint16"),
    "I;16B": (1, "uint16"),
}


def files_below(folder: Path) -> list[Path]:
    """List the files of a folder and its sub-folders, sorted by name, a folder's own files first.

    Hidden ones are left out, and what network drives and recycle bins keep beside them; so are pipes and devices.
    Folders that are links are followed, each once.

    Raises:
        OSError: If a folder cannot be listed.
    """
    found: list[Path] = []
    seen: set[Path] = set()
    ahead = [folder]
    while ahead:
        here = ahead.pop()
        if (real := here.resolve()) in seen:
            continue
        seen.add(real)
        with os.scandir(here) as listed:
            shown = (entry for entry in listed if entry.name[0] != "." and entry.name not in _LITTER)
            entries = sorted(shown, key=lambda entry: entry.name)
        found += [
            here / entry.name for entry in entries if entry.is_file() or (entry.is_symlink() and not entry.is_dir())
        ]
        ahead += [here / entry.name for entry in reversed(entries) if entry.is_dir()]
    return found


def read_image(path: str | Path, options: ReadOptions | None = None) -> Raster:
    """Read a whole image into memory.

    Palettes are expanded to red, green, blue. Transparency (alpha 0), mask bands, and nodata and non-finite values
    in every band become False in the mask (`values.settle`); alpha is never kept as a band. 1-bit images become uint8
    0 and 255. The grid comes from the file itself, or from the files beside it (`worldfile` says which); otherwise it
    is a pixel grid.

    Args:
        path: PNG, JPEG, BMP, WebP, TIFF or anything else that GDAL reads, or one inside another file (`packed`).
        options: Bands and nodata, where the file does not say it.

    Returns:
        Pixels (C, H, W) in the dtype of the file (uint8, uint16, int16, float32 ...).

    Raises:
        RasterError: If the file is missing, empty, truncated, damaged, not an image, has more than
            `MAX_PIXELS` pixels, or has a damaged world file beside it.
    """
    if is_packed(path):
        with unpacked(path) as (inner, name, _), named_as(name, inner):
            return read_image(inner, options)
    path, options = Path(path), options or ReadOptions()
    plugin = pil_plugin(path)
    with named_errors(path):
        if plugin is None:
            return _read_gdal(path, options)
        with plugin(path) as image:
            check_pixels(path, image.height, image.width, MAX_PIXELS, _CUT)
            indexed = image.mode == "P"  # whose nodata is an index, as GDAL has it
            pixels, mask = _decode_pil(image, options.nodata if indexed else None)
            texts = image.info
    if indexed:
        options = replace(options, nodata=None)
    pixels, mask, bands = picked(pixels, mask, path, options)
    place = read_place(path, mask.shape) or text_place(path, texts)
    return _placed(Raster.from_pixels(pixels, mask=mask, bands=bands), path, place)


def from_pil(image: Image.Image) -> Raster:
    """Return an image that PIL holds as `read_image` returns a file: palettes expanded, alpha as mask, upright."""
    pixels, mask = _decode_pil(ImageOps.exif_transpose(image))
    return Raster.from_pixels(pixels, mask=mask)


def probe_image(path: str | Path) -> tuple[int, int, int, str]:
    """Read size, bands and dtype of an image from its header, without decoding pixels.

    Args:
        path: As for `read_image`.

    Returns:
        (height, width, bands, dtype) as `read_image` would give them: without alpha, palettes expanded.

    Raises:
        RasterError: If the file is missing, empty or not an image. A file that is damaged further on passes.
    """
    if is_packed(path):
        with unpacked(path) as (inner, name, _), named_as(name, inner):
            return probe_image(inner)
    path = Path(path)
    plugin = pil_plugin(path)
    with named_errors(path):
        if plugin is None:
            with open_dataset(path) as dataset:
                layout = layout_of(dataset, path, ReadOptions())
                shape, bands, dtype = (dataset.height, dataset.width), len(layout.names), layout.dtype.name
                orientation = exif_orientation(path)
                if orientation != 1 and (dataset_place(dataset, path) or dataset.gcps[0] or dataset.rpcs):
                    orientation = 1
        else:
            with plugin(path) as image:
                shape, (bands, dtype) = (image.height, image.width), _PIL_MODES.get(image.mode, (3, "uint8"))
                texts = image.info
            orientation = exif_orientation(path)
            if orientation != 1 and (read_place(path, shape) or text_place(path, texts)):
                orientation = 1
    return *upright_shape(shape, orientation), bands, dtype


def pil_plugin(path: Path) -> type[ImageFile] | None:
    """Return PIL's reader for a file, chosen by the file's first bytes; None where GDAL reads it.

    The reader's class is called directly: `Image.open` would apply PIL's pixel limit, a global not ours to
    set.
    """
    if path.is_dir():
        raise RasterError(f"{path} is a folder, not an image; give the path of a file.")
    if not path.exists():
        raise RasterError(f"{path} does not exist; check the path.")
    if not path.is_file():
        raise RasterError(f"{path} is a pipe or a device, and an image is read in any order; write it to a file first.")
    with unreadable(path), path.open("rb") as file:
        head = file.read(32)
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
        height, width = webp_shape(head) or (0, 0)
        check_pixels(path, height, width, MAX_WEBP, "a WebP is decoded whole: store it as a GeoTIFF in blocks")
        return WebPImageFile
    return None


def exif_orientation(path: Path) -> int:
    """Read the EXIF orientation (1 to 8) of a JPEG, PNG, WebP or TIFF; 1 where there is none."""
    try:
        with path.open("rb") as file:
            is_png = file.read(4) == b"\x89PNG"
        if is_png:
            found = _of_png(path)
        else:
            with (pil_plugin(path) or TiffImageFile)(path) as image:
                found = image.getexif().get(_ORIENTATION)
    except Exception:  # EXIF is written by anyone; PIL raises whatever its parts do
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _of_png(path: Path) -> int | None:
    """Read the orientation of a PNG's eXIf chunk. It may follow the pixels, which PIL would decode on the way."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"eXIf":
                exif = Image.Exif()
                exif.load(file.read(min(length, 2**20)))
                found: int | None = exif.get(_ORIENTATION)
                return found
            file.seek(length + 4, 1)
    return None


def webp_shape(head: bytes) -> tuple[int, int] | None:
    """Read (height, width) from the first 30 bytes of a WebP; None where they hold no size."""
    if head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = ((bits >> shift & 0x3FFF) + 1 for shift in (0, 14))
    elif head[12:16] == b"VP8 ":
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        return None
    return height, width


def check_pixels(path: Path, height: int, width: int, most: int, advice: str) -> None:
    """Refuse an image of too many pixels, before it is decoded."""
    if height * width > most:
        raise RasterError(f"{path} claims {height} x {width} pixels, over the limit of {most:,}; {advice}.")


def _decode_pil(image: Image.Image, nodata: float | None = None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Decode an opened PIL image: pixels (C, H, W) and mask (H, W), False where stored values are nodata."""
    image.load()
    if image.mode in ("1", "I;16"):  # of which PIL makes no alpha
        nodata = image.info.get("transparency", nodata)
    mask: NDArray[np.bool_] = np.ones((image.height, image.width), np.bool_)
    if nodata is not None:
        mask = np.asarray(image) != nodata
    decoded = image
    if image.mode in ("P", "PA"):
        decoded = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode == "1":
        decoded = image.convert("L")
    elif image.mode in ("L", "RGB") and "transparency" in image.info:
        decoded = image.convert("LA" if image.mode == "L" else "RGBA")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "F"):
        decoded = image.convert("RGB")  # CMYK, YCbCr, RGBX ...
    array = np.asarray(decoded)
    if decoded.mode == "I;16B":
        array = array.astype(np.uint16)
    if array.ndim == 2:
        return array[None].copy(), mask
    if decoded.mode in ("LA", "RGBA"):
        mask = mask & (array[..., -1] != 0)
        array = array[..., :-1]
    return np.ascontiguousarray(array.transpose(2, 0, 1)), mask


def _read_gdal(path: Path, options: ReadOptions) -> Raster:
    with open_dataset(path) as dataset:
        check_pixels(path, dataset.height, dataset.width, MAX_PIXELS, _CUT)
        check_blocks(path, dataset)
        layout = layout_of(dataset, path, options)
        if dataset.driver == "VRT":
            VrtFiles(path).check(0, 0, dataset.width, dataset.height)
        pixels, mask = layout.read(dataset)
        place, otherwise = dataset_place(dataset, path), dataset.gcps[0] or dataset.rpcs
    raster = replace(Raster.from_pixels(pixels, mask=mask, bands=layout.names), units=layout.units)
    return raster if otherwise and place is None else _placed(raster, path, place)


def _placed(raster: Raster, path: Path, place: tuple[Affine, CRS | None] | None) -> Raster:
    """Return a raster on the grid of its file; upright on a pixel grid where the file has no georeference."""
    if place is not None:
        return replace(raster, grid=Grid(raster.height, raster.width, *place))
    orientation = exif_orientation(path)
    pixels, mask = upright(raster.pixels, orientation), upright(raster.mask, orientation)
    return replace(raster, pixels=pixels, mask=mask, grid=Grid.pixels(*mask.shape))
