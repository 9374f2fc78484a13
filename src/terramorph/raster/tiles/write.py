"""Any source as web-map tiles: the finest zoom is read from it, and each coarser one made from the four tiles below.

The finest zoom goes by from the top, a row of tiles at a time. A tile is encoded and, halved, laid into its parent
at once; a parent is done when both rows below it are. So the source is read once, and what is held is a row or two of
unfinished parents at every zoom: about 2 KiB for each column of pixels of a colour raster.
"""

from __future__ import annotations

import io
import math
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.errors import RasterError
from terramorph.geo.grid import Grid
from terramorph.geo.mercator import MAX_ZOOM, TileBox, degrees_of_corner, pixel_grid, whole_world
from terramorph.raster.save import image_of
from terramorph.raster.source import Source
from terramorph.raster.tiles.sinks import About, Kind, TileSink, open_sink
from terramorph.raster.warp import Footprint, footprint
from terramorph.raster.writer import Progress

SIZE = 256
"""Side of a tile, pixels."""

_AHEAD = 32
"""Tiles that are encoded while others are read."""
_MARGIN = 0.005
"""Share of its size by which a source may reach beyond the box measured around it: edges are curved."""
_EDGE_PIXELS = 1
"""Pixels by which a source may miss the line of 180 degrees and still end at it."""

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def write_tiles(
    source: Source,
    path: str | Path,
    *,
    kind: Kind,
    name: str,
    attribution: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a source as tiles of 256 pixels in web mercator (EPSG:3857), as PNG.

    The zooms end where pixels are nearest to the source's own, within a factor of 1.42, and begin where the whole
    source fits on a tile. Tiles without data are left out; where pixels of a tile have none it gets alpha. A pixel of a
    coarser zoom is the mean of those of the four below it that have data, and has none where none has. The same source
    gives the same bytes.

    Args:
        source: 1 or 3 bands of uint8, in any CRS, with a grid.
        path: The file, which is replaced, or the folder, which must be new or empty.
        kind: "xyz" is a folder z/x/y with a tilejson.json.
        name: Name of the archive, for people.
        attribution: Terms of use, for people.
        progress: Called with tiles of the finest zoom: (done, total), empty ones included.

    Raises:
        RasterError: If the source has no CRS, other bands or another dtype; cannot be read; has no data; or something
            lies where the folder is to be.
        StorageError: If it cannot be written. Nothing is left behind.
    """
    path = Path(path)
    assert source.grid is not None
    check_tiles(source.name, source.grid, len(source.bands), source.dtype)
    low, high = _zooms(source.name, source.grid)
    box = _tile_box(source.grid, high)
    with ThreadPoolExecutor(os.cpu_count(), "terramorph-encode") as pool, open_sink(kind, path) as sink:
        pyramid = _Pyramid(source.name, sink, pool, low, high, box)
        try:
            _feed(pyramid, source, high, box, progress or (lambda done, total: None))
            ground = pyramid.finish()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        sink.finish(About(name, low, high, ground, attribution))


def check_tiles(name: str, ground: Grid, bands: int, dtype: np.dtype[Any]) -> None:
    """Refuse a source on such a grid that `write_tiles` would refuse, before it is opened.

    Raises:
        RasterError: If there is no CRS, no place on web maps, or other bands or another dtype than tiles hold.
    """
    if ground.crs is None:
        raise RasterError(f"{name} has no CRS, so there is no telling where its tiles lie; georeference it.")
    if bands not in (1, 3):
        raise RasterError(f"{name} has {bands} bands; tiles are made of 1 or 3: choose some.")
    if dtype != np.uint8:
        raise RasterError(f"{name} holds {dtype}; tiles hold uint8: bring it to 0 ... 255 first.")
    _of_world(name, ground)


def native_zoom(source: Source) -> int:
    """Return the zoom whose pixels are nearest to the own ones of a source with a grid, within a factor of 1.42.

    Raises:
        RasterError: If the source lies nowhere on web maps.
    """
    assert source.grid is not None
    return _zooms(source.name, source.grid)[1]


def _place(ground: Grid, zoom: int) -> Footprint | None:
    """Return the footprint on the pixels of a zoom."""
    return footprint(pixel_grid(zoom, whole_world(zoom), SIZE), ground)


def _of_world(name: str, ground: Grid) -> Footprint:
    """Return the footprint on the only tile of zoom 0.

    Raises:
        RasterError: If it misses it.
    """
    place = _place(ground, 0)
    if place is None or place.bottom <= 0 or place.top >= SIZE:
        raise RasterError(f"{name} lies nowhere on web maps, which end at 85 degrees of latitude.")
    return place


def _zooms(name: str, ground: Grid) -> tuple[int, int]:
    """Return the coarsest and the finest zoom to write."""
    place = _of_world(name, ground)
    high = min(max(round(-math.log2(math.sqrt(place.step_x * place.step_y))), 0), MAX_ZOOM)
    side = max(place.right - place.left, place.bottom - place.top) / SIZE
    return min(max(math.floor(-math.log2(side)), 0), high), high


def _tile_box(ground: Grid, zoom: int) -> TileBox:
    """Return the tiles that a source may touch, at least one. Across 180 degrees columns continue beyond the last."""
    place = _place(ground, zoom)
    assert place is not None  # `check_tiles` has looked
    wide, high = _MARGIN * (place.right - place.left) + 1, _MARGIN * (place.bottom - place.top) + 1
    count = 1 << zoom

    def row(side: float) -> int:
        return min(max(math.floor(side / SIZE), 0), count - 1)

    left, right = math.floor((place.left - wide) / SIZE), math.floor((place.right + wide) / SIZE) + 1
    if left < 0 and place.left > -_EDGE_PIXELS:  # nothing but the margin lies beyond the line
        left = 0
    if right > count and place.right < count * SIZE + _EDGE_PIXELS:
        right = count
    return TileBox(left, row(place.top - high), min(right, left + count), row(place.bottom + high) + 1)


def _feed(pyramid: _Pyramid, source: Source, zoom: int, box: TileBox, tell: Progress) -> None:
    """Read the finest zoom, tile by tile, into the pyramid."""
    done, total = 0, (box.right - box.left) * (box.bottom - box.top)
    # One by one, for the last bits of a warped pixel depend on the window, and a tile is the same whoever asks
    # for it. What is decoded from the top is read in whole rows, or every window would begin at the top again.
    wide = box.right - box.left if source.sequential else 1
    count = 1 << zoom
    for row in range(box.top, box.bottom):
        left = box.left
        while left < box.right:
            # No window reaches across the line.
            right = min(left + wide, box.right, left - left % count + count)
            turn = left // count * count
            raster = source.read(pixel_grid(zoom, TileBox(left - turn, row, right - turn, row + 1), SIZE))
            for column in range(left, right):
                tile = np.s_[:, (column - left) * SIZE : (column - left + 1) * SIZE]
                pyramid.widen(column, row, raster.mask[tile])
                pyramid.add(zoom, column % count, row, raster.pixels[:, *tile], raster.mask[tile])
            done += right - left
            tell(done, total)
            left = right
        pyramid.row_done(zoom, row)


class _Pyramid:
    """Tiles of the finest zoom in, encoded tiles of all zooms out.

    Args:
        sink: Takes the tiles, in the same order each time.
        box: Tiles of the finest zoom.
    """

    def __init__(self, name: str, sink: TileSink, pool: ThreadPoolExecutor, low: int, high: int, box: TileBox) -> None:
        self._name, self._sink, self._pool = name, sink, pool
        self._low, self._high, self._box = low, high, box
        self._parents: dict[tuple[int, int], dict[int, tuple[Pixels, Mask]]] = {}
        self._encoding: deque[tuple[int, int, int, Future[bytes]]] = deque()
        self._held: tuple[int, int, int, int] | None = None

    def add(self, zoom: int, x: int, y: int, pixels: Pixels, mask: Mask) -> None:
        """Add a tile: pixels (C, 256, 256) and mask (256, 256)."""
        if not mask.any():
            return
        if zoom > self._low:
            self._lay(zoom - 1, x, y, *halve(pixels, mask))
        self._encoding.append((zoom, x, y, self._pool.submit(_encode, pixels, mask)))
        while len(self._encoding) > _AHEAD:
            self._put()

    def row_done(self, zoom: int, y: int) -> None:
        """Finish a row of tiles: its parents may be complete, and theirs."""
        last = (self._box.bottom - 1) >> (self._high - zoom)
        if zoom == self._low or (y % 2 == 0 and y != last):
            return
        for x, (pixels, mask) in sorted(self._parents.pop((zoom - 1, y // 2), {}).items(), key=lambda item: item[0]):
            self.add(zoom - 1, x, y // 2, pixels, mask)
        self.row_done(zoom - 1, y // 2)

    def finish(self) -> tuple[float, float, float, float]:
        """Write what is left, after the last row; return the ground of the pixels with data; see `About`."""
        while self._encoding:
            self._put()
        if self._held is None:
            raise RasterError(f"{self._name} has no pixel with data on web maps; there are no tiles to write.")
        left, top, right, bottom = (side / SIZE for side in self._held)
        west, north = degrees_of_corner(self._high, left, top)
        east, south = degrees_of_corner(self._high, right, bottom)
        return round(west, 7), round(south, 7), round(east, 7), round(north, 7)

    def _lay(self, zoom: int, x: int, y: int, pixels: Pixels, mask: Mask) -> None:
        """Put a halved tile into its quarter of the parent."""
        row = self._parents.setdefault((zoom, y // 2), {})
        if x // 2 not in row:
            row[x // 2] = np.zeros((len(pixels), SIZE, SIZE), np.uint8), np.zeros((SIZE, SIZE), np.bool_)
        half = SIZE // 2
        quarter = np.s_[y % 2 * half :, x % 2 * half :]
        parent, real = row[x // 2]
        parent[:, *quarter][:, :half, :half] = pixels
        real[quarter][:half, :half] = mask

    def widen(self, x: int, y: int, mask: Mask) -> None:
        """Widen the box of pixels with data by those of a tile of the finest zoom."""
        if not mask.any():
            return
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        left, top = x * SIZE + int(columns[0]), y * SIZE + int(rows[0])
        right, bottom = x * SIZE + int(columns[-1]) + 1, y * SIZE + int(rows[-1]) + 1
        held = self._held or (left, top, right, bottom)
        self._held = min(held[0], left), min(held[1], top), max(held[2], right), max(held[3], bottom)

    def _put(self) -> None:
        zoom, x, y, data = self._encoding.popleft()
        self._sink.put(zoom, x, y, data.result())


def halve(pixels: Pixels, mask: Mask) -> tuple[Pixels, Mask]:
    """Halve a tile, for the next coarser zoom.

    Args:
        pixels: uint8 (C, H, W), H and W even.
        mask: bool (H, W).

    Returns:
        Means of the real ones of 2 x 2 pixels, rounded, (C, H/2, W/2); real where any is, and 0 elsewhere.
    """
    count = _of_four(mask.astype(np.uint16))
    total = _of_four(np.where(mask, pixels, 0).astype(np.uint16))
    means = (total + count // 2) // np.maximum(count, 1)
    return means.astype(np.uint8), count > 0


def _of_four(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    rows = values[..., ::2, :] + values[..., 1::2, :]
    return np.asarray(rows[..., ::2] + rows[..., 1::2])


def _encode(pixels: Pixels, mask: Mask) -> bytes:
    """Encode a tile, with alpha where pixels have no data."""
    bands = pixels
    if not mask.all():
        bands = np.concatenate([np.where(mask, pixels, 0), np.where(mask, 255, 0).astype(np.uint8)[None]])
    buffer = io.BytesIO()
    image_of(bands).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
