"""Coordinate reference systems as files write them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyproj
from odc.geo.crs import CRS
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.crs import CRS as RasterioCRS

from terramorph.geo.crs import horizontal
from terramorph.geo.mercator import RADIUS

_EQUAL = 1e-7
"""Degrees (a centimetre) by which places may differ in two CRSs that are one."""


def to_odc_crs(crs: RasterioCRS) -> CRS:
    """Convert rasterio's CRS to odc-geo's, without a vertical part; by EPSG code where one is equal.

    GDAL finds codes by name and projection alone. Datum parameters of a file (TOWGS84, BOUNDCRS) count: a code is used
    only where it puts every point in the same place.

    Mercator on the sphere of web mercator is EPSG:3857 by whatever name. SAS.Planet writes it as the retired
    EPSG:3785, whose latitudes are those of the sphere: taken at its word, places are up to 21 km off in northing.

    Raises:
        pyproj.exceptions.ProjError: If PROJ cannot compute with what GDAL has read.
    """
    own = horizontal(pyproj.CRS.from_wkt(crs.to_wkt()))
    code = _equal_code(own.to_wkt(), RasterioCRS.from_wkt(own.to_wkt()).to_epsg() or own.to_epsg())
    if code:
        return CRS(f"EPSG:{code}")
    terms = crs.to_dict()
    sphere = terms.get("proj") == "merc" and terms.get("R") == RADIUS and terms.get("units") == "m"
    if sphere and terms.get("k", 1) == 1 and not any(terms.get(key, 0) for key in ("lon_0", "lat_ts", "x_0", "y_0")):
        return CRS("EPSG:3857")
    if own.is_projected and own.geodetic_crs is not None:
        Transformer.from_crs(own.geodetic_crs, own)  # parameters that are no projection are found out here
    return CRS(own.to_wkt())


def crs_of_wkt(wkt: str) -> CRS:
    """Return odc-geo's CRS of a WKT, as `to_odc_crs` does."""
    return to_odc_crs(RasterioCRS.from_wkt(wkt))


def to_rasterio_crs(crs: CRS) -> RasterioCRS:
    """Convert odc-geo's CRS to rasterio's, by EPSG code where one is equal.

    A CRS with datum parameters of its own is written without names: where GDAL knows the datum's name, it reads the
    file back without the parameters.
    """
    code = _equal_code(crs.to_wkt(), crs.to_epsg())
    found = RasterioCRS.from_epsg(code) if code else RasterioCRS.from_wkt(crs.to_wkt())
    terms = found.to_proj4() if crs.proj.is_bound else ""
    return RasterioCRS.from_string(terms) if "+towgs84" in terms else found


@lru_cache(maxsize=64)
def _equal_code(wkt: str, code: int | None) -> int | None:
    """Return the EPSG code if it is the same CRS as a WKT: same plane, same place on Earth for each point."""
    if code is None:
        return None
    own, named = pyproj.CRS.from_wkt(wkt), pyproj.CRS.from_epsg(code)
    if own.equals(named, ignore_axis_order=True):
        return code
    area = named.area_of_use
    west, south, east, north = area.bounds if area else (-180.0, -80.0, 180.0, 80.0)
    east += 360 if east < west else 0
    longitude, latitude = np.meshgrid(np.linspace(west, east, 5)[1:-1], np.linspace(south, north, 5)[1:-1])
    try:
        # By way of WGS 84: between two CRSs of one datum PROJ passes over the parameters of both.
        points = Transformer.from_crs(named.geodetic_crs, named, always_xy=True).transform(longitude, latitude)
        places = [
            np.array(Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*points)) for crs in (own, named)
        ]
    except ProjError:
        return None
    off = np.abs(places[0] - places[1])
    return code if np.isfinite(off).all() and off.max() < _EQUAL else None
