"""Tile archives and caches as sources: folders, MBTiles, PMTiles, servers."""

from terramorph.raster.tiles.folders import LAYOUTS, FolderTiles
from terramorph.raster.tiles.mbtiles import MBTiles
from terramorph.raster.tiles.pmtiles import PMTiles
from terramorph.raster.tiles.reader import TileReader
from terramorph.raster.tiles.server import ServerTiles
from terramorph.raster.tiles.source import TileSource

__all__ = [
    "LAYOUTS",
    "FolderTiles",
    "MBTiles",
    "PMTiles",
    "ServerTiles",
    "TileReader",
    "TileSource",
]
