"""Pixels with a place. The only home of rasterio. No torch."""

from terramorph.imports import import_without, lazily

# rasterio takes credentials from boto3 if it is installed; GDAL finds them itself.
import_without("rasterio", "boto3")
import_without("odc.geo", "dask")

from terramorph.bands import default_bands
from terramorph.raster.image import IMAGE_SUFFIXES, probe_image, read_image
from terramorph.raster.image_source import ImageSource
from terramorph.raster.layout import ReadOptions
from terramorph.raster.raster import Raster
from terramorph.raster.save import write_image
from terramorph.raster.source import Source
from terramorph.raster.tiles import TileSource

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageSource",
    "Raster",
    "ReadOptions",
    "Source",
    "TileSource",
    "default_bands",
    "probe_image",
    "read_image",
    "write_image",
]

# Scripts in use ask here for the one door above; a test holds it.
__getattr__ = lazily(__name__, {"open_source": "terramorph.sources"})
