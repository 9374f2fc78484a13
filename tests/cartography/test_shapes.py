from __future__ import annotations

import sys

import numpy as np
import pytest
import shapely
import skia
from affine import Affine
from odc.geo.crs import CRS
from shapely.geometry import GeometryCollection, LineString, MultiPolygon, Point, Polygon, box

from terramorph.cartography import CLASSES, Feature, classic, classify, load_style, render
from terramorph.cartography.render import _serial_version, make_path
from terramorph.cartography.shapes import Shapes
from terramorph.cartography.table import KINDS
from terramorph.geo import Grid

GRID = Grid(64, 64, Affine(1, 0, 500_000, 0, -1, 4_000_064), CRS("EPSG:32633"))


def park(geometry):
    return Feature(shapely.transform(geometry, lambda xy: xy + np.array([500_000, 4_000_000])), "park")


def is_park(raster):
    return classify(raster.pixels) == CLASSES.index("park")


def test_polygons_of_one_kind_that_overlap_do_not_cancel():
    clockwise = Polygon(list(box(20, 20, 60, 60).exterior.coords)[::-1])
    drawn = is_park(render([park(box(0, 0, 40, 40)), park(clockwise)], GRID))
    assert drawn.sum() == 40 * 40 * 2 - 20 * 20
    holed = Polygon(box(0, 0, 40, 40).exterior, [box(10, 10, 30, 30).exterior])
    assert is_park(render([park(holed), park(box(20, 20, 30, 30))], GRID)).sum() == 40 * 40 - 20 * 20 + 10 * 10


def test_odd_geometries_are_drawn_or_counted():
    bowtie = Polygon([(0, 0), (20, 20), (20, 0), (0, 20)])
    nested = GeometryCollection([GeometryCollection([MultiPolygon([box(40, 40, 50, 50)])]), Point(1, 1)])
    high = Polygon([(30, 0, 5), (40, 0, 5), (40, 10, 5), (30, 10, 5)])
    geometries = np.array([bowtie, nested, high, Point(3, 3), Polygon(), None], object)
    shapes = Shapes.from_geometries(geometries, np.full(6, KINDS.index("park")), np.full(6, np.nan))
    assert (len(shapes), shapes.skipped) == (3, 3)
    grid = Grid(64, 64, Affine(1, 0, 0, 0, -1, 64))
    assert is_park(render(shapes, grid, classic(), antialias=False)).sum() == pytest.approx(200 + 200, abs=20)


def test_what_is_not_finite_is_left_out_alone_and_counted():
    shapes = Shapes.from_features([park(box(0, 0, 10, 10)), park(box(20, 20, 30, 30))])
    xy = shapes.xy.copy()
    xy[0] = np.inf
    moved = shapes.moved(xy)
    assert (len(moved), moved.skipped) == (1, 1)
    assert is_park(render(moved, GRID, classic())).sum() == 100


def test_taking_and_joining_keep_rows_whole():
    shapes = Shapes.from_features([park(box(0, 0, 10, 10)), Feature(LineString([(0, 0), (5, 5)]), "road")])
    line = np.flatnonzero(~shapes.areas)
    joined = Shapes.join([shapes.take(line), shapes])
    assert [KINDS[k] for k in joined.kinds] == ["road", "road", "park"]
    assert joined.bounds[0].tolist() == [0, 0, 5, 5]
    assert np.array_equal(joined.xy[:2], [[0, 0], [5, 5]])
    assert len(Shapes.join([])) == 0


def test_windows_of_a_map_are_the_map():
    rng = np.random.default_rng(1)
    features = [park(box(*(p := rng.random(2) * 60), *(p + 5))) for _ in range(30)]
    features += [Feature(LineString(rng.random((4, 2)) * 64 + (500_000, 4_000_000)), "road") for _ in range(10)]
    shapes = Shapes.from_features(features)
    for style in (classic(), load_style("osm")):
        whole = render(shapes, GRID, style).pixels.astype(int)
        part = render(shapes, GRID.crop(16, 24, 32, 32), style).pixels
        difference = np.abs(whole[:, 16:48, 24:56] - part)
        assert difference.max() <= 40
        assert (difference > 8).mean() < 0.01


def test_a_rule_may_be_for_areas_or_lines_only(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('background = "#000000"\n[[rule]]\nkinds = ["road"]\nfill = "#ffffff"\ngeometry = "area"\n')
    line = Feature(LineString([(500_000, 4_000_032), (500_064, 4_000_032)]), "road")
    assert render([line], GRID, load_style(own)).pixels.max() == 0
    assert render([Feature(park(box(0, 0, 9, 9)).geometry, "road")], GRID, load_style(own)).pixels.max() == 255


def test_casings_can_have_a_least_width_in_pixels(tmp_path):
    own = tmp_path / "own.toml"
    text = (
        'background = "#000000"\n[[rule]]\nkinds = ["park"]\nfill = "#00ff00"\ncasing = "#ff0000"\nmin_casing_px = 2\n'
    )
    own.write_text(text)
    row = render([park(box(20, 20, 40, 40))], GRID, load_style(own), antialias=False).pixels[:, 34]
    assert [row[:, x].tolist() for x in (17, 18, 20, 41, 42)] == [
        [0, 0, 0],
        [255, 0, 0],
        [0, 255, 0],
        [255, 0, 0],
        [0, 0, 0],
    ]


def test_both_ways_of_making_a_path_agree(monkeypatch):
    rng = np.random.default_rng(0)
    xy, starts = rng.random((50, 2)).astype(np.float32) * 60, np.array([0, 1, 7, 20, 50])
    fast = make_path(xy, starts)
    assert _serial_version() is not None
    monkeypatch.setattr(sys.modules["terramorph.cartography.render"], "_serial_version", lambda: None)
    assert make_path(xy, starts) == fast
    assert fast.getFillType() == skia.PathFillType.kWinding


def test_a_polygon_that_is_not_finite_is_skipped():
    good, bad = box(0, 0, 9, 9), Polygon([(0, 0), (9, 0), (9, 9), (0, -np.inf)])
    found = Shapes.from_geometries(np.array([bad, good], object), np.zeros(2, np.int64), np.full(2, np.nan))
    assert (len(found), found.skipped) == (1, 1)
