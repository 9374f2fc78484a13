"""The noise image of a generator, fixed in ground coordinates: the same ground has the same noise in any window."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from terramorph.geo import Grid

BANDS_A_HASH = 4
# Origins of grids lie at fractions of a pixel such as 0, 1/2 or 1/3. None of them rounds near this one, so that windows
# of one raster agree, although their origins differ in the last bits.
_ROUNDING = 0.3819660112501051


def ground_noise(grid: Grid, bands: int, seed: int = 0) -> NDArray[np.float32]:
    """Return normal noise that depends on ground cell, band and seed alone.

    A cell is a pixel of the lattice on which the grid lies, numbered from the origin of the CRS. The noise of a window
    is therefore the window of the noise, whatever the windows and their order. Hash: pcg4d (Jarzynski & Olano 2020,
    "Hash Functions for GPU Rendering", JCGT 9(3)), made normal by Box & Muller (1958).

    Args:
        grid: Grid of the pixels, with or without a CRS.
        bands: Number of bands.
        seed: Seed; another one gives independent noise.

    Returns:
        float32 (bands, H, W), mean 0, standard deviation 1, absolute values under 5.8.
    """
    column, row = ~grid.affine @ (0.0, 0.0)
    columns = np.arange(grid.width, dtype=np.int64) - math.floor(column + _ROUNDING)
    rows = np.arange(grid.height, dtype=np.int64) - math.floor(row + _ROUNDING)
    out = np.empty((-(-bands // BANDS_A_HASH) * BANDS_A_HASH, grid.height, grid.width), np.float32)
    for first in range(0, bands, BANDS_A_HASH):
        # Four hashed words a cell are two pairs of uniform values, and so four normal ones.
        words = _pcg4d(columns[None, :], rows[:, None], first // BANDS_A_HASH, seed)
        for pair in (0, 2):
            radius = np.sqrt(np.float32(-2) * np.log(_uniform(words[pair])))
            angle = np.float32(2 * math.pi) * _uniform(words[pair + 1])
            np.multiply(radius, np.cos(angle), out=out[first + pair])
            np.multiply(radius, np.sin(angle), out=out[first + pair + 1])
    return out[:bands]


def _pcg4d(x: NDArray[np.int64], y: NDArray[np.int64], z: int, w: int) -> list[NDArray[np.uint32]]:
    """Return four uint32 words (H, W), hashed from columns (1, W), rows (H, 1), a group of bands and a seed."""
    shape = (y.shape[0], x.shape[1])
    v = [np.broadcast_to(np.asarray(part).astype(np.uint32), shape) * np.uint32(1664525) for part in (x, y)]
    v += [np.full(shape, part & 0xFFFFFFFF, np.uint32) * np.uint32(1664525) for part in (z, w)]
    for part in v:
        part += np.uint32(1013904223)
    _stir(v)
    for part in v:
        part ^= part >> np.uint32(16)
    _stir(v)
    return v


def _stir(v: list[NDArray[np.uint32]]) -> None:
    for into, a, b in ((0, 1, 3), (1, 2, 0), (2, 0, 1), (3, 1, 2)):
        v[into] += v[a] * v[b]


def _uniform(word: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Return values in (0, 1), exact in float32."""
    return ((word >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
