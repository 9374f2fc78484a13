"""Encoding of tiles for browsers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from terramorph.raster import Raster
from terramorph.raster.save import image_of

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    # Level 1 takes a third of the time of level 6, and files of photographs are no larger.
    "png": ("image/png", {"format": "PNG", "compress_level": 1}),
    "webp": ("image/webp", {"format": "WEBP", "quality": 90, "method": 2}),
    "jpg": ("image/jpeg", {"format": "JPEG", "quality": 90, "subsampling": 0}),
}
"""Media type and settings by suffix. PNG is lossless; JPEG has no opacity and shows white instead."""


def encode(raster: Raster, format: str) -> bytes:
    """Encode a tile.

    Args:
        raster: uint8 (1, 3 or 4 bands, H, W); a fourth band is opacity. Masked pixels are transparent.
        format: A key of `FORMATS`.
    """
    opacity = raster.pixels[3] if raster.count == 4 else np.full(raster.mask.shape, 255, np.uint8)
    opacity = np.where(raster.mask, opacity, 0).astype(np.uint8)
    bands = raster.pixels[:3] if raster.count >= 3 else raster.pixels[:1]
    if (opacity == 255).all():
        image = image_of(bands)
    elif format == "jpg":
        share = opacity.astype(np.float32)[None] / 255
        image = image_of(np.rint(bands * share + 255 * (1 - share)).astype(np.uint8))
    else:
        image = image_of(np.concatenate([np.where(raster.mask, bands, 0), opacity[None]]))
    stream = io.BytesIO()
    image.save(stream, **FORMATS[format][1])
    return stream.getvalue()
