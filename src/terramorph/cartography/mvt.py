"""Mapbox vector tiles, version 2 (https://github.com/mapbox/vector-tile-spec), decoded into columns.

GDAL's driver lists the layers that an archive's metadata names, and some archives name them wrongly; it also reads an
archive once for every layer. Here every layer of a tile is read, in one pass.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.cartography.shapes import signed_areas, turned
from terramorph.raster.tiles.reader import varints

_POINT, _LINE, _POLYGON = 1, 2, 3
_MOVE_TO, _LINE_TO, _CLOSE = 1, 2, 7


@dataclass(frozen=True, slots=True, eq=False)
class TileLayer:
    """Lines and polygons of one layer of a tile; points are left out.

    Attributes:
        name: Its name.
        extent: Side of the tile in the units of ``xy``.
        areas: bool (N,): True for polygons, by feature.
        tags: int64 (T, 3): feature, place in ``keys``, place in ``values``.
        keys: Names of attributes.
        values: Their values as text.
        xy: float64 (P, 2) from the tile's upper left corner, x to the right, y **up** (negative inside the tile). Outer
            rings run counterclockwise, holes clockwise, and a ring ends on the point it starts on.
        starts: int64 (R + 1,): where each line or ring starts.
        owner: int64 (R,): the feature of each.
    """

    name: str
    extent: int
    areas: NDArray[np.bool_]
    tags: NDArray[np.int64]
    keys: list[str]
    values: list[str]
    xy: NDArray[np.float64]
    starts: NDArray[np.int64]
    owner: NDArray[np.int64]

    def columns(self, wanted: frozenset[str]) -> dict[str, NDArray[Any]]:
        """object (N,) of text or None, for the wanted attributes that occur."""
        values = np.array([*self.values, None], object)[:-1]
        found: dict[str, NDArray[Any]] = {}
        for place, key in enumerate(self.keys):
            if key in wanted:
                column = found.setdefault(key, np.full(len(self.areas), None, object))
                rows = self.tags[self.tags[:, 1] == place]
                column[rows[:, 0]] = values[rows[:, 2]]
        return found


def decode_tile(data: bytes) -> list[TileLayer]:
    """The layers of a tile that is not compressed.

    Raises:
        ValueError: If the bytes are no vector tile.
    """
    try:
        return [_layer(content) for number, content in _fields(data) if number == 3]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"not a vector tile: {error}") from error


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of every field of a protobuf message; lengths give bytes, all else an int or raw bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        wire = key & 7
        if key < 8:
            raise ValueError("field 0")
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > end:
            raise ValueError("it ends early")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, place after it) of a variable-length integer."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _layer(data: bytes) -> TileLayer:
    name, extent = "", 4096
    keys: list[str] = []
    values: list[str] = []
    kinds: list[int] = []
    tags: list[bytes] = []
    geometries: list[bytes] = []
    for number, content in _fields(data):
        if number == 2:
            feature = dict(_fields(content))
            kind = feature.get(3, 0)
            if kind in (_LINE, _POLYGON) and feature.get(4):
                kinds.append(kind)
                tags.append(feature.get(2, b""))
                geometries.append(feature[4])
        elif number == 3:
            keys.append(content.decode())
        elif number == 4:
            values.append(_value(content))
        elif number == 1:
            name = content.decode()
        elif number == 5:
            extent = content
    if not 0 < extent < 1 << 31:
        raise ValueError(f"extent {extent}")
    areas = np.array(kinds, np.int64) == _POLYGON
    xy, starts, owner = _geometry(geometries, areas)
    rows = _tag_rows(tags)
    if (rows < 0).any() or (rows[:, 1] >= len(keys)).any() or (rows[:, 2] >= len(values)).any():
        raise ValueError("a tag that there is not")
    return TileLayer(name, extent, areas, rows, keys, values, xy, starts, owner)


def _value(data: bytes) -> str:
    """A value as text."""
    for number, content in _fields(data):
        if number == 1:
            return str(content.decode())
        if number in (2, 3):
            return f"{struct.unpack('<f' if number == 2 else '<d', content)[0]:g}"
        if number == 7:
            return "true" if content else "false"
        if number == 6:
            return str((content >> 1) ^ -(content & 1))
        if number in (4, 5):
            return str(content - (1 << 64) if number == 4 and content >> 63 else content)
    return ""


def _varints(parts: list[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All variable-length integers of packed fields, int64, and how many each field holds."""
    data = np.frombuffer(b"".join(parts), np.uint8)
    ends = np.cumsum([0, *(len(p) for p in parts)])
    before = np.concatenate([[0], np.cumsum(data < 128)])
    return varints(data), np.diff(before[ends])


def _tag_rows(tags: list[bytes]) -> NDArray[np.int64]:
    """int64 (T, 3): feature, key, value."""
    numbers, counts = _varints(tags)
    if (counts % 2).any():
        raise ValueError("a key without a value")
    return np.column_stack([np.repeat(np.arange(len(tags)), counts // 2), numbers.reshape(-1, 2)])


def _geometry(
    geometries: list[bytes], areas: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """(xy, starts, owner) of `TileLayer`: the commands of all features are walked as one stream."""
    numbers, counts = _varints(geometries)
    stream, ends = numbers.tolist(), np.cumsum(counts).tolist()
    commands: list[int] = []
    starts: list[int] = []
    owner: list[int] = []
    first_pair = [0]
    at = pairs = 0
    for feature, end in enumerate(ends):
        while at < end:
            command, count = stream[at] & 7, stream[at] >> 3
            commands.append(at)
            at += 1
            if command == _CLOSE:
                continue
            if count == 0:
                raise ValueError("a command without points")
            if command == _MOVE_TO:
                starts.append(pairs)
                owner.append(feature)
            elif command != _LINE_TO:
                raise ValueError(f"command {command}")
            pairs += count
            at += 2 * count
        if at != end:
            raise ValueError("a geometry ends early")
        first_pair.append(pairs)
    keep = np.ones(len(numbers), np.bool_)
    keep[commands] = False
    steps = numbers[keep].reshape(-1, 2)
    xy = np.cumsum((steps >> 1) ^ -(steps & 1), axis=0).astype(np.float64)
    # Each feature starts from the tile's corner again.
    base = np.concatenate([np.zeros((1, 2)), xy])[first_pair[:-1]]
    xy -= np.repeat(base, np.diff(first_pair), axis=0)
    xy[:, 1] *= -1
    return _closed(xy, np.array([*starts, pairs], np.int64), np.array(owner, np.int64), areas)


def _closed(
    xy: NDArray[np.float64], starts: NDArray[np.int64], owner: NDArray[np.int64], areas: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Rings closed, and turned around where a writer has them all the wrong way: a first ring is never a hole."""
    if len(owner) == 0:
        return np.zeros((0, 2)), np.zeros(1, np.int64), owner
    ring = areas[owner]
    xy = np.insert(xy, starts[1:][ring], xy[starts[:-1][ring]], axis=0)
    starts = starts + np.concatenate([[0], np.cumsum(ring)])
    first = np.concatenate([[True], owner[1:] != owner[:-1]])
    wrong = ring & first & (signed_areas(xy, starts) < 0)
    return turned(xy, starts, np.flatnonzero(np.isin(owner, owner[wrong]))), starts, owner
