"""Translations whose windows are predicted when they are read: as a source of pixels, and of xarray DataArrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from threading import Condition
from typing import TYPE_CHECKING, Any

import numpy as np
from cachetools import LRUCache, cached
from numpy.typing import NDArray
from odc.geo.geom import Geometry

from terramorph.errors import InputError
from terramorph.geo import Grid, Window
from terramorph.raster import Raster, Source
from terramorph.raster.array_source import ArrayLayout, ArraySource, described
from terramorph.raster.warp import needed, placed
from terramorph.translate.engine import identity
from terramorph.translate.outputs import LEAST_BACK, brought_back
from terramorph.translate.tiled import Part, Tiled, pixels_of

if TYPE_CHECKING:
    import xarray

Keep = Callable[[int, Callable[[], Part | None]], Part | None]
"""Function that returns a window by its number: one that is kept elsewhere, or predicted by the given function."""

MAX_READ = 2**26
"""Most pixels of the translation for one read."""
_BACK = 1024
"""Pixels along a side of the chunks of a lazy result that is resampled to the source's grid."""


class LazySource(Source):
    """The raster that `Model.translate_to` would write, as a `Source`; from `Model.lazy`.

    A window is predicted when a pixel of it is first read, and kept until windows read since exceed `memory`. Several
    threads may read: they wait for each other's windows and predict none twice.

    Attributes:
        name, grid, extent, bands, dtype, units, sequential, licence: As in `Source`.

    Args:
        memory: Bytes of predicted windows to keep.
        opened: Context that is left when this source is closed.
        kept: Called for windows that are not in memory; None: they are predicted.
    """

    sequential = False

    def __init__(
        self, tiled: Tiled, source: Source, memory: int, opened: AbstractContextManager[Any], kept: Keep | None
    ) -> None:
        self._tiled, self._source, self._opened, self._kept = tiled, source, opened, kept
        held: LRUCache[int, Part | None] = LRUCache(memory, getsizeof=_bytes)
        # The first thread that asks predicts a window; the others wait for it.
        self._window: Any = cached(held, key=lambda window: window.number, condition=Condition())(self._predict)
        self.name, self.licence = source.name, source.licence
        self.grid: Grid = tiled.grid
        self.extent: Geometry = tiled.grid.geobox.extent
        self.bands, self.units = tiled.bands, tiled.target.units
        self.dtype: np.dtype[Any] = np.dtype(tiled.target.dtype)
        self._layout = ArrayLayout(self.grid, self.bands, self.dtype, units=self.units)

    def __repr__(self) -> str:
        return f"LazySource({self.name}, {self.grid.height} x {self.grid.width} {self.dtype}, {', '.join(self.bands)})"

    def read(self, grid: Grid) -> Raster:
        """Read the translation on a grid: exact pixels on a window of its own grid, else warped.

        Raises:
            InputError: If the read needs more than `MAX_READ` pixels of the translation.
            RasterError: If the source cannot be read there.
        """
        where = self._layout.needed(grid)
        if where is None:
            return self._layout.laid(None, grid)
        rows, columns = where
        behind = (rows.stop - rows.start) * (columns.stop - columns.start)
        if behind > MAX_READ:
            raise InputError(
                f"{behind / 1e6:,.0f} million pixels would be translated for one read of {self.name}; read smaller or "
                "finer pieces, or write the whole with translate_to."
            )
        piece = self._tiled.piece(lambda window: pixels_of(self._window(window)), rows, columns)
        return self._layout.laid(piece, grid)

    def fingerprint(self) -> str:
        """Return a hex digest (blake2b, 16 bytes) of everything that decides the pixels."""
        plan = identity(self._tiled.model, self._source.fingerprint(), self._tiled.model.backend.name)
        text = json.dumps([plan, str(self.grid), str(self._tiled.cover), self._tiled.sample])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def close(self) -> None:
        """Release the windows, and close the source if it was opened for this one."""
        self._window.cache_clear()
        self._opened.__exit__(None, None, None)

    def _predict(self, window: Window) -> Part | None:
        def predicted() -> Part | None:
            (raster,) = self._tiled.read(self._source, (window,))
            return self._tiled.predict(raster, window)

        return predicted() if self._kept is None else self._kept(window.number, predicted)


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


def _bytes(part: Part | None) -> int:
    return 1 if part is None else part.pixels.nbytes


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
    return pixels_of(work.tiled.predict(work.layout.placed(stored, where, seen), window))


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
