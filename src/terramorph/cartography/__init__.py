"""Vectors drawn as styled map pixels; palette and classes of a map. No torch."""

from typing import TYPE_CHECKING

from terramorph.errors import MissingPackageError
from terramorph.imports import lazily

try:
    import skia  # noqa: F401
except ImportError as error:  # its wheel needs libraries of the system, which a bare container lacks
    raise MissingPackageError(
        f"The package skia-python cannot be loaded ({error}); install its libraries, on Debian and Ubuntu: "
        "apt-get install libegl1 libgl1"
    ) from error

from terramorph.cartography.palette import (
    CLASSES,
    CLASSIC,
    MAP_CLASSES,
    NEAR,
    PALETTE,
    ROADS,
    Palette,
    classify,
    measure_palette,
)
from terramorph.cartography.render import render
from terramorph.cartography.shapes import Feature
from terramorph.cartography.style import Style, classic, load_style, palette_of
from terramorph.cartography.table import load_table

if TYPE_CHECKING:
    from terramorph.cartography.ogr import read_polygons
    from terramorph.cartography.source import VectorSource

# pyogrio brings geopandas, pandas and pyarrow, for which a palette need not wait.
__getattr__ = lazily(
    __name__,
    {"VectorSource": "terramorph.cartography.source", "read_polygons": "terramorph.cartography.ogr"},
)

__all__ = [
    "CLASSES",
    "CLASSIC",
    "MAP_CLASSES",
    "NEAR",
    "PALETTE",
    "ROADS",
    "Feature",
    "Palette",
    "Style",
    "VectorSource",
    "classic",
    "classify",
    "load_style",
    "load_table",
    "measure_palette",
    "palette_of",
    "read_polygons",
    "render",
]
