"""The area that a sweep is limited to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from terramorph.errors import InputError

if TYPE_CHECKING:
    from odc.geo.geom import Geometry


def read_area(path: Path) -> Geometry:
    """The polygons of a file as one geometry; heights are dropped.

    Raises:
        InputError: if the file cannot be read or holds no polygon.
    """
    if not path.exists():
        raise InputError(f"The area {path} cannot be read, it does not exist; check the path.")
    from odc.geo.geom import Geometry

    from terramorph.cartography import read_polygons  # GDAL's vectors are read for few commands

    polygons, crs = read_polygons(path)
    if polygons.is_empty:
        raise InputError(
            f"The area {path} holds no polygon, only points, lines or nothing; draw one around the ground that is "
            "wanted, or put a buffer around them."
        )
    return Geometry(polygons, crs)
