"""Grid: the place of a raster's pixels, as an immutable value around odc-geo's GeoBox.

GeoBox knows places on Earth. A Grid adds what it lacks: pixel grids of plain images, which have no CRS, and
the ground resolution in metres whatever the CRS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox, Geometry

from terramorph.errors import RasterError
from terramorph.geo.crs import (
    crs_name,
    degrees_in_metres,
    is_mercator,
    on_earth,
    point_scale,
    project,
    project_extent,
    unit_in_degrees,
    unit_in_metres,
)

SQUARE = 1.1
"""Ratio of a pixel's sides below which it counts as square."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Shape, affine transform and CRS of ``height`` x ``width`` pixels.

    Attributes:
        height: Rows, at least 1.
        width: Columns, at least 1.
        affine: Maps (column, row) of pixel corners to (x, y) in CRS units; (0, 0) is the outer corner of the
            first pixel. The identity for a plain image.
        crs: The coordinate reference system, or None for a plain image.

    Raises:
        RasterError: If a side is under 1 or the affine cannot be inverted.
    """

    height: int
    width: int
    affine: Affine
    crs: CRS | None = None

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise RasterError(f"A grid must be at least 1 x 1 pixels, got {self.height} x {self.width}.")
        values = (self.affine.a, self.affine.b, self.affine.c, self.affine.d, self.affine.e, self.affine.f)
        if not all(math.isfinite(v) for v in values) or self.affine.determinant == 0:
            raise RasterError(f"The affine of a grid must have an inverse, got {values}: give pixels a size.")

    @classmethod
    def pixels(cls, height: int, width: int) -> Self:
        """Make a grid without a place on Earth: identity affine, no CRS."""
        return cls(int(height), int(width), Affine.identity(), None)

    @classmethod
    def from_geobox(cls, geobox: GeoBox) -> Self:
        """Make the grid of an odc-geo GeoBox."""
        return cls(int(geobox.shape[0]), int(geobox.shape[1]), geobox.affine, geobox.crs)

    @property
    def geobox(self) -> GeoBox:
        """The same grid as an odc-geo GeoBox (its CRS is None for a plain image)."""
        return GeoBox((self.height, self.width), self.affine, self.crs)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def is_georeferenced(self) -> bool:
        """True when the grid has a CRS or an affine other than the identity."""
        return self.crs is not None or self.affine != Affine.identity()

    @property
    def resolution(self) -> tuple[float, float]:
        """(x, y): lengths of a pixel's sides in CRS units, both positive."""
        return math.hypot(self.affine.a, self.affine.d), math.hypot(self.affine.b, self.affine.e)

    @property
    def bounds(self) -> BoundingBox:
        """The box around the grid, left, bottom, right, top in CRS units (in pixels without a CRS)."""
        return self.geobox.boundingbox

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the middle of the grid, in CRS units."""
        x, y = self.affine @ (self.width / 2, self.height / 2)
        return x, y

    @property
    def is_square(self) -> bool:
        """Whether a pixel's sides on the ground differ by less than a tenth, and the image is not mirrored (south up).

        Without a CRS, where there is no telling, it is.
        """
        if self.crs is None:
            return True
        x, y = self.resolution
        if self.crs.proj.is_geographic:
            latitude = self.centre[1] * unit_in_degrees(self.crs)
            x *= math.cos(math.radians(min(max(latitude, -89.9), 89.9)))
        return max(x / y, y / x) < SQUARE and self.affine.determinant < 0

    @property
    def ground_resolution(self) -> float | None:
        """Side of a square with the ground area of the centre pixel, in metres; None without a CRS.

        Geographic CRS are measured along the ellipsoid at the centre; lengths in a projected CRS are divided by its
        scale there (Mercator at 60 degrees: 2; UTM: 0.9996 to 1.001). Where a projection is not defined at the
        centre, its lengths are taken as they are.
        """
        if self.crs is None:
            return None
        if self.crs.proj.is_geographic:
            unit = unit_in_degrees(self.crs)
            x, y = self.centre
            east, north = degrees_in_metres(self.crs, unit * x, unit * y)
            return unit * math.sqrt(abs(self.affine.determinant) * (east * north))
        scale = point_scale(self.crs, *self.centre)
        area = abs(self.affine.determinant) / (scale.areal if scale else 1.0)
        return math.sqrt(area) * unit_in_metres(self.crs)

    def crop(self, y: int, x: int, height: int, width: int) -> Self:
        """Return the window of ``height`` x ``width`` pixels whose first pixel is row ``y``, column ``x``.

        The window may reach outside the grid (a halo does).

        Raises:
            RasterError: If a side of the window is under 1.
        """
        return type(self)(height, width, self.affine @ Affine.translation(x, y), self.crs)

    def resized(self, height: int, width: int) -> Self:
        """Return the grid of the same ground with another number of pixels.

        Raises:
            RasterError: If a side is under 1.
        """
        if height < 1 or width < 1:
            raise RasterError(f"A grid must be at least 1 x 1 pixels, got {height} x {width}.")
        scale = Affine.scale(self.width / width, self.height / height)
        return type(self)(height, width, self.affine @ scale, self.crs)


def grid_at(ground: Geometry, resolution: float) -> Grid:
    """Return the grid of square pixels that covers a geometry.

    Pixels lie at multiples of the resolution, so that areas side by side share one lattice.

    Args:
        ground: Geometry with a CRS.
        resolution: Metres on the ground per pixel.

    Returns:
        A grid in the ground's CRS if its metres are metres on the ground, else in the UTM zone of its middle
        (`metric_crs`).

    Raises:
        RasterError: If the middle lies where there is no UTM zone.
    """
    crs = metric_crs(ground)
    b = project_extent(ground, crs).boundingbox
    left, top = math.floor(b.left / resolution + 1e-6), math.ceil(b.top / resolution - 1e-6)
    right, bottom = math.ceil(b.right / resolution - 1e-6), math.floor(b.bottom / resolution + 1e-6)
    affine = Affine(resolution, 0.0, left * resolution, 0.0, -resolution, top * resolution)
    return Grid(max(top - bottom, 1), max(right - left, 1), affine, crs)


def metric_crs(ground: Geometry) -> CRS:
    """Return the CRS in which metres are metres on the ground: the geometry's own, or the UTM zone of its middle.

    The geometry's own CRS is taken if it is local (of a building site) and in metres; or if it is projected, in
    metres, no Mercator (whose scale changes from place to place), and enlarges the ground at the middle by less than
    a tenth in every direction.

    Raises:
        RasterError: If the middle lies where there is no UTM zone, or not on Earth.
    """
    crs: CRS = ground.crs
    if crs.proj.is_engineering and unit_in_metres(crs) == 1.0:
        return crs
    if crs.projected and unit_in_metres(crs) == 1.0 and not is_mercator(crs):
        scale = point_scale(crs, *ground.centroid.coords[0])
        if scale is None or 1 / SQUARE < scale.smallest <= scale.largest < SQUARE:
            return crs
    if not on_earth(crs):
        raise RasterError(
            f"There are no metres in the CRS {crs_name(crs)}, and no way from it to a UTM zone; "
            "reproject to a CRS in metres, or stay on the source's own pixels."
        )
    east, north = project(ground.centroid, "EPSG:4326").coords[0]
    if not -80 <= north <= 84:
        raise RasterError(
            f"At latitude {north:.4g} there is no UTM zone to measure metres in; reproject the source to a polar CRS."
        )
    zone = int((east + 180) % 360 // 6) + 1
    return CRS(f"EPSG:{(32600 if north >= 0 else 32700) + zone}")
