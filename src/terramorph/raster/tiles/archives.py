"""Archives of tiles in one file: MBTiles (SQLite) and PMTiles (one map of a file)."""

from __future__ import annotations

import gzip
import sqlite3
import threading
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pmtiles.reader import MmapSource
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

from terramorph.documents import parse_json
from terramorph.errors import RasterError, TerramorphError
from terramorph.raster.storage import Remote
from terramorph.raster.tiles.reader import VECTOR_ADVICE, file_fingerprint
from terramorph.raster.tiles.scheme import MAX_ZOOM, TileBox, check_tile, tiles_of_degrees

_GZIP = b"\x1f\x8b"


class MBTiles:
    """A `TileReader` of an MBTiles file, opened for reading only, with a connection for each thread.

    Its rows are counted from the south (MBTiles 1.3), whatever its metadata says.

    Args:
        path: the file.

    Raises:
        RasterError: If it is no MBTiles file, holds no tiles, or vector tiles.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        self._path = Path(path)
        self._thread = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        try:
            metadata = self._open()
        except BaseException:
            self.close()
            raise
        self.licence: str | None = metadata.get("attribution") or metadata.get("license") or None

    def _open(self) -> dict[str, str]:
        """Looks for everything that reading relies on; the metadata."""
        tables = {row[0] for row in self._ask("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
        if "tiles" not in tables:
            raise RasterError(f"{self.name} has no table of tiles, so it is no MBTiles file; give another.")
        if "metadata" not in tables:
            raise RasterError(
                f"{self.name} has tiles but no metadata table, so it is no MBTiles file and their numbering is not "
                "known; write it again with its metadata."
            )
        metadata = {str(key): str(value) for key, value in self._ask("SELECT name, value FROM metadata")}
        if metadata.get("format", "").lower() in ("pbf", "mvt"):
            raise RasterError(f"{self.name} {VECTOR_ADVICE}")
        zooms = [row[0] for row in self._ask("SELECT DISTINCT zoom_level FROM tiles ORDER BY zoom_level")]
        if not zooms:
            raise RasterError(f"{self.name} holds no tiles; give another file.")
        if any(not isinstance(zoom, int) or not 0 <= zoom <= MAX_ZOOM for zoom in zooms):
            raise RasterError(f"{self.name} has tiles of zooms {zooms}, not all of which there are; write it again.")
        self.zooms: tuple[int, ...] = tuple(zooms)
        x, y = self.first(self.zooms[-1])
        if (self.read(self.zooms[-1], x, y) or b"").startswith(_GZIP):
            raise RasterError(f"{self.name} {VECTOR_ADVICE}")
        return metadata

    def box(self, zoom: int) -> TileBox:
        """The box around the tiles there are; the metadata's bounds may be anything."""
        left, right, low, high = self._ask(
            "SELECT min(tile_column), max(tile_column), min(tile_row), max(tile_row) FROM tiles WHERE zoom_level = ?",
            zoom,
        )[0]
        last = (1 << zoom) - 1
        check_tile(self.name, zoom, left, last - high)
        check_tile(self.name, zoom, right, last - low)
        return TileBox(left, last - high, right + 1, last - low + 1)

    def first(self, zoom: int) -> tuple[int, int]:
        """Some tile that there is."""
        x, row = self._ask("SELECT tile_column, tile_row FROM tiles WHERE zoom_level = ? LIMIT 1", zoom)[0]
        return int(x), (1 << zoom) - 1 - int(row)

    def has(self, zoom: int, x: int, y: int) -> bool:
        """Whether there is such a row."""
        return bool(
            self._ask(
                "SELECT 1 FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
                *(zoom, x, (1 << zoom) - 1 - y),
            )
        )

    def read(self, zoom: int, x: int, y: int) -> bytes | None:
        """The row's bytes."""
        found = self._ask(
            "SELECT CAST(tile_data AS BLOB) FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
            *(zoom, x, (1 << zoom) - 1 - y),
        )
        return bytes(found[0][0]) if found and found[0][0] is not None else None

    def fingerprint(self) -> str:
        """Of the file's bytes."""
        return file_fingerprint(self._path)

    def close(self) -> None:
        """Closes every thread's connection."""
        with self._lock:
            self._closed = True
            while self._connections:
                self._connections.pop().close()

    def _ask(self, question: str, *values: int) -> list[Any]:
        """All rows of an answer."""
        try:
            return self._connection().execute(question, values).fetchall()
        except sqlite3.Error as error:
            raise RasterError(
                f"{self.name} cannot be read as MBTiles ({error}); it is damaged or of another kind: copy it again."
            ) from error

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._thread, "connection", None)
        if connection is None:
            uri = f"file:{quote(str(self._path.absolute()))}?mode=ro"
            # `close` closes the connections of all threads, and none is used by two.
            connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            with self._lock:
                if self._closed:
                    connection.close()
                    raise sqlite3.ProgrammingError("it was closed")
                self._connections.append(connection)
            self._thread.connection = connection
        return connection


