"""Clipping of a source to an area."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import shapely
from odc.geo.geom import Geometry
from rasterio.features import geometry_mask

from terramorph.errors import RasterError
from terramorph.geo import Grid, project_extent
from terramorph.geo.project import beside, meet
from terramorph.raster.raster import Raster
from terramorph.raster.source import Source


class ClippedSource(Source):
    """A source clipped to an area: pixels whose centre lies outside are masked; windows wholly outside are not read.

    Attributes:
        extent: Intersection of source and area, in the source's CRS. All else is the source's, also its whole grid.

    Args:
        source: Source with a place on Earth; closed with this one.
        area: Geometry with a CRS, or without one if the source has none either.

    Raises:
        RasterError: If the area has no polygons, or none on the source, or only one of them has a CRS.
    """

    def __init__(self, source: Source, area: Geometry) -> None:
        self._source, self._area = source, area
        for name in ("name", "licence", "grid", "sequential", "bands", "dtype", "units"):
            setattr(self, name, getattr(source, name))
        own = source.extent
        if not area.geom.area > 0:
            raise RasterError(
                "The area holds no polygon, only points, lines or nothing; draw one around the ground that is wanted, "
                "or put a buffer around them."
            )
        if own.crs is not None and area.crs is None:
            raise RasterError(f"The area has no CRS, and {source.name} has one; give the area's.")
        if own.crs is None and area.crs is not None:
            raise RasterError(f"{source.name} has no CRS, so no area can be found on it; give its CRS.")
        self.extent = own & area if own.crs is None else meet(own, project_extent(area, own.crs))
        if not self.extent.geom.area > 0:  # nothing, or only an edge
            raise RasterError(f"The area lies outside {source.name}; give one on its ground.")

    def read(self, grid: Grid) -> Raster:
        """Read the source on a grid, masked outside the area."""
        local = self._area.geom if grid.crs is None else project_extent(self._area, grid.crs).geom
        ground = grid.geobox.extent
        box, local = ground.geom, local if grid.crs is None else beside(np.array([local], dtype=object), ground)[0]
        if not shapely.intersects(local, box):
            return Raster.empty(grid, self.bands, self.dtype, self.units)
        raster = self._source.read(grid)
        if shapely.covers(local, box):
            return raster
        return replace(raster, mask=raster.mask & geometry_mask([local], grid.shape, grid.affine, invert=True))

    def fingerprint(self) -> str:
        """Return the digests of source and area."""
        area = f"{self._area.crs}{shapely.to_wkb(self._area.geom, hex=True)}"
        return f"{self._source.fingerprint()}-{hashlib.blake2b(area.encode(), digest_size=8).hexdigest()}"

    def close(self) -> None:
        """Close the source."""
        self._source.close()
