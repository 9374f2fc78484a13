"""Archives of vector tiles: PMTiles, MBTiles, and a single tile that lies under its z/x/y. Tiles as bytes."""

from __future__ import annotations

import gzip
import html
import math
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from pmtiles.tile import (
    Compression,
    Entry,
    TileType,
    deserialize_directory,
    deserialize_header,
    find_tile,
    tileid_to_zxy,
    zxy_to_tileid,
)

from terramorph.cartography.mvt import decode_tile
from terramorph.documents import parse_json_object
from terramorph.errors import RasterError, warn
from terramorph.raster.tiles.unpack import unpacked

MOST_ZOOM = 30
_KEPT = 64
_WALKED = 20_000

Degrees = tuple[float, float, float, float]
_WORLD = (-180.0, -85.0511287798066, 180.0, 85.0511287798066)


class NotVectors(RasterError):
    """An archive of tiles that are images."""


class TileArchive(Protocol):
    """Tiles by number.

    Attributes:
        zooms: First and last zoom that it holds.
        bounds: West, south, east, north in degrees.
        layers: Names of layers that its metadata gives; they may be wrong.
        licence: Attribution as plain text, or None.
    """

    zooms: tuple[int, int]
    bounds: Degrees
    layers: tuple[str, ...]
    licence: str | None

    def tile(self, zoom: int, x: int, y: int) -> bytes | None:
        """A tile, not compressed, or None where there is none; y counts from the north."""
        ...

    def some_tile(self) -> bytes | None:
        """Any tile, not compressed, or None where there is none."""
        ...


def open_archive(path: Path) -> TileArchive:
    """The archive in a file.

    Raises:
        RasterError: If it is none, is damaged, or does not hold vector tiles.
    """
    suffix = path.suffix.lower()
    if suffix == ".pmtiles":
        return PmtilesArchive(path)
    return MbtilesArchive(path) if suffix == ".mbtiles" else SingleTile(path)


