"""Translation of xarray DataArrays: at once where the pixels are in memory, lazily where they are dask arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terramorph.geo import Grid, Window
from terramorph.raster import Raster
from terramorph.raster.array_source import ArrayLayout, ArraySource
from terramorph.raster.export import described
from terramorph.raster.warp import needed, placed
from terramorph.translate.outputs import LEAST_BACK, brought_back
from terramorph.translate.tiled import Tiled

if TYPE_CHECKING:
    import xarray

_BACK = 1024
"""Pixels along a side of the chunks of a lazy result that is resampled to the source's grid."""


def translate_array(tiled: Tiled, source: ArraySource, array: xarray.DataArray, match_source: bool) -> xarray.DataArray:
    """Translate a DataArray.

    A lazy array gives a lazy result: each chunk depends on the windows that meet it, and each window on the chunks
    that it reads, so any scheduler of dask computes it in bounded memory.

    Returns:
        A DataArray of the bundle's target dtype, dimensions in the array's order, with coordinates, CRS and band
        names. Where pixels without data are possible, its nodata value is NaN for floats; for integers it is the
        lowest value of the bundle's range, from which pixels with data are moved by one.
    """
    from odc.geo.xr import wrap_xr

    gaps = bool(source.layout.nodata) or source.dtype.kind == "f" or tiled.grid != source.grid
    back = source.grid if match_source and tiled.grid != source.grid else None
    work = _Work(tiled, source.layout, gaps)
    if source.lazy:
        pixels = _lazily(work, source, back)
    else:
        raster = tiled.whole(source)
        pixels = work.marked(raster if back is None else brought_back(tiled, raster, back))
    spatial = array.odc.spatial_dims
    band = next((name for name in array.dims if name not in spatial), "band")
    grid = back or tiled.grid
    made = wrap_xr(pixels, grid.geobox, dims=(band, *spatial), axis=1, nodata=work.nodata)
    if grid == source.grid:  # to the last bit, by which xarray aligns
        made = made.assign_coords({axis: array.coords[axis] for axis in spatial if axis in array.coords})
    made = made.assign_coords({band: list(tiled.bands)}).rename(array.name)
    made = described(made, tiled.target.units)
    return made.transpose(*array.dims) if array.ndim == 3 else made


@dataclass(frozen=True)
class _Work:
    """The translation of one array, which its windows and chunks share."""

    tiled: Tiled
    layout: ArrayLayout
    gaps: bool

    @property
    def nodata(self) -> float | None:
        """Nodata value; None where every pixel has data."""
        if not self.gaps:
            return None
        target = self.tiled.target
        return float("nan") if np.dtype(target.dtype).kind == "f" else target.low

    def marked(self, raster: Raster) -> NDArray[Any]:
        """Return the pixels, with the nodata value where there is no data and nowhere else."""
        if self.nodata is None:
            return raster.pixels
        low = self.tiled.target.low
        pixels = raster.pixels if raster.dtype.kind == "f" else np.maximum(raster.pixels, raster.dtype.type(low + 1))
        pixels[:, ~raster.mask] = self.nodata
        return pixels


def _lazily(work: _Work, source: ArraySource, back: Grid | None) -> Any:
    """Return a dask array (C, H, W) with one chunk per window; on the grid `back`, in chunks of its own."""
    import dask
    import dask.array

    shared, tiled = dask.delayed(work, traverse=False), work.tiled
    parts = {}
    for window in tiled.cover.windows():
        seen = tiled.seen(window)
        where = source.layout.needed(seen)
        stored = None if where is None else source.array.data[:, *where]
        parts[window.number] = dask.delayed(_lazy_window)(shared, stored, where, seen, window)

    def chunk(down: slice, across: slice) -> Any:
        numbers = [window.number for window in tiled.cover.meeting(down, across)]
        there = [parts[number] for number in numbers]
        made = dask.delayed(_lazy_chunk)(shared, numbers, there, down, across, back is not None)
        shape = (tiled.target.count + (back is not None), down.stop - down.start, across.stop - across.start)
        return dask.array.from_delayed(made, shape, dtype)

    dtype = np.dtype(tiled.target.dtype)
    rows, columns = tiled.cover.cells
    made = dask.array.block([[chunk(down, across) for across in columns] for down in rows])
    if back is None:
        return made

    def brought(top: int, left: int) -> Any:
        grid = back.crop(top, left, min(_BACK, back.height - top), min(_BACK, back.width - left))
        window = needed(tiled.grid, grid)
        seen = None if window is None else tiled.grid.crop(*window)
        stack = (
            None if window is None else made[:, window[0] : window[0] + window[2], window[1] : window[1] + window[3]]
        )
        piece = dask.delayed(_lazy_back)(shared, stack, seen, grid)
        return dask.array.from_delayed(piece, (tiled.target.count, *grid.shape), dtype)

    tops, lefts = range(0, back.height, _BACK), range(0, back.width, _BACK)
    return dask.array.block([[brought(top, left) for left in lefts] for top in tops])


def _lazy_window(
    work: _Work, stored: NDArray[Any] | None, where: tuple[slice, slice] | None, seen: Grid, window: Window
) -> NDArray[Any] | None:
    part = work.tiled.predict(work.layout.placed(stored, where, seen), window)
    return None if part is None else part.pixels


def _lazy_chunk(
    work: _Work, numbers: list[int], parts: list[NDArray[Any] | None], rows: slice, columns: slice, apart: bool
) -> NDArray[Any]:
    """Return marked pixels; with `apart` the pixels as they are, and the mask as a further band."""
    there = dict(zip(numbers, parts, strict=True))
    raster = work.tiled.piece(lambda window: there[window.number], rows, columns)
    return np.concatenate([raster.pixels, raster.mask[None].astype(raster.dtype)]) if apart else work.marked(raster)


def _lazy_back(work: _Work, stack: NDArray[Any] | None, seen: Grid | None, grid: Grid) -> NDArray[Any]:
    tiled = work.tiled
    if stack is None or seen is None:
        return work.marked(Raster.empty(grid, tiled.bands, np.dtype(tiled.target.dtype)))
    back = placed(Raster(stack[:-1], stack[-1] != 0, seen, tiled.bands), grid, least=LEAST_BACK)
    return work.marked(replace(back, pixels=tiled.within(back.pixels, back.mask)))
