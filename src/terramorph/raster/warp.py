"""Warping: pixels moved to another grid, in any CRS; masked pixels do not reach the others."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from rasterio.enums import Resampling as GdalResampling
from rasterio.warp import reproject

from terramorph.errors import RasterError, raised_as
from terramorph.geo.crs import crs_name, nearest, period, transformer
from terramorph.geo.grid import Grid
from terramorph.raster.quiet import quiet
from terramorph.raster.raster import Raster
from terramorph.raster.resample import MIN_WEIGHT, Resampling, orientation_between, rounded, upright, upright_grid

GDAL_RESAMPLING = {
    "bicubic": GdalResampling.cubic,
    "bilinear": GdalResampling.bilinear,
    "nearest": GdalResampling.nearest,
}
MAX_SHRINK = 400
"""Limit on pixels of the source along one pixel of a requested grid."""
_RADIUS = {"bicubic": 2, "bilinear": 1, "nearest": 1}
_WHOLE = 1e-3
"""Pixels by which a window may miss whole pixels and still be one."""
_LATTICE = 21
"""Points a side at which a grid's place in another CRS is measured."""


class Footprint(NamedTuple):
    """Box and pixel size of a grid on another grid, in the other's pixels.

    Attributes:
        left, top, right, bottom: The box around it; 0 is the outer corner of the first pixel.
        step_x, step_y: Pixels of the other grid to one pixel of this, along the other's axes, in the middle.
    """

    left: float
    top: float
    right: float
    bottom: float
    step_x: float
    step_y: float


def window_offset(own: Grid, grid: Grid) -> tuple[int, int] | None:
    """Return (y, x) of the first pixel of ``grid`` on ``own`` if it is a window of it, else None.

    A window has the same CRS and pixel size and is offset by whole pixels to within 0.001. It may reach outside.
    """
    if own.crs != grid.crs:
        return None
    to_own = ~own.affine @ turned_to(grid, own).affine
    x, y = to_own @ (0, 0)
    if not (math.isfinite(x) and math.isfinite(y)):
        return None
    column, row = round(x), round(y)
    for right, down in ((0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height)):
        at_x, at_y = to_own @ (right, down)
        if abs(at_x - column - right) > _WHOLE or abs(at_y - row - down) > _WHOLE:
            return None
    return row, column


def turned_to(grid: Grid, own: Grid) -> Grid:
    """Move a grid by whole turns around the Earth to the turn of another grid of its CRS."""
    turn = period(grid.crs)
    if turn is None:
        return grid
    off = turn * round((own.centre[0] - grid.centre[0]) / turn)
    return grid if off == 0 else replace(grid, affine=Affine.translation(off, 0) @ grid.affine)


def footprint(own: Grid, grid: Grid) -> Footprint | None:
    """Compute the footprint of ``grid`` on ``own``, to a few thousandths; None where no point of it has a place there.

    A grid across 180 degrees has one place, which may reach beyond the end of ``own``.

    Raises:
        RasterError: If one of them has a CRS and the other has none.
    """
    if (own.crs is None) != (grid.crs is None):
        raise RasterError("Of two grids one has a CRS and the other has none; give the CRS of both.")
    columns = np.linspace(0, grid.width, _LATTICE)
    rows = np.linspace(0, grid.height, _LATTICE)
    x, y = _transform(own, grid, *np.meshgrid(columns, rows))
    seen = np.isfinite(x) & np.isfinite(y)
    if not seen.any():
        return None
    middle = grid.width / 2 + np.array([-0.5, 0.5, 0, 0]), grid.height / 2 + np.array([0, 0, -0.5, 0.5])
    at_x, at_y = _transform(own, grid, *middle)
    step_x = math.hypot(at_x[1] - at_x[0], at_x[3] - at_x[2])
    step_y = math.hypot(at_y[1] - at_y[0], at_y[3] - at_y[2])
    if not (math.isfinite(step_x) and math.isfinite(step_y)):
        step_x, step_y = np.ptp(x[seen]) / grid.width, np.ptp(y[seen]) / grid.height
    return Footprint(
        float(x[seen].min()), float(y[seen].min()), float(x[seen].max()), float(y[seen].max()), step_x, step_y
    )


def kernel_reach(place: Footprint, method: Resampling = "bicubic") -> int:
    """Return how many source pixels beyond a footprint the warp reads."""
    return math.ceil(_RADIUS[method] * max(place.step_x, place.step_y, 1.0)) + 2


def reached(place: Footprint, own: Grid, method: Resampling = "bicubic") -> tuple[int, int, int, int] | None:
    """Return the window (y, x, height, width) that warping to a footprint reads; None where it misses the grid."""
    around = kernel_reach(place, method) + 1
    top, left = math.floor(place.top) - around, math.floor(place.left) - around
    return _inside(own, top, left, math.ceil(place.bottom) + around, math.ceil(place.right) + around)


