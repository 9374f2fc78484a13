"""Archives of vector tiles: PMTiles, MBTiles, and a single tile that lies under its z/x/y. Tiles as bytes."""

from __future__ import annotations

import gzip
import html
import math
import os
import re
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from pmtiles.reader import Reader
from pmtiles.tile import Compression, TileType

from terramorph.documents import DocumentError, parse_json_object
from terramorph.errors import RasterError

Degrees = tuple[float, float, float, float]
_WORLD = (-180.0, -85.0511287798066, 180.0, 85.0511287798066)


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
    """A PMTiles file, version 3."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            RasterError: If the file is damaged or does not hold vector tiles.
        """
        self.path = path
        try:
            self._reader = Reader(self._bytes)
            header = self._reader.header()
            metadata: dict[str, Any] = self._reader.metadata()
        except Exception as error:  # the package lets struct.error, KeyError, zlib.error and its own classes through
            raise RasterError(f"{path} is not a whole PMTiles file ({error}); copy it again.") from error
        if header["tile_type"] != TileType.MVT:
            raise RasterError(f"{path} holds images, not vector tiles; read it as an image source.")
        if header["tile_compression"] not in (Compression.GZIP, Compression.NONE, Compression.UNKNOWN):
            name = header["tile_compression"].name.lower()
            raise RasterError(f"{path}: its tiles are compressed with {name}; convert them to gzip with `pmtiles`.")
        self.zooms = (int(header["min_zoom"]), int(header["max_zoom"]))
        west, south, east, north = (header[f"{k}_e7"] / 1e7 for k in ("min_lon", "min_lat", "max_lon", "max_lat"))
        self.bounds: Degrees = (west, south, east, north) if west < east and south < north else _WORLD
        self.layers = tuple(str(layer.get("id")) for layer in metadata.get("vector_layers", []))
        self.licence = plain_text(metadata.get("attribution"))

    def _bytes(self, offset: int, length: int) -> bytes:
        """A part of the file; opened anew, so that threads do not share a place in it."""
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) < length and offset > 0:
            raise EOFError(f"it ends at {offset + len(data)}, before {offset + length}")
        return data

    def tile(self, zoom: int, x: int, y: int) -> bytes | None:
        """A tile."""
        data = self._reader.get(zoom, x, y)
        return None if data is None else unpacked(data)


class MbtilesArchive:
    """An MBTiles file."""

    def __init__(self, path: Path) -> None:
        """Read the metadata.

        Raises:
            RasterError: If the file is damaged or does not hold vector tiles.
        """
        self.path = path
        try:
            metadata = dict(self._rows("SELECT name, value FROM metadata"))
            found = self._rows("SELECT MIN(zoom_level), MAX(zoom_level) FROM tiles")[0]
            content = parse_json_object(metadata.get("json", "{}"))
        except (sqlite3.Error, DocumentError) as error:
            raise RasterError(f"{path} is not a whole MBTiles file ({error}); copy it again.") from error
        if metadata.get("format") != "pbf" or found[0] is None:
            raise RasterError(f"{path} does not hold vector tiles; read it as an image source.")
        self.zooms = (int(found[0]), int(found[1]))
        try:
            west, south, east, north = (float(v) for v in metadata.get("bounds", "").split(","))
            self.bounds: Degrees = (west, south, east, north)
        except ValueError:
            self.bounds = _WORLD
        self.layers = tuple(str(layer.get("id")) for layer in content.get("vector_layers", []))
        self.licence = plain_text(metadata.get("attribution"))

    def _rows(self, query: str, values: tuple[int, ...] = ()) -> list[Any]:
        """What a query gives, through a connection of its own: SQLite's belong to one thread."""
        with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(query, values).fetchall()

    def tile(self, zoom: int, x: int, y: int) -> bytes | None:
        """A tile; the file counts rows from the south."""
        rows = self._rows(
            "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
            (zoom, x, (1 << zoom) - 1 - y),
        )
        return unpacked(rows[0][0]) if rows else None


class SingleTile:
    """One tile, whose place is its path: .../14/8702/5973.mvt."""

    def __init__(self, path: Path) -> None:
        """Take the place from the path.

        Raises:
            RasterError: If the path gives none.
        """
        self.path = path
        words = (*path.parts[-3:-1], path.name.split(".")[0])
        if len(words) != 3 or not all(w.isdigit() for w in words) or int(words[0]) > 30:
            raise RasterError(f"{path}: a single vector tile has its place in its path; name it z/x/y.mvt.")
        self.number = (int(words[0]), int(words[1]), int(words[2]))
        zoom, x, y = self.number
        self.zooms = (zoom, zoom)
        north, south = _latitude(zoom, y), _latitude(zoom, y + 1)
        side = 360 / (1 << zoom)
        self.bounds: Degrees = (x * side - 180, south, (x + 1) * side - 180, north)
        self.layers: tuple[str, ...] = ()
        self.licence: str | None = None

    def tile(self, zoom: int, x: int, y: int) -> bytes | None:
        """The tile, if it is that one."""
        return unpacked(self.path.read_bytes()) if (zoom, x, y) == self.number else None


def _latitude(zoom: int, y: int) -> float:
    """Latitude in degrees of a tile's upper edge."""
    return math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * y / (1 << zoom)))))


def unpacked(data: bytes) -> bytes:
    """A tile without its compression, which is told by its first bytes.

    Raises:
        OSError: If it is damaged.
    """
    try:
        if data[:2] == b"\x1f\x8b":
            return gzip.decompress(data)
        return zlib.decompress(data) if data[:2] in (b"\x78\x9c", b"\x78\xda", b"\x78\x01") else data
    except (EOFError, zlib.error) as error:
        raise OSError(os.EX_DATAERR, str(error)) from error


def plain_text(markup: Any) -> str | None:
    """Text without HTML tags; None where there is none."""
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", str(markup or ""))).split())
    return text or None