class PmtilesArchive:
    """A PMTiles file, version 3 (https://github.com/protomaps/PMTiles/blob/main/spec/v3/spec.md)."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            RasterError: If the file is damaged or does not hold vector tiles.
        """
        self.path = path
        self._directories: dict[tuple[int, int], list[Entry]] = {}
        with self._errors():
            self._size = path.stat().st_size
            self._header = header = deserialize_header(self._bytes(0, 127))
            metadata = parse_json_object(unpacked(self._bytes(header["metadata_offset"], header["metadata_length"])))
        self.zooms = _checked_zooms(path, header["min_zoom"], header["max_zoom"])
        if header["tile_compression"] not in (Compression.GZIP, Compression.NONE, Compression.UNKNOWN):
            name = header["tile_compression"].name.lower()
            raise RasterError(f"{path}: its tiles are compressed with {name}; convert them to gzip with `pmtiles`.")
        stated = tuple(header[f"{key}_e7"] / 1e7 for key in ("min_lon", "min_lat", "max_lon", "max_lat"))
        self.bounds = self._bounds(stated if _are_bounds(stated) else _WORLD)
        self.layers = _layer_names(metadata)
        self.licence = plain_text(metadata.get("attribution"))
        if not (header["tile_type"] == TileType.MVT or (header["tile_type"] == TileType.UNKNOWN and self._looks_so())):
            raise NotVectors(f"{path} holds images, not vector tiles; read it as an image source.")

    def tile(self, zoom: int, x: int, y: int) -> bytes | None:
        """A tile."""
        number = zxy_to_tileid(zoom, x, y)
        with self._errors():
            return self._find(lambda entries: find_tile(entries, number))

    def some_tile(self) -> bytes | None:
        """The first tile."""
        with self._errors():
            return self._find(lambda entries: entries[0] if entries else None)

    def _bounds(self, stated: Degrees) -> Degrees:
        """What the tiles of the last zoom cover, within what the header states where that is the same ground.

        Of archives with more than `_WALKED` entries the header is believed.
        """
        zoom = self.zooms[1]
        side = 1 << zoom
        numbers: list[int] = []
        with self._errors():
            for entry in self._entries():
                if len(numbers) > _WALKED:
                    return stated
                numbers += range(entry.tile_id, entry.tile_id + min(entry.run_length, _WALKED))
            first = zxy_to_tileid(zoom, 0, 0)
            tiles = [tileid_to_zxy(n) for n in numbers if n >= first]
        tiles = [tile for tile in tiles if tile[0] == zoom]
        if not tiles:
            return stated
        _, columns, rows = zip(*tiles, strict=True)
        left, right = min(columns) * 360 / side - 180, (max(columns) + 1) * 360 / side - 180
        there = (left, _latitude(zoom, max(rows) + 1), right, _latitude(zoom, min(rows)))
        common = _common(stated, there)
        if common is None:
            warn(f"{self.path} states bounds where it has no tiles; the tiles that there are count.")
        return common or there

    def _entries(self) -> Iterator[Entry]:
        """The entries of tiles, in order."""
        waiting = [(self._header["root_offset"], self._header["root_length"], 0)]
        while waiting:
            offset, length, depth = waiting.pop()
            for entry in self._directory(offset, length):
                if entry.run_length > 0:
                    yield entry
                elif depth < 3:
                    waiting.append((self._header["leaf_directory_offset"] + entry.offset, entry.length, depth + 1))

    def _looks_so(self) -> bool:
        return holds_vectors(self.some_tile() or b"")

    def _find(self, choose: Callable[[list[Entry]], Entry | None]) -> bytes | None:
        """The tile that is come to by choosing an entry of each directory."""
        header = self._header
        offset, length = header["root_offset"], header["root_length"]
        for _ in range(4):
            entry = choose(self._directory(offset, length))
            if entry is None:
                return None
            if entry.run_length > 0:
                return unpacked(self._bytes(header["tile_data_offset"] + entry.offset, entry.length))
            offset, length = header["leaf_directory_offset"] + entry.offset, entry.length
        return None

    def _directory(self, offset: int, length: int) -> list[Entry]:
        """A directory; the package unpacks without a bound, so it gets what is unpacked already, wrapped up again."""
        entries = self._directories.get((offset, length))
        if entries is None:
            entries = deserialize_directory(gzip.compress(unpacked(self._bytes(offset, length)), 0))
            if len(self._directories) >= _KEPT:
                self._directories.clear()
            self._directories[offset, length] = entries
        return entries

    def _bytes(self, offset: int, length: int) -> bytes:
        """A part of the file; opened anew, so that threads do not share a place in it."""
        if offset + length > self._size:
            raise EOFError(f"it ends at {self._size}, before {offset + length}")
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What the package and zlib say of a damaged file, as our error."""
        try:
            yield
        except RasterError:
            raise
        except Exception as error:  # struct.error, KeyError, TypeError, zlib.error and classes of its own
            raise RasterError(f"{self.path} is not a whole PMTiles file ({error}); copy it again.") from error


class MbtilesArchive:
    """An MBTiles file (https://github.com/mapbox/mbtiles-spec/blob/master/1.3/spec.md)."""

    def __init__(self, path: Path) -> None:
        """Read the metadata.

        Raises:
            RasterError: If the file is damaged or does not hold vector tiles.
        """
        self.path = path
        metadata = {}
        if query(path, "SELECT 1 FROM sqlite_master WHERE name = 'metadata'"):
            metadata = {str(name): str(value) for name, value in query(path, "SELECT name, value FROM metadata")}
        first, last = query(path, "SELECT MIN(zoom_level), MAX(zoom_level) FROM tiles")[0]
        try:
            vectors = holds_vectors(self.some_tile() or b"")
        except OSError:
            vectors = metadata.get("format") in ("pbf", "mvt")
        if not vectors:
            raise NotVectors(f"{path} does not hold vector tiles; read it as an image source.")
        self.zooms = _checked_zooms(path, first, last)
        self.bounds = self._bounds_of_tiles()
        try:
            west, south, east, north = (float(v) for v in metadata["bounds"].split(","))
            if _are_bounds((west, south, east, north)):
                self.bounds = _common(self.bounds, (west, south, east, north)) or self.bounds
        except (KeyError, ValueError):
            pass  # the tiles tell, only less closely
        try:
            self.layers = _layer_names(parse_json_object(metadata.get("json", "{}")))
        except ValueError:
            self.layers = ()  # so do they of the layers
        self.licence = plain_text(metadata.get("attribution"))

    def _bounds_of_tiles(self) -> Degrees:
        """What the tiles of the last zoom cover."""
        zoom = self.zooms[1]
        ends = query(
            self.path,
            "SELECT MIN(tile_column), MAX(tile_column), MIN(tile_row), MAX(tile_row) FROM tiles WHERE zoom_level = ?",
            zoom,
        )[0]
        side = 1 << zoom
        if not all(isinstance(end, int) and 0 <= end < side for end in ends):
            raise RasterError(f"{self.path} has tiles of zoom {zoom} outside of the world; write it again.")
        left, right, low, high = ends
        south, north = _latitude(zoom, side - low), _latitude(zoom, side - 1 - high)
        return left * 360 / side - 180, south, (right + 1) * 360 / side - 180, north

    def tile(self, zoom: int, x: int, y: int) -> bytes | None:
        """A tile; the file counts rows from the south."""
        where = "WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?"
        return self._tile(where, zoom, x, (1 << zoom) - 1 - y)

    def some_tile(self) -> bytes | None:
        """The first tile that is stored."""
        return self._tile("LIMIT 1")

    def _tile(self, where: str, *values: int) -> bytes | None:
        rows = query(self.path, f"SELECT CAST(tile_data AS BLOB) FROM tiles {where}", *values)
        return unpacked(rows[0][0]) if rows and rows[0][0] is not None else None


class SingleTile:
    """One tile, whose place is its path: .../14/8702/5973.mvt."""

    def __init__(self, path: Path) -> None:
        """Take the place from the path.

        Raises:
            RasterError: If the path gives none.
        """
        self.path = path
        words = (*path.parts[-3:-1], path.name.split(".")[0])
        if len(words) != 3 or not all(w.isdigit() for w in words) or int(words[0]) > MOST_ZOOM:
            raise RasterError(f"{path}: a single vector tile has its place in its path; name it z/x/y.mvt.")
        zoom, x, y = self.number = (int(words[0]), int(words[1]), int(words[2]))
        if max(x, y) >= 1 << zoom:
            raise RasterError(f"{path}: zoom {zoom} has no tile {x}/{y}; name it z/x/y.mvt.")
        self.zooms = (zoom, zoom)
        north, south = _latitude(zoom, y), _latitude(zoom, y + 1)
        side = 360 / (1 << zoom)
        self.bounds: Degrees = (x * side - 180, south, (x + 1) * side - 180, north)
        self.layers: tuple[str, ...] = ()
        self.licence: str | None = None

    def tile(self, zoom: int, x: int, y: int) -> bytes | None:
        """The tile, if it is that one."""
        return self.some_tile() if (zoom, x, y) == self.number else None

    def some_tile(self) -> bytes | None:
        """The tile."""
        return unpacked(self.path.read_bytes())


def _latitude(zoom: int, y: int) -> float:
    """Latitude in degrees of a tile's upper edge."""
    return math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * y / (1 << zoom)))))


