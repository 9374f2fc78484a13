"""Layers: a raster, its translation and further views, as sources of tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.crs import CRS
from PIL import Image

from terramorph.bands import colours_first
from terramorph.cartography import Palette
from terramorph.geo import Grid
from terramorph.geo.crs import transformer
from terramorph.geo.mercator import TileBox, degrees_of_corner, pixel_grid
from terramorph.raster import Raster, Source
from terramorph.raster.storage import Remote
from terramorph.raster.tiles.write import SIZE, halve, native_zoom
from terramorph.translate.products import entropy

Read = Callable[[Grid], Raster]

COARSER, FINER, ENLARGED = 3, 1, 2
"""Numbers of zooms besides the native one: coarser ones are made of finer tiles, finer ones are read from the same
windows, and those beyond are enlarged."""

TITLES = {
    "input": "Input",
    "output": "Output",
    "truth": "Truth",
    "difference": "Difference",
    "classes": "Classes",
    "entropy": "Entropy",
}
"""Titles of views, in the order in which they are offered."""

_HEAT = ((0, (0, 0, 0, 0)), (24, (254, 224, 144, 150)), (64, (244, 109, 67, 220)), (255, (165, 0, 38, 255)))
"""Colours and opacities by difference in grey levels, or by entropy in parts of 255."""
_RGBA = ("red", "green", "blue", "opacity")


@dataclass(frozen=True)
class View:
    """A view of a layer.

    Attributes:
        name: Name, a key of `TITLES`.
        read: Function that reads uint8 (1, 3 or 4 bands, H, W) on a grid; a fourth band is opacity.
        computed: Whether the model computes it, so that coarse zooms are made of fine tiles.
        flat: Whether it has a few flat colours.
        overlay: Whether it is drawn over other views, with its own opacity.
    """

    name: str
    read: Read
    computed: bool
    flat: bool
    overlay: bool = False

    @property
    def format(self) -> str:
        """Suffix of its tiles, a key of `FORMATS`."""
        return "png" if self.flat or self.overlay else "webp"


@dataclass(frozen=True)
class Layer:
    """A raster and its translation.

    Attributes:
        name, title, attribution: As in the settings.
        identity: 16 hexadecimal digits, digest of all that determines the pixels; part of URLs.
        source, output, truth: The raster, its translation (`Model.lazy`) and the true map or photograph.
        palette: Palette of the output; None for photographs.
        probabilities: Function that opens the class probabilities (`Model.probabilities`) for the view of entropy;
            None where there are none.
        low, high: Stored values of the source that are shown as black and as white.
        about: Facts about the model, for people.
        private: Whether the layer is not listed, and its tiles are not cached.
        files: What source and truth are read from, as far as it is looked at again.
        state: `Opener.state` of them when they were opened.
    """

    name: str
    title: str
    identity: str
    source: Source
    output: Source
    truth: Source | None
    palette: Palette | None
    probabilities: Callable[[], Source] | None
    low: float
    high: float
    attribution: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    private: bool = False
    files: tuple[Path | Remote, ...] = ()
    state: tuple[str, ...] = ()

    @cached_property
    def grid(self) -> Grid:
        """Grid of the translation."""
        assert self.output.grid is not None
        return self.output.grid

    @cached_property
    def native(self) -> int:
        """Zoom whose pixels are nearest in size to those of the translation."""
        return native_zoom(self.output)

    @property
    def min_zoom(self) -> int:
        """Coarsest zoom of the translation."""
        return max(self.native - COARSER, 0)

    @property
    def max_zoom(self) -> int:
        """Finest zoom with more detail than the one before."""
        return self.native + FINER

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """Bounds (west, south, east, north), degrees (EPSG:4326); east is over 180 where it crosses that line."""
        assert self.grid.crs is not None
        to_degrees = transformer(self.grid.crs, CRS("EPSG:4326"))
        west, south, east, north = to_degrees.transform_bounds(*self.grid.bounds)
        return west, south, east + 360 if east < west else east, north

    @cached_property
    def views(self) -> dict[str, View]:
        """Views by name, in the order in which they are offered."""
        flat = self.palette is not None
        found = {
            "input": View("input", self._input, computed=False, flat=False),
            "output": View("output", _shown(self.output), computed=True, flat=flat),
        }
        if self.truth is not None:
            found["truth"] = View("truth", _shown(self.truth), computed=False, flat=flat)
            found["difference"] = View("difference", self._difference, computed=True, flat=False, overlay=True)
        if self.palette is not None:
            found["classes"] = View("classes", self._classes, computed=True, flat=True)
        if self.probabilities is not None:
            found["entropy"] = View("entropy", self._entropy, computed=True, flat=False, overlay=True)
        return found

    def tile(self, view: View, zoom: int, x: int, y: int, size: int = SIZE) -> Raster | None:
        """Return a web-mercator tile, the same as that of `write_tiles` for the whole translation.

        Args:
            view: One of `views`.
            zoom, x, y: Zoom, column and row of the tile.
            size: Side in pixels, 256 or 512. A tile of 512 px is the four tiles of the next zoom.

        Returns:
            uint8 (C, size, size), or None where there is no data or the zoom is not offered.
        """
        if size == 2 * SIZE:
            return self._finer(view, zoom, x, y)
        if not self.touches(zoom, x, y):
            return None
        if view.computed and zoom > self.max_zoom:
            return self._enlarged(view, zoom, x, y)
        if view.computed and zoom < self.native:
            if zoom < self.min_zoom:
                return None
            four = self._finer(view, zoom, x, y)
            if four is None:
                return None
            return Raster(*halve(four.pixels, four.mask), _tile_grid(zoom, x, y), four.bands)
        raster = view.read(_tile_grid(zoom, x, y))
        return raster if raster.mask.any() else None

    def close(self) -> None:
        """Close the sources."""
        for source in (self.__dict__.get("_opened_probabilities"), self.output, self.source, self.truth):
            if source is not None:
                source.close()

    def touches(self, zoom: int, x: int, y: int) -> bool:
        """Return whether a tile may show something of the layer."""
        west, south, east, north = self.bounds
        left, top = degrees_of_corner(zoom, x, y)
        right, bottom = degrees_of_corner(zoom, x + 1, y + 1)
        around = any(left < east + turn and right > west + turn for turn in (-360, 0, 360))
        return around and bottom < north and top > south

    def _finer(self, view: View, zoom: int, x: int, y: int) -> Raster | None:
        """Join the four tiles of the next zoom on the ground of a tile."""
        return _joined([[self.tile(view, zoom + 1, 2 * x + i, 2 * y + j) for i in (0, 1)] for j in (0, 1)])

    def _enlarged(self, view: View, zoom: int, x: int, y: int) -> Raster | None:
        over = zoom - self.max_zoom
        if over > ENLARGED:
            return None
        coarse = self.tile(view, self.max_zoom, x >> over, y >> over)
        if coarse is None:
            return None
        side = SIZE >> over
        top, left = (y % (1 << over)) * side, (x % (1 << over)) * side
        part = coarse.crop(top, left, side, side)
        method = Image.Resampling.NEAREST if view.flat else Image.Resampling.BILINEAR
        bands = [np.asarray(Image.fromarray(band).resize((SIZE, SIZE), method)) for band in part.pixels]
        mask = np.repeat(np.repeat(part.mask, 1 << over, axis=0), 1 << over, axis=1)
        return Raster(np.stack(bands), mask, _tile_grid(zoom, x, y), part.bands)

    def _input(self, grid: Grid) -> Raster:
        return display(self.source.read(grid), self.low, self.high)

    def _difference(self, grid: Grid) -> Raster:
        assert self.truth is not None
        output, truth = _shown(self.output)(grid), _shown(self.truth)(grid)
        both = output.mask & truth.mask
        apart = np.abs(output.pixels.astype(np.int16) - truth.pixels.astype(np.int16)).mean(axis=0)
        return Raster(_heat_colours()[apart.astype(np.uint8)].transpose(2, 0, 1), both, grid, _RGBA)

    def _classes(self, grid: Grid) -> Raster:
        assert self.palette is not None
        output = self.output.read(grid)
        colours = np.array([one.rgb for one in self.palette.classes], np.uint8)
        rgb = colours[self.palette.classify(output.pixels)].transpose(2, 0, 1)
        return Raster(np.ascontiguousarray(rgb), output.mask, grid, output.bands)

    @cached_property
    def _opened_probabilities(self) -> Source:
        assert self.probabilities is not None
        return self.probabilities()

    def _entropy(self, grid: Grid) -> Raster:
        found = self._opened_probabilities.read(grid)
        level = np.rint(255 * entropy(found.pixels)).astype(np.uint8)
        return Raster(_heat_colours()[level].transpose(2, 0, 1), found.mask, grid, _RGBA)


def display(raster: Raster, low: float, high: float) -> Raster:
    """Convert a raster for display: its red, green and blue band, or its first, with low as black and high as white.

    Args:
        raster: Raster of any bands and dtype.
        low, high: Stored values.

    Returns:
        uint8 (1 or 3, H, W).
    """
    picked = colours_first(raster.bands)[:3] if raster.count > 2 else [0]
    pixels = raster.pixels[picked]
    if pixels.dtype != np.uint8 or (low, high) != (0, 255):
        scaled = (pixels.astype(np.float32) - low) * (255 / max(high - low, 1e-12))
        pixels = np.rint(np.clip(np.nan_to_num(scaled), 0, 255)).astype(np.uint8)
    bands = _RGBA[:3] if len(picked) == 3 else ("grey",)
    return Raster(np.ascontiguousarray(pixels), raster.mask, raster.grid, bands)


def _shown(source: Source) -> Read:
    whole = None if source.dtype.kind == "f" else np.iinfo(source.dtype)
    low, high = (0.0, 1.0) if whole is None else (float(whole.min), float(whole.max))
    return lambda grid: display(source.read(grid), low, high)


def _tile_grid(zoom: int, x: int, y: int) -> Grid:
    return pixel_grid(zoom, TileBox(x, y, x + 1, y + 1), SIZE)


def _joined(tiles: list[list[Raster | None]]) -> Raster | None:
    """Join four tiles to one of twice the side; None where all are None."""
    there = next((tile for row in tiles for tile in row if tile is not None), None)
    if there is None:
        return None
    pixels = np.zeros((there.count, 2 * SIZE, 2 * SIZE), np.uint8)
    mask = np.zeros(pixels.shape[1:], np.bool_)
    for j, row in enumerate(tiles):
        for i, tile in enumerate(row):
            if tile is not None:
                where = np.s_[j * SIZE : (j + 1) * SIZE, i * SIZE : (i + 1) * SIZE]
                pixels[:, *where], mask[where] = tile.pixels, tile.mask
    return Raster(pixels, mask, Grid.pixels(*mask.shape), there.bands)


@lru_cache(maxsize=1)
def _heat_colours() -> NDArray[np.uint8]:
    """Return colour and opacity by level of `_HEAT`, uint8 (256, 4)."""
    levels = np.arange(256)
    stops, colours = [level for level, _ in _HEAT], np.array([colour for _, colour in _HEAT])
    return np.stack([np.interp(levels, stops, colours[:, band]) for band in range(4)], axis=1).round().astype(np.uint8)
