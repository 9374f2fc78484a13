"""Pixels on the same ground: resized, and turned upright by EXIF orientations, 1 to 8.

An orientation says how stored pixels lie to upright ones. 1: as stored; 2: mirrored left to right; 3: turned by 180
degrees; 4: mirrored top to bottom; 5: transposed; 6: to be turned clockwise; 7: transposed and turned by 180 degrees;
8: to be turned anticlockwise. From 5 on, height and width change places.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

from terramorph.geo.grid import Grid

Resampling = Literal["bicubic", "bilinear", "nearest"]
_PIL = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
MIN_WEIGHT = 0.99
"""Share of real pixels, by the filter's weights, above which a resized pixel is real."""
_STEPS = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
"""Steps by orientation: stored column and row per column, then per row, of the upright image, as (column by column,
column by row, row by column, row by row)."""
INVERSE = {6: 8, 8: 6}
"""Orientations that undo others; all that are not listed undo themselves."""
_Value = TypeVar("_Value", bound=np.generic)


def resize_pixels(pixels: np.ndarray, height: int, width: int, method: Resampling = "bicubic") -> np.ndarray:
    """Resize as PIL does (anti-aliased when shrinking), which is what the published protocols use.

    Args:
        pixels: (C, H, W), any dtype; all but uint8 go through float32, which holds whole numbers to 2**24.
        height, width: Size of the result, pixels.
        method: The filter. Bicubic overshoot is clipped to the dtype's range for integers.

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
    return rounded(np.stack(bands), pixels.dtype)


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Convert floating values to a dtype: integers are rounded, and clipped to the dtype's range."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        # A float32 may lie beyond the highest integer of 32 bits, as what it is clipped to.
        exact = np.rint(values, dtype=np.float64 if limits.bits > 16 else values.dtype)
        values = np.clip(exact, limits.min, limits.max)
    return values.astype(dtype)


def centred(pixels: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the centre of pixels (C, H, W) and their mask (H, W): size x size; what has a smaller side is resized."""
    height, width = mask.shape
    if min(height, width) < size:
        return resize_masked(pixels, mask, size, size)
    y, x = (height - size) // 2, (width - size) // 2
    return pixels[:, y : y + size, x : x + size], mask[y : y + size, x : x + size]


def resize_masked(
    pixels: np.ndarray, mask: np.ndarray, height: int, width: int, method: Resampling = "bicubic"
) -> tuple[np.ndarray, np.ndarray]:
    """Resize pixels with a mask, so that masked values do not reach the others.

    Normalised convolution (Knutsson and Westin 1993, doi:10.1109/CVPR.1993.341081): the filter sums over real pixels
    only, and is divided by the sum of its weights there.

    Args:
        pixels: (C, H, W), any dtype; finite where the mask is True, anything elsewhere.
        mask: bool (H, W), True where the pixel holds data.
        height, width: Size of the result, pixels.

    Returns:
        (C, height, width) of the same dtype, and its mask, bool (height, width), True where more than `MIN_WEIGHT` of
        the filter's weights fall on real pixels. Elsewhere each band holds the mean of its real pixels (0 if there are
        none). With a mask that is True throughout, just what `resize_pixels` gives.
    """
    if mask.all():
        return resize_pixels(pixels, height, width, method), np.ones((height, width), np.bool_)
    means = pixels[:, mask].mean(axis=1, dtype=np.float64) if mask.any() else np.zeros(len(pixels))
    if np.issubdtype(pixels.dtype, np.integer):
        means = np.rint(means)
    fill = means.astype(pixels.dtype)[:, None, None]
    filled = np.where(mask, pixels, fill)
    if method == "nearest" or mask.shape == (height, width):
        resized_mask = resize_pixels(mask[None].astype(np.uint8), height, width, "nearest")[0] > 0
        return np.where(resized_mask, resize_pixels(filled, height, width, method), fill), resized_mask
    weight = resize_pixels(mask[None].astype(np.float32), height, width, method)
    resized_mask = weight[0] > MIN_WEIGHT
    # About the mean, so that what is masked adds 0 to the sum, and a constant stays exactly itself.
    deviation = resize_pixels((filled - means[:, None, None]).astype(np.float32), height, width, method)
    values = means[:, None, None] + deviation / np.where(resized_mask, weight, 1.0)
    return np.where(resized_mask, rounded(values, pixels.dtype), fill), resized_mask


def upright_shape(shape: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return (height, width) of an upright image from that of the stored one, and back."""
    return shape if orientation < 5 else (shape[1], shape[0])


def upright(array: NDArray[_Value], orientation: int) -> NDArray[_Value]:
    """Turn an array (..., H, W) upright."""
    if orientation >= 5:
        array = np.swapaxes(array, -1, -2)
    if orientation in (2, 3, 6, 7):
        array = array[..., ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[..., ::-1, :]
    return np.ascontiguousarray(array)


def upright_grid(grid: Grid, orientation: int) -> Grid:
    """Return the grid of an array once it is `upright`."""
    a, b, d, e = _STEPS[orientation]
    x, y = (grid.width if a + b < 0 else 0), (grid.height if d + e < 0 else 0)
    height, width = upright_shape(grid.shape, orientation)
    return Grid(height, width, grid.affine @ Affine(a, b, x, d, e, y), grid.crs)


def north_up(grid: Grid) -> Grid:
    """Return the grid of the same pixels with north up and east right; unchanged where its rows run askew."""
    return next((g for g in (upright_grid(grid, k) for k in _STEPS) if _is_north_up(g.affine)), grid)


def orientation_between(own: Grid, grid: Grid) -> int:
    """Return the EXIF orientation of ``own``'s pixels as seen from a grid of the same pixel size; 1 if unknown."""
    step = ~own.affine @ grid.affine
    found = (step.a, step.b, step.d, step.e)
    return next((k for k, of in _STEPS.items() if np.allclose(found, of, atol=1e-6)), 1)


def _is_north_up(affine: Affine) -> bool:
    """Return whether columns run east and rows south, to a ten-thousandth of a pixel."""
    straight = abs(affine.d) < 1e-4 * abs(affine.a) and abs(affine.b) < 1e-4 * abs(affine.e)
    return bool(straight and affine.a > 0 > affine.e)
