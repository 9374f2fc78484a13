"""Source: the base of everything that is read by grid (images, tiles, vectors, arrays), and one clipped to an area."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Self

import numpy as np
import shapely
from odc.geo.geom import Geometry

from terramorph.bands import Units
from terramorph.errors import RasterError
from terramorph.geo import Grid
from terramorph.geo.crs import beside, meet, near
from terramorph.raster.raster import Raster


class Closing:
    """A resource that a `with` block closes at its end."""

    def close(self) -> None:
        """Close files. Reading afterwards is an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Source(Closing, ABC):
    """A source of pixels for any grid. May be read from several threads at once.

    Attributes:
        name: Path or URL, as given; what messages and the manifest call it.
        grid: The grid its pixels are stored on, without pixels decoded; a pixel grid for an image without a place.
            None where any grid is as good (vectors).
        extent: The ground it may cover, in its own CRS (CRS None for an image without a place).
        bands: Names of the bands that `read` gives.
        dtype: Of the pixels that `read` gives.
        units: What they mean, where it is said; None: themselves.
        sequential: True where rows can only be decoded from the top (JPEG, PNG): read it in full-width strips.
        licence: What is known of the terms of use, for the manifest; None where nothing is.
    """

    name: str
    grid: Grid | None
    extent: Geometry
    bands: tuple[str, ...]
    dtype: np.dtype[Any]
    units: Units | None = None
    sequential: bool = False
    licence: str | None = None

    @abstractmethod
    def read(self, grid: Grid) -> Raster:
        """Read the pixels on a grid.

        Where ``grid`` is a window of the source's own grid (same CRS and pixel size, offset by whole pixels to within
        0.001), stored pixels are returned unchanged; otherwise they are warped. Pixels outside the source, nodata and
        transparent ones are masked. The window may reach outside the source or lie wholly outside it.

        Raises:
            RasterError: If the source cannot be read there (damaged, truncated), naming the file; or one of both has a
                CRS and the other has none.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hex digest (blake2b, 16 bytes) of the content, for the manifest."""


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
        self.extent = own & area if own.crs is None else meet(own, near(area, own))
        if not self.extent.geom.area > 0:  # nothing, or only an edge
            raise RasterError(f"The area lies outside {source.name}; give one on its ground.")

    def read(self, grid: Grid) -> Raster:
        """Read the source on a grid, masked outside the area."""
        ground = grid.geobox.extent
        local = self._area.geom if grid.crs is None else near(self._area, ground).geom
        box, local = ground.geom, local if grid.crs is None else beside(np.array([local], dtype=object), ground)[0]
        if not shapely.intersects(local, box):
            return Raster.empty(grid, self.bands, self.dtype, self.units)
        from rasterio.features import geometry_mask  # imported here because few sources are clipped

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