class PMTiles:
    """A `TileReader` of a PMTiles file (version 3): mapped into memory, or on a server that is asked for ranges of it.

    Args:
        path: the file.

    Raises:
        RasterError: If it is damaged, no PMTiles file, holds no tiles, or tiles that are no PNG, JPEG or WebP.
    """

    def __init__(self, path: str | Path | Remote) -> None:
        self.name = str(path)
        self._path = path if isinstance(path, Remote) else Path(path)
        try:
            self._bytes: Callable[[int, int], bytes] | None = _ranges(self._path)
            self._header = deserialize_header(self._get(0, 127))
            self._directory = lru_cache(maxsize=256)(self._parse_directory)
            metadata = self._metadata()
            self._check()
            self.zooms: tuple[int, ...] = self._zooms()
        except TerramorphError:
            raise
        except Exception as error:  # the library raises whatever it meets in damaged bytes
            raise RasterError(
                f"{self.name} cannot be read as PMTiles version 3 ({type(error).__name__} {error}); copy it again."
            ) from error
        attribution = metadata.get("attribution") or metadata.get("license")
        self.licence: str | None = str(attribution) if attribution else None

    def _check(self) -> None:
        """Refuses what is no picture."""
        kind = self._header["tile_type"]
        if kind in (TileType.MVT, TileType.MLT):
            raise RasterError(f"{self.name} {VECTOR_ADVICE}")
        if kind == TileType.AVIF:
            raise RasterError(f"{self.name} holds AVIF tiles; PNG, JPEG and WebP are read: convert it.")
        if self._header["tile_compression"] not in (Compression.NONE, Compression.UNKNOWN, Compression.GZIP):
            raise RasterError(f"{self.name} holds tiles compressed once more; write it without tile compression.")
        if self._header["internal_compression"] not in (Compression.NONE, Compression.GZIP):
            raise RasterError(f"{self.name} has a compressed index that is not gzip; write it with gzip.")

    def _zooms(self) -> tuple[int, ...]:
        """The zooms between the header's that there are tiles of."""
        stated = range(self._header["min_zoom"], self._header["max_zoom"] + 1)
        zooms = tuple(zoom for zoom in stated if self._first_id(zoom) is not None)
        if not zooms:
            raise RasterError(f"{self.name} holds no tiles; give another file.")
        return zooms

    def box(self, zoom: int) -> TileBox:
        """The tiles that the header's bounds touch."""
        degrees = (self._header[f"{name}_e7"] / 1e7 for name in ("min_lon", "min_lat", "max_lon", "max_lat"))
        return tiles_of_degrees(zoom, *degrees)

    def first(self, zoom: int) -> tuple[int, int]:
        """The first tile of the zoom along the file's Hilbert curve."""
        number = self._first_id(zoom)
        assert number is not None
        _, x, y = tileid_to_zxy(number)
        return x, y

    def has(self, zoom: int, x: int, y: int) -> bool:
        """Whether the index has it."""
        return self._find(zoom, x, y) is not None

    def read(self, zoom: int, x: int, y: int) -> bytes | None:
        """The bytes that the index points at."""
        place = self._find(zoom, x, y)
        if place is None:
            return None
        data = self._get(self._header["tile_data_offset"] + place[0], place[1])
        if len(data) != place[1]:
            raise RasterError(f"{self.name} ends before its tile {zoom}/{x}/{y}; copy it again.")
        try:
            return gzip.decompress(data) if data.startswith(_GZIP) else data
        except (OSError, EOFError, zlib.error) as error:
            raise RasterError(f"{self.name}: tile {zoom}/{x}/{y} is damaged ({error}); copy it again.") from error

    def fingerprint(self) -> str:
        """Of the file's bytes."""
        return file_fingerprint(self._path)

    def close(self) -> None:
        """Lets go of the map."""
        self._bytes = None
        self._directory.cache_clear()

    def _get(self, offset: int, length: int) -> bytes:
        """Bytes of the file."""
        source = self._bytes
        if source is None:
            raise RasterError(f"{self.name} was closed; open it again.")
        return source(offset, length)

    def _metadata(self) -> dict[str, Any]:
        """What the file says of itself."""
        text = self._get(self._header["metadata_offset"], self._header["metadata_length"])
        if not text:
            return {}
        found = parse_json(gzip.decompress(text) if text.startswith(_GZIP) else text)
        return found if isinstance(found, dict) else {}

    def _parse_directory(self, offset: int, length: int) -> list[Entry]:
        """One directory of the index."""
        data = self._get(offset, length)
        # The library's parser takes gzip alone.
        entries: list[Entry] = deserialize_directory(data if data.startswith(_GZIP) else gzip.compress(data, 0))
        return entries

    def _leaf(self, entry: Entry) -> list[Entry]:
        return self._directory(self._header["leaf_directory_offset"] + entry.offset, entry.length)

    def _find(self, zoom: int, x: int, y: int) -> tuple[int, int] | None:
        """Offset and length of a tile's bytes, or None."""
        if not (0 <= x < 1 << zoom and 0 <= y < 1 << zoom):
            return None
        try:
            number = zxy_to_tileid(zoom, x, y)
            entries = self._directory(self._header["root_offset"], self._header["root_length"])
            for _ in range(4):
                entry = find_tile(entries, number)
                if entry is None or entry.run_length:
                    return None if entry is None else (entry.offset, entry.length)
                entries = self._leaf(entry)
        except RasterError:
            raise
        except Exception as error:  # the library raises whatever it meets in damaged bytes
            raise RasterError(f"{self.name} has a damaged index ({error}); copy it again.") from error
        raise RasterError(f"{self.name} has an index of more than 4 levels; write it again.")

    def _first_id(self, zoom: int) -> int | None:
        """The smallest tile id of a zoom."""
        low, end = zxy_to_tileid(zoom, 0, 0), zxy_to_tileid(zoom + 1, 0, 0)

        def search(entries: list[Entry]) -> int | None:
            for entry, following in zip(entries, [*entries[1:], None], strict=True):
                if entry.tile_id >= end:
                    return None
                if entry.run_length and entry.tile_id + entry.run_length > low:
                    return max(int(entry.tile_id), int(low))
                if not entry.run_length and (following is None or following.tile_id > low):
                    found = search(self._leaf(entry))
                    if found is not None:
                        return found
            return None

        return search(self._directory(self._header["root_offset"], self._header["root_length"]))


def _ranges(path: Path | Remote) -> Callable[[int, int], bytes]:
    """What gives so many bytes from an offset on."""
    if isinstance(path, Remote):
        return lambda offset, length: path.read_bytes(offset, offset + length) if length else b""
    with path.open("rb") as file:
        mapped: Callable[[int, int], bytes] = MmapSource(file)
    return mapped
