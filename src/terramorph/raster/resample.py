"""Resizing pixels on the same ground."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

Resampling = Literal["bicubic", "bilinear", "nearest"]
_PIL = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


def resize_pixels(pixels: np.ndarray, height: int, width: int, method: Resampling = "bicubic") -> np.ndarray:
    """Resizes as PIL does (anti-aliased when shrinking), which is what the published protocols use.

    Args:
        pixels: (C, H, W), any dtype.
        height, width: of the result, pixels.
        method: the filter. Bicubic overshoot is clipped to the dtype's range for integers.

    Returns:
        (C, height, width) of the same dtype; the argument itself if it already has that size.
    """
    if pixels.shape[1:] == (height, width):
        return pixels
    size, resample = (width, height), _PIL[method]
    if pixels.dtype == np.uint8 and pixels.shape[0] == 3:
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        return np.ascontiguousarray(np.asarray(image.resize(size, resample)).transpose(2, 0, 1))
    if pixels.dtype == np.uint8:
        return np.stack([np.asarray(Image.fromarray(band).resize(size, resample)) for band in pixels])
    bands = [np.asarray(Image.fromarray(band.astype(np.float32)).resize(size, resample)) for band in pixels]
    resized = np.stack(bands)
    if np.issubdtype(pixels.dtype, np.integer):
        limits = np.iinfo(pixels.dtype)
        resized = np.clip(np.rint(resized), limits.min, limits.max)
    return resized.astype(pixels.dtype)
