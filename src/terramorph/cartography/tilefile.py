"""Vector tiles as shapes: the tiles around a box, decoded, with kinds, at a zoom that suits."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from odc.geo.crs import CRS

from terramorph.cartography.archive import open_archive
from terramorph.cartography.kinds import KINDS
from terramorph.cartography.mvt import TileLayer, decode_tile
from terramorph.cartography.ogr import Box
from terramorph.cartography.render import zoom_of
from terramorph.cartography.shapes import Shapes
from terramorph.cartography.table import Table, load_table
from terramorph.cartography.vectorfile import no_kind_message, project, project_box
from terramorph.errors import InputError, RasterError

HALF = math.pi * 6378137.0
"""Half the side of the web mercator square, in metres."""

MOST_TILES = 1024
"""Most tiles that are read for one box."""

_KEPT = 64
_PROTOMAPS = frozenset(
    {"earth", "landuse", "land", "natural", "water", "roads", "buildings", "transit", "physical_line"}
)


class TileFile:
    """An archive of vector tiles.

    Attributes:
        crs: EPSG:3857.
        table: What gives features their kinds.
        licence: The archive's attribution.
        skipped: 0.
    """

    skipped = 0

    def __init__(self, path: Path, table: Table | None, layer: str | None) -> None:
        """Open the archive and look at one tile.

        Args:
            path: PMTiles, MBTiles or a single tile.
            table: None: chosen by the names of the layers.
            layer: Read this layer only.

        Raises:
            RasterError: If it is no such archive, or the table knows none of its layers.
        """
        self.path, self.crs = path, CRS("EPSG:3857")
        self._archive = open_archive(path)
        self._only = layer
        self._kept: OrderedDict[tuple[int, int, int], Shapes] = OrderedDict()
        self.licence = self._archive.licence
        probe = self._probe()
        names = tuple(dict.fromkeys([*self._archive.layers, *(part.name for part in probe)]))
        self.table = table or load_table("protomaps" if len(_PROTOMAPS.intersection(names)) > 1 else "plain")
        wanted = [n for n in names if layer in (None, n)]
        fields = {part.name: part.keys for part in probe}
        if not any(self.table.can_match(n, fields.get(n) or self.table.keys) for n in wanted):
            raise RasterError(no_kind_message(path, self.table, {n: fields.get(n, ()) for n in names}))
        west, south, east, north = self._archive.bounds
        self._latitude = (south + north) / 2
        limit = 85.0511287798066
        self.bounds = project_box((west, max(south, -limit), east, min(north, limit)), CRS("EPSG:4326"), self.crs)

    def _probe(self) -> list[TileLayer]:
        """The layers of the tile in the middle, at the last zoom."""
        west, south, east, north = self._archive.bounds
        zoom = self._archive.zooms[1]
        side = 1 << zoom
        x = int((west + east + 360) / 720 * side)
        sine = math.sin(math.radians((south + north) / 2))
        y = int((0.5 - math.atanh(min(max(sine, -0.999999), 0.999999)) / (2 * math.pi)) * side)
        return self._layers(zoom, min(x, side - 1), min(max(y, 0), side - 1)) or self._decoded(
            "a tile", self._archive.some_tile
        )

    def level(self, metres: float) -> int:
        """The zoom that suits so many metres a pixel, the same all over the archive."""
        first, last = self._archive.zooms
        return min(max(round(zoom_of(metres / math.cos(math.radians(self._latitude)))), first), last)

    def read(self, box: Box, crs: CRS, metres: float) -> Shapes:
        """The shapes around a box, in its CRS. As `VectorFile.read`."""
        zoom = self.level(metres)
        left, bottom, right, top = project_box(box, crs, self.crs)
        side = 2 * HALF / (1 << zoom)
        last = (1 << zoom) - 1
        columns = range(max(math.floor((left + HALF) / side), 0), min(math.floor((right + HALF) / side), last) + 1)
        rows = range(max(math.floor((HALF - top) / side), 0), min(math.floor((HALF - bottom) / side), last) + 1)
        if len(columns) * len(rows) > MOST_TILES:
            raise RasterError(
                f"{self.path} has {len(columns) * len(rows)} tiles of zoom {zoom} under one window; its tiles are too "
                "fine for this ground resolution, use smaller windows or an archive with lower zooms."
            )
        found = Shapes.join([self._tile(zoom, x, y) for y in rows for x in columns])
        found = found.take(found.inside(left, bottom, right, top))
        return found.moved(project(found.xy, self.crs, crs))

    def _tile(self, zoom: int, x: int, y: int) -> Shapes:
        """The shapes of a tile, in web mercator; the last ones are kept."""
        key = (zoom, x, y)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        parts = [self._shapes(layer, zoom, x, y) for layer in self._layers(zoom, x, y)]
        self._kept[key] = shapes = Shapes.join(parts)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return shapes

    def _layers(self, zoom: int, x: int, y: int) -> list[TileLayer]:
        """The decoded layers of a tile."""
        return self._decoded(f"tile {zoom}/{x}/{y}", lambda: self._archive.tile(zoom, x, y))

    def _decoded(self, name: str, get: Callable[[], bytes | None]) -> list[TileLayer]:
        """The layers of what is got."""
        try:
            data = get()
            layers = [] if data is None else decode_tile(data)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise RasterError(f"{self.path}: {name} is damaged ({error}); copy the file again.") from error
        return [layer for layer in layers if self._only in (None, layer.name)]

    def _shapes(self, layer: TileLayer, zoom: int, x: int, y: int) -> Shapes:
        """The shapes of a tile's layer that have a kind."""
        kinds, widths = self.table.assign(layer.name, layer.columns(self.table.keys), layer.areas)
        side = 2 * HALF / (1 << zoom)
        xy = layer.xy * (side / layer.extent) + (x * side - HALF, HALF - y * side)
        owner = layer.owner
        shapes = Shapes.of(xy, layer.starts, kinds[owner], KINDS, layer.areas[owner], widths[owner])
        return shapes.take(np.flatnonzero(shapes.kinds >= 0))
