"""Where: grids and windows. No pixels, no torch."""

from terramorph.geo.grid import Bounds, Grid
from terramorph.geo.project import project, project_extent, project_shapes
from terramorph.geo.scale import grid_at

__all__ = ["Bounds", "Grid", "grid_at", "project", "project_extent", "project_shapes"]
