from __future__ import annotations

import json
import math
import re
import sqlite3
import struct
import zipfile
from contextlib import closing

import geopandas
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from odc.geo.crs import CRS

from terramorph.cartography import CLASSES, VectorSource, classify, load_style, read_polygons
from terramorph.cartography.detect import is_vector
from terramorph.cartography.shapes import read_wkb
from terramorph.errors import InputWarning, RasterError
from terramorph.geo import Grid
from terramorph.sources import open_source

UTM = CRS("EPSG:32633")
X, Y = 500_000, 5_400_000
GRID = Grid(200, 200, Affine(1, 0, X, 0, -1, Y), UTM)
HOUSE = shapely.box(X + 50, Y - 150, X + 150, Y - 50)
STYLE = load_style("classes")


def frame(crs=32633):
    return geopandas.GeoDataFrame({"kind": ["building"]}, geometry=[HOUSE], crs=32633).to_crs(crs)


def share_of_house(path, **options):
    """Share of the house's pixels that are drawn; what is not house must be land."""
    with VectorSource(path, STYLE, **options) as source:
        built = classify(source.read(GRID).pixels) == CLASSES.index("building")
    assert built.sum() <= 101 * 101
    return built[50:150, 50:150].mean()


DRIVERS = {
    "a.kml": ("KML", 4326),
    "a.gml": ("GML", 32633),
    "a.gdb": ("OpenFileGDB", 32633),
    "a.tab": ("MapInfo File", 32633),
    "a.mif": ("MapInfo File", 32633),
    "a.geojsonl": ("GeoJSONSeq", 4326),
    "a.fgb": ("FlatGeobuf", 32633),
    "a.parquet": (None, 32633),
    "a.dxf": ("DXF", 32633),
}


def write(path, driver, crs):
    data = frame(crs)
    if driver is None:
        data.to_parquet(path)
    elif driver == "DXF":
        data[["geometry"]].assign(Layer="building").to_file(path, driver=driver, engine="pyogrio")
    else:
        data.to_file(path, driver=driver, engine="pyogrio")


@pytest.mark.parametrize("name", DRIVERS)
def test_formats_are_drawn(tmp_path, name):
    path = tmp_path / name
    write(path, *DRIVERS[name])
    assert is_vector(path)
    options = {"kind": "building"} if name in ("a.kml", "a.dxf") else {}
    options |= {"crs": UTM} if name == "a.dxf" else {}
    assert share_of_house(path, **options) > 0.98
    assert VectorSource(path, STYLE, **options).fingerprint() == VectorSource(path, STYLE, **options).fingerprint()


@pytest.mark.parametrize("name", ["a.geojson", "a.gpkg", "a.parquet"])
def test_numbers_and_truths_are_matched_as_files_write_them(tmp_path, name):
    """Also where a feature has none, and libraries make floats of the others."""
    for key, value, kind, written in (
        ("code", 3, "Int64", "3"),
        ("code", 2.5, "Float64", "2.5"),
        ("flag", True, "boolean", "true"),
    ):
        table = tmp_path / "own.toml"
        table.write_text(f'[[match]]\nkeys = ["{key}"]\n[match.kinds]\n"{written}" = "building"\n')
        for others in ([], [None]):
            data = geopandas.GeoDataFrame({key: [value, *others]}, geometry=[HOUSE] * (1 + len(others)), crs=32633)
            data[key] = data[key].astype(kind)
            path = tmp_path / name
            path.unlink(missing_ok=True)
            data.to_parquet(path) if name == "a.parquet" else data.to_file(path, engine="pyogrio")
            assert share_of_house(path, table=table) > 0.98


@pytest.mark.parametrize("name", ["a.gdb", "a.fgb", "a.gml", "a.parquet"])
def test_zipped_formats_are_drawn(tmp_path, name):
    path = tmp_path / name
    write(path, *DRIVERS[name])
    zipped = tmp_path / "a.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("data/README.txt", "hello")
        for file in sorted(path.rglob("*")) if path.is_dir() else tmp_path.glob("a.*"):
            if file != zipped:
                archive.write(file, f"data/{file.relative_to(tmp_path)}")
    assert is_vector(zipped)
    if name == "a.parquet":
        with pytest.raises(RasterError, match="unpack"):
            share_of_house(zipped)
    else:
        assert share_of_house(zipped) > 0.98


