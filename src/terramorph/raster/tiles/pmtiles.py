"""PMTiles: tiles in one file, in the order of a Hilbert curve, with an index.

Version 3 (https://github.com/protomaps/PMTiles/blob/main/spec/v3/spec.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pmtiles.reader import MmapSource
from pmtiles.tile import Compression, TileType, deserialize_header, tileid_to_zxy, zxy_to_tileid

from terramorph.documents import parse_json
from terramorph.errors import RasterError, raised_as
from terramorph.geo.mercator import MAX_ZOOM, TileBox, box_around, tiles_of_degrees
from terramorph.raster.storage import Remote
from terramorph.raster.tiles.reader import (
    TileReader,
    looks_like_vectors,
    plain_text,
    said_crs,
    unpacked,
    varints,
)

_SCANNED = 16 << 20
"""Bytes of an index that is looked through for what the header may say wrongly; some million tiles."""
_MOST_TILES = 1 << 23
"""Tiles that are listed then; of more, as of the sea, the header is believed."""
_LEVELS = 4

Numbers = NDArray[np.int64]


class _Directory(NamedTuple):
    """Entries of the index, int64 (N,) each: first tile, run length (0: a leaf directory), offset, length."""

    tile: Numbers
    run: Numbers
    offset: Numbers
    length: Numbers


class PMTiles(TileReader):
    """Tiles of images or vectors, in a memory-mapped file or on a server that serves byte ranges.

    The zooms and places of tiles are those in the index, whatever the header says, unless the index is huge.

    Attributes:
        header: The header, with the names of the package `pmtiles`.
        about: The JSON object in it.

    Raises:
        RasterError: If it is damaged, no PMTiles file, or holds no tiles, or tiles that are neither PNG, JPEG, WebP
            nor MVT.
    """

    bounds: tuple[float, ...]
    stated_in = "the header"

    def __init__(self, path: str | Path | Remote) -> None:
        self.name = str(path)
        self._path = path if isinstance(path, Remote) else Path(path)
        self._directory = lru_cache(maxsize=256)(self._parse_directory)
        with self._errors():
            self._bytes: Callable[[int, int], bytes] | None = _ranges(self._path)
            self.header: dict[str, Any] = deserialize_header(self._get(0, 127))
            ends = ("min_lon", "min_lat", "max_lon", "max_lat")
            self.bounds = tuple(self.header[f"{end}_e7"] / 1e7 for end in ends)
            self.about = self._metadata()
            self.crs = said_crs(self.name, self.about)
            self._check()
            self._listed = self._list() if self.header["leaf_directory_length"] <= _SCANNED else None
            self.counts = {zoom: len(tiles) for zoom, tiles in (self._listed or {}).items()}
            stated = range(self.header["min_zoom"], min(self.header["max_zoom"], MAX_ZOOM) + 1)
            believed = (zoom for zoom in stated if self._first_id(zoom) is not None)
            self.zooms = tuple(believed if self._listed is None else self.counts)
        if not self.zooms:
            raise RasterError(f"{self.name} holds no tiles; give another file.")
        self.licence = plain_text(self.about.get("attribution") or self.about.get("license"))

    @property
    def vectors(self) -> bool:
        """Whether tiles are vectors: by the header, else by the first tile of the finest zoom."""
        if self.header["tile_type"] != TileType.UNKNOWN:
            return bool(self.header["tile_type"] == TileType.MVT)
        return looks_like_vectors(self.read(self.zooms[-1], *self.first(self.zooms[-1])) or b"")

    def _check(self) -> None:
        """Refuse kinds of tiles and compression that are not read."""
        if self.header["tile_type"] in (TileType.AVIF, TileType.MLT):
            kind = self.header["tile_type"].name
            raise RasterError(f"{self.name} holds {kind} tiles; PNG, JPEG, WebP and MVT are read: convert it.")
        if self.header["tile_compression"] not in (Compression.NONE, Compression.UNKNOWN, Compression.GZIP):
            raise RasterError(f"{self.name} has tiles that are compressed, and not with gzip; convert them to gzip.")
        if self.header["internal_compression"] not in (Compression.NONE, Compression.GZIP):
            raise RasterError(f"{self.name} has a compressed index that is not gzip; write it with gzip.")

    def box(self, zoom: int) -> TileBox:
        """Return the box around the tiles present; of a huge index, the tiles that the header's bounds touch."""
        if self._listed is None:
            return tiles_of_degrees(zoom, *self.bounds)
        return box_around(zoom, *_hilbert(zoom, self._listed[zoom]))

    def first(self, zoom: int) -> tuple[int, int]:
        """Return the first tile of the zoom along the Hilbert curve."""
        number = self._first_id(zoom)
        if number is None:
            raise RasterError(f"{self.name} has no tile of zoom {zoom}; copy it again.")
        _, x, y = tileid_to_zxy(number)
        return x, y

    def has(self, zoom: int, x: int, y: int) -> bool:
        return self._find(zoom, x, y) is not None

    def read(self, zoom: int, x: int, y: int) -> bytes | None:
        place = self._find(zoom, x, y)
        if place is None:
            return None
        data = self._get(self.header["tile_data_offset"] + place[0], place[1])
        if len(data) != place[1]:
            raise RasterError(f"{self.name} ends before its tile {zoom}/{x}/{y}; copy it again.")
        return self.unpacked(data, zoom, x, y)

    def close(self) -> None:
        self._bytes = None
        self._directory.cache_clear()

    def _get(self, offset: int, length: int) -> bytes:
        if self._bytes is None:
            raise RasterError(f"{self.name} was closed; open it again.")
        return self._bytes(offset, length)

    def _metadata(self) -> dict[str, Any]:
        text = unpacked(self._get(self.header["metadata_offset"], self.header["metadata_length"]))
        found = parse_json(text) if text else {}
        return found if isinstance(found, dict) else {}

    def _parse_directory(self, offset: int, length: int) -> _Directory:
        """Parse a directory of the index: columns of variable-length integers, one after the other."""
        values = varints(np.frombuffer(unpacked(self._get(offset, length)), np.uint8))
        count = int(values[0]) if len(values) else -1
        if len(values) != 4 * count + 1:
            raise ValueError("its index ends early")
        steps, run, size, start = values[1:].reshape(4, count)
        tile, fresh = np.cumsum(steps), start > 0
        if count and (not fresh[0] or (steps < 0).any() or (run < 0).any() or (start < 0).any()):
            raise ValueError("its index has negative numbers")
        # 0 stands for: right behind the one before.
        group = np.cumsum(fresh) - 1
        before = np.cumsum(size) - size
        offsets = (start[fresh] - 1 - before[fresh])[group] + before if count else start
        return _Directory(tile, run, offsets, size)

    def _find(self, zoom: int, x: int, y: int) -> tuple[int, int] | None:
        """Return offset and length of a tile's bytes; None without it."""
        if not (0 <= x < 1 << zoom and 0 <= y < 1 << zoom):
            return None
        number = zxy_to_tileid(zoom, x, y)
        with self._errors():
            for tile, run, offset, length in self._directories(number, number + 1):
                at = int(np.searchsorted(tile, number, "right")) - 1
                if at >= 0 and number < tile[at] + run[at]:
                    return int(offset[at]), int(length[at])
        return None

    def _directories(self, low: int = 0, end: int = 1 << 62) -> Iterator[_Directory]:
        """Yield the directories that may hold tiles from ``low`` to before ``end``, in order."""

        def below(directory: _Directory, level: int) -> Iterator[_Directory]:
            yield directory
            following = np.append(directory.tile[1:], 1 << 62)
            leaves = (directory.run == 0) & (following > low) & (directory.tile < end)
            if leaves.any() and level == _LEVELS:
                raise ValueError(f"its index has more than {_LEVELS} levels")
            for at in np.flatnonzero(leaves):
                start = self.header["leaf_directory_offset"] + int(directory.offset[at])
                yield from below(self._directory(start, int(directory.length[at])), level + 1)

        return below(self._directory(self.header["root_offset"], self.header["root_length"]), 1)

    def _list(self) -> dict[int, Numbers] | None:
        """List the tiles by zoom, int64 (N,) each, counted along the zoom's curve; None where there are too many."""
        found: list[tuple[Numbers, Numbers]] = []
        total = 0
        for number, directory in enumerate(self._directories()):
            if number > 1 << 14:
                raise ValueError("its index has more directories than tiles need")
            some = directory.run > 0
            found.append((directory.tile[some], directory.run[some]))
            total += int(directory.run.sum())
            if not 0 <= total <= _MOST_TILES:
                return None
        first, run = (np.concatenate(columns) for columns in zip(*found, strict=True))
        tiles = np.sort(np.repeat(first - np.cumsum(run) + run, run) + np.arange(run.sum()))
        ends = np.searchsorted(tiles, [_ids(zoom)[0] for zoom in range(MAX_ZOOM + 2)])
        by_zoom = {zoom: tiles[ends[zoom] : ends[zoom + 1]] - _ids(zoom)[0] for zoom in range(MAX_ZOOM + 1)}
        return {zoom: held for zoom, held in by_zoom.items() if len(held)}

    def parents(self, zoom: int, coarser: int) -> int:
        assert self._listed is not None
        return len(np.unique(self._listed[zoom] >> 2 * (zoom - coarser)))

    def _first_id(self, zoom: int) -> int | None:
        """Return the smallest tile id of a zoom; None without tiles."""
        low, end = _ids(zoom)
        with self._errors():
            for directory in self._directories(low, end):
                first = np.maximum(directory.tile, low)
                some = first < np.minimum(directory.tile + directory.run, end)
                if some.any():
                    return int(first[some][0])
        return None

    def _errors(self) -> AbstractContextManager[None]:
        """Convert what the package, numpy and zlib raise at damaged bytes to a RasterError."""
        return raised_as(RasterError, f"{self.name} cannot be read as PMTiles version 3", "copy it again")