def needed(own: Grid, grid: Grid, method: Resampling = "bicubic") -> tuple[int, int, int, int] | None:
    """Return the window (y, x, height, width) of ``own`` on which the pixels of ``grid`` depend; None where they miss
    it."""
    offset = window_offset(own, grid)
    if offset is not None:
        return _inside(own, *offset, offset[0] + grid.height, offset[1] + grid.width)
    place = footprint(own, grid)
    return None if place is None else reached(place, own, method)


def _inside(own: Grid, top: int, left: int, bottom: int, right: int) -> tuple[int, int, int, int] | None:
    """Clip a window to a grid: (y, x, height, width); None where it lies outside."""
    top, left, bottom, right = max(top, 0), max(left, 0), min(bottom, own.height), min(right, own.width)
    return (top, left, bottom - top, right - left) if bottom > top and right > left else None


def stored_on(own: Grid, grid: Grid) -> int | None:
    """Return the EXIF orientation in which ``own``'s pixels are those of ``grid``; None where they must be warped."""
    for orientation in dict.fromkeys((1, orientation_between(own, grid))):
        if window_offset(upright_grid(own, orientation), grid) is not None:
            return orientation
    return None


def placed(raster: Raster, grid: Grid, method: Resampling = "bicubic", least: float = MIN_WEIGHT) -> Raster:
    """Put a raster on a grid: stored pixels where they fit it, mirrored or turned if need be, else warped ones."""
    orientation = stored_on(raster.grid, grid)
    if orientation is None:
        return warp(raster, grid, method, least)
    own, pixels, mask = upright_grid(raster.grid, orientation), raster.pixels, raster.mask
    if orientation != 1:
        pixels, mask = upright(pixels, orientation), upright(mask, orientation)
    y, x = window_offset(own, grid) or (0, 0)
    if (y, x, *mask.shape) == (0, 0, *grid.shape):
        return Raster(pixels, mask, grid, raster.bands, raster.units)
    found = Raster.empty(grid, raster.bands, raster.dtype, raster.units)
    window = _inside(own, y, x, y + grid.height, x + grid.width)
    if window is not None:
        top, left, height, width = window
        to = np.s_[top - y : top - y + height, left - x : left - x + width]
        of = np.s_[top : top + height, left : left + width]
        found.pixels[:, *to], found.mask[to] = pixels[:, *of], mask[of]
    return found


def warp(raster: Raster, grid: Grid, method: Resampling = "bicubic", least: float = MIN_WEIGHT) -> Raster:
    """Warp a raster to another grid, anti-aliased where that is coarser.

    Normalised convolution, as in `resize_masked`: the filter sums over real pixels only. The filter's width depends
    on the two grids' pixel sizes and not on the windows, so that windows warped one by one fit together. GDAL may
    approximate the projection to within 0.125 source pixels.

    Args:
        raster: The source; outside it there are no real pixels.
        grid: The target; with a CRS where the source has one.
        least: Share of the filter's weights that must fall on real pixels, 0 to 1.

    Returns:
        Pixels of the same dtype, masked where not more than ``least`` of the filter's weights fall on real pixels;
        masked pixels hold 0.

    Raises:
        RasterError: If one grid has a CRS and the other has none, or GDAL cannot transform between them, or the source
            is over `MAX_SHRINK` times finer.
    """
    place = footprint(raster.grid, grid)
    if place is None or reached(place, raster.grid, method) is None or not raster.mask.any():
        return Raster.empty(grid, raster.bands, raster.dtype, raster.units)
    if max(place.step_x, place.step_y) > MAX_SHRINK:
        raise RasterError(
            f"One pixel of the grid asked for is {max(place.step_x, place.step_y):.0f} of the raster's wide, over the "
            f"limit of {MAX_SHRINK}; ask for a finer grid."
        )
    reach = kernel_reach(place, method)
    inside = (
        place.left >= reach
        and place.top >= reach
        and place.right <= raster.width - reach
        and place.bottom <= raster.height - reach
    )
    if inside and raster.mask.all():
        pixels = _reproject(raster.pixels, raster.grid, grid, place, method)
        return Raster(pixels, np.ones(grid.shape, np.bool_), grid, raster.bands, raster.units)
    pixels, mask = _warp_masked(raster, grid, place, method, reach, least)
    return Raster(pixels, mask, grid, raster.bands, raster.units)


