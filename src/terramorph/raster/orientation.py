"""EXIF orientations, 1 to 8, of arrays, windows and grids.

An orientation says how stored pixels lie to upright ones. 1: as stored; 2: mirrored left to right; 3: turned by 180
degrees; 4: mirrored top to bottom; 5: transposed; 6: to be turned clockwise; 7: transposed and turned by 180 degrees;
8: to be turned anticlockwise. From 5 on, height and width change places.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from terramorph.geo.grid import Grid

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
