"""A vector file as a source of map pixels: drawn on any projected grid."""

from __future__ import annotations

import hashlib
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
from cachetools import LRUCache
from odc.geo.crs import CRS
from odc.geo.geom import Geometry, box

from terramorph.bands import RGB
from terramorph.cartography.detect import is_vector
from terramorph.cartography.ogr import has_layers
from terramorph.cartography.render import drawing_margin, metres_per_pixel, render
from terramorph.cartography.shapes import Shapes
from terramorph.cartography.style import Style
from terramorph.cartography.table import COASTLINE, Table, load_table, one_kind
from terramorph.cartography.tilefile import TileFile
from terramorph.cartography.vectorfile import GdalFile, VectorFile
from terramorph.errors import RasterError, warn
from terramorph.geo.crs import crs_name
from terramorph.geo.grid import Grid
from terramorph.raster.raster import Raster
from terramorph.raster.source import Source
from terramorph.raster.tiles import ARCHIVES
from terramorph.raster.tiles.reader import file_fingerprint

WIDEST_M = 100.0
"""Lines that are wider than this, in metres, may be missed where they only reach into a window."""

_BLOCK_PX = 1024  # windows within one block of this many pixels are drawn from features that are read once
_KEPT = 4
_PARTS = {".shp": (".shx", ".dbf", ".prj", ".cpg"), ".tab": (".dat", ".map", ".id"), ".mif": (".mid",)}


