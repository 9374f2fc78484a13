"""Grids, windows and projections. No pixels, no torch."""

from terramorph.imports import import_without

# odc-geo asks dask only whether coordinates are lazy; they never are here.
import_without("odc.geo", "dask")

from terramorph.geo.cover import Cover, Window
from terramorph.geo.crs import project, project_extent, project_shapes
from terramorph.geo.grid import Grid, grid_at

__all__ = ["Cover", "Grid", "Window", "grid_at", "project", "project_extent", "project_shapes"]
