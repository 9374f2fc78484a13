"""An xarray DataArray as a source of pixels, in memory or lazy."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from odc.geo.geom import Geometry

from terramorph.bands import Units, default_bands
from terramorph.errors import MissingPackageError, RasterError
from terramorph.geo.grid import Grid
from terramorph.raster.raster import Raster
from terramorph.raster.values import settle
from terramorph.raster.warp import footprint, kernel_reach, warp, window_offset

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True)
class ArrayLayout:
    """Where the pixels of an array lie and what they mean, without the pixels.

    Attributes:
        grid: of the array.
        bands: names.
        dtype: of the pixels.
        nodata: the value of pixels without data, or None.
        units: what stored values mean; None: themselves.
    """

    grid: Grid
    bands: tuple[str, ...]
    dtype: np.dtype[Any]
    nodata: float | None
    units: Units | None = None

    def needed(self, grid: Grid) -> tuple[slice, slice] | None:
        """(rows, columns) of the array on which the pixels of a grid depend; None where it lies outside."""
        offset = window_offset(self.grid, grid)
        if offset is not None:
            top, left = offset
            bottom, right = top + grid.height, left + grid.width
        else:
            place = footprint(self.grid, grid)
            if place is None:
                return None
            around = kernel_reach(place) + 1
            top, left = math.floor(place.top) - around, math.floor(place.left) - around
            bottom, right = math.ceil(place.bottom) + around, math.ceil(place.right) + around
        rows = slice(max(top, 0), min(bottom, self.grid.height))
        columns = slice(max(left, 0), min(right, self.grid.width))
        return (rows, columns) if rows.stop > rows.start and columns.stop > columns.start else None

    def placed(self, stored: NDArray[Any] | None, where: tuple[slice, slice] | None, grid: Grid) -> Raster:
        """The pixels on a grid.

        Args:
            stored: (C, h, w), the array's pixels there.
            where: what of the array is `needed`.
            grid: to read.
        """
        count = len(self.bands)
        if stored is None or where is None:
            pixels, mask = np.zeros((count, *grid.shape), self.dtype), np.zeros(grid.shape, np.bool_)
            return Raster(pixels, mask, grid, self.bands, self.units)
        rows, columns = where
        own = self.grid.crop(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        raster = Raster(*settle(stored, self._valid(stored)), own, self.bands, self.units)
        if own == grid:
            return raster
        offset = window_offset(own, grid)
        if offset is None:
            return warp(raster, grid)
        top, left = -offset[0], -offset[1]
        pixels, mask = np.zeros((count, *grid.shape), self.dtype), np.zeros(grid.shape, np.bool_)
        inside = slice(top, top + own.height), slice(left, left + own.width)
        pixels[:, *inside], mask[inside] = raster.pixels, raster.mask
        return Raster(pixels, mask, grid, self.bands, self.units)

    def _valid(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Where bands hold data, bool (C, H, W)."""
        valid: NDArray[np.bool_] = np.isfinite(stored)
        if self.nodata is not None:
            valid &= stored != self.nodata
        return valid


class ArraySource:
    """The pixels of a DataArray that has a CRS. A `Source`.

    The place comes from its coordinates and its CRS as odc-geo or rioxarray keep them. Pixels without data are those
    that have the nodata value (``nodata`` or ``_FillValue``) or NaN in every band. Where the values are still stored
    ones, ``scale_factor`` and ``add_offset`` say what they mean.

    Attributes:
        name, grid, extent, bands, dtype, units, sequential, licence: as `Source` says.
        array: the DataArray, with its bands in front: (band, y, x). Lazy if it was.
        layout: what is known without the pixels.

    Args:
        array: (band, y, x), (y, x, band) or (y, x), whatever the dimensions are called.

    Raises:
        RasterError: If it has no CRS, or its coordinates are not those of a grid, or it has more dimensions.
        MissingPackageError: If dask, which odc-geo needs to know the place of a DataArray, is not installed.
    """

    licence: str | None = None
    sequential = False

    def __init__(self, array: xarray.DataArray) -> None:
        try:
            import odc.geo.xr  # noqa: F401  (gives every DataArray its .odc)
        except ImportError as error:
            raise MissingPackageError(
                "DataArrays need dask, which is not installed; install it with pip install 'terramorph[cluster]'."
            ) from error
        self.name = str(array.name) if array.name is not None else "the array"
        geobox, spatial = array.odc.geobox, array.odc.spatial_dims
        if spatial is None or geobox is None or geobox.crs is None:
            raise RasterError(
                f"{self.name} does not say where it is; give it x and y coordinates and a CRS, with "
                ".rio.write_crs(...) or .odc.assign_crs(...)."
            )
        others = [str(name) for name in array.dims if name not in spatial]
        if len(others) > 1:
            raise RasterError(
                f"{self.name} has the dimensions {', '.join(map(str, array.dims))}; choose one of {others[0]}, so that "
                "bands, y and x are left."
            )
        if not others:
            others = ["band"]
            array = array.expand_dims("band")
        self.array = array.transpose(others[0], *spatial)
        nodata = array.odc.nodata
        self.layout = ArrayLayout(
            grid=Grid.from_geobox(geobox),
            bands=_band_names(self.array, others[0]),
            dtype=array.dtype,
            nodata=None if nodata is None or math.isnan(nodata) else float(nodata),
            units=_units(self.array),
        )
        self.grid, self.bands, self.dtype = self.layout.grid, self.layout.bands, self.layout.dtype
        self.units = self.layout.units
        self.extent: Geometry = geobox.extent

    @property
    def lazy(self) -> bool:
        """Whether the pixels are still to be computed, by dask."""
        return self.array.chunks is not None

    def read(self, grid: Grid) -> Raster:
        """The pixels on a grid, as `Source` says; what is lazy is computed.

        Raises:
            RasterError: If the grid has no CRS.
        """
        where = self.layout.needed(grid)
        stored = None if where is None else np.asarray(self.array.data[:, *where])
        return self.layout.placed(stored, where, grid)

    def fingerprint(self) -> str:
        """Hex digest (blake2b, 16 bytes) of the pixels and their place; of a lazy array, of how it is computed."""
        digest = hashlib.blake2b(repr(self.layout).encode(), digest_size=16)
        if self.lazy:
            digest.update(str(self.array.data.name).encode())
        else:
            digest.update(np.ascontiguousarray(self.array.values).data)
        return digest.hexdigest()

    def close(self) -> None:
        """Nothing: the array is its owner's."""

    def __enter__(self) -> Self:
        """The source itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """`close`."""


def _band_names(array: xarray.DataArray, dimension: str) -> tuple[str, ...]:
    """Names from the band coordinate, from rioxarray's long_name, or the usual ones."""
    count = array.sizes[dimension]
    if dimension in array.coords and array.coords[dimension].dtype.kind in "UO":
        return tuple(str(name) for name in array.coords[dimension].values)
    long = array.attrs.get("long_name")
    if isinstance(long, tuple | list) and len(long) == count:
        return tuple(map(str, long))
    return default_bands(count)


def _units(array: xarray.DataArray) -> Units | None:
    """From the attributes that CF conventions name, which rioxarray keeps; one for all bands or one each."""
    count = len(array)
    scale, offset = (
        np.ravel(array.attrs.get(name, default)) for name, default in (("scale_factor", 1.0), ("add_offset", 0.0))
    )
    if scale.dtype.kind not in "uif" or offset.dtype.kind not in "uif" or {len(scale), len(offset)} - {1, count}:
        return None
    return Units.of(np.broadcast_to(scale, count).tolist(), np.broadcast_to(offset, count).tolist())
