from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geom import Geometry, box, line, point

from terramorph.errors import InputError, RasterError
from terramorph.geo import Grid, project
from terramorph.raster import Raster
from terramorph.raster.array_source import RasterSource
from terramorph.raster.source import ClippedSource
from terramorph.translate import Model
from terramorph.translate.plan import read_area

SQUARE = shapely.box(11, 48, 12, 49)


def write(path, *shapes, **options):
    geopandas.GeoDataFrame({"n": range(len(shapes))}, geometry=list(shapes), crs=4326).to_file(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["geojson", "kml", "gpkg", "shp"])
def test_heights_are_dropped(tmp_path, suffix):
    area = read_area(write(tmp_path / f"a.{suffix}", shapely.force_3d(SQUARE, 12.0), engine="pyogrio"))
    assert area.crs == CRS("EPSG:4326")
    assert not area.geom.has_z
    assert area.geom.symmetric_difference(SQUARE).area < 1e-12


def test_polygons_of_any_kind_are_one_area_and_what_crosses_itself_is_mended(tmp_path):
    holed = shapely.Polygon(SQUARE.exterior, [shapely.box(11.4, 48.4, 11.6, 48.6).exterior])
    bow = shapely.Polygon([(13, 48), (14, 49), (14, 48), (13, 49)])
    group = shapely.GeometryCollection([shapely.box(20, 48, 21, 49), shapely.Point(0, 0)])
    area = read_area(write(tmp_path / "a.geojson", holed, shapely.MultiPolygon([bow]), group, shapely.Point(1, 1)))
    assert area.geom.is_valid
    assert area.geom.area == pytest.approx(0.96 + 0.5 + 1)


@pytest.mark.parametrize(
    "shape",
    [shapely.Point(11, 48), SQUARE.exterior, shapely.LineString([(1, 1), (2, 2)]), shapely.MultiPoint([(1, 1)])],
)
def test_lines_and_points_are_no_area(tmp_path, shape):
    with pytest.raises(InputError, match=r"holds no (polygon|lines)"):
        read_area(write(tmp_path / "a.geojson", shape))


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_area(tmp_path / "none.geojson")
    (tmp_path / "a.geojson").write_text("hello")
    with pytest.raises(InputError, match="cannot be read"):
        read_area(tmp_path / "a.geojson")


def test_a_box_of_degrees(tmp_path):
    area = read_area(Path("-1.5, 48,2,49.25"))
    assert area.crs == CRS("EPSG:4326")
    assert area.geom.bounds == (-1.5, 48, 2, 49.25)
    assert read_area(Path("179.5,-17,-179.5,-16")).geom.bounds == (179.5, -17, 180.5, -16)  # across 180 degrees
    for wrong in ("2,48,1,49", "1,95,2,99", "1,49,2,48"):
        with pytest.raises(InputError, match="west,south,east,north"):
            read_area(Path(wrong))
    assert read_area(Path("-1.5,.48e2,+2.,4.925E1")).geom.bounds == (-1.5, 48, 2, 49.25)
    with pytest.raises(InputError, match=r"does not exist; check the path, or give west,south,east,north"):
        read_area(Path("1,2,3"))


@pytest.mark.parametrize("name", ["a.txt", "a.wkt", "folder"])
def test_what_is_no_vector_file_is_said_in_our_words(tmp_path, name):
    if name == "folder":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text(SQUARE.wkt, encoding="utf-8")
    with pytest.raises(RasterError, match=rf"{name} cannot be read as a vector file.* or save it as") as told:
        read_area(tmp_path / name)
    assert "DRIVER" not in str(told.value)


def test_what_is_no_area_of_an_image_is_refused(bundle):
    utm, grid = "EPSG:32633", Grid(64, 64, Affine(1, 0, 500_000, 0, -1, 5_000_000), CRS("EPSG:32633"))
    image, square = Raster.from_pixels(np.full((3, 64, 64), 90, np.uint8), grid), shapely.box(0, 0, 1, 1)
    model = Model(bundle, precision="fp32")
    for none in (point(500_010, 4_999_990, utm), line([(500_010, 4_999_990), (500_020, 4_999_990)], utm)):
        with pytest.raises(RasterError, match="The area holds no polygon"):
            model.translate(image, area=none)
    with pytest.raises(RasterError, match="lies outside"):
        model.translate(image, area=box(500_064, 4_999_990, 500_070, 4_999_999, utm))  # only an edge in common
    with pytest.raises(RasterError, match="The area has no CRS"):
        model.translate(image, area=Geometry(square, None))
    for wrong in (square, geopandas.GeoDataFrame(geometry=[square], crs=utm)):
        with pytest.raises(InputError, match=f"The area is a {type(wrong).__name__}; give a file, or polygons"):
            model.translate(image, area=wrong)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3857", "EPSG:4326", "EPSG:3413"])
@pytest.mark.parametrize("area", [(-180, -90, 180, 90), (-100, -80, 150, 85)])
def test_an_area_as_large_as_the_earth_holds_an_image(crs, area):
    x, y = project(point(15, 48, "EPSG:4326"), crs).coords[0]
    step = 1e-5 if crs == "EPSG:4326" else 1
    grid = Grid(64, 96, Affine(step, 0, x, 0, -step, y), CRS(crs))
    with ClippedSource(
        RasterSource(Raster.from_pixels(np.full((3, 64, 96), 90, np.uint8), grid)), box(*area, "EPSG:4326")
    ) as source:
        assert source.extent.area == pytest.approx(grid.geobox.extent.area)
        assert source.read(grid).mask.all()
        utm = Grid(8, 8, Affine(1, 0, 500_010, 0, -1, 5_316_280), CRS("EPSG:32633"))
        if crs != "EPSG:3413":
            assert source.read(utm).mask.any()
