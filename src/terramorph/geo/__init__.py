"""Where: grids and windows. No pixels, no torch."""

from terramorph.geo.grid import Bounds, Grid

__all__ = ["Bounds", "Grid"]
