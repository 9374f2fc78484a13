"""Checks of uploaded GeoTIFFs, before any other code reads them, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import rasterio

from terramorph.errors import RasterError, TerramorphError
from terramorph.raster.dataset import block_count, gdal_session, named_errors
from terramorph.raster.image import check_pixels
from terramorph.raster.image_source import ImageSource
from terramorph.raster.layout import ReadOptions

FOREIGN_PIXELS, FOREIGN_BLOCK, FOREIGN_BLOCKS = 2 * 10**9, 64 * 10**6, 500_000
"""Limits on pixels (height x width) of an uploaded image, on pixels of one block, and on blocks."""
_SECONDS, _BYTES = 10, 2 << 30
"""Limits on processor time in seconds and on address space in bytes."""
_PATIENCE = 120
"""Seconds until a check must have ended: of a busy machine, which gives a process little of its time."""
_REFUSED = 3
_PROBE = 16
_UNSPLIT = {"GDAL_ENABLE_TIFF_SPLIT": "NO"}
"""GDAL gives rows for blocks where an image is one strip, and decodes all above a row to reach it."""
_ELSEWHERE = ("OVERVIEWS", "GEOLOCATION")
"""Domains of metadata in which a TIFF names other files, at any address, for GDAL to open."""


def check_foreign(path: Path) -> None:
    """Refuse a GeoTIFF that could do harm: one that names other files, claims what it cannot hold, is truncated, or
    takes too much to open. On POSIX it is opened in a process with limits on time and, but on macOS, memory.

    Raises:
        RasterError: If it is refused.
    """
    if os.name != "posix":
        _check(path)
        return
    line = [sys.executable, "-c", f"from {__name__} import _main; _main()", str(path)]
    few = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each thread takes address space
    try:
        done = subprocess.run(line, env=os.environ | few, capture_output=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        done = None
    if done is not None and done.returncode == 0:
        return
    if done is not None and done.returncode == _REFUSED:
        raise RasterError(done.stdout.decode(errors="replace"))
    raise RasterError(
        f"{path} takes too much time or memory to open; convert it: gdal_translate -co TILED=YES {path.name} tiled.tif"
    )


def _main() -> None:
    """Check the file of this process: exit 0, or print a sentence and exit `_REFUSED`."""
    import resource

    bounds = {"CPU": _SECONDS, "FSIZE": 0, "CORE": 0}
    if sys.platform != "darwin":  # which refuses a bound on address space
        bounds["AS"] = _BYTES
    for what, most in bounds.items():
        number = getattr(resource, f"RLIMIT_{what}")
        hard = resource.getrlimit(number)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(number, (most, most))
    try:
        _check(Path(sys.argv[1]))
    except TerramorphError as error:
        sys.stdout.write(str(error))
        sys.exit(_REFUSED)


def _check(path: Path) -> None:
    with named_errors(path), gdal_session(_UNSPLIT), rasterio.open(path, driver="GTiff") as dataset:
        elsewhere = [domain for domain in _ELSEWHERE if dataset.tags(ns=domain)]
        if elsewhere:
            raise RasterError(f"{path} names other files ({elsewhere[0]}); save it as a GeoTIFF of its own pixels.")
        _check_size(path, dataset)
        _check_whole(path, dataset)
    with named_errors(path), ImageSource(path, options=ReadOptions(driver="GTiff")) as source:
        height, width = (min(side, _PROBE) for side in source.grid.shape)
        top, left = (source.grid.height - height) // 2, (source.grid.width - width) // 2
        source.read(source.grid.crop(top, left, height, width))


def _check_size(path: Path, dataset: Any) -> None:
    check_pixels(path, dataset.height, dataset.width, FOREIGN_PIXELS, "cut it into pieces")
    (rows, columns), count = dataset.block_shapes[0], block_count(dataset) * dataset.count
    if rows * columns > FOREIGN_BLOCK or count > FOREIGN_BLOCKS:
        raise RasterError(
            f"{path} is stored in {count:,} blocks of {rows} x {columns} pixels, which cannot be read in parts; "
            f"convert it: gdal_translate -co TILED=YES {path.name} tiled.tif"
        )


def _check_whole(path: Path, dataset: Any) -> None:
    """Refuse a file that ends before its pixels. Some blocks may be empty and not stored, but not all of them."""
    size, stored = path.stat().st_size, False
    rows, columns = dataset.block_shapes[0]
    bands = range(1, dataset.count + 1) if dataset.interleaving.value == "BAND" else (1,)
    for band in bands:
        for y in range(-(-dataset.height // rows)):
            for x in range(-(-dataset.width // columns)):
                start = dataset.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=band)
                length = dataset.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=band)
                stored |= start is not None
                if start is not None and int(start) + int(length or 0) > size:
                    raise RasterError(f"{path} is truncated: it ends before its pixels do; copy it again.")
    if not stored:
        raise RasterError(f"{path} claims {dataset.height} x {dataset.width} pixels and stores none; copy it again.")