def _warp_masked(
    raster: Raster, grid: Grid, place: Footprint, method: Resampling, reach: int, least: float
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Warp a raster with masked pixels, or with its border in view: pixels and mask."""
    exact = raster.dtype.itemsize > 2
    float_type = np.float64 if exact else np.float32
    means = raster.pixels[:, raster.mask].mean(axis=1, dtype=np.float64)[:, None, None]
    # A border of masked pixels, because GDAL takes what is outside a source for no reason to doubt what is near it.
    shape = (raster.count + 1, raster.height + 2 * reach, raster.width + 2 * reach)
    stack = np.zeros(shape, float_type)
    core = stack[:, reach : reach + raster.height, reach : reach + raster.width]
    # About the mean, so that what is masked adds 0 to the sum, and a constant stays exactly itself.
    np.subtract(raster.pixels, means, out=core[:-1], where=raster.mask, casting="unsafe")
    core[-1] = raster.mask
    padded = raster.grid.crop(-reach, -reach, shape[1], shape[2])
    warped = _reproject(stack, padded, grid, place, method)
    weight = warped[-1]
    mask = np.abs(weight - 1) < 1 - least
    values = means + warped[:-1] / np.where(mask, weight, 1)
    return rounded(np.where(mask, values, 0), raster.dtype), mask


def _reproject(pixels: NDArray[Any], own: Grid, grid: Grid, place: Footprint, method: Resampling) -> NDArray[Any]:
    """Warp with GDAL: (C, H, W) of the same dtype."""
    if own.crs == grid.crs:
        # Two grids without a CRS, or of the same one, differ by an affine alone; any projected CRS says so.
        return _gdal_warp(pixels, turned_to(own, grid), grid, "EPSG:3857", "EPSG:3857", place, method)
    crs = _wkt(own.crs), _wkt(grid.crs)
    # GDAL ends a projection at 180 degrees from its middle; each side is taken from the source moved to that side. What
    # is in degrees it turns itself.
    turns = [0.0] if own.crs is not None and own.crs.geographic else _turns(own, grid)
    parts = (replace(own, affine=Affine.translation(-off, 0) @ own.affine) for off in turns)
    found = [_gdal_warp(pixels, part, grid, *crs, place, method) for part in parts]
    return found[0] if len(found) == 1 else np.asarray(sum(found[1:], start=found[0]))


def _turns(own: Grid, grid: Grid) -> list[float]:
    """Return the whole turns, in CRS units, between the source's x and PROJ's for the pixels of a grid."""
    turn = period(own.crs)
    if turn is None:
        return [0.0]
    lattice = np.meshgrid(np.linspace(0, grid.width, _LATTICE), np.linspace(0, grid.height, _LATTICE))
    columns, rows = _transform(own, grid, *lattice)
    x, _ = own.affine @ (columns, rows)
    assert own.crs is not None
    assert grid.crs is not None
    plain, _ = transformer(grid.crs, own.crs).transform(*(grid.affine @ tuple(lattice)))
    off = np.round((x - plain) / turn)
    return [float(k) * turn for k in np.unique(off[np.isfinite(off)])] or [0.0]


def _gdal_warp(
    pixels: NDArray[Any], own: Grid, grid: Grid, source_crs: str, target_crs: str, place: Footprint, method: Resampling
) -> NDArray[Any]:
    """Call GDAL once; pixels that it does not reach are 0."""
    target = np.zeros((len(pixels), *grid.shape), pixels.dtype)
    failed = f"The pixels cannot be moved from {crs_name(own.crs)} to {crs_name(grid.crs)}"
    with raised_as(RasterError, failed, "choose another CRS"), quiet():
        reproject(
            pixels,
            target,
            src_transform=own.affine,
            src_crs=source_crs,
            dst_transform=grid.affine,
            dst_crs=target_crs,
            resampling=GDAL_RESAMPLING[method],
            XSCALE=repr(min(1.0, 1 / place.step_x)),
            YSCALE=repr(min(1.0, 1 / place.step_y)),
        )
    return target


def _wkt(crs: CRS | None) -> str:
    assert crs is not None
    return f"EPSG:{crs.epsg}" if crs.epsg else str(crs.to_wkt())


def _transform(own: Grid, grid: Grid, columns: NDArray[Any], rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Convert pixel coordinates on ``grid`` to pixel coordinates on ``own``."""
    if own.crs == grid.crs:
        x, y = turned_to(grid, own).affine @ (columns, rows)
    else:
        assert own.crs is not None
        assert grid.crs is not None
        transform = transformer(grid.crs, own.crs).transform
        x, y = transform(*(grid.affine @ (columns, rows)))
        turn, middle = period(own.crs), float(transform(*grid.centre)[0])
        if turn is not None and math.isfinite(middle):
            # The middle where own lies, and all else around the middle.
            x = nearest(np.asarray(x), middle + turn * round((own.centre[0] - middle) / turn), turn)
    x, y = ~own.affine @ (np.asarray(x), np.asarray(y))
    return x, y
