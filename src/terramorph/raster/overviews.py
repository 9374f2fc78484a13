"""Overviews: the smaller copies of itself that an image may carry, from which it is read where pixels become larger."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from terramorph.bands import default_bands
from terramorph.geo.grid import Grid
from terramorph.raster.dataset import named_errors
from terramorph.raster.handles import Handles
from terramorph.raster.layout import Layout
from terramorph.raster.raster import Raster
from terramorph.raster.storage import Remote
from terramorph.raster.warp import footprint, reached, warp

Read = Callable[[int, int, int, int], tuple[NDArray[Any], NDArray[np.bool_]]]
"""Stored pixels (C, h, w) and mask (h, w) of a window (y, x, height, width) that lies inside."""

LEFT = 1.98
"""By how much an overview is reduced further at least: the filter is then wide enough that what made the overview
hardly shows. It is under 2, so that windows of a grid of a factor of 4 or 8 are all read from the same overview."""
_PLACES, _SIDE = 3, 32
"""Places along each side where an overview is looked at, and their size, pixels."""
_ALIKE = 0.25
"""Share of the variance of chosen pixels about their means by which an overview may miss these means."""


class Level(NamedTuple):
    """An image, or an overview of it.

    Attributes:
        grid: of its pixels.
        read: gives them.
    """

    grid: Grid
    read: Read


class Overviews:
    """The overviews of one image.

    Many files have overviews of every second pixel, gdaladdo's default, from which thin lines are missing and edges are
    steps. So the first overview is compared with the image in a few places, and if it does not hold means, none is
    used. What is compared is a few blocks, once, when the first reduced pixels are asked for.

    Args:
        path: of the image.
        full: the image itself.
        count: how many it has; GDAL counts them from the finest.
        layout: what of each is read.
        driver: see `ReadOptions`.

    Raises:
        RasterError: If one cannot be read.
    """

    def __init__(self, path: Path | Remote, full: Level, count: int, layout: Layout, driver: str | None) -> None:
        self._full = full
        self._handles = [Handles(path, single=False, overview=number, driver=driver) for number in range(count)]
        levels = [_opened(path, full.grid, handles, layout) for handles in self._handles]
        self._levels = levels if levels and _holds_means(full, levels[0]) else []

    def pick(self, step: float) -> Level:
        """The coarsest level that is still reduced by `LEFT`.

        Args:
            step: pixels of the image to one that is asked for, along the axis where they are fewer.
        """
        chosen = self._full
        for level in self._levels:
            if max(self._full.grid.width / level.grid.width, self._full.grid.height / level.grid.height) * LEFT <= step:
                chosen = level
        return chosen

    def close(self) -> None:
        """Closes files."""
        for handles in self._handles:
            handles.close()


def _opened(path: Path | Remote, own: Grid, handles: Handles, layout: Layout) -> Level:
    """An overview of an image on a grid."""
    with named_errors(path), handles.lend() as dataset:
        height, width = int(dataset.height), int(dataset.width)
    scale = Affine.scale(own.width / width, own.height / height)
    return Level(Grid(height, width, own.affine @ scale, own.crs), partial(_read, path, handles, layout))


def _read(
    path: Path | Remote, handles: Handles, layout: Layout, y: int, x: int, height: int, width: int
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A window of an overview."""
    with named_errors(path), handles.lend() as dataset:
        return layout.read(dataset, Window(x, y, width, height))


def _holds_means(full: Level, overview: Level) -> bool:
    """Whether an overview is nearer to means of the image's pixels than some of these pixels are."""
    off = spread = 0.0
    high, wide = min(_SIDE, overview.grid.height), min(_SIDE, overview.grid.width)
    for down in range(_PLACES):
        for right in range(_PLACES):
            y = (overview.grid.height - high) * (2 * down + 1) // (2 * _PLACES)
            x = (overview.grid.width - wide) * (2 * right + 1) // (2 * _PLACES)
            stored, real = overview.read(y, x, high, wide)
            means, chosen, known = _both_ways(full, overview.grid.crop(y, x, high, wide))
            known &= real
            off += float(np.square(stored - means)[:, known].sum())
            spread += float(np.square(chosen - means)[:, known].sum())
    return off <= _ALIKE * spread


def _both_ways(full: Level, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """An image on a grid: means, and chosen pixels, (C, h, w); and where there are both, (h, w)."""
    place = footprint(full.grid, grid)
    assert place is not None
    window = reached(place, full.grid)
    assert window is not None
    pixels, mask = full.read(*window)
    raster = Raster(pixels, mask, full.grid.crop(*window), default_bands(len(pixels)))
    means, chosen = warp(raster, grid), warp(raster, grid, "nearest")
    return means.pixels.astype(np.float64), chosen.pixels.astype(np.float64), means.mask & chosen.mask
