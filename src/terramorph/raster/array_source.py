"""Sources in memory: a Raster, or an xarray DataArray, computed or lazy; and a Raster as a DataArray."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.gcp import GCPGeoBox

from terramorph.bands import Units, default_bands
from terramorph.errors import RasterError
from terramorph.geo.crs import period
from terramorph.geo.grid import Grid
from terramorph.imports import needs
from terramorph.raster.layout import ReadOptions, checked_names, picked
from terramorph.raster.raster import Raster
from terramorph.raster.resample import Resampling
from terramorph.raster.source import Source
from terramorph.raster.values import is_value, settle
from terramorph.raster.warp import needed, placed

if TYPE_CHECKING:
    import xarray

_UNEVEN = 0.25
"""Pixels by which coordinates may miss even spacing, beside the rounding of their type."""


@dataclass(frozen=True)
class ArrayLayout:
    """Grid and meaning of an array, without its pixels.

    Attributes:
        nodata: Values of pixels without data.
        units: Scale and offset of stored values; None: 1 and 0.
        resampling: How pixels are moved to other grids.
    """

    grid: Grid
    bands: tuple[str, ...]
    dtype: np.dtype[Any]
    nodata: tuple[float, ...] = ()
    units: Units | None = None
    resampling: Resampling = "bicubic"

    def needed(self, grid: Grid) -> tuple[slice, slice] | None:
        """Return (rows, columns) of the array on which the pixels of a grid depend; None where they miss it."""
        window = needed(self.grid, grid, self.resampling)
        if window is None:
            return None
        y, x, height, width = window
        return slice(y, y + height), slice(x, x + width)

    def placed(self, stored: NDArray[Any] | None, where: tuple[slice, slice] | None, grid: Grid) -> Raster:
        """Return the array's pixels (C, h, w) of what is `needed` on a grid; masked ones for None."""
        if stored is None or where is None:
            return self.laid(None, grid)
        rows, columns = where
        own = self.grid.crop(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        valid: NDArray[np.bool_] = np.isfinite(stored)
        for value in self.nodata:
            valid &= ~is_value(stored, value)
        return self.laid(Raster(*settle(stored, valid), own, self.bands, self.units), grid)

    def laid(self, raster: Raster | None, grid: Grid) -> Raster:
        """Return a raster of what is `needed` on a grid; a masked one for None."""
        if raster is None:
            return Raster.empty(grid, self.bands, self.dtype, self.units)
        return placed(raster, grid, self.resampling)


class _Held(Source):
    """Base of the sources of this module.

    Attributes:
        layout: Grid and meaning of the pixels.
    """

    grid: Grid

    def __init__(self, layout: ArrayLayout) -> None:
        self.layout = layout
        self.grid, self.bands, self.dtype = layout.grid, layout.bands, layout.dtype
        self.units = layout.units
        self.extent = layout.grid.geobox.extent


class RasterSource(_Held):
    """A Raster as a source.

    Args:
        raster: Raster with a place or without. Values that are not finite are masked.

    Raises:
        RasterError: If it lacks bands that are picked.
    """

    name = "the raster"

    def __init__(self, raster: Raster, options: ReadOptions | None = None) -> None:
        options = options or ReadOptions()
        pixels, mask, names = picked(raster.pixels, raster.mask, self.name, options, raster.bands)
        pixels, valid = settle(pixels, np.isfinite(pixels))
        units = None if options.raw else raster.units
        if units is not None and options.bands:
            units = units.pick([number - 1 for number in options.bands])
        self._raster = Raster(pixels, mask & valid, raster.grid, names, units)
        method: Resampling = "nearest" if options.categorical else "bicubic"
        super().__init__(ArrayLayout(raster.grid, names, pixels.dtype, units=units, resampling=method))

    def read(self, grid: Grid) -> Raster:
        """Read the pixels on a grid; see `Source.read`."""
        window = needed(self.grid, grid, self.layout.resampling)
        return self.layout.laid(None if window is None else self._raster.crop(*window), grid)

    def fingerprint(self) -> str:
        """Return a hex digest (blake2b, 16 bytes) of pixels, mask and grid."""
        digest = hashlib.blake2b(repr(self.layout).encode(), digest_size=16)
        for part in (self._raster.pixels, self._raster.mask):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


class ArraySource(_Held):
    """A DataArray with a CRS as a source.

    The grid comes from coordinates and CRS as odc-geo or rioxarray keep them. Pixels without data have the nodata value
    (``nodata``, ``_FillValue`` or ``missing_value``) or NaN in every band. For stored values, ``scale_factor`` and
    ``add_offset`` are the units. Integers with ``flag_values`` or ``flag_meanings`` (CF conventions) are classes, which
    are never mixed.

    Attributes:
        array: The DataArray, with its bands in front: (band, y, x). Lazy if it was.

    Args:
        array: (band, y, x), (y, x, band) or (y, x), whatever the dimensions are called.
        crs: CRS of an array that has none.

    Raises:
        RasterError: If it has no CRS, or its coordinates are not those of a grid, or it has more dimensions, or lacks
            bands that are picked.
        MissingPackageError: If dask, which odc-geo needs to know the place of a DataArray, is not installed.
    """

    def __init__(self, array: xarray.DataArray, options: ReadOptions | None = None, *, crs: CRS | None = None) -> None:
        load_odc_xarray()
        options = options or ReadOptions()
        self.name = str(array.name) if array.name is not None else "the array"
        if not array.size:
            raise RasterError(f"{self.name} of shape {array.shape} holds no pixels; choose a part that does.")
        if crs is not None and array.odc.crs is None:
            array = array.odc.assign_crs(crs)
        geobox, spatial = array.odc.geobox, array.odc.spatial_dims
        if geobox is None and spatial is not None and min(array.sizes[name] for name in spatial) < 2:
            raise RasterError(
                f"{self.name} has {' x '.join(str(array.sizes[name]) for name in spatial)} pixels, too few for its "
                "coordinates to say how large one is; take two rows and columns, or give it a transform, with "
                ".rio.write_transform(...)."
            )
        if spatial is None or geobox is None or geobox.crs is None:
            raise RasterError(
                f"{self.name} does not say where it is; give it x and y coordinates and a CRS, with "
                ".rio.write_crs(...) or .odc.assign_crs(...)."
            )
        grid = _grid_of(array, geobox, self.name)
        others = [str(name) for name in array.dims if name not in spatial]
        if len(others) > 1:
            raise RasterError(
                f"{self.name} has the dimensions {', '.join(map(str, array.dims))}; choose one of {others[0]}, so that "
                "bands, y and x are left."
            )
        if not others:
            others = ["band"]
            array = array.expand_dims("band")
        array = array.transpose(others[0], *spatial)
        names, units = _band_names(array, others[0]), None if options.raw else _units(array)
        indices = [number - 1 for number in options.chosen(len(array), self.name)]
        if options.bands:
            array, names = array.isel({others[0]: indices}), tuple(names[i] for i in indices)
            units = units and units.pick(indices)
        self.array = array = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
        values = (options.nodata, *_nodata(array, self.name))
        super().__init__(
            ArrayLayout(
                grid=grid,
                bands=checked_names(options.names, self.name, len(names)) or names,
                dtype=array.dtype,
                nodata=tuple(float(value) for value in values if value is not None and not math.isnan(value)),
                units=units,
                resampling="nearest" if _holds_classes(array, options) else "bicubic",
            )
        )

    @property
    def lazy(self) -> bool:
        """Whether dask still has to compute the pixels."""
        return self.array.chunks is not None

    def read(self, grid: Grid) -> Raster:
        """Read the pixels on a grid, computing lazy ones; see `Source.read`.

        Raises:
            RasterError: If the grid has no CRS.
        """
        where = self.layout.needed(grid)
        stored = None if where is None else np.asarray(self.array.data[:, *where])
        return self.layout.placed(stored, where, grid)

    def fingerprint(self) -> str:
        """Return a hex digest (blake2b, 16 bytes) of pixels and grid; of a lazy array, of its task names."""
        digest = hashlib.blake2b(repr(self.layout).encode(), digest_size=16)
        if self.lazy:
            digest.update(str(self.array.data.name).encode())
        else:
            digest.update(np.ascontiguousarray(self.array.values).data)
        return digest.hexdigest()


def load_odc_xarray() -> None:
    """Register `.odc` on every DataArray.

    Raises:
        MissingPackageError: If dask, which odc-geo imports for it, is not installed.
    """
    with needs("dask, which DataArrays need,", "cluster"):
        import odc.geo.xr  # noqa: F401


def _grid_of(array: xarray.DataArray, geobox: Any, name: str) -> Grid:
    """Return the grid of an array from its coordinates.

    odc-geo takes the pixel size of an axis from its first two coordinates; of rounded ones (float32, few decimals) all
    are needed.

    Raises:
        RasterError: If they are not evenly spaced, or the place is given by ground control points.
    """
    if isinstance(geobox, GCPGeoBox):
        raise RasterError(
            f"{name} is placed by ground control points; give the path of its file, or warp it (.rio.reproject)."
        )
    affine, crs = geobox.affine, geobox.crs
    y, x = array.odc.spatial_dims
    down, across = _axis(array, y, None, name), _axis(array, x, period(crs), name)
    if affine.b == affine.d == 0:  # else they are pixel numbers of a rotated image
        y_step, y_start = _where_off(affine.e, affine.f, geobox.shape[0], down)
        x_step, x_start = _where_off(affine.a, affine.c, geobox.shape[1], across)
        affine = Affine(x_step, 0, x_start, 0, y_step, y_start)
    return Grid(int(geobox.shape[0]), int(geobox.shape[1]), affine, crs)


def _axis(array: xarray.DataArray, axis: str, turn: float | None, name: str) -> tuple[float, float] | None:
    """Return pixel size and outer edge of the first pixel that fit all coordinates of an axis best; None for few."""
    if axis not in array.coords or array.coords[axis].size < 3:
        return None
    stored = array.coords[axis].values
    values = stored.astype(np.float64) if turn is None else np.unwrap(stored.astype(np.float64), period=turn)
    numbers = np.arange(len(values))
    step, first = np.polyfit(numbers, values - values[0], 1)
    off = np.abs(first + step * numbers - (values - values[0])).max()
    rounding = np.spacing(np.abs(stored).max()) if stored.dtype.kind == "f" else 0.0
    if step == 0 or not off <= max(_UNEVEN * abs(step), rounding):
        raise RasterError(
            f"The coordinates {axis} of {name} are not evenly spaced, and an image has no gaps; choose a part in which "
            "they are, or interpolate it (.interp)."
        )
    return float(step), float(values[0] + first - step / 2)


def _where_off(step: float, start: float, count: int, fitted: tuple[float, float] | None) -> tuple[float, float]:
    """Return what is fitted where a pixel size and start miss it by more than a thousandth of a pixel at either end."""
    if fitted is None:
        return step, start
    ends = [abs(start - fitted[1]), abs(start + count * step - fitted[1] - count * fitted[0])]
    return fitted if max(ends) > 1e-3 * abs(fitted[0]) else (step, start)


def _holds_classes(array: xarray.DataArray, options: ReadOptions) -> bool:
    """Return whether the values are classes: by the options, else integers whose attributes say so."""
    if options.categorical is not None:
        return options.categorical
    return array.dtype.kind in "ui" and not array.attrs.keys().isdisjoint(("flag_values", "flag_meanings"))


def _band_names(array: xarray.DataArray, dimension: str) -> tuple[str, ...]:
    """Return names from the band coordinate, else from rioxarray's long_name, else the default names."""
    count = array.sizes[dimension]
    if dimension in array.coords and array.coords[dimension].dtype.kind in "UO":
        return tuple(str(name) for name in array.coords[dimension].values)
    long = array.attrs.get("long_name")
    if isinstance(long, tuple | list) and len(long) == count:
        return tuple(map(str, long))
    return default_bands(count)


def _nodata(array: xarray.DataArray, name: str) -> list[float]:
    """Return the nodata values in the attributes, also of an array that xarray has not decoded: a number, or several.

    Raises:
        RasterError: If one is no number.
    """
    said = (where[key] for key in ("nodata", "_FillValue") for where in (array.attrs, array.encoding) if key in where)
    found = []
    for value in (next(said, None), array.attrs.get("missing_value")):
        try:
            found += [] if value is None else [float(one) for one in np.ravel(value).tolist()]
        except (TypeError, ValueError):
            raise RasterError(f"{name} has the nodata value {value!r}, which is no number; correct it.") from None
    return found


def _units(array: xarray.DataArray) -> Units | None:
    """Read units from the CF attributes that rioxarray keeps, one for all bands or one each."""
    count = len(array)
    scale, offset = (
        np.ravel(array.attrs.get(name, default)) for name, default in (("scale_factor", 1.0), ("add_offset", 0.0))
    )
    if scale.dtype.kind not in "uif" or offset.dtype.kind not in "uif" or {len(scale), len(offset)} - {1, count}:
        return None
    return Units.of(np.broadcast_to(scale, count).tolist(), np.broadcast_to(offset, count).tolist())


def as_xarray(raster: Raster) -> xarray.DataArray:
    """Convert a raster to a DataArray (band, y, x); see `Raster.to_xarray`."""
    load_odc_xarray()
    from odc.geo.xr import wrap_xr

    pixels, nodata = _with_nodata(raster.pixels, raster.mask)
    array = wrap_xr(pixels, raster.grid.geobox, dims=("band", "y", "x"), axis=1, nodata=nodata)
    if raster.grid.crs is None:
        array.encoding.pop("grid_mapping", None)  # odc-geo warns of one without a CRS
    array = array.assign_coords(band=list(raster.bands))
    return described(array, raster.units)


def described(array: xarray.DataArray, units: Units | None) -> xarray.DataArray:
    """Return an array of odc-geo with units as attributes (CF conventions), one for all bands or a list of one each.

    The nodata of an array without is left out: NetCDF holds no None.
    """
    named = {} if units is None else {"scale_factor": list(units.scales), "add_offset": list(units.offsets)}
    made = array.assign_attrs({name: values[0] if len({*values}) == 1 else values for name, values in named.items()})
    if made.attrs.get("nodata", 0) is None:
        del made.attrs["nodata"]
    return made


def _with_nodata(pixels: NDArray[Any], mask: NDArray[np.bool_]) -> tuple[NDArray[Any], float | None]:
    """Return pixels with an unused value where the mask is False, and that value; None where nothing is masked."""
    if mask.all():
        return pixels, None
    free: float | None = None
    if pixels.dtype.kind != "f":
        limits, real = np.iinfo(pixels.dtype), pixels[:, mask]
        free = next((value for value in (0, limits.max, limits.min) if not (real == value).any()), None)
    if free is None:  # NaN is the only value that no pixel can have
        free = float("nan")
        if pixels.dtype.kind != "f":
            pixels = pixels.astype(np.float32 if pixels.dtype.itemsize <= 2 else np.float64)
    return np.where(mask, pixels, np.asarray(free, pixels.dtype)), free
