"""Vector tiles as shapes: the tiles around a box, decoded, with kinds, at a zoom that suits."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
from odc.geo.crs import CRS

from terramorph.cartography.archive import ground, layer_names, open_archive
from terramorph.cartography.kinds import KINDS
from terramorph.cartography.mvt import TileLayer, decode_tile
from terramorph.cartography.ogr import Box
from terramorph.cartography.shapes import Shapes
from terramorph.cartography.table import Table, load_table
from terramorph.cartography.vectorfile import no_kind_message, project, project_box
from terramorph.errors import InputError, RasterError
from terramorph.geo.mercator import HALF_WORLD, tiles_of_degrees, tiles_of_metres, zoom_of
from terramorph.raster.source import Closing

MOST_TILES = 1024
"""Most tiles that are read for one box."""

_KEPT = 64
_PROTOMAPS = frozenset(
    {"earth", "landuse", "land", "natural", "water", "roads", "buildings", "transit", "physical_line"}
)


class TileFile(Closing):
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
        if not self._archive.vectors:
            raise RasterError(f"{path} holds images, not vector tiles; read it as an image source.")
        self._zoom = self._archive.default_zoom()
        self._ground = ground(self._archive, self._zoom)
        self._only = layer
        self._tile = lru_cache(maxsize=_KEPT)(self._read_tile)
        self.licence = self._archive.licence
        probe = self._probe()
        names = tuple(dict.fromkeys([*layer_names(self._archive), *(part.name for part in probe)]))
        self.table = table or load_table("protomaps" if len(_PROTOMAPS.intersection(names)) > 1 else "plain")
        wanted = [n for n in names if layer in (None, n)]
        fields = {part.name: part.keys for part in probe}
        if not any(self.table.can_match(n, fields.get(n) or self.table.keys) for n in wanted):
            raise RasterError(no_kind_message(path, self.table, {n: fields.get(n, ()) for n in names}))
        west, south, east, north = self._ground
        self._latitude = (south + north) / 2
        limit = 85.0511287798066
        self.bounds = project_box((west, max(south, -limit), east, min(north, limit)), CRS("EPSG:4326"), self.crs)

    def _probe(self) -> list[TileLayer]:
        """The layers of the tile in the middle, at the last zoom."""
        west, south, east, north = self._ground
        middle = (west + east) / 2, (south + north) / 2
        box = tiles_of_degrees(self._zoom, *middle, *middle)
        return self._layers(self._zoom, box.left, box.top) or self._layers(self._zoom, *self._archive.first(self._zoom))

    def close(self) -> None:
        """Close the archive."""
        self._tile.cache_clear()
        self._archive.close()

    def level(self, metres: float) -> int:
        """The zoom that suits so many metres a pixel, the same all over the archive."""
        wanted = zoom_of(metres / math.cos(math.radians(self._latitude)))
        return min((z for z in self._archive.zooms if z <= self._zoom), key=lambda zoom: abs(zoom - wanted))

    def read(self, box: Box, crs: CRS, metres: float) -> Shapes:
        """The shapes around a box, in its CRS. As `VectorFile.read`."""
        zoom = self.level(metres)
        left, bottom, right, top = project_box(box, crs, self.crs)
        tiles = tiles_of_metres(zoom, left, bottom, right, top)
        if tiles.size > MOST_TILES:
            raise RasterError(
                f"{self.path} has {tiles.size} tiles of zoom {zoom} under one window; its tiles are too "
                "fine for this ground resolution, use smaller windows or an archive with lower zooms."
            )
        found = Shapes.join([self._tile(zoom, x, y) for x, y in tiles.numbers()])
        found = found.take(found.inside(left, bottom, right, top))
        return found.moved(project(found.xy, self.crs, crs))

    def _read_tile(self, zoom: int, x: int, y: int) -> Shapes:
        """The shapes of a tile, in web mercator."""
        return Shapes.join([self._shapes(layer, zoom, x, y) for layer in self._layers(zoom, x, y)])

    def _layers(self, zoom: int, x: int, y: int) -> list[TileLayer]:
        try:
            layers = decode_tile(self._archive.read(zoom, x, y) or b"")
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise RasterError(f"{self.path}: tile {zoom}/{x}/{y} is damaged ({error}); copy the file again.") from error
        return [layer for layer in layers if self._only in (None, layer.name)]

    def _shapes(self, layer: TileLayer, zoom: int, x: int, y: int) -> Shapes:
        """The shapes of a tile's layer that have a kind."""
        kinds, widths = self.table.assign(layer.name, layer.columns(self.table.keys), layer.areas)
        side = 2 * HALF_WORLD / (1 << zoom)
        xy = layer.xy * (side / layer.extent) + (x * side - HALF_WORLD, HALF_WORLD - y * side)
        owner = layer.owner
        shapes = Shapes.of(xy, layer.starts, kinds[owner], KINDS, layer.areas[owner], widths[owner])
        return shapes.take(np.flatnonzero(shapes.kinds >= 0))
