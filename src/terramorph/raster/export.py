"""Previews of rasters as PNG, and conversion to xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terramorph.bands import Units, colours_first
from terramorph.raster.array_source import load_odc_xarray
from terramorph.raster.raster import Raster
from terramorph.raster.save import image_of

if TYPE_CHECKING:
    import xarray

PREVIEW_PX = 1024
"""Longest side of a preview."""


def preview(raster: Raster, side: int = PREVIEW_PX, limits: tuple[float, float] | None = None) -> Image.Image:
    """Return a preview of at most ``side`` pixels a side.

    Three bands and more show red, green and blue (the first three where none are named so), fewer the first as grey.
    uint8 is shown as it is. Pixels without data are transparent.

    Args:
        side: Longest side in pixels.
        limits: Values of another dtype that become black and white; None: their 2nd and 98th percentile.
    """
    # Thinned before anything else: what is left is small whatever the raster.
    step = max(1, max(raster.height, raster.width) // (2 * side))
    order = colours_first(raster.bands)[:3] if raster.count > 2 else [0]
    mask = raster.mask[::step, ::step]
    shown = _as_bytes(raster.pixels[order, ::step, ::step], mask, limits)
    layers = np.concatenate([shown, mask[None] * np.uint8(255)]) if not mask.all() else shown
    image = image_of(layers)
    image.thumbnail((side, side))
    return image


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


def _as_bytes(pixels: NDArray[Any], mask: NDArray[np.bool_], limits: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Convert pixels (C, H, W) to uint8, stretching other dtypes."""
    if pixels.dtype == np.uint8:
        return pixels
    values = pixels.astype(np.float64)
    real = values[:, mask]
    real = real[np.isfinite(real)]
    low, high = limits or (np.percentile(real, [2, 98]) if real.size else (0.0, 1.0))
    scaled = (np.nan_to_num(values, nan=low) - low) * (255 / max(high - low, np.finfo(np.float64).tiny))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


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
