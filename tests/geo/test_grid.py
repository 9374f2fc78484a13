from __future__ import annotations

import dataclasses
import math

import pytest
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from terramorph.errors import RasterError
from terramorph.geo import Grid

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
    assert UTM.ground_resolution == pytest.approx(0.5)
    # Google zoom 17 over Brooklyn: 1.194 m at the equator, times cos(latitude).
    latitude = math.radians(40.7)
    y = 6378137.0 * math.asinh(math.tan(latitude))
    mercator = Grid(256, 256, Affine(1.194, 0, -8.2e6, 0, -1.194, y + 128 * 1.194), CRS("EPSG:3857"))
    assert mercator.ground_resolution == pytest.approx(1.194 * math.cos(latitude), rel=1e-9)
    # One degree of latitude at 60 N is 111,412 m, of longitude 55,800 m (WGS 84).
    degrees = Grid(100, 100, Affine(1e-5, 0, 10 - 5e-4, 0, -1e-5, 60 + 5e-4), CRS("EPSG:4326"))
    assert degrees.ground_resolution == pytest.approx(1e-5 * math.sqrt(111_412 * 55_800), rel=1e-4)
    feet = Grid(10, 10, Affine(1, 0, 0, 0, -1, 0), CRS("EPSG:2263"))
    assert feet.ground_resolution == pytest.approx(0.3048006, rel=1e-6)


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
