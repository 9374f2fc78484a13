"""Ground across the line of 180 degrees: shapes, areas, pairs."""

from __future__ import annotations

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geom import Geometry, box
from pyproj import Transformer

from terramorph.errors import ConfigError
from terramorph.geo import Grid, project
from terramorph.geo.crs import cut_at_line, meet, period
from terramorph.prepare import Inputs, Options, SplitRule, prepare
from terramorph.raster import Raster, write_image
from terramorph.raster.source import ClippedSource
from terramorph.sources import open_source

TURN = 40075016.685578488


@pytest.mark.parametrize(
    ("crs", "turn"),
    [("EPSG:4326", 360), ("EPSG:3857", TURN), ("EPSG:3832", TURN), ("EPSG:32660", None), ("EPSG:3031", None)],
)
def test_the_length_of_a_turn(crs, turn):
    assert period(CRS(crs)) == (None if turn is None else pytest.approx(turn, rel=1e-9))


@pytest.mark.parametrize("crs", ["EPSG:32760", "EPSG:3832", "EPSG:4326", "EPSG:3857"])
def test_shapes_stay_whole_and_are_cut_for_files(crs):
    ground = project(box(179.9, -17.1, 180.1, -17, "EPSG:4326"), crs)
    degrees = project(ground, "EPSG:4326")
    assert degrees.area == pytest.approx(0.02, rel=0.05)
    (cut,) = cut_at_line(np.array([degrees.geom], dtype=object), CRS("EPSG:4326"))
    assert cut.geom_type == "MultiPolygon"
    assert cut.area == pytest.approx(degrees.area)
    assert np.abs(shapely.bounds(cut)[::2]).max() <= 180


def test_a_shape_without_area_stays_as_it_is():
    line = shapely.LineString([(179, 0), (181, 0)])
    assert cut_at_line(np.array([line], dtype=object), CRS("EPSG:4326"))[0] == line


def test_what_two_extents_share_is_found_whatever_the_turn():
    here = box(180.9, -18, 181.1, -17, "EPSG:4326")
    assert meet(here, box(-179.05, -18, -178, -17, "EPSG:4326")).area == pytest.approx(0.15)
    both = shapely.union(shapely.box(179, -18, 180, -17), shapely.box(-180, -18, -179, -17))
    assert meet(here, Geometry(both, "EPSG:4326")).area == pytest.approx(0.1)


def image(path, crs, x, y, step, seed=1, size=192):
    pixels = np.random.default_rng(seed).integers(0, 256, (3, size, size), dtype=np.uint8)
    grid = Grid(size, size, Affine(step, 0, x, 0, -step, y), CRS(crs))
    write_image(Raster(pixels, np.ones((size, size), bool), grid, ("red", "green", "blue")), path)
    return str(path)


TARGETS = [("EPSG:4326", 1e-4), ("EPSG:3857", 10.0), ("EPSG:3832", 10.0), ("EPSG:32760", 10.0)]


@pytest.mark.parametrize(("crs", "step"), TARGETS)
def test_pairs_of_ground_across_the_line(tmp_path, crs, step):
    to = Transformer.from_crs(4326, crs, always_xy=True)
    x, y = (179.985, -17.0) if crs == "EPSG:4326" else to.transform(179.985, -17.0)
    source = image(tmp_path / "a.tif", "EPSG:4326", -180.01, -17.003, 1e-4)
    target = image(tmp_path / "b.tif", crs, x, y, step, 2, 400)
    options = Options(tile=32, split=SplitRule(fractions=(1, 0, 0)), bounds=(179.9, -18, -179.9, -16))
    manifest = prepare(tmp_path / "out", [Inputs(source, target)], options)
    assert manifest.counts == {"train": 36}
    table = geopandas.read_parquet(tmp_path / "out" / "footprints.parquet")
    assert np.abs(table.total_bounds[[0, 2]]).max() <= 180
    assert set(table.geometry.geom_type) == {"Polygon", "MultiPolygon"}
    assert shapely.area(table.geometry.array).sum() == pytest.approx(36 * (32e-4) ** 2)


def test_areas_on_either_side_of_the_line_keep_apart_as_others_do(tmp_path):
    east = image(tmp_path / "east.tif", "EPSG:4326", 179.9904, -17.0, 1e-4)
    west = image(tmp_path / "west.tif", "EPSG:4326", -180.0096, -17.0, 1e-4, 2)
    options = Options(tile=32, split=SplitRule(fractions=(0.5, 0.25, 0.25), block=2))
    manifest = prepare(tmp_path / "out", [Inputs(east, east), Inputs(west, west)], options)
    # The same ground twice: a tile of the second that meets one of another split of the first is left out.
    first: dict[tuple[int, int], str] = {}
    second: dict[tuple[int, int], str] = {}
    for split, pairs in manifest.pairs.items():
        for area, row, column in pairs.values():
            (first if area == 0 else second)[row, column] = split
    assert second
    assert all(first.get(place, split) == split for place, split in second.items())


def test_an_area_cut_at_the_line_finds_its_ground(tmp_path):
    source = open_source(image(tmp_path / "a.tif", "EPSG:4326", 179.99, -17.0, 1e-4))
    area = shapely.union(shapely.box(179.99, -17.005, 180, -17.001), shapely.box(-180, -17.005, -179.995, -17.001))
    with ClippedSource(source, Geometry(area, "EPSG:4326")) as clipped:
        assert clipped.extent.boundingbox.span_x == pytest.approx(0.015)
        assert clipped.read(clipped.grid).mask.sum() == pytest.approx(150 * 40, rel=0.02)


@pytest.mark.parametrize("bounds", [(10, 0, 10, 1), (10, 0, 9, 1), (-190, 0, 9, 1), (0, 2, 1, 1)])
def test_bounds_that_are_none(bounds):
    with pytest.raises(ConfigError, match="bounds"):
        Options(bounds=bounds)