def _ids(zoom: int) -> tuple[int, int]:
    """Return the id of a zoom's first tile, and that of the next zoom's."""
    return ((1 << 2 * zoom) - 1) // 3, ((1 << 2 * zoom + 2) - 1) // 3


def _hilbert(zoom: int, number: Numbers) -> tuple[Numbers, Numbers]:
    """Convert positions on the Hilbert curve of 2^zoom x 2^zoom to x and y."""
    x, y, rest = np.zeros_like(number), np.zeros_like(number), number.copy()
    for level in range(zoom):
        side = 1 << level
        right = (rest // 2) & 1
        down = (rest ^ right) & 1
        turned = (down == 0) & (right == 1)
        x, y = np.where(turned, side - 1 - x, x), np.where(turned, side - 1 - y, y)
        x, y = np.where(down == 0, y, x), np.where(down == 0, x, y)
        x, y = x + side * right, y + side * down
        rest //= 4
    return x, y


def _ranges(path: Path | Remote) -> Callable[[int, int], bytes]:
    """Return a reader of byte ranges: (offset, length) -> bytes."""
    if isinstance(path, Remote):
        return lambda offset, length: path.read_bytes(offset, offset + length) if length else b""
    with path.open("rb") as file:
        mapped: Callable[[int, int], bytes] = MmapSource(file)
    return mapped
