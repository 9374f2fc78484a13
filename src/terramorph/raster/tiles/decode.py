"""From the bytes of one tile to its pixels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terramorph.errors import RasterError
from terramorph.raster.image import webp_shape

Tile = tuple[NDArray[np.uint8], NDArray[np.bool_] | None]
"""Pixels, uint8 (H, W, 3) RGB, and the mask, bool (H, W), True where opaque; None where all is."""

TILE_SIZES = (256, 512)
"""Sides of tiles, pixels."""

_KINDS = ("PNG", "JPEG", "WEBP")
_DEEP = ("I;16", "I;16B", "I", "F")


def is_picture(data: bytes) -> bool:
    """Whether a tile begins as PNG, JPEG or WebP do."""
    return data.startswith((b"\x89PNG", b"\xff\xd8\xff")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def decode_tile(data: bytes, where: str, size: int | None = None) -> Tile:
    """Decodes a PNG, JPEG or WebP tile. Grey and palettes become red, green, blue; alpha 0 becomes the mask.

    Args:
        data: the encoded tile.
        where: the archive and the tile's number, for messages.
        size: side in pixels that it must have; default: either of `TILE_SIZES`.

    Raises:
        RasterError: If it is damaged, no image of these kinds, of another size, or of more than 8 bits a band.
    """
    try:
        height, width = (data[8:12] == b"WEBP" and webp_shape(data)) or (0, 0)
        if max(height, width) > TILE_SIZES[-1]:  # its pixels, unlike others', are made room for as it is opened
            raise RasterError(f"{where} is {width} x {height} pixels; give tiles of one size, 256 or 512.")
        with Image.open(io.BytesIO(data), formats=_KINDS) as image:
            _check_shape(image, data, where, size)
            transparent = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
            decoded = np.asarray(image.convert("RGBA") if transparent else image.convert("RGB"))
    except RasterError:
        raise
    except Exception as error:  # decoders raise whatever they like at damaged bytes
        kind = "is empty" if not data else f"is damaged or no PNG, JPEG or WebP ({error})"
        raise RasterError(f"{where} {kind}; fetch this tile again or remove it.") from error
    if not transparent:
        return decoded, None
    mask = decoded[..., 3] != 0
    return np.ascontiguousarray(decoded[..., :3]), None if mask.all() else mask


def _check_shape(image: Any, data: bytes, where: str, size: int | None) -> None:
    """Refuses a tile by its header."""
    if image.mode in _DEEP or (image.format == "PNG" and data[24:25] == b"\x10"):
        raise RasterError(f"{where} has more than 8 bits a band; tiles of 8 bits are read: convert it.")
    if size is None and image.width == image.height and image.width in TILE_SIZES:
        return
    if image.size != (size, size):
        wanted = f"{size} x {size} as the others" if size else "256 x 256 or 512 x 512"
        raise RasterError(
            f"{where} is {image.width} x {image.height} pixels and not {wanted}; give tiles of one size, 256 or 512."
        )
