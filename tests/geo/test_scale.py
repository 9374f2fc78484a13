"""Grids whose metres are metres on the ground."""

import pyproj
import pytest
from odc.geo.crs import CRS
from odc.geo.geom import box

from terramorph.geo.grid import grid_at, metric_crs


@pytest.mark.parametrize(
    ("crs", "corner", "kept"),
    [
        ("EPSG:32633", (500_000, 5_000_000), True),
        ("EPSG:3035", (4_321_000, 3_210_000), True),
        ("EPSG:3031", (100_000, 100_000), True),
        ("EPSG:28992", (155_000, 463_000), True),
        ("+proj=utm +zone=33 +ellps=bessel +towgs84=598.1,73.7,418.2,0.2,0,-2.5,6.7", (500_000, 5_000_000), True),
        ("EPSG:3857", (1_500_000, 6_200_000), False),
        ("EPSG:3857", (1_500_000, 0), False),  # scale 1, but not a little further north
        ("EPSG:3857+5773", (1_500_000, 6_200_000), False),
        ("+proj=merc +lon_0=10 +ellps=WGS84 +towgs84=0,0,0", (500_000, 7_500_000), False),
        ("EPSG:3388", (200_000, 4_000_000), False),
        ("EPSG:2263", (984_250, 200_000), False),  # feet
        ("EPSG:4326", (15, 45), False),
        ("+proj=sinu +R=6371007.181", (5_000_000, 5_500_000), False),  # sheared by half
        ("EPSG:3995", (0, -5_000_000), False),  # 14 % long at 45 N
    ],
)
def test_a_crs_is_kept_where_its_metres_are_metres(crs: str, corner: tuple[float, float], kept: bool) -> None:
    (x, y), of = corner, CRS(pyproj.CRS(crs).to_wkt())
    side = 0.001 if of.geographic else 100
    found = metric_crs(box(x, y, x + side, y + side, of))
    assert (found == of) is kept
    if not kept:
        assert found.epsg is not None
        assert found.epsg // 100 == 326


def test_a_grid_of_web_mercator_with_heights_is_laid_in_utm() -> None:
    grid = grid_at(box(1_500_000, 6_200_000, 1_500_100, 6_200_100, CRS(pyproj.CRS("EPSG:3857+5773").to_wkt())), 1.0)
    assert grid.crs == CRS("EPSG:32633")
    assert 66 <= grid.width <= 72
    assert 66 <= grid.height <= 72