def test_a_zip_of_several_files_is_refused_with_their_names_and_one_of_images_is_none(tmp_path):
    frame().to_file(tmp_path / "a.fgb")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.write(tmp_path / "a.fgb", "a.fgb")
        archive.write(tmp_path / "a.fgb", "b/c.fgb")
    with pytest.raises(RasterError, match=r"a\.fgb, b/c\.fgb"):
        VectorSource(tmp_path / "two.zip", STYLE)
    with zipfile.ZipFile(tmp_path / "image.zip", "w") as archive:
        archive.writestr("ortho.tif", "")
        archive.writestr("ortho.kml", "")
    assert not is_vector(tmp_path / "image.zip")


def test_gml_and_spatialite_under_their_other_suffixes(tmp_path):
    frame().to_file(tmp_path / "a.gml", engine="pyogrio")
    xml = (tmp_path / "a.gml").rename(tmp_path / "a.xml")
    assert share_of_house(xml) > 0.98
    (tmp_path / "style.xml").write_text("<style/>")
    assert not is_vector(tmp_path / "style.xml")
    frame().to_file(tmp_path / "a.sqlite", driver="SQLite", engine="pyogrio")
    assert share_of_house(tmp_path / "a.sqlite") > 0.98


def test_geojson_that_says_late_what_it_is(tmp_path):
    frame(4326).to_file(tmp_path / "a.geojson")
    path = tmp_path / "wfs.json"
    path.write_text(json.dumps({"links": ["x" * 50] * 2000} | json.loads((tmp_path / "a.geojson").read_text())))
    assert share_of_house(path) > 0.98


@pytest.mark.parametrize("name", ["a.gmt", "a.db", "a.shz", "a.pq"])
def test_vectors_of_unusual_names_are_drawn_and_not_called_images(tmp_path, name):
    path = tmp_path / name
    driver = {"a.gmt": "OGR_GMT", "a.db": "SQLite"}.get(name)
    if driver:
        frame().to_file(tmp_path / "a.gmt" if driver == "OGR_GMT" else tmp_path / "a.sqlite", driver=driver)
    if name == "a.db":
        (tmp_path / "a.sqlite").rename(path)
    elif name == "a.shz":
        frame().to_file(tmp_path / "town.shp")
        with zipfile.ZipFile(path, "w") as packed:
            for part in tmp_path.glob("town.*"):
                packed.write(part, part.name)
    elif name == "a.pq":
        frame().to_parquet(path)
    with open_source(path, style="classes") as source:
        assert (classify(source.read(GRID).pixels) == CLASSES.index("building"))[50:150, 50:150].mean() > 0.98
    assert share_of_house(path) > 0.98


OWN = CRS("+proj=tmerc +lon_0=15 +x_0=3500000 +ellps=krass +towgs84=200,-300,-400,0,0,0,0 +units=m +no_defs")


@pytest.mark.parametrize("name", ["a.shp", "a.gpkg", "a.sqlite", "a.mif", "a.parquet"])
def test_datum_parameters_of_vectors_count_though_gdal_finds_a_code(tmp_path, name):
    path = tmp_path / name
    coded = OWN.proj.to_wkt("WKT1_GDAL").replace('"unknown"', '"Pulkovo 1942 / Gauss-Kruger zone 3"', 1)
    coded = re.sub(r'DATUM\["[^"]*"', 'DATUM["Pulkovo_1942"', coded)[:-1] + ',AUTHORITY["EPSG","28403"]]'
    data = frame().to_crs(OWN.proj)
    data = data if name == "a.mif" else data.set_crs(pyproj.CRS.from_wkt(coded), allow_override=True)
    drivers = {"driver": "SQLite"} if name == "a.sqlite" else {}
    data.to_parquet(path) if name == "a.parquet" else data.to_file(path, **drivers)
    if name == "a.shp":
        path.with_suffix(".prj").write_text(coded)
    assert share_of_house(path) > 0.98


