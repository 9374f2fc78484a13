"""What GDAL opens, and where it lies; `layout` says what of it is read."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from affine import Affine
from odc.geo.crs import CRS
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from terramorph.errors import RasterError
from terramorph.raster.crs import to_odc_crs
from terramorph.raster.quiet import quiet
from terramorph.raster.storage import Remote, sentence
from terramorph.raster.worldfile import read_crs, read_place, text_place

GDAL_OPTIONS = {
    # World files and .tab are left to `read_place`: GDAL takes a damaged number in one for 0. Its drivers of PNG, JPEG
    # and BMP read them all the same, which is why `dataset_place` does not ask those.
    "GDAL_GEOREF_SOURCES": "PAM,INTERNAL",
    # GDAL's way of decoding a whole PNG at once takes a truncated one for whole, and holds it in memory.
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    # Datum parameters of a file count though GDAL knows the datum's name.
    "OSR_STRIP_TOWGS84": "NO",
    "GDAL_CACHEMAX": 64 * 2**20,
}
"""GDAL's settings while we read. Its cache of decoded blocks, bytes, is one for the process and not one for each file;
left alone it would grow to a twentieth of the machine's memory."""

_DECODERS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    RasterioError,
    CPLE_BaseError,
    ProjError,
)
"""What PIL, GDAL and PROJ raise of a damaged file."""

_PLACELESS = frozenset({"PNG", "JPEG", "BMP", "GIF", "WEBP"})


@contextmanager
def named_errors(path: Path | Remote) -> Iterator[None]:
    """Turn whatever a decoder raises into a RasterError that names the file."""
    try:
        yield
    except RasterError:
        raise
    except MemoryError as error:
        raise RasterError(f"{path} does not fit into memory; cut it into smaller pieces.") from error
    except _DECODERS as error:
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
    only: a missing georeference is no fault, and `Layout.read` takes nodata and alpha together."""
    with quiet(), rasterio.Env(**GDAL_OPTIONS, **(options or {})):
        yield


@contextmanager
def open_dataset(path: Path) -> Iterator[Any]:
    """Open a dataset with rasterio."""
    with gdal_session(), rasterio.open(path) as dataset:
        yield dataset


def dataset_place(dataset: Any, path: Path | Remote) -> tuple[Affine, CRS | None] | None:
    """Affine and CRS of a dataset: what it says itself, what lies beside its file, or what the texts of a PNG say.

    Raises:
        RasterError: If a file beside it is damaged.
    """
    crs = to_odc_crs(dataset.crs) if dataset.crs else None
    if dataset.driver not in _PLACELESS and dataset.transform != Affine.identity():
        return dataset.transform, crs or (read_crs(path) if isinstance(path, Path) else None)
    place = None if isinstance(path, Remote) else read_place(path, (dataset.height, dataset.width))
    if place is None and dataset.driver == "PNG":
        place = text_place(path, dataset.tags())
    return None if place is None else (place[0], place[1] or crs)
