from __future__ import annotations

import dataclasses
import math

import pyproj
import pytest
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import box

from terramorph.errors import RasterError
from terramorph.geo import Grid
from terramorph.geo.grid import grid_at, metric_crs

UTM = Grid(40, 50, Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000), CRS("EPSG:32633"))


def test_equal_values_are_equal_and_hashable():
    other = Grid(40, 50, Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000), CRS("EPSG:32633"))
    assert other == UTM
    assert len({UTM, other}) == 1
    assert Grid.pixels(40, 50) != UTM
    with pytest.raises(dataclasses.FrozenInstanceError):
        UTM.height = 3  # type: ignore[misc]


def test_geobox_round_trip():
    assert Grid.from_geobox(UTM.geobox) == UTM
    assert isinstance(UTM.geobox, GeoBox)
    assert Grid.pixels(3, 4).geobox.crs is None


def test_crop_moves_the_corner_and_keeps_the_resolution():
    part = UTM.crop(y=10, x=20, height=5, width=6)
    assert part.shape == (5, 6)
    assert part.affine @ (0, 0) == (500_010.0, 3_999_995.0)
    assert part.resolution == UTM.resolution == (0.5, 0.5)
    assert UTM.crop(-2, -2, 3, 3).bounds.left == 499_999.0


def test_resized_covers_the_same_ground():
    small = UTM.resized(20, 10)
    assert small.bounds == UTM.bounds
    assert small.resolution == (2.5, 1.0)


def test_georeferenced_means_crs_or_transform():
    assert not Grid.pixels(2, 2).is_georeferenced
    assert Grid(2, 2, Affine.translation(1, 0)).is_georeferenced
    assert Grid(2, 2, Affine.identity(), CRS("EPSG:3857")).is_georeferenced


def test_ground_resolution_by_crs():
    assert Grid.pixels(2, 2).ground_resolution is None
    # 0.5 of grid on the central meridian, where UTM's scale is 0.9996.
    middle = Grid(10, 10, Affine(0.5, 0, 500_000 - 2.5, 0, -0.5, 5e6), CRS("EPSG:32633"))
    assert middle.ground_resolution == pytest.approx(0.5 / 0.9996, rel=1e-6)
    # Google zoom 17 over Brooklyn: 1.194 m at the equator, times cos(latitude).
    latitude = math.radians(40.7)
    y = 6378137.0 * math.asinh(math.tan(latitude))
    mercator = Grid(256, 256, Affine(1.194, 0, -8.2e6, 0, -1.194, y + 128 * 1.194), CRS("EPSG:3857"))
    assert mercator.ground_resolution == pytest.approx(1.194 * math.cos(latitude), rel=1e-9)
    # One degree of latitude at 60 N is 111,412 m, of longitude 55,800 m (WGS 84).
    degrees = Grid(100, 100, Affine(1e-5, 0, 10 - 5e-4, 0, -1e-5, 60 + 5e-4), CRS("EPSG:4326"))
    assert degrees.ground_resolution == pytest.approx(1e-5 * math.sqrt(111_412 * 55_800), rel=1e-4)
    grads = Grid(100, 100, Affine(1e-5 / 0.9, 0, 10, 0, -1e-5 / 0.9, 60 / 0.9 + 5e-4), CRS("EPSG:4807"))
    assert grads.ground_resolution == pytest.approx(degrees.ground_resolution, rel=1e-3)  # another ellipsoid
    assert not grads.is_square
    assert Grid(100, 100, grads.affine @ Affine.scale(2, 1), grads.crs).is_square
    feet = Grid(10, 10, Affine(1, 0, 984_250, 0, -1, 200_000), CRS("EPSG:2263"))
    assert feet.ground_resolution == pytest.approx(0.3048006, rel=1e-3)


BOUND_MERCATOR = "+proj=merc +lon_0=10 +ellps=WGS84 +towgs84=0,0,0 +units=m"


@pytest.mark.parametrize(
    ("crs", "x", "y", "metres"),
    [
        ("EPSG:3857", 1_500_000, 6_200_000, 0.66188),
        ("EPSG:3857+5773", 1_500_000, 6_200_000, 0.66188),
        (BOUND_MERCATOR, 500_000, 7_500_000, 0.56216),
        ("EPSG:3388", 200_000, 4_000_000, 0.97455),  # standard parallel 42
        ("+proj=merc +lat_ts=60 +a=3396190 +b=3376200 +units=m", 0, 2_228_840, 1.0),  # Mars
        ("EPSG:32633+5773", 500_000, 5_000_000, 1.0004),
        ("EPSG:3031", 0, 0, 1.0281),  # polar stereographic, true at 71 S
        ("EPSG:3035", 2_821_000, 1_810_000, 1.0),  # equal area
    ],
)
def test_lengths_are_divided_by_the_scale_of_the_projection(crs: str, x: float, y: float, metres: float) -> None:
    grid = Grid(200, 200, Affine(1, 0, x - 100, 0, -1, y + 100), CRS(pyproj.CRS(crs).to_wkt()))
    assert grid.ground_resolution == pytest.approx(metres, rel=2e-3)


def test_where_a_projection_is_not_defined_lengths_are_taken_as_they_are() -> None:
    assert Grid(2, 2, Affine(3, 0, 1e12, 0, -3, 1e12), CRS("EPSG:3035")).ground_resolution == pytest.approx(3)


@pytest.mark.parametrize(
    ("height", "width", "affine"),
    [
        (0, 5, Affine.identity()),
        (5, -1, Affine.identity()),
        (2, 2, Affine.scale(0)),
        (2, 2, Affine.scale(math.nan)),
    ],
)
def test_impossible_grids_are_refused(height, width, affine):
    with pytest.raises(RasterError):
        Grid(height, width, affine)


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
