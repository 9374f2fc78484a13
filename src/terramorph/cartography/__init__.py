"""Vectors -> styled map pixels; the palette and the classes of a map. No torch."""

from terramorph.cartography.features import Feature, FeatureCollection
from terramorph.cartography.palette import CLASSES, MAP_CLASSES, PALETTE, MapClass, classify
from terramorph.cartography.render import render
from terramorph.cartography.style import Style, StyleRule, classic

__all__ = [
    "CLASSES",
    "MAP_CLASSES",
    "PALETTE",
    "Feature",
    "FeatureCollection",
    "MapClass",
    "Style",
    "StyleRule",
    "classic",
    "classify",
    "render",
]
