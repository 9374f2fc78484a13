"""Pixels with a place. The only home of rasterio. No torch."""

from terramorph.bands import default_bands
from terramorph.raster.image import IMAGE_SUFFIXES, MAX_PIXELS, probe_image, read_image
from terramorph.raster.image_source import ImageSource
from terramorph.raster.layout import ReadOptions
from terramorph.raster.open import open_source
from terramorph.raster.raster import Raster
from terramorph.raster.save import write_image
from terramorph.raster.source import Source
from terramorph.raster.tiles import TileSource

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageSource",
    "Raster",
    "ReadOptions",
    "Source",
    "TileSource",
    "default_bands",
    "open_source",
    "probe_image",
    "read_image",
    "write_image",
]
