"""TileSource: a pyramid of tiles as one raster; decoding of tiles."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geom import box
from PIL import Image, UnidentifiedImageError

from terramorph.bands import default_bands
from terramorph.errors import RasterError
from terramorph.geo.crs import crs_name
from terramorph.geo.grid import Grid
from terramorph.geo.mercator import WEB_MERCATOR, TileBox, pixel_grid, whole_world
from terramorph.raster.image import webp_shape
from terramorph.raster.raster import Raster
from terramorph.raster.source import Source
from terramorph.raster.tiles.reader import VECTOR_ADVICE, TileReader
from terramorph.raster.warp import footprint, kernel_reach, warp, window_offset

Tile = tuple[NDArray[np.uint8], NDArray[np.bool_] | None]
"""Pixels, uint8 (H, W, 3) RGB, and the mask, bool (H, W), True where opaque; None where all is."""

TILE_SIZES = (256, 512)
"""Sides of tiles, pixels."""
_KINDS = ("PNG", "JPEG", "WEBP")
_DEEP = ("I;16", "I;16B", "I", "F")
_KEPT_TILES = 128
"""Decoded tiles that stay in memory: a strip of neighbouring windows asks for each several times."""


class TileSource(Source):
    """Tiles of one zoom: uint8 red, green, blue; missing tiles and alpha 0 are masked.

    Where requested pixels are at least twice as large, a coarser zoom of the reader is used if it has every tile there,
    else averages of tiles: memory is in proportion to the request.

    Args:
        reader: Reader of the tiles; closed with the source.
        zoom: Default: the finest that covers the ground.
        any_zoom: Take the default where there is no such zoom.
        tile_size: Side of a tile in pixels, 256 or 512; default: that of some tile, or 256 where a server has them.
        crs: EPSG:3857 (default), or EPSG:3395 for tiles of Yandex.

    Attributes:
        tile_size: Side of a tile, pixels.

    Raises:
        RasterError: If there is no such zoom, the CRS is another, or the tile that is looked at cannot be decoded. The
            reader is closed then.
    """

    grid: Grid

    def __init__(
        self,
        reader: TileReader,
        zoom: int | None = None,
        *,
        any_zoom: bool = False,
        tile_size: int | None = None,
        crs: CRS | None = None,
    ) -> None:
        self.name = reader.name
        self.licence = reader.licence
        self.bands = default_bands(3)
        self.dtype = np.dtype(np.uint8)
        self._reader = reader
        self._decoded = lru_cache(maxsize=_KEPT_TILES)(self._decode)
        try:
            if reader.vectors:
                raise RasterError(f"{self.name} {VECTOR_ADVICE}")
            self._crs = crs or reader.crs or WEB_MERCATOR
            if self._crs.epsg not in (3857, 3395):
                raise RasterError(
                    f"{self.name}: tiles are in EPSG:3857 or EPSG:3395 and not in {crs_name(self._crs)}; give one of "
                    "these."
                )
            if zoom is None or (any_zoom and zoom not in reader.zooms):
                zoom = reader.default_zoom()
            self.zoom = zoom
            if self.zoom not in reader.zooms:
                held = ", ".join(map(str, reader.zooms))
                raise RasterError(f"{self.name} has no tiles of zoom {self.zoom}; it has {held}.")
            self._box = reader.box(self.zoom)
            self.tile_size = self._size_of_some_tile() if tile_size is None else tile_size
        except BaseException:
            reader.close()
            raise
        self.grid = pixel_grid(self.zoom, self._box, self.tile_size, self._crs)
        self.extent = box(*self.grid.bounds, crs=self._crs)

    def read(self, grid: Grid) -> Raster:
        """Read the pixels on a grid; see `Source.read`.

        Raises:
            RasterError: If the grid has no CRS, or a tile is damaged, of another size, or cannot be had.
        """
        offset = window_offset(self.grid, grid)
        if offset is not None:
            y, x = offset[0] + self._box.top * self.tile_size, offset[1] + self._box.left * self.tile_size
            return self._window(self.zoom, 1, y, x, grid)
        place = footprint(self.grid, grid)
        if place is None:
            return self._nothing(grid)
        halvings = math.floor(math.log2(max(min(place.step_x, place.step_y), 1)) + 1e-6)
        halvings = min(halvings, self.zoom, self.tile_size.bit_length() - 1)
        world = pixel_grid(self.zoom - halvings, whole_world(self.zoom - halvings), self.tile_size, self._crs)
        across = 0
        if self._box.right > 1 << self.zoom:
            # One turn of the world with the tiles in its middle.
            across = ((self._box.left + self._box.right) * self.tile_size >> halvings + 1) - world.width // 2
            world = world.crop(0, across, *world.shape)
        place = footprint(world, grid)
        if place is None:
            return self._nothing(grid)
        reach = kernel_reach(place)
        # Pixels outside the tiles there are would only be masked ones: they need not be made.
        held = footprint(world, self.grid)
        assert held is not None
        left = math.floor(max(place.left - reach, held.left - reach))
        top = math.floor(max(place.top - reach, held.top - reach))
        right = math.ceil(min(place.right + reach, held.right + reach))
        bottom = math.ceil(min(place.bottom + reach, held.bottom + reach))
        if right <= left or bottom <= top:
            return self._nothing(grid)
        around = world.crop(top, left, bottom - top, right - left)
        zoom = self._complete_zoom(halvings, top, left + across, around)
        return warp(self._window(zoom, 1 << (halvings - (self.zoom - zoom)), top, left + across, around), grid)

    def fingerprint(self) -> str:
        return self._reader.fingerprint()

    def close(self) -> None:
        self._decoded.cache_clear()
        self._reader.close()

    def _nothing(self, grid: Grid) -> Raster:
        return Raster.empty(grid, self.bands, self.dtype)

    def _complete_zoom(self, halvings: int, top: int, left: int, grid: Grid) -> int:
        """Return the coarsest zoom that has every tile there and pixels at most 2^halvings times the own."""
        for finer in range(halvings):
            zoom, size = self.zoom - halvings + finer, self.tile_size >> finer
            if zoom not in self._reader.zooms:
                continue
            steps = halvings - finer
            tiles = _tiles_under(top, left, grid, size).meet(
                TileBox(
                    self._box.left >> steps,
                    self._box.top >> steps,
                    -(-self._box.right >> steps),
                    -(-self._box.bottom >> steps),
                )
            )
            if all(self._reader.has(zoom, x % (1 << zoom), y) for x, y in tiles.numbers()):
                return zoom
        return self.zoom

    def _window(self, zoom: int, shrink: int, top: int, left: int, grid: Grid) -> Raster:
        """Assemble tiles of a zoom, each made ``shrink`` times smaller.

        Args:
            shrink: A power of 2, at most the tile size.
            top, left: First pixel, counted from the north-west corner of the world in shrunk pixels.
        """
        raster = self._nothing(grid)
        pixels, mask = raster.pixels, raster.mask
        size = self.tile_size // shrink
        held = self._box if zoom == self.zoom else self._reader.box(zoom)
        tiles = _tiles_under(top, left, grid, size).meet(held)
        for row in range(tiles.top, tiles.bottom):
            for column in range(tiles.left, tiles.right):
                tile = self._decoded(zoom, column % (1 << zoom), row)
                if tile is None:
                    continue
                colours, opaque = _shrink(*tile, shrink) if shrink > 1 else tile
                y, x = row * size - top, column * size - left
                y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + size, grid.height), min(x + size, grid.width)
                inside = np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
                if opaque is None:
                    pixels[:, y0:y1, x0:x1] = colours[inside].transpose(2, 0, 1)
                    mask[y0:y1, x0:x1] = True
                else:
                    pixels[:, y0:y1, x0:x1] = np.where(opaque[inside], colours[inside].transpose(2, 0, 1), 0)
                    mask[y0:y1, x0:x1] = opaque[inside]
        return raster

    def _decode(self, zoom: int, x: int, y: int) -> Tile | None:
        data = self._reader.read(zoom, x, y)
        return None if data is None else decode_tile(data, f"{self.name}: tile {zoom}/{x}/{y}", self.tile_size)

    def _size_of_some_tile(self) -> int:
        number = self._reader.first(self.zoom)
        if number is None:
            return TILE_SIZES[0]
        data = self._reader.read(self.zoom, *number)
        where = f"{self.name}: tile {self.zoom}/{number[0]}/{number[1]}"
        if data is None:
            raise RasterError(f"{where} is listed and is not there; copy the archive again.")
        return int(decode_tile(data, where)[0].shape[0])


def _tiles_under(top: int, left: int, grid: Grid, size: int) -> TileBox:
    """Return the tiles of ``size`` pixels a side under a grid whose first pixel is row ``top``, column ``left``."""
    return TileBox(left // size, top // size, -(-(left + grid.width) // size), -(-(top + grid.height) // size))


def _shrink(colours: NDArray[np.uint8], opaque: NDArray[np.bool_] | None, factor: int) -> Tile:
    """Average factor x factor pixels of a tile; valid where all of them are."""
    means = np.asarray(Image.fromarray(colours).reduce(factor))
    if opaque is None:
        return means, None
    size = len(means)
    whole: NDArray[np.bool_] = np.logical_and.reduce(opaque.reshape(size, factor, size, factor), axis=(1, 3))
    return means, whole


def decode_tile(data: bytes, where: str, size: int | None = None) -> Tile:
    """Decode a PNG, JPEG or WebP tile. Grey and palettes become red, green, blue; alpha 0 becomes the mask.

    Args:
        where: The archive and the tile's number, for messages.
        size: Side in pixels that it must have; default: either of `TILE_SIZES`.

    Raises:
        RasterError: If it is damaged, no image of these kinds, of another size, or of more than 8 bits a band.
    """
    try:
        height, width = (data[8:12] == b"WEBP" and webp_shape(data)) or (0, 0)
        if max(height, width) > TILE_SIZES[-1]:  # its pixels, unlike others', are made room for as it is opened
            raise RasterError(f"{where} is {width} x {height} pixels; give tiles of one size, 256 or 512.")
        with Image.open(io.BytesIO(data), formats=_KINDS) as image:
            _check_shape(image, data, where, size)
            transparent = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
            decoded = np.asarray(image.convert("RGBA") if transparent else image.convert("RGB"))
    except RasterError:
        raise
    except Exception as error:  # decoders raise whatever they like at damaged bytes
        said = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        kind = "is empty" if not data else f"is damaged or no PNG, JPEG or WebP{said}"
        raise RasterError(f"{where} {kind}; fetch this tile again or remove it.") from error
    if not transparent:
        return decoded, None
    mask = decoded[..., 3] != 0
    return np.ascontiguousarray(decoded[..., :3]), None if mask.all() else mask


def _check_shape(image: Any, data: bytes, where: str, size: int | None) -> None:
    """Refuse a tile by its header: more than 8 bits a band, or another size."""
    if image.mode in _DEEP or (image.format == "PNG" and data[24:25] == b"\x10"):
        raise RasterError(f"{where} has more than 8 bits a band; tiles of 8 bits are read: convert it.")
    if size is None and image.width == image.height and image.width in TILE_SIZES:
        return
    if image.size != (size, size):
        wanted = f"{size} x {size} as the others" if size else "256 x 256 or 512 x 512"
        raise RasterError(
            f"{where} is {image.width} x {image.height} pixels and not {wanted}; give tiles of one size, 256 or 512."
        )