def test_what_is_not_read_is_refused_with_what_to_do(tmp_path):
    for name in (
        "a.dwg",
        "a.mdb",
        "a.qgz",
        "a.csv",
        "a.dbf",
        "a.json",
        "a.tab",
        "a.prj",
        "a.tfw",
        "a.osm.gz",
        "a.arrow",
    ):
        (tmp_path / name).write_bytes(b"x")
        assert not is_vector(tmp_path / name)
        with pytest.raises(RasterError, match=r"; (save|export|give|make|convert|unpack) "):
            open_source(tmp_path / name)
    (tmp_path / "a.gml").write_text("x")
    with pytest.raises(RasterError, match=r"a\.gml cannot be read as a vector file"):
        open_source(tmp_path / "a.gml")
    folder = tmp_path / "shapes"
    folder.mkdir()
    frame().to_file(folder / "town.shp")
    with pytest.raises(RasterError, match=r"town\.shp"):
        open_source(folder)
    table = tmp_path / "table.parquet"
    frame().drop(columns="geometry").to_parquet(table)
    with pytest.raises(RasterError, match="without geometry"):
        VectorSource(table, STYLE)


def wkb(kind, *polygons):
    """A surface of faces, well-known binary with heights; TINs have triangles for faces."""
    face = 1017 if kind == 1016 else 1003
    data = [struct.pack("<BII", 1, kind, len(polygons))]
    for ring in polygons:
        points = b"".join(struct.pack("<3d", *p) for p in [*ring, ring[0]])
        data.append(struct.pack("<BIII", 1, face, 1, len(ring) + 1) + points)
    return b"".join(data)


LOW = [(X + 50, Y - 150, 0), (X + 150, Y - 150, 0), (X + 150, Y - 50, 10), (X + 50, Y - 50, 10)]
WALL = [(X + 50, Y - 150, 0), (X + 150, Y - 150, 0), (X + 150, Y - 150, 9), (X + 50, Y - 150, 9)]
SURFACES = {
    "POLYHEDRALSURFACE": wkb(1015, LOW, WALL),
    "TIN": wkb(1016, LOW[:3], [LOW[0], LOW[2], LOW[3]]),
    "TRIANGLE": struct.pack("<BI", 1, 1017) + wkb(1015, [LOW[0], LOW[1], (X + 50, Y + 50, 3)])[14:],
    "GEOMETRYCOLLECTION": struct.pack("<BII", 1, 1007, 1) + wkb(1015, LOW),
}


