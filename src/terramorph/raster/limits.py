"""What is refused before a pixel of it is decoded, because it would fill memory or time for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from terramorph.errors import RasterError
from terramorph.raster.image import MAX_PIXELS
from terramorph.raster.storage import Remote

MAX_RATIO = 300
"""Decoded bytes to one stored, above which an image of more than `MAX_PIXELS` pixels in one stream is taken for a bomb.
Photographs reach 20 and maps in flat colours 200; deflate reaches 1032."""
MAX_BLOCK = 2**28
"""Most bytes of one block, the least that can be decoded."""


def check_claims(path: Path | Remote, dataset: Any, sequential: bool) -> None:
    """Refuse an image that cannot be what it claims, or not be read in parts.

    Args:
        path: of the image.
        dataset: what GDAL made of it.
        sequential: whether it is decoded from the top.

    Raises:
        RasterError: If it is refused.
    """
    pixel = sum(np.dtype(name).itemsize for name in dataset.dtypes)
    if sequential:
        if isinstance(path, Remote):
            raise RasterError(
                f"{path} can only be decoded from the top; copy it here, or store it as a GeoTIFF in blocks."
            )
        claimed, stored = dataset.height * dataset.width * pixel, path.stat().st_size
        if dataset.height * dataset.width > MAX_PIXELS and claimed > MAX_RATIO * stored:
            raise RasterError(
                f"{path} claims {dataset.height} x {dataset.width} pixels in {stored:,} bytes, which no image worth "
                "reading does; cut it into smaller pieces if it is meant."
            )
    rows, columns = dataset.block_shapes[0]
    if rows * columns * pixel > MAX_BLOCK and dataset.driver != "VRT":
        raise RasterError(
            f"{path} is stored in blocks of {rows} x {columns} pixels, too large to be read in parts; convert it: "
            f"gdal_translate -co TILED=YES {path.name} tiled.tif"
        )
