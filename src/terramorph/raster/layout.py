"""Band layout of a dataset: which bands are read, under which names, with which nodata and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from terramorph.bands import Units, colour_of, default_bands
from terramorph.errors import RasterError, warn
from terramorph.raster.storage import Remote
from terramorph.raster.values import is_alpha, is_value, settle

_TRANSPARENT = frozenset({"PNG", "WEBP", "GIF"})
"""Drivers of formats of which alpha is always one."""
_NAMED = {kind: kind.name for kind in (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.nir)}
PLACES, _SIDE = 3, 64
"""Places along each side where values are sampled, and their size, pixels."""


@dataclass(frozen=True)
class ReadOptions:
    """Options of reading an image, where the file does not say it or is wrong.

    Attributes:
        bands: Numbers, from 1, of the bands that are read, in this order; None: all but alpha, in their own.
        names: Names of these bands; None: those of the file.
        nodata: Stored value of pixels without data, beside the one that the file declares.
        raw: Scale and offset of the file are left aside.
        categorical: Values are classes, and are never mixed: pixels are moved by nearest neighbour. None: palettes are,
            and single bands of few whole values.
        height: Metres above the ellipsoid of the ground of a scene placed by RPCs; None: their mean.
        dem: Raster of the heights of the ground of such a scene, in metres.
        driver: The one driver of GDAL that may open it, such as GTiff, where the file comes from strangers; None: any.
        default_nodata, default_units: Nodata and units of a file that declares none; units of one band are of all.
        asset: Assets of a STAC item to read; see `stac_assets.choose`.
        sign: A function, as module:name, that is given the address of a STAC item's asset and gives the one to open.

    Raises:
        RasterError: If a band is under 1.
    """

    bands: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = None
    nodata: float | None = None
    raw: bool = False
    categorical: bool | None = None
    height: float | None = None
    dem: str | None = None
    driver: str | None = None
    default_nodata: float | None = None
    default_units: Units | None = None
    asset: str | None = None
    sign: str | None = None

    def __post_init__(self) -> None:
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            raise RasterError(f"`bands` must be numbers from 1, got {self.bands}.")

    def chosen(self, count: int, path: Path | Remote | str) -> tuple[int, ...]:
        """Return the numbers of the bands to read from a file of ``count`` bands.

        Raises:
            RasterError: If it has no band of such a number.
        """
        chosen = self.bands or tuple(range(1, count + 1))
        if max(chosen) > count:
            raise RasterError(f"{path} has {count} band{'s' * (count != 1)} and no band {max(chosen)}; pick others.")
        return chosen


@dataclass(frozen=True)
class Layout:
    """Bands of a dataset that are read, and how.

    Attributes:
        numbers: Numbers of the bands, from 1, in the order in which they are returned.
        names: Names of the returned bands.
        alpha: Numbers of the bands that are one.
        palette: Whether the only band is of indices, which become red, green and blue.
        dtype: Dtype of the returned pixels.
        units: Scale and offset of stored values; None: 1 and 0.
        nodata: See `ReadOptions`.
    """

    numbers: tuple[int, ...]
    names: tuple[str, ...]
    alpha: tuple[int, ...]
    palette: bool
    dtype: np.dtype[Any]
    units: Units | None
    nodata: float | None

    def read(self, dataset: Any, window: Window | None = None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Decode a dataset, or a window that lies inside it.

        Returns:
            Stored pixels (C, H, W) without alpha, palettes expanded to red, green and blue; and the mask (H, W), True
            where any band holds data and no alpha is 0. What a single band lacks `settle` fills.
        """
        pixels = dataset.read(list(self.numbers), window=window)
        mask: NDArray[np.bool_] | None = None
        valid = self._valid(dataset, pixels, window)
        if valid is not None:
            pixels, mask = settle(pixels, valid)
        mask = np.ones(pixels.shape[1:], np.bool_) if mask is None else mask
        for band in self.alpha:
            mask &= dataset.read(band, window=window) != 0
        if self.palette:
            pixels, opaque = _expand_palette(pixels[0], dataset.colormap(self.numbers[0]))
            mask &= opaque
        return pixels, mask

    def _valid(self, dataset: Any, pixels: NDArray[Any], window: Window | None) -> NDArray[np.bool_] | None:
        """Return where bands hold data, bool (C, H, W), alpha aside; None: everywhere."""
        whole = [{MaskFlags.all_valid, MaskFlags.alpha} & {*dataset.mask_flag_enums[n - 1]} for n in self.numbers]
        valid: NDArray[np.bool_] | None = None
        if not all(whole):
            valid = dataset.read_masks(list(self.numbers), window=window) != 0
            valid[[bool(one) for one in whole]] = True
        if self.nodata is not None:
            valid = (True if valid is None else valid) & ~is_value(pixels, self.nodata)
        if pixels.dtype.kind == "f":
            finite = np.isfinite(pixels)
            if not finite.all():
                valid = finite if valid is None else valid & finite
        return valid


