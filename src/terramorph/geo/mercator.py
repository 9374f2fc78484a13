"""The web's tile pyramid: zoom z cuts one square world into 2^z x 2^z tiles, numbered from its north-west corner.

The world is the square of side 2 pi R around the origin of spherical mercator (EPSG:3857). Caches of Yandex keep the
same square and the same numbers in ellipsoidal mercator (EPSG:3395).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS

from terramorph.geo.grid import Grid

RADIUS = 6378137.0
"""Radius of the sphere of EPSG:3857, in metres."""

WEB_MERCATOR = CRS("EPSG:3857")
"""The CRS of tiles of which nothing else is said."""

HALF_WORLD = math.pi * RADIUS
"""Half a side of the world's square, metres of either mercator."""

MAX_ZOOM = 30
"""Finest zoom: tile numbers beyond it do not fit into 31 bits, and pixels are under a millimetre."""

_EDGE = 5e-7
"""Degrees of longitude by which bounds may miss a tile's edge and still mean it: they are kept to 1e-7 degrees, and a
degree of latitude has twice as many tiles as one of longitude at 60 degrees."""


class TileBox(NamedTuple):
    """Tiles of one zoom: columns ``left`` to ``right`` and rows ``top`` to ``bottom``, the ends not included."""

    left: int
    top: int
    right: int
    bottom: int

    def meet(self, other: TileBox) -> TileBox:
        """Return the intersection; empty where ``right <= left`` or ``bottom <= top``."""
        return TileBox(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )

    def around(self, other: TileBox) -> TileBox:
        """Return the box around both."""
        return TileBox(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )

    def numbers(self) -> Iterator[tuple[int, int]]:
        """Yield (x, y) of each tile, row by row."""
        return ((x, y) for y in range(self.top, self.bottom) for x in range(self.left, self.right))

    @property
    def size(self) -> int:
        """Number of tiles."""
        return max(self.right - self.left, 0) * max(self.bottom - self.top, 0)


def box_of_halves(zoom: int, west: TileBox | None, east: TileBox | None) -> TileBox:
    """Return the box around tiles, given those around them on either side of longitude 0; one may be None.

    Where they lie together around 180 degrees, columns go on beyond the last one.
    """
    if west is None or east is None:
        box = west or east
        assert box is not None
        return box
    count = 1 << zoom
    across = west._replace(left=west.left + count, right=west.right + count)
    if zoom > 1 and across.left == east.right and east.left - west.right > count // 2:
        return east.around(across)
    return west.around(east)


def box_around(zoom: int, x: NDArray[np.int64], y: NDArray[np.int64]) -> TileBox:
    """Return the box around tiles, x and y int64 (N,), at least one; see `box_of_halves`."""
    east = x >= (1 << zoom) / 2

    def around(half: NDArray[np.bool_]) -> TileBox | None:
        if not half.any():
            return None
        return TileBox(*map(int, (x[half].min(), y[half].min(), x[half].max() + 1, y[half].max() + 1)))

    return box_of_halves(zoom, around(~east), around(east))


def whole_world(zoom: int) -> TileBox:
    """Return every tile of a zoom."""
    return TileBox(0, 0, 1 << zoom, 1 << zoom)


def pixel_size(zoom: float) -> float:
    """Return metres of EPSG:3857 per pixel of tiles of 256 pixels."""
    return 2 * HALF_WORLD / 256 / float(2.0**zoom)


def zoom_of(metres: float) -> float:
    """Return the zoom, any number, at which pixels of tiles of 256 pixels have a size: the inverse of `pixel_size`."""
    return math.log2(pixel_size(0) / metres)


def pixel_grid(zoom: int, box: TileBox, size: int, crs: CRS = WEB_MERCATOR) -> Grid:
    """Return the grid of the pixels of some tiles.

    Args:
        box: Tiles of the zoom; not empty.
        size: Side of a tile, pixels.
        crs: EPSG:3857, or EPSG:3395.
    """
    tile = 2 * HALF_WORLD / (1 << zoom)
    corner = Affine.translation(-HALF_WORLD + box.left * tile, HALF_WORLD - box.top * tile)
    affine = corner @ Affine.scale(tile / size, -tile / size)
    return Grid((box.bottom - box.top) * size, (box.right - box.left) * size, affine, crs)


def tiles_of_degrees(zoom: int, west: float, south: float, east: float, north: float) -> TileBox:
    """Return the tiles of EPSG:3857 that a box of degrees (EPSG:4326) touches; at least one."""
    count = 1 << zoom
    edge = min(_EDGE / 360 * count, 0.5)

    def column(longitude: float) -> float:
        return (longitude + 180) / 360 * count

    def row(latitude: float) -> float:
        sine = math.sin(math.radians(min(max(latitude, -89.9), 89.9)))
        return (0.5 - math.atanh(sine) / (2 * math.pi)) * count

    def inside(number: int) -> int:
        return min(max(number, 0), count)

    left, top = math.floor(column(west) + edge), math.floor(row(north) + edge)
    left, top = min(inside(left), count - 1), min(inside(top), count - 1)
    right, bottom = math.ceil(column(east) - edge), math.ceil(row(south) - edge)
    return TileBox(left, top, max(inside(right), left + 1), max(inside(bottom), top + 1))


def tiles_of_metres(zoom: int, left: float, bottom: float, right: float, top: float) -> TileBox:
    """Return the tiles of EPSG:3857 that a box in its metres touches, edges included; empty outside the world."""
    count = 1 << zoom
    first, last = ((x + HALF_WORLD) / (2 * HALF_WORLD) * count for x in (left, right))
    upper, lower = ((HALF_WORLD - y) / (2 * HALF_WORLD) * count for y in (top, bottom))
    return TileBox(
        max(math.floor(first), 0),
        max(math.floor(upper), 0),
        min(math.floor(last) + 1, count),
        min(math.floor(lower) + 1, count),
    )


def degrees_of_corner(zoom: int, x: float, y: float) -> tuple[float, float]:
    """Return longitude and latitude (EPSG:4326) of the north-west corner of a tile of EPSG:3857."""
    side = 1 << zoom
    return x / side * 360 - 180, math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * y / side))))
