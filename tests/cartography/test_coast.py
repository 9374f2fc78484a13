from __future__ import annotations

import geopandas
import numpy as np
import osmium
import pytest
import shapely
from affine import Affine
from odc.geo.crs import CRS
from osmium.osm.mutable import Node, Way

from terramorph.cartography import CLASSES, VectorSource, classify, load_style
from terramorph.cartography.coast import Coast
from terramorph.errors import InputWarning
from terramorph.geo import Grid

UTM = CRS("EPSG:32633")
X, Y = 500_000, 5_400_000
GRID = Grid(400, 400, Affine(1, 0, X, 0, -1, Y), UTM)
BOX = (0.0, 0.0, 10.0, 10.0)
WATER = CLASSES.index("water")


def lines(*each):
    return np.array([shapely.LineString(points) for points in each], object)


def sea(coastlines, box=BOX, bounds=(0, 0, 10, 10)):
    found, gaps = Coast(coastlines, bounds).sea(box)
    return shapely.union_all(found), gaps


def test_the_sea_lies_on_the_right_of_a_coastline():
    east, gaps = sea(lines([(5, -1), (5, 5)], [(5, 5), (5, 11)]))
    assert east.symmetric_difference(shapely.box(5, 0, 10, 10)).area < 1e-9
    assert not gaps
    west, _ = sea(lines([(5, 11), (5, -1)]))
    assert west.symmetric_difference(shapely.box(0, 0, 5, 10)).area < 1e-9


def test_islands_stand_out_of_the_sea_and_lagoons_lie_in_them():
    island = [(2, 2), (8, 2), (8, 8), (2, 8), (2, 2)]
    lagoon = [(4, 4), (4, 6), (6, 6), (6, 4), (4, 4)]
    found, gaps = sea(lines(island, lagoon))
    assert found.area == pytest.approx(100 - 36 + 4)
    assert found.contains(shapely.Point(5, 5))
    assert not found.contains(shapely.Point(3, 3))
    assert not gaps


@pytest.mark.parametrize(("box", "wet"), [((12, 3, 14, 5), True), ((0, 3, 2, 5), False), ((0, 40, 5, 50), False)])
def test_a_box_without_a_coastline_is_what_the_nearest_one_says(box, wet):
    found, gaps = sea(lines([(9, -90), (9, 30), (-90, 30)]), box, (-90, -90, 30, 60))
    assert (found.area > 0) == (not wet if box[1] == 40 else wet)
    assert not gaps


def test_open_ends_at_the_border_of_the_data_go_on_beyond_it():
    found, gaps = sea(lines([(0, 5), (4, 6), (10, 5)]), (-5, -5, 15, 15))
    assert not gaps
    for x in (-4, 5, 14):
        assert found.contains(shapely.Point(x, 1))
        assert not found.contains(shapely.Point(x, 9))


def test_a_coastline_that_breaks_off_is_a_gap_and_the_rest_is_told():
    found, gaps = sea(lines([(5.2, -1), (5.2, 4.3)]), bounds=(-100, -100, 100, 100))
    assert len(gaps) >= 1
    assert all(gap.distance(shapely.Point(5.2, 4.3)) < 0.5 for gap in gaps)
    assert found.contains(shapely.Point(9, 1))
    assert not found.contains(shapely.Point(1, 1))
    assert found.intersection(shapely.box(0, 0, 5, 4)).area == pytest.approx(0, abs=1e-6)


def write_coast(path, *, header=None):
    """Land in the north, an islet in the sea, a building on land."""
    to_degrees = UTM.transformer_to_crs(CRS("EPSG:4326"), always_xy=True)
    coast = [(X - 1000, Y - 300), (X + 400, Y - 300), (X + 1500, Y - 300)]
    house = [(X + 50, Y - 150), (X + 150, Y - 150), (X + 150, Y - 50), (X + 50, Y - 50)]
    islet = [(X + 200, Y - 380), (X + 240, Y - 380), (X + 240, Y - 340), (X + 200, Y - 340)]
    box = osmium.io.Header()
    if header is not None:
        box.add_box(osmium.osm.Box(*header))
    writer = osmium.SimpleWriter(str(path), header=box)
    for number, point in enumerate(coast + house + islet, 1):
        writer.add_node(Node(id=number, location=to_degrees(*point), version=1))
    writer.add_way(Way(id=1, nodes=[1, 2, 3], tags={"natural": "coastline"}, version=1))
    writer.add_way(Way(id=2, nodes=[4, 5, 6, 7, 4], tags={"building": "yes"}, version=1))
    writer.add_way(Way(id=3, nodes=[8, 9, 10, 11, 8], tags={"natural": "coastline"}, version=1))
    writer.close()


def check_coast(path):
    with VectorSource(path, load_style("classes")) as source:
        classes = classify(source.read(GRID).pixels)
    assert (classes[305:] == WATER).mean() == pytest.approx(1 - 40 * 40 / (95 * 400), abs=0.01)
    assert classes[360, 220] == CLASSES.index("land")
    assert not (classes[:295] == WATER).any()
    assert classes[100, 100] == CLASSES.index("building")


def test_an_openstreetmap_file_at_a_coast_has_its_sea(tmp_path):
    path = tmp_path / "coast.osm.pbf"
    write_coast(path)
    check_coast(path)


def test_what_the_header_covers_belongs_to_the_extent_so_that_open_sea_is_drawn(tmp_path):
    path = tmp_path / "coast.osm.pbf"
    write_coast(path, header=(14.99, 48.70, 15.02, 48.76))
    with VectorSource(path, load_style("classes")) as source:
        assert source.extent.boundingbox.bottom == pytest.approx(48.70)
        south = Grid(64, 64, Affine(1, 0, X, 0, -1, Y - 4000), UTM)
        assert (classify(source.read(south).pixels) == WATER).all()


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb"])
def test_exports_of_openstreetmap_have_their_sea(tmp_path, suffix):
    path = tmp_path / f"coast.{suffix}"
    shapes = [
        shapely.LineString([(X - 1000, Y - 300), (X + 1500, Y - 300)]),
        shapely.box(X + 50, Y - 150, X + 150, Y - 50),
        shapely.box(X + 200, Y - 380, X + 240, Y - 340),
    ]
    tags = {"natural": ["coastline", None, "coastline"], "building": [None, "yes", None]}
    geopandas.GeoDataFrame(tags, geometry=shapes, crs=UTM.proj).to_crs(4326).to_file(path)
    check_coast(path)


def test_a_gap_in_the_coastline_is_said_where_it_is_drawn(tmp_path):
    path = tmp_path / "gap.gpkg"
    shapes = [
        shapely.LineString([(X - 1000, Y - 300), (X + 200, Y - 300)]),
        shapely.box(X - 2000, Y - 2000, X + 2000, Y),
    ]
    tags = {"natural": ["coastline", None], "boundary": [None, "yes"], "building": [None, None]}
    geopandas.GeoDataFrame(tags, geometry=shapes, crs=UTM.proj).to_file(path)
    with VectorSource(path, load_style("classes")) as source:
        with pytest.warns(InputWarning, match="coastline breaks off near"):
            classes = classify(source.read(GRID).pixels)
        assert classes[390, 20] == WATER
        assert classes[20, 20] == CLASSES.index("land")
        source.read(GRID.crop(0, 0, 64, 64))  # far from the gap nothing is said
