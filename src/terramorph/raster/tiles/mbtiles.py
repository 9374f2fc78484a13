"""MBTiles: tiles in an SQLite database (https://github.com/mapbox/mbtiles-spec/blob/master/1.3/spec.md)."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from terramorph.documents import parse_json_object
from terramorph.errors import RasterError, raised_as, warn
from terramorph.geo.mercator import MAX_ZOOM, TileBox, box_of_halves
from terramorph.raster.tiles.reader import (
    TileReader,
    check_tile,
    is_picture,
    lies_flipped,
    looks_like_vectors,
    plain_text,
    said_crs,
    stated_box,
)


class MBTiles(TileReader):
    """Tiles of images or vectors. Opened read-only; threads take turns.

    Rows are counted from the south, as the format says; from the north, with a warning, where only that fits the bounds
    in the metadata.

    Attributes:
        metadata: Its names and values; empty where there is none.
        about: The JSON object among them, which describes vectors.

    Raises:
        RasterError: If it is no MBTiles file, or holds no tiles.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        self._path = Path(path)
        self._lock = threading.Lock()
        self._from_north = False
        with self._errors():
            uri = f"{self._path.absolute().as_uri()}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        try:
            self.metadata = self._open()
            self.crs = said_crs(self.name, self.metadata)
        except BaseException:
            self.close()
            raise
        self.bounds = self.metadata.get("bounds")
        self.licence = plain_text(self.metadata.get("attribution") or self.metadata.get("license"))
        try:
            self.about = parse_json_object(self.metadata.get("json") or "{}")
        except ValueError:
            self.about = {}

    @property
    def vectors(self) -> bool:
        """Whether a tile of the finest zoom is a vector tile, by its content or the metadata."""
        try:
            data = self.read(self.zooms[-1], *self.first(self.zooms[-1])) or b""
        except RasterError:  # it cannot be unpacked
            data = b""
        said = self.metadata.get("format", "").lower() in ("pbf", "mvt")
        return not is_picture(data) and (said or looks_like_vectors(data))

    def _open(self) -> dict[str, str]:
        """Check the tables that reading relies on; return the metadata."""
        tables = {row[0] for row in self._ask("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
        if "tiles" not in tables:
            raise RasterError(f"{self.name} has no table of tiles, so it is not an MBTiles file; give another.")
        columns = ("zoom_level", "tile_column", "tile_row")
        kinds = self._ask(f"SELECT {', '.join(f'typeof({column})' for column in columns)} FROM tiles LIMIT 1")
        if not kinds:
            raise RasterError(f"{self.name} holds no tiles; give another file.")
        # Numbers that are text cannot be looked up by the index; numbers can.
        cast = [c if kind == "integer" else f"CAST({c} AS INTEGER)" for c, kind in zip(columns, kinds[0], strict=True)]
        self._zoom, self._column, self._row = cast
        self._one = f"FROM tiles WHERE {self._zoom} = ? AND {self._column} = ? AND {self._row} = ?"
        self.counts: dict[int, int] = dict(self._ask(f"SELECT {self._zoom}, COUNT(*) FROM tiles GROUP BY 1 ORDER BY 1"))
        zooms = list(self.counts)
        if any(not isinstance(zoom, int) or not 0 <= zoom <= MAX_ZOOM for zoom in zooms):
            raise RasterError(
                f"{self.name} has tiles of zooms {zooms[:40]}, not all of 0 to {MAX_ZOOM}; write it again."
            )
        self.zooms = tuple(zooms)
        if "metadata" not in tables:
            warn(
                f"{self.name} has no metadata table; its rows of tiles are counted from the south, as MBTiles has them."
            )
            return {}
        metadata = {str(key): str(value) for key, value in self._ask("SELECT name, value FROM metadata")}
        self._find_north(metadata)
        return metadata

    def _find_north(self, metadata: dict[str, str]) -> None:
        """Decide from which side rows are counted."""
        zoom = max(self.counts, key=lambda zoom: self.counts[zoom])
        if stated_box(metadata.get("bounds"), zoom) is not None:
            self._from_north = lies_flipped(self.box(zoom), metadata.get("bounds"), zoom)
            if self._from_north:
                warn(
                    f"{self.name}: rows of tiles are counted from the north, against the format, to lie in its bounds."
                )
        elif metadata.get("scheme", "").lower() == "xyz":
            warn(
                f"{self.name} says scheme xyz and no bounds; its rows are counted from the south, as MBTiles has them."
            )

    def parents(self, zoom: int, coarser: int) -> int:
        places = f"SELECT DISTINCT {self._column} >> ?, {self._row} >> ? FROM tiles WHERE {self._zoom} = ?"
        steps = zoom - coarser
        return int(self._ask(f"SELECT COUNT(*) FROM ({places})", steps, steps, zoom)[0][0])

    def box(self, zoom: int) -> TileBox:
        """Return the box around the tiles present; the metadata's bounds are not trusted."""
        half = (1 << zoom) // 2
        west, east = self._box_between(zoom, -(1 << 62), half - 1), self._box_between(zoom, half, 1 << 62)
        if west is None and east is None:
            raise RasterError(f"{self.name} has no columns of tiles at zoom {zoom}; write it again.")
        return box_of_halves(zoom, west, east)

    def _box_between(self, zoom: int, first: int, last: int) -> TileBox | None:
        """Return the box around the tiles of some columns; None without any."""
        ends = self._ask(
            f"SELECT min({self._column}), max({self._column}), min({self._row}), max({self._row}) FROM tiles "
            f"WHERE {self._zoom} = ? AND NOT ({self._column} < ? OR {self._column} > ?)",
            *(zoom, first, last),
        )[0]
        if ends == (None, None, None, None):
            return None
        if not all(isinstance(end, int) for end in ends):
            raise RasterError(f"{self.name} has tile numbers that are not integers ({ends}); write it again.")
        left, right, low, high = ends
        top, bottom = sorted((self._turned(zoom, low), self._turned(zoom, high)))
        check_tile(self.name, zoom, left, top)
        check_tile(self.name, zoom, right, bottom)
        return TileBox(left, top, right + 1, bottom + 1)

    def first(self, zoom: int) -> tuple[int, int]:
        rows = self._ask(f"SELECT {self._column}, {self._row} FROM tiles WHERE {self._zoom} = ? LIMIT 1", zoom)
        if not rows or not all(isinstance(number, int) for number in rows[0]):
            raise RasterError(f"{self.name} has tile numbers that are not integers ({rows}); write it again.")
        return rows[0][0], self._turned(zoom, rows[0][1])

    def has(self, zoom: int, x: int, y: int) -> bool:
        return bool(self._ask(f"SELECT 1 {self._one}", zoom, x, self._turned(zoom, y)))

    def read(self, zoom: int, x: int, y: int) -> bytes | None:
        found = self._ask(f"SELECT CAST(tile_data AS BLOB) {self._one}", zoom, x, self._turned(zoom, y))
        if not found or found[0][0] is None:
            return None
        return self.unpacked(bytes(found[0][0]), zoom, x, y)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _turned(self, zoom: int, row: int) -> int:
        """Convert a row as the file counts it to one from the north, and back."""
        return row if self._from_north else (1 << zoom) - 1 - row

    def _ask(self, question: str, *values: int) -> list[Any]:
        with self._errors(), self._lock:
            return self._connection.execute(question, values).fetchall()

    def _errors(self) -> AbstractContextManager[None]:
        """Convert errors of SQLite, and of text that is not UTF-8, to a RasterError."""
        advice = "it is damaged or of another kind: copy it again"
        kinds = (sqlite3.Error, ValueError, OverflowError)
        return raised_as(RasterError, f"{self.name} cannot be read as MBTiles", advice, *kinds)
