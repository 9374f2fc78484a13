"""Translation of xarray DataArrays: at once where the pixels are in memory, lazily where they are dask arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terramorph.geo import Grid, Window
from terramorph.raster import Raster
from terramorph.raster.array_source import ArrayLayout, ArraySource
from terramorph.translate.tiled import Tiled

if TYPE_CHECKING:
    import xarray


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
    work = _Work(tiled, source.layout, gaps)
    pixels = _lazily(work, source) if source.lazy else work.marked(tiled.whole(source))
    spatial = array.odc.spatial_dims
    band = next((name for name in array.dims if name not in spatial), "band")
    made = wrap_xr(pixels, tiled.grid.geobox, dims=(band, *spatial), axis=1, nodata=work.nodata)
    made = made.assign_coords({band: list(tiled.bands)}).rename(array.name)
    units = tiled.target.units
    if units and len({*units.scales}) == len({*units.offsets}) == 1:
        made = made.assign_attrs(scale_factor=units.scales[0], add_offset=units.offsets[0])
    if match_source and tiled.grid != source.grid:
        made = made.odc.reproject(source.grid.geobox, resampling="cubic").assign_coords({band: list(tiled.bands)})
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


def _lazily(work: _Work, source: ArraySource) -> Any:
    """Return a dask array (C, H, W) with one chunk per window."""
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
        made = dask.delayed(_lazy_chunk)(shared, numbers, [parts[number] for number in numbers], down, across)
        shape = (tiled.target.count, down.stop - down.start, across.stop - across.start)
        return dask.array.from_delayed(made, shape, np.dtype(tiled.target.dtype))

    rows, columns = tiled.cover.cells
    return dask.array.block([[chunk(down, across) for across in columns] for down in rows])


def _lazy_window(
    work: _Work, stored: NDArray[Any] | None, where: tuple[slice, slice] | None, seen: Grid, window: Window
) -> NDArray[Any] | None:
    part = work.tiled.predict(work.layout.placed(stored, where, seen), window)
    return None if part is None else part.pixels


def _lazy_chunk(
    work: _Work, numbers: list[int], parts: list[NDArray[Any] | None], rows: slice, columns: slice
) -> NDArray[Any]:
    there = dict(zip(numbers, parts, strict=True))
    return work.marked(work.tiled.piece(lambda window: there[window.number], rows, columns))
