"""Where: grids and windows. No pixels, no torch."""

from terramorph.geo.grid import Bounds, Grid
from terramorph.geo.project import project, project_shapes

__all__ = ["Bounds", "Grid", "project", "project_shapes"]
