"""Pixels with a place. The only home of rasterio. No torch."""

from terramorph.raster.image import IMAGE_SUFFIXES, MAX_PIXELS, probe_image, read_image
from terramorph.raster.raster import Raster, default_bands
from terramorph.raster.save import write_image

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Raster",
    "default_bands",
    "probe_image",
    "read_image",
    "write_image",
]
