"""Vector tiles as shapes: the tiles around a box, read one by one with GDAL, at the zoom that suits.

GDAL's drivers of whole archives list the layers of the metadata, which may be wrong, and read an archive once per
layer. For a single tile GDAL lists the layers present.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pyogrio
from odc.geo.crs import CRS

from terramorph.cartography.ogr import Box, Layer, layer_of
from terramorph.cartography.shapes import Shapes
from terramorph.cartography.table import Table, load_table
from terramorph.cartography.vectorfile import VectorFile, features_of, no_kind_message, project, project_box
from terramorph.errors import RasterError, raised_as
from terramorph.geo.mercator import degrees_of_corner, tiles_of_degrees, tiles_of_metres, zoom_of
from terramorph.raster.tiles import MBTiles, PMTiles, open_archive
from terramorph.raster.tiles.reader import stated_degrees

MOST_TILES = 1024
"""Limit on tiles read for one box."""

_KEPT = 64
_PROTOMAPS = frozenset(
    {"earth", "landuse", "land", "natural", "water", "roads", "buildings", "transit", "physical_line"}
)


class TileFile(VectorFile):
    """An archive of vector tiles, in EPSG:3857 unless it says EPSG:3395."""

    def __init__(self, path: Path, table: Table | None) -> None:
        """Open the archive and look at one tile.

        Args:
            path: PMTiles or MBTiles.
            table: None: chosen by the names of the layers.

        Raises:
            RasterError: If it is no such archive, or the table knows none of its layers.
        """
        self.path, self._archive = path, open_archive(path)
        self.crs = self._archive.crs or CRS("EPSG:3857")
        self._tile = lru_cache(maxsize=_KEPT)(self._read_tile)
        try:
            self._look(table)
        except BaseException:
            self.close()
            raise

    def _look(self, table: Table | None) -> None:
        """Choose zoom and table, by one tile and what the archive states."""
        path = self.path
        if not self._archive.vectors:
            raise RasterError(f"{path} holds images, not vector tiles; read it as an image source.")
        self._zoom = self._archive.default_zoom()
        self.licence = self._archive.licence
        west, south, east, north = _ground(self._archive, self._zoom)
        self._latitude = (south + north) / 2
        fields = self._probe((west + east) / 2, self._latitude)
        names = tuple(dict.fromkeys([*_stated_layers(self._archive), *fields]))
        self.table = table or load_table("protomaps" if len(_PROTOMAPS.intersection(names)) > 1 else "plain")
        if not any(self.table.can_match(n, fields.get(n, self.table.keys)) for n in names):
            raise RasterError(no_kind_message(path, self.table, {n: fields.get(n, ()) for n in names}))
        limit = 85.0511287798066
        self.bounds = project_box((west, max(south, -limit), east, min(north, limit)), CRS("EPSG:4326"), self.crs)

    def close(self) -> None:
        self._tile.cache_clear()
        self._archive.close()

    def level(self, metres: float) -> int:
        """Return the zoom that suits a resolution in metres per pixel, the same all over the archive."""
        wanted = zoom_of(metres / math.cos(math.radians(self._latitude)))
        return min((z for z in self._archive.zooms if z <= self._zoom), key=lambda zoom: abs(zoom - wanted))

    def read(self, box: Box, crs: CRS, metres: float) -> Shapes:
        """Read the shapes around a box, in its CRS; see `VectorFile.read`."""
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
        """Read the shapes of a tile, in web mercator."""
        keys = tuple(self.table.keys)
        with self._tile_file(zoom, x, y) as (source, names):
            layers = [Layer(self.path, source, "MVT", name, self.crs, keys, -1, None) for name in names]
            known = [layer for layer in layers if self.table.can_match(layer.name, keys)]
            return Shapes.join([features_of(layer, self.table).shapes() for layer in known])

    def _probe(self, longitude: float, latitude: float) -> dict[str, tuple[str, ...]]:
        """Return layers with their attributes, of the finest zoom's tile at a place, or of another tile."""
        box = tiles_of_degrees(self._zoom, longitude, latitude, longitude, latitude)
        for x, y in ((box.left, box.top), self._archive.first(self._zoom)):
            with self._tile_file(self._zoom, x, y) as (source, names):
                if names:
                    return {name: layer_of(self.path, source, name).fields for name in names}
        return {}

    @contextmanager
    def _tile_file(self, zoom: int, x: int, y: int) -> Iterator[tuple[str, list[str]]]:
        """Yield what GDAL opens for a tile, and its layers of lines or polygons."""
        damaged = f"{self.path}: tile {zoom}/{x}/{y} is damaged"
        with raised_as(RasterError, damaged, "copy the file again"):
            data = self._archive.read(zoom, x, y)
            if not data:
                yield "", []
                return
            with TemporaryDirectory() as folder:
                file = Path(folder, str(zoom), str(x), f"{y}.mvt")  # GDAL takes the tile's place from its path
                file.parent.mkdir(parents=True)
                file.write_bytes(data)
                listed = pyogrio.list_layers(f"MVT:{file}").tolist()
                yield f"MVT:{file}", [name for name, kind in listed if "Point" not in (kind or "")]


def _ground(archive: MBTiles | PMTiles, zoom: int) -> Box:
    """Return west, south, east, north of the tiles of a zoom, clipped to the stated bounds where these meet them."""
    box, side = archive.box(zoom), 1 << zoom
    if box.right > side:  # across 180 degrees
        box = box._replace(left=0, right=side)
    west, north = degrees_of_corner(zoom, box.left, box.top)
    east, south = degrees_of_corner(zoom, box.right, box.bottom)
    stated = stated_degrees(archive.bounds)
    if stated is None:
        return west, south, east, north
    common = max(west, stated[0]), max(south, stated[1]), min(east, stated[2]), min(north, stated[3])
    return common if common[0] < common[2] and common[1] < common[3] else (west, south, east, north)


def _stated_layers(archive: MBTiles | PMTiles) -> list[str]:
    """Return the layer names that the archive states; they may be wrong."""
    layers = archive.about.get("vector_layers")
    return [str(e.get("id")) for e in layers if isinstance(e, dict)] if isinstance(layers, list) else []
