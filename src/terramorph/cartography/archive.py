"""Archives of vector tiles: PMTiles, MBTiles, and a single tile that lies under its z/x/y."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from terramorph.errors import RasterError
from terramorph.geo.mercator import MAX_ZOOM, TileBox, degrees_of_corner
from terramorph.raster.tiles import MBTiles, PMTiles
from terramorph.raster.tiles.reader import TileReader, file_fingerprint, stated_degrees, unpacked

ARCHIVES = frozenset({".mbtiles", ".pmtiles"})
"""Suffixes of files that hold many tiles."""

Degrees = tuple[float, float, float, float]
"""West, south, east, north."""


class SingleTile(TileReader):
    """One vector tile, whose place is its path: .../14/8702/5973.mvt.

    Raises:
        RasterError: If the path gives no place.
    """

    about: dict[str, Any] = {}  # noqa: RUF012

    @property
    def vectors(self) -> bool:
        """Yes."""
        return True

    def __init__(self, path: Path) -> None:
        self.name, self.path = str(path), path
        words = (*path.parts[-3:-1], path.name.split(".")[0])
        if len(words) != 3 or not all(w.isdigit() for w in words) or int(words[0]) > MAX_ZOOM:
            raise RasterError(f"{path}: a single vector tile has its place in its path; name it z/x/y.mvt.")
        zoom, x, y = self.number = (int(words[0]), int(words[1]), int(words[2]))
        if max(x, y) >= 1 << zoom:
            raise RasterError(f"{path}: there is no tile {zoom}/{x}/{y}; name it z/x/y.mvt.")
        self.zooms = (zoom,)

    def box(self, zoom: int) -> TileBox:
        """Itself."""
        _, x, y = self.number
        return TileBox(x, y, x + 1, y + 1)

    def first(self, zoom: int) -> tuple[int, int]:
        """Itself."""
        return self.number[1:]

    def has(self, zoom: int, x: int, y: int) -> bool:
        """Whether it is that one."""
        return (zoom, x, y) == self.number

    def read(self, zoom: int, x: int, y: int) -> bytes | None:
        """The tile, if it is that one."""
        return unpacked(self.path.read_bytes()) if self.has(zoom, x, y) else None

    def fingerprint(self) -> str:
        """Of the file."""
        return file_fingerprint(self.path)


def open_archive(path: Path) -> MBTiles | PMTiles | SingleTile:
    """What gives the tiles of a file.

    Raises:
        RasterError: If it is no archive or is damaged.
    """
    suffix = path.suffix.lower()
    if suffix == ".pmtiles":
        return PMTiles(path)
    return MBTiles(path) if suffix == ".mbtiles" else SingleTile(path)


def ground(archive: MBTiles | PMTiles | SingleTile, zoom: int) -> Degrees:
    """What the tiles of a zoom cover, within the stated bounds where these lie there."""
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


def layer_names(archive: MBTiles | PMTiles | SingleTile) -> tuple[str, ...]:
    """Names of layers that the archive states; they may be wrong."""
    layers = archive.about.get("vector_layers")
    return tuple(str(e.get("id")) for e in layers if isinstance(e, dict)) if isinstance(layers, list) else ()
