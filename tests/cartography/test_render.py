from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from terramorph.cartography import CLASSES, PALETTE, Feature, Style, classify, render
from terramorph.cartography.style import StyleRule
from terramorph.errors import RasterError
from terramorph.geo import Grid

X, Y = 500_000, 4_000_000
GRID = Grid(100, 100, Affine(1, 0, X, 0, -1, Y), CRS("EPSG:32633"))


def at(raster, y, x):
    return CLASSES[classify(raster.pixels)[y, x]]


def test_features_land_where_they_lie_in_exact_colours():
    raster = render([Feature(box(X + 10, Y - 60, X + 40, Y - 20), "park")], GRID)
    classes = classify(raster.pixels)
    assert raster.grid == GRID
    assert (classes[20:60, 10:40] == CLASSES.index("park")).all()
    assert (classes == CLASSES.index("park")).sum() == 40 * 30
    assert (raster.pixels[:, 0, 0] == PALETTE[0]).all()


def test_lines_are_as_wide_as_they_say_in_metres():
    road = Feature(LineString([(X, Y - 50), (X + 100, Y - 50)]), "highway", 30.0)
    share = (classify(render([road], GRID).pixels) == CLASSES.index("highway")).mean()
    assert share == pytest.approx(0.30, abs=0.011)
    coarse = (classify(render([road], GRID.resized(50, 50)).pixels) == CLASSES.index("highway")).mean()
    assert coarse == pytest.approx(0.30, abs=0.021)


def test_draw_order_is_the_styles_not_the_lists():
    area = box(X, Y - 100, X + 100, Y)
    raster = render([Feature(LineString([(X, Y - 50), (X + 100, Y - 50)]), "road"), Feature(area, "water")], GRID)
    assert at(raster, 50, 50) == "road"
    assert at(raster, 10, 10) == "water"


def test_holes_and_multi_parts():
    ring = Polygon(box(X + 10, Y - 90, X + 90, Y - 10).exterior, [box(X + 30, Y - 70, X + 70, Y - 30).exterior])
    raster = render(
        [Feature(MultiPolygon([ring, box(X, Y - 5, X + 5, Y)]), "park"), Feature(Point(X, Y), "park")], GRID
    )
    assert [at(raster, 50, 50), at(raster, 20, 20), at(raster, 2, 2)] == ["land", "park", "park"]


def test_antialiasing_can_be_turned_off():
    road = Feature(LineString([(X, Y), (X + 100, Y - 63)]), "arterial")
    colours = np.unique(render([road], GRID, antialias=False).pixels.reshape(3, -1), axis=1)
    assert colours.shape[1] == 2
    assert np.unique(render([road], GRID).pixels.reshape(3, -1), axis=1).shape[1] > 5


def test_casing_and_own_styles():
    road = Feature(LineString([(X, Y - 50), (X + 100, Y - 50)]), "road")
    style = Style((0, 0, 0), (StyleRule("road", (255, 255, 255), width_m=10, casing=(255, 0, 0), casing_m=5),))
    column = render([road], GRID, style, antialias=False).pixels[:, :, 50]
    assert column[:, 50].tolist() == [255, 255, 255]
    assert column[:, 42].tolist() == [255, 0, 0]
    assert column[:, 30].tolist() == [0, 0, 0]


def test_degrees_are_refused():
    with pytest.raises(RasterError, match="degrees"):
        render([], Grid(5, 5, Affine(1e-5, 0, 10, 0, -1e-5, 50), CRS("EPSG:4326")))
