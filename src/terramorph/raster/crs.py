"""Coordinate systems as files name them."""

from __future__ import annotations

from odc.geo.crs import CRS
from rasterio.crs import CRS as RasterioCRS

from terramorph.geo.grid import WEB_MERCATOR_RADIUS


def to_odc_crs(crs: RasterioCRS) -> CRS:
    """odc-geo's CRS of rasterio's; by EPSG code where it has one, so that equal systems compare equal.

    Mercator on the sphere of web mercator is EPSG:3857 by whatever name. SAS.Planet writes it as the retired
    EPSG:3785, whose latitudes are those of the sphere: taken at its word, places are up to 21 km off in northing.
    """
    epsg = crs.to_epsg()
    if epsg:
        return CRS(f"EPSG:{epsg}")
    terms = crs.to_dict()
    sphere = terms.get("proj") == "merc" and terms.get("R") == WEB_MERCATOR_RADIUS and terms.get("units") == "m"
    if sphere and terms.get("k", 1) == 1 and not any(terms.get(key, 0) for key in ("lon_0", "lat_ts", "x_0", "y_0")):
        return CRS("EPSG:3857")
    return CRS(crs.to_wkt())


def to_rasterio_crs(crs: CRS) -> RasterioCRS:
    """rasterio's CRS of odc-geo's, by EPSG code where it has one."""
    epsg = crs.to_epsg()
    return RasterioCRS.from_epsg(epsg) if epsg else RasterioCRS.from_wkt(crs.to_wkt())
