"""Rasters: pixels with their mask, grid and band names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from terramorph.bands import Units, default_bands
from terramorph.errors import RasterError
from terramorph.geo.grid import Grid
from terramorph.raster.values import settle

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Raster:
    """Pixels, which of them hold data, and where they are.

    Attributes:
        pixels: (C, H, W), any numeric dtype, stored values.
        mask: bool (H, W), True where the pixel holds data.
        grid: The place of the H x W pixels.
        bands: C names. Transparency is never a band: it is in the mask.
        units: Scale and offset of stored values, where stated; None: 1 and 0.

    Raises:
        RasterError: If shapes, dtypes or the number of names do not agree.
    """

    pixels: NDArray[Any]
    mask: NDArray[np.bool_]
    grid: Grid
    bands: tuple[str, ...]
    units: Units | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[0] < 1:
            raise RasterError(f"pixels must have the shape (bands, height, width), got {self.pixels.shape}.")
        if self.pixels.dtype.kind not in "uif":
            raise RasterError(f"pixels must be integers or floats, got {self.pixels.dtype}; convert them.")
        size = self.pixels.shape[1:]
        if self.mask.shape != size or self.mask.dtype != np.bool_:
            raise RasterError(f"mask must be bool {size} as the pixels, got {self.mask.dtype} {self.mask.shape}.")
        if self.grid.shape != size:
            raise RasterError(f"grid must be {size} (height, width) as the pixels, got {self.grid.shape}.")
        if len(self.bands) != self.pixels.shape[0]:
            raise RasterError(f"bands must be {len(self.pixels)} names as the pixels, got {len(self.bands)}.")

    @classmethod
    def from_pixels(
        cls,
        pixels: NDArray[Any],
        grid: Grid | None = None,
        mask: NDArray[np.bool_] | None = None,
        bands: Sequence[str] | None = None,
    ) -> Self:
        """Make a raster from an array, with defaults for mask, grid and names.

        Args:
            pixels: (C, H, W).
            grid: Default: a pixel grid without a CRS.
            mask: bool (H, W). Default: every pixel holds data, but for those of a numpy masked array that it masks.
            bands: C names. Default: red, green, blue for three bands, otherwise band1, band2, ...

        Raises:
            RasterError: If shapes, dtypes or the number of names do not agree.
        """
        if pixels.ndim != 3:
            raise RasterError(f"pixels must have the shape (bands, height, width), got {pixels.shape}.")
        count, height, width = pixels.shape
        if not pixels.dtype.isnative:
            pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        if isinstance(pixels, np.ma.MaskedArray):
            pixels, shown = settle(np.ma.getdata(pixels), ~np.ma.getmaskarray(pixels))
            mask = shown if mask is None else mask & shown
        return cls(
            pixels=pixels,
            mask=np.ones((height, width), np.bool_) if mask is None else mask,
            grid=Grid.pixels(height, width) if grid is None else grid,
            bands=default_bands(count) if bands is None else tuple(bands),
        )

    @classmethod
    def empty(cls, grid: Grid, bands: tuple[str, ...], dtype: np.dtype[Any], units: Units | None = None) -> Self:
        """Make a raster of masked zeros."""
        return cls(np.zeros((len(bands), *grid.shape), dtype), np.zeros(grid.shape, np.bool_), grid, bands, units)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.pixels.shape))
        place = self.grid.crs if self.grid.crs is not None else "no CRS"
        return f"Raster({shape} {self.dtype}, {', '.join(self.bands)}, {place}, {self.mask.mean():.0%} with data)"

    @property
    def count(self) -> int:
        """Number of bands."""
        return int(self.pixels.shape[0])

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[1])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[2])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the stored values."""
        return self.pixels.dtype

    def crop(self, y: int, x: int, height: int, width: int) -> Self:
        """Return the window whose first pixel is row ``y``, column ``x``, as a view without a copy.

        Raises:
            RasterError: If the window is empty or reaches outside the raster.
        """
        if y < 0 or x < 0 or height < 1 or width < 1 or y + height > self.height or x + width > self.width:
            raise RasterError(
                f"The window y={y} x={x} height={height} width={width} does not lie inside a raster of "
                f"{self.height} x {self.width} pixels; clip it first."
            )
        rows, columns = slice(y, y + height), slice(x, x + width)
        return type(self)(
            self.pixels[:, rows, columns],
            self.mask[rows, columns],
            self.grid.crop(y, x, height, width),
            self.bands,
            self.units,
        )

    def save(self, path: str | Path) -> None:
        """Write a GeoTIFF, PNG or JPEG, chosen by the suffix of ``path``; see `write_image`.

        Raises:
            RasterError: If the format cannot hold this raster, or the suffix is not known.
            StorageError: If the file cannot be written. No partial file is left.
        """
        from terramorph.raster.save import write_image

        write_image(self, path)

    def to_xarray(self) -> xarray.DataArray:
        """Return a DataArray (band, y, x) with coordinates, CRS (as odc-geo and rioxarray keep it) and band names.

        Pixels without data get a nodata value: NaN for floats; for integers 0, or the highest or lowest value of the
        dtype, whichever no real pixel has. Integers that use them all become floats. Scale and offset are in
        ``scale_factor`` and ``add_offset``.

        Raises:
            MissingPackageError: If dask, which odc-geo imports for DataArrays, is not installed.
        """
        from terramorph.raster.array_source import as_xarray

        return as_xarray(self)

    def _repr_png_(self) -> bytes:
        """Return a PNG preview, which notebooks show."""
        from terramorph.raster.save import preview

        packed = BytesIO()
        preview(self).save(packed, "PNG")
        return packed.getvalue()

    def arranged(self, order: Sequence[int], units: Units | None = None) -> Self:
        """Return the raster with its bands reordered or selected.

        Args:
            order: The index of each band.
            units: Units to convert stored values to; None, or a raster without units: values stay as they are.
        """
        own = self.units.pick(order) if self.units else None
        if list(order) == list(range(self.count)) and (None in (own, units) or own == units):
            return self
        pixels = self.pixels[list(order)]
        if own and units:
            pixels, own = own.convert(pixels, units), units
        return replace(self, pixels=pixels, bands=tuple(self.bands[i] for i in order), units=own)
