"""Writers of tiles: a folder z/x/y, MBTiles 1.3, PMTiles 3. Each appears whole under its name, or not at all."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer

from terramorph.atomic import atomic, atomic_folder
from terramorph.errors import RasterError

Kind = Literal["xyz", "mbtiles", "pmtiles"]

_MBTILES_ID = 0x4D504258


@dataclass(frozen=True)
class About:
    """Metadata of an archive.

    Attributes:
        name: A name for people.
        min_zoom, max_zoom: Coarsest and finest zoom.
        ground: (west, south, east, north), degrees (EPSG:4326), beyond 180 where it lies across.
        attribution: Terms of use, or None.
    """

    name: str
    min_zoom: int
    max_zoom: int
    ground: tuple[float, float, float, float]
    attribution: str | None

    @property
    def center(self) -> tuple[float, float, int]:
        """Longitude and latitude in degrees, and the zoom at which to begin."""
        west, south, east, north = self.ground
        return round(((west + east) / 2 + 180) % 360 - 180, 7), round((south + north) / 2, 7), self.min_zoom

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """The ground as TileJSON and MBTiles have it, which do not wrap around."""
        west, south, east, north = self.ground
        return (-180.0, south, 180.0, north) if west < -180 or east > 180 else self.ground

    @property
    def terms(self) -> dict[str, str]:
        """The attribution as a table, empty without one."""
        return {} if self.attribution is None else {"attribution": self.attribution}


class TileSink(ABC):
    """A writer of tiles as PNG, which takes them in any order, each once, from one thread."""

    @abstractmethod
    def put(self, zoom: int, x: int, y: int, data: bytes) -> None:
        """Write a tile; rows are counted from the north."""

    @abstractmethod
    def finish(self, about: About) -> None:
        """Write the metadata, after the last tile."""


@contextmanager
def open_sink(kind: Kind, path: Path) -> Iterator[TileSink]:
    """Open a new archive, which appears at the end of the block; an error in the block leaves nothing behind.

    Raises:
        RasterError: If a folder of tiles is asked for where there is something already.
        StorageError: If it cannot be written.
    """
    if kind == "xyz":
        with atomic_folder(path) as root:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RasterError(f"{path} is there already and not empty; remove it or name another folder.")
            yield _Folder(root)
    elif kind == "mbtiles":
        with atomic(path, failures=(sqlite3.Error,)) as part, closing(sqlite3.connect(part)) as connection:
            yield _MBTiles(connection)
    else:
        with atomic(path) as part, part.open("wb") as file, tempfile.TemporaryFile(dir=path.parent) as waiting:
            yield _PMTiles(file, waiting, path.parent)


class _Folder(TileSink):
    """Files z/x/y.png and a tilejson.json (TileJSON 3.0.0)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, zoom: int, x: int, y: int, data: bytes) -> None:
        folder = self._root / str(zoom) / str(x)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{y}.png").write_bytes(data)

    def finish(self, about: About) -> None:
        facts: dict[str, Any] = {
            "tilejson": "3.0.0",
            "name": about.name,
            "tiles": ["{z}/{x}/{y}.png"],
            "scheme": "xyz",
            "minzoom": about.min_zoom,
            "maxzoom": about.max_zoom,
            "bounds": about.bounds,
            "center": about.center,
            **about.terms,
        }
        text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        (self._root / "tilejson.json").write_text(text, encoding="utf-8")


class _MBTiles(TileSink):
    """Rows of a database; rows of tiles are counted from the south."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # The file is nobody's until it is whole, so that it needs no journal.
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"application_id = {_MBTILES_ID}"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute("CREATE TABLE metadata (name text, value text)")
        connection.execute(
            "CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob)"
        )
        connection.execute("CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row)")

    def put(self, zoom: int, x: int, y: int, data: bytes) -> None:
        self._connection.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", (zoom, x, (1 << zoom) - 1 - y, data))

    def finish(self, about: About) -> None:
        facts = {
            "name": about.name,
            "format": "png",
            "bounds": ",".join(f"{degrees:.7f}" for degrees in about.bounds),
            "center": "{:.7f},{:.7f},{}".format(*about.center),
            "minzoom": str(about.min_zoom),
            "maxzoom": str(about.max_zoom),
            "type": "overlay",
            **about.terms,
        }
        self._connection.executemany("INSERT INTO metadata VALUES (?, ?)", facts.items())
        self._connection.commit()


class _PMTiles(TileSink):
    """PMTiles stores tiles along a curve, coarse zooms first, so they wait in a temporary file until all are there.

    Args:
        file: File of the archive.
        waiting: File of the waiting tiles; closed as soon as none waits.
        folder: Folder with room for the tiles once more.
    """

    def __init__(self, file: IO[bytes], waiting: IO[bytes], folder: Path) -> None:
        self._file = file
        self._waiting = waiting
        self._folder = folder
        self._places: list[tuple[int, int, int]] = []
        self._end = 0

    def put(self, zoom: int, x: int, y: int, data: bytes) -> None:
        self._waiting.write(data)
        self._places.append((zxy_to_tileid(zoom, x, y), self._end, len(data)))
        self._end += len(data)

    def finish(self, about: About) -> None:
        writer = Writer(self._file)
        writer.tile_f.close()
        with tempfile.TemporaryFile(dir=self._folder) as ordered:
            writer.tile_f = ordered  # of the library's own choice is the system's temporary folder, which may be small
            for number, offset, length in sorted(self._places):
                self._waiting.seek(offset)
                writer.write_tile(number, self._waiting.read(length))
            self._waiting.close()
            longitude, latitude, zoom = about.center
            header = {
                "tile_type": TileType.PNG,
                "tile_compression": Compression.NONE,
                "center_lon_e7": round(longitude * 1e7),
                "center_lat_e7": round(latitude * 1e7),
                "center_zoom": zoom,
            }
            for key, degrees in zip(("min_lon", "min_lat", "max_lon", "max_lat"), about.bounds, strict=True):
                header[f"{key}_e7"] = round(degrees * 1e7)
            writer.finalize(header, {"name": about.name, "type": "overlay", **about.terms})
