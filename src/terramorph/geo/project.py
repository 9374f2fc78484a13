"""Projection of geometries."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geom import Geometry

from terramorph.geo.period import nearest, period


def project(geometry: Geometry, crs: CRS | str) -> Geometry:
    """Project each point of a geometry to another CRS.

    Args:
        geometry: Geometry with a CRS. Add points to long edges that bend first (`Geometry.segmented`).
        crs: The other CRS; longitude or easting comes first in both.

    Raises:
        ValueError: If the geometry has no CRS.
    """
    if geometry.crs is None:
        raise ValueError("a geometry without a CRS cannot be projected")
    crs = CRS(crs)
    return geometry if geometry.crs == crs else Geometry(project_shapes([geometry.geom], geometry.crs, crs)[0], crs)


def project_shapes(shapes: NDArray[np.object_] | list[shapely.Geometry], of: CRS, to: CRS) -> NDArray[np.object_]:
    """Project shapely geometries (N,) as `project` does. What crosses 180 degrees stays in one piece."""
    transformer, turn = of.transformer_to_crs(to, always_xy=True), period(to)
    given = np.asarray(shapes, dtype=object)

    def moved(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(transformer(xy[:, 0], xy[:, 1]), axis=1)

    found: NDArray[np.object_] = shapely.transform(given, moved)
    if turn is not None:
        for at in np.flatnonzero(np.ptp(shapely.bounds(found)[:, ::2], axis=1) > turn / 2):
            # Torn apart, unless it is as wide as it looks.
            middle, _ = transformer(*np.array(shapely.bounds(given[at])).reshape(2, 2).mean(0)[:, None])
            found[at] = shapely.transform(
                found[at], lambda xy, x=float(middle[0]): np.stack([nearest(xy[:, 0], x, turn), xy[:, 1]], axis=1)
            )
    return found


def project_extent(geometry: Geometry, crs: CRS | str) -> Geometry:
    """Project an extent, with points added along its long edges, which bend, so that it keeps its shape."""
    if geometry.is_empty or geometry.crs == CRS(crs):
        return Geometry(geometry.geom, CRS(crs))
    return project(geometry.segmented(max(geometry.boundingbox.span_x, geometry.boundingbox.span_y) / 16), crs)