def query(path: Path, sql: str, *values: int) -> list[Any]:
    """All rows that an SQLite file gives, through a connection of its own: SQLite's belong to one thread.

    Raises:
        RasterError: If it gives none, being damaged or of another kind.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(sql, values).fetchall()
    except (sqlite3.Error, ValueError, OverflowError) as error:  # also text that is not UTF-8
        name = "MBTiles" if path.suffix.lower() == ".mbtiles" else "SQLite"
        raise RasterError(f"{path} is not a whole {name} file ({error}); copy it again.") from error


def holds_vectors(tile: bytes) -> bool:
    """Whether a tile that is not compressed is one of vectors."""
    try:
        return bool(decode_tile(tile))
    except ValueError:
        return False


def _checked_zooms(path: Path, first: Any, last: Any) -> tuple[int, int]:
    """First and last zoom.

    Raises:
        RasterError: If they are none.
    """
    if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last <= MOST_ZOOM):
        raise RasterError(f"{path} has zooms from {first!r} to {last!r}; write it again with zooms 0 to {MOST_ZOOM}.")
    return first, last


def _are_bounds(box: tuple[float, ...]) -> TypeGuard[Degrees]:
    """Whether west, south, east and north are a place."""
    west, south, east, north = box
    return -180 <= west < east <= 180 and -90 <= south < north <= 90


def _common(one: Degrees, other: Degrees) -> Degrees | None:
    """What two boxes have in common."""
    box = max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])
    return box if box[0] < box[2] and box[1] < box[3] else None


def _layer_names(metadata: dict[str, Any]) -> tuple[str, ...]:
    """Names of layers in metadata."""
    layers = metadata.get("vector_layers")
    return tuple(str(e.get("id")) for e in layers if isinstance(e, dict)) if isinstance(layers, list) else ()


def plain_text(markup: Any) -> str | None:
    """Text without HTML tags; None where there is none."""
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", str(markup or ""))).split())
    return text or None
