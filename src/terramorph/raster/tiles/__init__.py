"""Tile archives and caches as sources: folders, MBTiles, PMTiles, servers."""

from pathlib import Path

from terramorph.errors import RasterError
from terramorph.raster.storage import Remote
from terramorph.raster.tiles.folders import LAYOUTS, FolderTiles
from terramorph.raster.tiles.mbtiles import MBTiles
from terramorph.raster.tiles.pmtiles import PMTiles
from terramorph.raster.tiles.server import ServerTiles
from terramorph.raster.tiles.source import TileSource

ARCHIVES = frozenset({".mbtiles", ".pmtiles"})
"""Suffixes of files that hold many tiles."""

__all__ = [
    "ARCHIVES",
    "LAYOUTS",
    "FolderTiles",
    "MBTiles",
    "PMTiles",
    "ServerTiles",
    "TileSource",
    "open_archive",
]


def open_archive(path: Path | Remote) -> MBTiles | PMTiles:
    """Open a file of many tiles, of images or vectors.

    Raises:
        RasterError: If it is damaged, or cannot be read in parts where it lies.
    """
    if path.suffix.lower() == ".pmtiles":
        return PMTiles(path)
    if isinstance(path, Remote):
        raise RasterError(f"{path} is a database, which cannot be read in parts; copy it here, or make it PMTiles.")
    return MBTiles(path)