class VectorSource(Source):
    """A vector file, rendered on any projected grid; threads may share it.

    Features read for a window are kept for its neighbours, at most four blocks of windows. GeoJSON and OpenStreetMap
    files have no index; they are read whole, once, and stay in memory.

    Attributes:
        table: Table of kinds.
        skipped: Features that were read, have a kind, and could not be drawn: of an unknown or an empty geometry, or
            without coordinates in the CRS of a grid. One that is read twice counts twice.
        licence: The attribution of an archive of tiles, or that of OpenStreetMap.
    """

    grid = None
    bands = RGB
    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        path: str | Path,
        style: Style,
        *,
        crs: CRS | str | int | None = None,
        table: str | Path | None = None,
        kind: str | None = None,
    ) -> None:
        """Open a file.

        Args:
            path: GeoPackage, GeoJSON, FlatGeobuf, Shapefile, FileGDB (a folder), GeoParquet, KML, GML, DXF, MapInfo
                (.tab, .mif), GPX, a .zip with one of them, OpenStreetMap (.osm.pbf, .osm), or vector tiles (.pmtiles,
                .mbtiles).
            style: A style; see `load_style`.
            crs: Takes the place of the file's own CRS.
            table: Name or file of the table that gives features their kinds: `load_table`. Chosen by layers and
                attributes if None.
            kind: All of the file is of this kind; no table is asked.

        Raises:
            RasterError: If the file is missing, is no vector file, has no CRS, or no feature of it gets a kind.
            ConfigError: If the table cannot be used or the kind is unknown.
        """
        path = Path(path)
        if not path.exists():
            raise RasterError(f"{path} does not exist; check the path.")
        tiles = path.suffix.lower() in ARCHIVES
        if not tiles and not is_vector(path) and not has_layers(path):
            raise RasterError(
                f"{path} is not a vector file; give a GeoPackage, GeoJSON, FlatGeobuf, Shapefile, .osm.pbf "
                "or vector tiles."
            )
        if kind is not None and table is not None:
            raise RasterError(f"{path}: a kind and a table are both given; give one of them.")
        chosen: Table | None = one_kind(kind) if kind is not None else None
        chosen = load_table(table) if table is not None else chosen
        self.name = str(path)
        self.path, self.style = path, style
        own = None if crs is None else CRS(crs)
        self._file: VectorFile = TileFile(path, chosen) if tiles else GdalFile(path, chosen, own)
        self.table = self._file.table
        self.licence: str | None = self._file.licence
        self.extent: Geometry = box(*self._file.bounds, self._file.crs)
        self.skipped = self._file.skipped
        self._told_gap = False
        self._own_crs = own
        self._kept: LRUCache[tuple[Any, ...], Shapes] = LRUCache(_KEPT)
        self._lock = threading.Lock()
        self._closed = False
        self._told_skipped = 0
        self._tell_skipped()

    def read(self, grid: Grid) -> Raster:
        """Draw the features on a grid.

        Args:
            grid: Grid in a projected CRS.

        Returns:
            uint8 (3, H, W) RGB, no pixel masked; the background of the style where there is no feature.

        Raises:
            RasterError: If the grid has no CRS or one in degrees, or the file cannot be read.
        """
        if grid.crs is None:
            raise RasterError(f"{self.name} cannot be drawn on a grid without a CRS; give the image a place first.")
        metres = metres_per_pixel(grid)
        shapes = self._shapes(grid, metres)
        self._tell_gap(shapes, grid)
        return render(shapes, grid, self.style)

    def _shapes(self, grid: Grid, metres: float) -> Shapes:
        """Read the features around the blocks that a grid touches, or take those of an earlier window."""
        with self._lock:
            if self._closed:
                raise RasterError(f"{self.name} was closed; open it again.")
            pixel = max(grid.resolution)
            side = 2.0 ** math.ceil(math.log2(max(*grid.shape, _BLOCK_PX) * pixel))
            bounds = grid.bounds
            left, bottom = math.floor(bounds.left / side) * side, math.floor(bounds.bottom / side) * side
            right, top = math.ceil(bounds.right / side) * side, math.ceil(bounds.top / side) * side
            store = (str(grid.crs), self._file.level(metres), side, round(math.log2(metres), 1))
            for key in self._kept:
                known, west, south, east, north = key
                if known == store and west <= left and south <= bottom and east >= right and north >= top:
                    return self._kept[key]
            margin = 1.1 * pixel * drawing_margin(self.style, metres, widest_m=WIDEST_M)
            around = left - margin, bottom - margin, right + margin, top + margin
            shapes = self._file.read(around, grid.crs, metres)
            self.skipped += shapes.skipped
            if self._told_skipped == 0:
                self._tell_skipped()
            self._kept[store, left, bottom, right, top] = shapes
            return shapes

    def _tell_skipped(self) -> None:
        """Warn of features that were not drawn, where that was not said."""
        if self.skipped > self._told_skipped:
            self._told_skipped = self.skipped
            noun = "feature has" if self.skipped == 1 else "features have"
            warn(f"{self.name}: {self.skipped} {noun} a geometry that cannot be drawn and is not on the map.")

    def _tell_gap(self, shapes: Shapes, grid: Grid) -> None:
        """Warn once where a coastline breaks off on a grid."""
        if self._told_gap:
            return
        rows = shapes.inside(*grid.bounds)
        rows = rows[shapes.areas[rows] & (shapes.kinds[rows] == COASTLINE)]
        if len(rows):
            self._told_gap = True
            left, bottom, right, top = shapes.bounds[rows[0]]
            place = f"x={(left + right) / 2:.0f}, y={(bottom + top) / 2:.0f} ({crs_name(grid.crs)})"
            warn(f"{self.name}: a coastline breaks off near {place}, and the sea around it is not drawn.")

    @property
    def files(self) -> list[Path]:
        """The file, or all parts of a Shapefile and the like."""
        if self.path.is_dir():
            return sorted(p for p in self.path.rglob("*") if p.is_file() and p.suffix != ".lock")
        found = [self.path]
        for suffix in _PARTS.get(self.path.suffix.lower(), ()):
            cases = (self.path.with_suffix(suffix), self.path.with_suffix(suffix.upper()))
            found += [part for part in cases if part.exists()][:1]  # both exist where names have no case
        return found

    def fingerprint(self) -> str:
        """Return a hex digest (blake2b, 16 bytes) of the file (all parts of a Shapefile), style, table and CRS."""
        digest = hashlib.blake2b(digest_size=16)
        for part in self.files:
            digest.update(file_fingerprint(part).encode())
        decides = (self.style, self.table.model_dump_json(exclude={"name"}), str(self._own_crs))
        digest.update(repr(decides).encode())
        return digest.hexdigest()

    def close(self) -> None:
        """Release what was read. Reading afterwards is an error."""
        with self._lock:
            if not self._closed:
                self._tell_skipped()
            self._closed = True
            self._kept.clear()
            self._file.close()