def layout_of(dataset: Any, path: Path | Remote, options: ReadOptions) -> Layout:
    """Return the layout of a dataset. Alpha of formats in which it may be anything is tested in nine places.

    Raises:
        RasterError: If it has no bands, nothing but alpha, complex numbers, bands of several types, or not those that
            are asked for.
    """
    if dataset.count == 0:
        inside = [str(name) for name in dataset.subdatasets]
        names = ", ".join(inside)[:2000]
        raise RasterError(f"{path} is not an image but holds {len(inside)} inside; name one: {names}.")
    kinds = dataset.colorinterp
    tagged = [i + 1 for i, kind in enumerate(kinds) if kind == ColorInterp.alpha]
    alpha = tuple(n for n in tagged if n not in (options.bands or ()) and _is_alpha(dataset, n))
    numbers = options.chosen(dataset.count, path) if options.bands else None
    if numbers is None:
        numbers = tuple(n for n in range(1, dataset.count + 1) if n not in alpha)
        for number in {*tagged} - {*alpha}:
            warn(
                f"Band {number} of {path} is tagged as alpha and holds a spread of values: it is read as near "
                f"infrared. If it is, tag it so (gdal_edit.py -colorinterp_{number} undefined); else pick the others."
            )
    if not numbers:
        raise RasterError(f"{path} holds only an alpha band; give an image with colours.")
    types = sorted({dataset.dtypes[n - 1] for n in numbers})
    if any("complex" in name for name in types):
        raise RasterError(f"{path} holds complex numbers; take their magnitude first.")
    if len(types) > 1:
        raise RasterError(f"{path} holds bands of several types ({', '.join(types)}); convert them to one.")
    palette = len(numbers) == 1 and kinds[numbers[0] - 1] == ColorInterp.palette
    called = checked_names(options.names, path, 3 if palette else len(numbers)) or _names(dataset, numbers, palette)
    scales, offsets = ([values[n - 1] for n in numbers] for values in (dataset.scales, dataset.offsets))
    units, default = Units.of(scales, offsets), options.default_units
    if units is None and default and len(default.scales) in (1, len(numbers)):
        units = default if len(default.scales) == len(numbers) else default.pick([0] * len(numbers))
    nodata = options.nodata
    # Last, for what GDAL has to say of damaged tags as it looks for masks is raised at the question after.
    if nodata is None and all(MaskFlags.all_valid in dataset.mask_flag_enums[n - 1] for n in numbers):
        nodata = options.default_nodata
    return Layout(
        numbers=numbers,
        names=called,
        alpha=alpha,
        palette=palette,
        dtype=np.dtype("uint8" if palette else types[0]),
        units=None if palette or options.raw else units,
        nodata=nodata,
    )


def sample_blocks(dataset: Any, band: int) -> list[NDArray[Any]]:
    """Read values of a band in up to nine places; a small band whole."""
    high, wide = (side if side <= PLACES * _SIDE else _SIDE for side in dataset.shape)
    windows = [(y, x) for y in piece_starts(dataset.height, high) for x in piece_starts(dataset.width, wide)]
    return [dataset.read(band, window=Window(x, y, wide, high)) for y, x in windows]


def piece_starts(side: int, size: int) -> list[int]:
    """Return the starts of up to `PLACES` pieces of ``size`` pixels, evenly spread over ``side`` pixels."""
    return sorted({(side - size) * (2 * i + 1) // (2 * PLACES) for i in range(PLACES)})


def picked(
    pixels: NDArray[Any],
    mask: NDArray[np.bool_],
    path: Path | str,
    options: ReadOptions,
    names: Sequence[str] | None = None,
) -> tuple[NDArray[Any], NDArray[np.bool_], tuple[str, ...]]:
    """Select bands, apply nodata and name the bands of a decoded image (C, H, W)."""
    numbers = options.chosen(len(pixels), path)
    names = names or default_bands(len(pixels))
    if options.bands:
        pixels = pixels[[n - 1 for n in numbers]]
    if options.nodata is not None:
        pixels, valid = settle(pixels, ~is_value(pixels, options.nodata))
        mask = mask & valid
    return pixels, mask, checked_names(options.names, path, len(pixels)) or tuple(names[n - 1] for n in numbers)


def checked_names(names: Sequence[str] | None, path: Path | Remote | str, count: int) -> tuple[str, ...] | None:
    """Return the requested band names; None where none are requested.

    Raises:
        RasterError: If they are not as many as the bands.
    """
    if names is not None and len(names) != count:
        raise RasterError(
            f"Of {path} {count} band{'s are' if count != 1 else ' is'} read and {len(names)} are needed "
            f"({', '.join(names)}); pick as many."
        )
    return None if names is None else tuple(names)


def _is_alpha(dataset: Any, number: int) -> bool:
    """Return whether a band tagged as alpha is one, by its name, its format or its values."""
    said = dataset.descriptions[number - 1]
    if said and (colour_of(said) or "alpha" in said.lower()):
        return colour_of(said) is None
    return dataset.driver in _TRANSPARENT or is_alpha(sample_blocks(dataset, number))


def _names(dataset: Any, numbers: Sequence[int], palette: bool) -> tuple[str, ...]:
    """Return band names: descriptions, else colour tags, else the default names."""
    if palette:
        return default_bands(3)
    kinds = dataset.colorinterp
    said = [
        dataset.descriptions[n - 1] or ("nir" if kinds[n - 1] == ColorInterp.alpha else _NAMED.get(kinds[n - 1]))
        for n in numbers
    ]
    if not any(said):
        return default_bands(len(numbers)) if len(numbers) == dataset.count else tuple(f"band{n}" for n in numbers)
    return tuple(str(name or f"band{n}") for name, n in zip(said, numbers, strict=True))


def _expand_palette(
    index: NDArray[Any], colormap: dict[int, tuple[int, int, int, int]]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Convert palette indices (H, W) to RGB (3, H, W) and opacity (H, W)."""
    table = np.zeros((max(int(index.max(initial=0)), *colormap) + 1, 4), np.uint8)
    for key, colour in colormap.items():
        table[key] = colour
    rgba = table[index]
    return np.ascontiguousarray(rgba[..., :3].transpose(2, 0, 1)), rgba[..., 3] != 0
