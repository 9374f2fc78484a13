"""DataArrays in, DataArrays out: at once where the pixels are in memory, lazily where dask holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from terramorph.bundle import Bands
from terramorph.errors import InputError
from terramorph.geo import Cover, Grid, Window
from terramorph.raster import Raster, default_bands
from terramorph.raster.array_source import ArrayLayout, ArraySource
from terramorph.translate.model import Model
from terramorph.translate.sweep import SweepOptions, plan_cover, work_grid

if TYPE_CHECKING:
    import xarray


def translate_array(
    model: Model,
    array: xarray.DataArray,
    *,
    resolution: float | None = None,
    match_source: bool = False,
    window: int | None = None,
    overlap: int | None = None,
) -> xarray.DataArray:
    """Translates a DataArray with a CRS; as seamless as a sweep, in the same windows.

        made = translate_array(model, rioxarray.open_rasterio("ortho.tif", chunks=2048))   # nothing is computed yet
        made.odc.write_cog("map.tif")

    Of a lazy array each chunk of the result depends on the windows that meet it, and each window on the chunks it
    reads, so any scheduler of dask computes it in bounded memory.

    Args:
        model: in either mode; sent to dask's workers once each.
        array: (band, y, x), (y, x, band) or (y, x) of the bundle's stored dtype, with coordinates and a CRS as
            rioxarray or odc-geo give them.
        resolution: metres per pixel at which the network sees the ground; None: what it was trained at. The array is
            brought to it.
        match_source: bring the result back to the array's own grid.
        window, overlap: see `Model.cover`.

    Returns:
        The bundle's target dtype, dimensions in the array's order, with coordinates, CRS and band names. Where pixels
        without data are possible the result has a nodata value: NaN for floats; for integers the lowest of the bundle's
        range, from which real pixels are moved by one.

    Raises:
        RasterError: If the array has no CRS or is no raster.
        InputError: If it is no DataArray, or bands, dtype or ground resolution do not fit the bundle.
        MissingPackageError: If dask is not installed.
    """
    import xarray

    if not isinstance(array, xarray.DataArray):
        raise InputError(
            f"A {type(array).__name__} is no DataArray; of a Dataset pick one variable or use .to_dataarray(), and "
            "give a plain array to Model.translate."
        )
    source = ArraySource(array)
    from odc.geo.xr import wrap_xr

    model.check_kind(source.bands, source.dtype.name, source.units)
    grid = work_grid(source, model, resolution)
    cover = plan_cover(model, grid, SweepOptions(resolution=resolution, window=window, overlap=overlap))
    gaps = bool(source.layout.nodata) or source.dtype.kind == "f" or grid != source.grid
    work = _Work(model, cover, source.layout, gaps)
    pixels = _lazily(work, grid, source) if source.lazy else _at_once(work, grid, source)
    names = work.target.names if len(work.target.names) == work.target.count else default_bands(work.target.count)
    spatial = array.odc.spatial_dims
    band = next((name for name in array.dims if name not in spatial), "band")
    made = wrap_xr(pixels, grid.geobox, dims=(band, *spatial), axis=1, nodata=work.nodata)
    made = made.assign_coords({band: list(names)}).rename(array.name)
    units = work.target.units
    if units and len({*units.scales}) == len({*units.offsets}) == 1:
        made = made.assign_attrs(scale_factor=units.scales[0], add_offset=units.offsets[0])
    if match_source and grid != source.grid:
        made = made.odc.reproject(source.grid.geobox, resampling="cubic").assign_coords({band: list(names)})
    return made.transpose(*array.dims) if array.ndim == 3 else made


class _Work:
    """What every window and every chunk of the result needs to know."""

    def __init__(self, model: Model, cover: Cover, layout: ArrayLayout, gaps: bool) -> None:
        self.model, self.cover, self.layout = model, cover, layout
        self.target: Bands = model.header.target
        self.nodata: float | None = None
        if gaps:
            self.nodata = float("nan") if np.dtype(self.target.dtype).kind == "f" else self.target.low

    def window(self, raster: Raster, window: Window) -> NDArray[Any] | None:
        """A window's pixels and, as one more band, where they are real; None without any."""
        if not raster.mask.any():
            return None
        rows, columns = window.inner
        made = self.model.translate_window(raster)[:, rows, columns]
        return np.concatenate([made, raster.mask[None, rows, columns].astype(made.dtype)])

    def stored(self, values: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[Any]:
        """Blended values (C + 1, h, w) and their weight as pixels of the result, (C, h, w) in the stored dtype."""
        dtype = np.dtype(self.target.dtype)
        pixels = values[:-1] if dtype.kind == "f" else np.rint(values[:-1])
        if self.nodata is not None:
            if dtype.kind != "f":
                pixels = np.maximum(pixels, self.target.low + 1)
            pixels[:, (values[-1] <= 0.5) | (weight <= 0.0)] = self.nodata
        return pixels.astype(dtype)


def _at_once(work: _Work, grid: Grid, source: ArraySource) -> NDArray[Any]:
    """All pixels, (C, H, W)."""

    def part(window: Window) -> NDArray[Any] | None:
        return work.window(source.read(_seen(grid, window)), window)

    pixels = np.empty((work.target.count, *grid.shape), work.target.dtype)
    for rows, values, weight in work.cover.join(part, work.target.count + 1):
        pixels[:, rows] = work.stored(values, weight)
    return pixels


def _lazily(work: _Work, grid: Grid, source: ArraySource) -> Any:
    """A dask array (C, H, W), one chunk a window."""
    import dask
    import dask.array

    shared = dask.delayed(work)
    windows = {(window.row, window.column): window for window in work.cover.windows()}
    parts = {}
    for place, window in windows.items():
        seen = _seen(grid, window)
        where = source.layout.needed(seen)
        stored = None if where is None else source.array.data[:, *where]
        parts[place] = dask.delayed(_lazy_window)(shared, stored, where, seen, window)

    def chunk(row: int, column: int, down: slice, across: slice) -> Any:
        # What fades into a cell comes from the windows beside it.
        near = [(y, x) for y in range(row - 1, row + 2) for x in range(column - 1, column + 2) if (y, x) in parts]
        made = dask.delayed(_lazy_chunk)(
            shared, [windows[place] for place in near], [parts[place] for place in near], down, across
        )
        shape = (work.target.count, down.stop - down.start, across.stop - across.start)
        return dask.array.from_delayed(made, shape, np.dtype(work.target.dtype))

    rows, columns = work.cover.cells
    return dask.array.block(
        [[chunk(row, column, down, across) for column, across in enumerate(columns)] for row, down in enumerate(rows)]
    )


def _lazy_window(
    work: _Work, stored: NDArray[Any] | None, where: tuple[slice, slice] | None, seen: Grid, window: Window
) -> NDArray[Any] | None:
    return work.window(work.layout.placed(stored, where, seen), window)


def _lazy_chunk(
    work: _Work, windows: list[Window], parts: list[NDArray[Any] | None], rows: slice, columns: slice
) -> NDArray[Any]:
    there = [(window, part) for window, part in zip(windows, parts, strict=True) if part is not None]
    return work.stored(*work.cover.blend(there, rows, columns, work.target.count + 1))


def _seen(grid: Grid, window: Window) -> Grid:
    return grid.crop(window.y, window.x, window.height, window.width)
