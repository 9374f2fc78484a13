"""The web's tile pyramid: zoom z cuts one square world into 2^z x 2^z tiles, numbered from its north-west corner.

The world is the square of side 2 pi R around the origin of spherical mercator (EPSG:3857). Caches of Yandex keep the
same square and the same numbers in ellipsoidal mercator (EPSG:3395).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from affine import Affine
from odc.geo.crs import CRS

from terramorph.errors import RasterError, warn
from terramorph.geo.crs import WEB_MERCATOR_RADIUS
from terramorph.geo.grid import Grid

WEB_MERCATOR = CRS("EPSG:3857")
"""The CRS of tiles of which nothing else is said."""

HALF_WORLD = math.pi * WEB_MERCATOR_RADIUS
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
        """The tiles in both; empty where ``right <= left`` or ``bottom <= top``."""
        return TileBox(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )

    def around(self, other: TileBox | None) -> TileBox:
        """The box around both."""
        if other is None:
            return self
        return TileBox(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )

    @property
    def size(self) -> int:
        """Number of tiles."""
        return max(self.right - self.left, 0) * max(self.bottom - self.top, 0)


def box_of_halves(zoom: int, west: TileBox | None, east: TileBox | None) -> TileBox:
    """The box around tiles, from those around them on either side of longitude 0; one of them may be None.

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


def whole_world(zoom: int) -> TileBox:
    """Every tile of a zoom."""
    return TileBox(0, 0, 1 << zoom, 1 << zoom)


def check_tile(where: str, zoom: int, x: int, y: int) -> None:
    """Refuses numbers that no tile has.

    Raises:
        RasterError: If the zoom is not in 0 ... `MAX_ZOOM`, or the world of that zoom has no such tile.
    """
    if not 0 <= zoom <= MAX_ZOOM or not (0 <= x < 1 << zoom and 0 <= y < 1 << zoom):
        raise RasterError(
            f"{where} would be tile x={x} y={y} of zoom {zoom}, and there is no such tile; its layout is another one: "
            "name it with --layout, or remove the file."
        )


def pixel_grid(zoom: int, box: TileBox, size: int, crs: CRS = WEB_MERCATOR) -> Grid:
    """The grid of the pixels of some tiles.

    Args:
        zoom: of the tiles.
        box: which tiles; not empty.
        size: side of a tile, pixels.
        crs: EPSG:3857, or EPSG:3395.
    """
    tile = 2 * HALF_WORLD / (1 << zoom)
    corner = Affine.translation(-HALF_WORLD + box.left * tile, HALF_WORLD - box.top * tile)
    affine = corner @ Affine.scale(tile / size, -tile / size)
    return Grid((box.bottom - box.top) * size, (box.right - box.left) * size, affine, crs)


def tiles_of_degrees(zoom: int, west: float, south: float, east: float, north: float) -> TileBox:
    """The tiles of EPSG:3857 that a box of degrees (EPSG:4326) touches; at least one."""
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


def likeness(a: TileBox, b: TileBox) -> float:
    """The share, 0 to 1, that two boxes have in common of what they cover together."""
    common = a.meet(b).size
    return common / (a.size + b.size - common)


def stated_box(bounds: object, zoom: int) -> TileBox | None:
    """The tiles in bounds as an archive states them: west, south, east, north in degrees, as numbers or as text.

    None where they are no such thing, or have no extent. West may be greater than east: ground across 180 degrees.
    """
    try:
        values = bounds.split(",") if isinstance(bounds, str) else list(bounds)  # type: ignore[call-overload]
        west, south, east, north = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    if not (max(abs(west), abs(east)) <= 180 and west != east and -90 <= south < north <= 90):
        return None
    if west < east:
        return tiles_of_degrees(zoom, west, south, east, north)
    before, after = (tiles_of_degrees(zoom, *ends) for ends in ((west, south, 180, north), (-180, south, east, north)))
    return before._replace(right=after.right + (1 << zoom))


def tell_bounds(name: str, bounds: object, zoom: int, box: TileBox) -> None:
    """Warns where the bounds that an archive states are not those of its tiles.

    Args:
        name: what states them.
        bounds: as `stated_box` takes them.
        zoom, box: the tiles that there are.
    """
    stated = stated_box(bounds, zoom)
    # Bounds that may not wrap around are the whole world's where ground lies across 180 degrees.
    shown = [box, box._replace(left=0, right=1 << zoom)] if box.right > 1 << zoom else [box]
    if bounds is None or (stated is not None and max(likeness(stated, one) for one in shown) >= 0.5):
        return
    west, north = degrees_of_corner(zoom, box.left, box.top)
    east, south = degrees_of_corner(zoom, box.right, box.bottom)
    tiles = f"{west:.5g}, {south:.5g}, {east:.5g}, {north:.5g}"
    warn(f"{name} gives bounds {str(bounds)[:80]}; the tiles lie in {tiles}, which counts.")


def degrees_of_corner(zoom: int, x: float, y: float) -> tuple[float, float]:
    """Longitude and latitude (EPSG:4326) of the north-west corner of a tile of EPSG:3857."""
    side = 1 << zoom
    return x / side * 360 - 180, math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * y / side))))