def write_gpkg(path, declared, *geometries):
    """A GeoPackage as other programs write it: pyogrio writes no surfaces."""
    frame().to_file(path, engine="pyogrio")
    head = b"GP\x00\x01" + struct.pack("<i", 32633)
    with closing(sqlite3.connect(path)) as file, file:
        table = file.execute("SELECT table_name FROM gpkg_contents").fetchone()[0]
        for (trigger,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            file.execute(f'DROP TRIGGER "{trigger}"')
        file.execute("DELETE FROM gpkg_extensions")
        file.execute(f'DROP TABLE "rtree_{table}_geom"')
        file.execute(f'DELETE FROM "{table}"')
        file.execute("UPDATE gpkg_geometry_columns SET geometry_type_name = ?, z = 2", (declared,))
        for geometry in geometries:
            file.execute(f"INSERT INTO \"{table}\" (geom, kind) VALUES (?, 'building')", (head + geometry,))
        file.execute("DELETE FROM gpkg_ogr_contents")


@pytest.mark.parametrize("kind", SURFACES)
@pytest.mark.parametrize("declared", ["GEOMETRY", "as it is"])
def test_surfaces_are_drawn_as_what_they_cover(tmp_path, kind, declared):
    path = tmp_path / "town.gpkg"
    write_gpkg(path, kind if declared == "as it is" else declared, SURFACES[kind])
    share = share_of_house(path)
    assert share == pytest.approx(0.75, abs=0.02) if kind == "TRIANGLE" else share > 0.98


@pytest.mark.filterwarnings("ignore::terramorph.errors.InputWarning")
def test_arcs_are_drawn_and_in_a_collection_left_out_and_counted(tmp_path):
    ends = [(X + 50, Y - 100), (X + 100, Y - 50), (X + 150, Y - 100), (X + 100, Y - 150), (X + 50, Y - 100)]
    circle = struct.pack("<BII", 1, 8, 5) + b"".join(struct.pack("<2d", *p) for p in ends)
    disc = struct.pack("<BII", 1, 10, 1) + circle
    path = tmp_path / "disc.gpkg"
    write_gpkg(path, "GEOMETRY", disc)
    assert share_of_house(path) == pytest.approx(math.pi / 4, abs=0.02)
    corner = struct.pack("<BII", 1, 6, 1) + shapely.to_wkb(shapely.box(X + 50, Y - 150, X + 60, Y - 140))
    mixed = tmp_path / "mixed.gpkg"
    write_gpkg(mixed, "GEOMETRY", corner, struct.pack("<BII", 1, 7, 2) + disc + corner)
    with VectorSource(mixed, STYLE) as source:
        source.read(GRID)
        assert source.skipped == 1
    assert read_polygons(mixed)[0].area == pytest.approx(100)


def test_multipatches_are_drawn(tmp_path):
    path = tmp_path / "town.shp"
    faces = shapely.GeometryCollection([shapely.Polygon(LOW), shapely.Polygon(LOW[:3])])
    data = geopandas.GeoDataFrame({"kind": ["building"]}, geometry=[shapely.MultiPolygon(faces.geoms)], crs=32633)
    data.to_file(path, engine="pyogrio", SHPT="MULTIPATCH")
    assert path.read_bytes()[32] == 31
    assert share_of_house(path) > 0.98


def test_footprints_are_one_area_with_courtyards():
    roofs = [
        [(0, 0, 5), (10, 0, 5), (10, 3, 8), (0, 3, 8)],
        [(0, 7, 5), (10, 7, 5), (10, 10, 8), (0, 10, 8)],
        [(0, 3, 5), (3, 3, 5), (3, 7, 8), (0, 7, 8)],
        [(7, 3, 5), (10, 3, 5), (10, 7, 8), (7, 7, 8)],
    ]
    faces = [  # without heights, as GDAL gives them
        struct.pack("<BIII", 1, 3, 1, 5) + b"".join(struct.pack("<2d", *p[:2]) for p in [*roof, roof[0]])
        for roof in roofs
    ]
    surface = struct.pack("<BII", 1, 15, 4) + b"".join(faces)
    found = read_wkb(np.array([surface, shapely.to_wkb(shapely.box(0, 0, 1, 1)), None, b"nonsense"], object))
    assert found[0].geom_type == "Polygon"
    assert found[0].area == pytest.approx(100 - 16)
    assert len(found[0].interiors) == 1
    assert found[1].area == 1
    assert found[2] is None
    assert found[3].is_empty


def test_what_cannot_be_drawn_is_counted_and_said(tmp_path):
    geojson = tmp_path / "odd.geojson"
    geometries = [shapely.geometry.mapping(HOUSE), {"type": "GeometryCollection", "geometries": []}, None]
    features = [{"type": "Feature", "properties": {"kind": "building"}, "geometry": g} for g in geometries]
    collection = {"type": "FeatureCollection", "features": features}
    geojson.write_text(json.dumps(collection | {"crs": {"type": "name", "properties": {"name": "EPSG:32633"}}}))
    with pytest.warns(InputWarning, match="1 feature has a geometry that cannot be drawn and is not on the map"):
        source = VectorSource(geojson, STYLE)
    source.read(GRID)  # and it is not said again
    source.close()
    assert source.skipped == 1


@pytest.mark.parametrize("suffix", ["geojson", "kml", "gpkg", "fgb"])
def test_polygons_are_read_from_any_format_without_their_heights(tmp_path, suffix):
    path = tmp_path / f"area.{suffix}"
    data = frame(4326)
    data.geometry = shapely.force_3d(data.geometry.to_numpy(), 7.0)
    data.to_file(path, engine="pyogrio")
    area, crs = read_polygons(path)
    assert not area.has_z
    assert crs == CRS("EPSG:4326")
    assert area.symmetric_difference(frame(4326).geometry[0]).area < 1e-12


def test_polygons_of_several_layers_and_of_surfaces_are_one_area(tmp_path):
    path = tmp_path / "two.gpkg"
    frame().to_file(path, layer="one")
    frame().set_geometry(frame().translate(100, 0)).to_crs(4326).to_file(path, layer="two", mode="a")
    area, crs = read_polygons(path)
    assert crs == UTM
    assert area.area == pytest.approx(20_000, rel=1e-3)
    surfaces = tmp_path / "surfaces.gpkg"
    write_gpkg(surfaces, "POLYHEDRALSURFACE", SURFACES["POLYHEDRALSURFACE"])
    assert read_polygons(surfaces)[0].area == pytest.approx(10_000)
    lines = tmp_path / "lines.geojson"
    frame(4326).set_geometry(frame(4326).boundary).to_file(lines)
    assert read_polygons(lines)[0].is_empty
