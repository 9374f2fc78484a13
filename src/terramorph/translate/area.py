"""The area that a sweep is limited to."""

from __future__ import annotations

from pathlib import Path

import geopandas
import shapely
from odc.geo.crs import CRS
from odc.geo.geom import Geometry

from terramorph.errors import InputError


def read_area(path: Path) -> Geometry:
    """The polygons of a file as one geometry.

    Raises:
        InputError: if the file cannot be read or holds no polygon.
    """
    try:
        frame = geopandas.read_file(path)
    except Exception as error:  # pyogrio's errors share no base with ours
        raise InputError(
            f"The area {path} cannot be read ({error}); give polygons as GeoJSON or GeoPackage."
        ) from error
    shapes = [shapely.make_valid(g) for g in frame.geometry if g is not None and g.area > 0]
    if not shapes:
        raise InputError(f"The area {path} holds no polygon; draw one around the ground that is wanted.")
    return Geometry(shapely.union_all(shapes), None if frame.crs is None else CRS(frame.crs.to_wkt()))
