"""Damaged vector files: they are read, or refused with an error of ours."""

from __future__ import annotations

import gzip
import sqlite3
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from odc.geo.crs import CRS
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer

from terramorph.cartography import VectorSource, load_style, load_table, read_polygons
from terramorph.cartography.ogr import library_errors
from terramorph.cartography.shapes import read_wkb
from terramorph.errors import TerramorphError
from terramorph.geo import Grid
from terramorph.raster.tiles.reader import unpacked

from ..fuzz import MUTATIONS, mutations, only_ours

X, Y = 500_000, 5_400_000
GRID = Grid(32, 32, Affine(8, 0, X, 0, -8, Y), CRS("EPSG:32633"))
STYLE = load_style("classes")


def frame(crs=4326) -> geopandas.GeoDataFrame:
    shapes = [
        shapely.Polygon(
            shapely.box(X + 20, Y - 180, X + 180, Y - 20).exterior,
            [shapely.box(X + 60, Y - 140, X + 90, Y - 60).exterior],
        ),
        shapely.MultiPolygon([shapely.box(X + 190, Y - 200, X + 240, Y - 150), shapely.box(X, Y - 9, X + 9, Y)]),
        shapely.LineString([(X, Y - 100), (X + 250, Y - 120)]),
    ]
    tags = {"kind": ["park", "building", "road"], "name": ["Grün", None, "x"], "floors": [1, 2, 3]}
    return geopandas.GeoDataFrame(tags, geometry=shapes, crs=32633).to_crs(crs)


def as_file(path: Path, **options) -> Callable[[bytes], object]:
    """A parser: writes a file and draws it."""

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        with VectorSource(path, STYLE, **options) as source:
            return source.read(GRID)

    return parse


@pytest.fixture(scope="module")
def tile(tmp_path_factory) -> tuple[tuple[int, int, int], bytes]:
    """Number and bytes of one tile, as GDAL writes them."""
    folder = tmp_path_factory.mktemp("tile") / "t"
    options = {"MINZOOM": 14, "MAXZOOM": 14, "COMPRESS": "NO"}
    pyogrio.write_dataframe(frame(3857), folder, layer="stuff", driver="MVT", **options)
    file = max(folder.rglob("*.pbf"), key=lambda p: p.stat().st_size)
    return (int(file.parts[-3]), int(file.parts[-2]), int(file.stem)), file.read_bytes()


def pmtiles(path: Path, tile) -> bytes:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.write_tile(zxy_to_tileid(*tile[0]), tile[1])
        header = {"tile_type": TileType.MVT, "tile_compression": Compression.NONE, "min_zoom": 14, "max_zoom": 14}
        west, south, east, north = (int(v * 1e7) for v in frame().total_bounds)
        header |= {"min_lon_e7": west, "min_lat_e7": south, "max_lon_e7": east, "max_lat_e7": north}
        header |= {"center_zoom": 14, "center_lon_e7": 0, "center_lat_e7": 0}
        writer.finalize(header, {"vector_layers": [{"id": "stuff"}]})
    return path.read_bytes()


def test_pmtiles(tile, tmp_path):
    path = tmp_path / "a.pmtiles"
    assert 0 < only_ours(as_file(path), pmtiles(path, tile)) < MUTATIONS


def mbtiles(path: Path, tile) -> None:
    (zoom, x, y), data = tile
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TABLE metadata (name, value)")
        file.execute("CREATE TABLE tiles (zoom_level, tile_column, tile_row, tile_data)")
        bounds = ",".join(map(str, frame().total_bounds))
        rows = [("format", "pbf"), ("bounds", bounds), ("json", '{"vector_layers": [{"id": "stuff"}]}')]
        file.executemany("INSERT INTO metadata VALUES (?, ?)", rows)
        file.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", (zoom, x, (1 << zoom) - 1 - y, data))


def test_mbtiles(tile, tmp_path):
    path = tmp_path / "a.mbtiles"
    mbtiles(path, tile)
    assert 0 < only_ours(as_file(path), path.read_bytes()) < MUTATIONS


@pytest.mark.filterwarnings("ignore::terramorph.errors.InputWarning")
def test_mbtiles_with_values_of_other_types(tile, tmp_path):
    """Every column takes any type: the values are damaged, and the database is whole."""
    strange = (None, -1, 1.5, 1 << 62, "x", b"\xff\xfe", "[" * 3000, '{"vector_layers": 3}', "nan,1,2,3")
    changes = [f"UPDATE tiles SET {name} = ?" for name in ("zoom_level", "tile_column", "tile_row", "tile_data")]
    changes += [f"UPDATE metadata SET value = ? WHERE name = '{name}'" for name in ("format", "bounds", "json")]
    changes += ["UPDATE metadata SET name = ?", "INSERT INTO tiles VALUES (?, 0, 0, 0)"]
    path = tmp_path / "a.mbtiles"
    mbtiles(path, tile)
    whole = path.read_bytes()
    refused = 0
    for change in changes:
        for value in strange:
            path.write_bytes(whole)
            with closing(sqlite3.connect(path)) as file, file:
                file.execute("PRAGMA synchronous = OFF")
                file.execute(change, (value,))
            try:
                with VectorSource(path, STYLE) as source:
                    source.read(GRID)
            except TerramorphError:
                refused += 1
    assert 0 < refused < len(changes) * len(strange)


DRIVERS = {
    "a.geojson": 4326,
    "a.geojsonl": 4326,
    "a.fgb": 32633,
    "a.gpkg": 32633,
    "a.gml": 32633,
    "a.mif": 32633,
    "a.parquet": 32633,
}


@pytest.mark.parametrize("name", DRIVERS)
def test_files_that_gdal_reads(tmp_path, name):
    path = tmp_path / name
    data = frame(DRIVERS[name])
    data.to_parquet(path) if name.endswith("parquet") else data.to_file(path, engine="pyogrio")
    whole = path.read_bytes()
    for beside in tmp_path.glob("a.xsd"):
        beside.unlink()
    assert 0 < only_ours(as_file(path), whole) <= MUTATIONS


def test_kml(tmp_path):
    path = tmp_path / "a.kml"
    frame().iloc[:2].to_file(path, driver="KML", engine="pyogrio")
    assert 0 < only_ours(as_file(path, kind="park"), path.read_bytes()) <= MUTATIONS


@pytest.mark.parametrize("suffix", [".shp", ".shx", ".dbf", ".prj", ".cpg"])
def test_parts_of_a_shapefile(tmp_path, suffix):
    path = tmp_path / "a.shp"
    frame().iloc[:2].to_file(path)
    part = path.with_suffix(suffix)

    def parse(data: bytes) -> object:
        part.write_bytes(data)
        with VectorSource(path, STYLE) as source:
            return source.read(GRID)

    only_ours(parse, part.read_bytes())


def test_openstreetmap_xml(tmp_path):
    degrees = shapely.get_coordinates(frame().geometry.iloc[1].geoms[0])
    nodes = "".join(f'<node id="{i}" lat="{y}" lon="{x}"/>' for i, (x, y) in enumerate(degrees[:4], 1))
    refs = "".join(f'<nd ref="{i}"/>' for i in (1, 2, 3, 4, 1))
    tags = '<tag k="natural" v="coastline"/>'
    text = f'<?xml version="1.0"?><osm version="0.6">{nodes}<way id="1">{refs}{tags}</way></osm>'
    pyogrio.set_gdal_config_options({"OSM_MAX_TMPFILE_SIZE": "1"})  # 100 MB are made ready otherwise, each time
    only_ours(
        as_file(tmp_path / "a.osm"), text.encode(), count=max(MUTATIONS // 15, 2)
    )  # GDAL makes an index ready nine times a file
    pyogrio.set_gdal_config_options({"OSM_MAX_TMPFILE_SIZE": None})


def test_areas(tmp_path):
    path = tmp_path / "a.geojson"
    frame().to_file(path)

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        return read_polygons(path)

    assert 0 < only_ours(parse, path.read_bytes()) < MUTATIONS


def test_zips(tmp_path):
    frame().to_file(tmp_path / "a.fgb")
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a.fgb", "a.fgb")
    assert 0 < only_ours(as_file(path), path.read_bytes()) <= MUTATIONS


@pytest.mark.parametrize(("load", "folder", "name"), [(load_style, "styles", "osm"), (load_table, "tables", "plain")])
def test_styles_and_tables(tmp_path, load, folder, name):
    import terramorph.cartography as package

    path = tmp_path / "own.toml"

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        return load(path)

    whole = Path(package.__file__).parent / folder / f"{name}.toml"
    assert 0 < only_ours(parse, whole.read_bytes(), seed=1) < MUTATIONS


def test_surfaces():
    """Geometries that shapely does not know are walked by hand."""
    face = shapely.to_wkb(shapely.Polygon([(0, 0), (9, 0), (9, 9)]))
    surface = b"\x01\x0f\x00\x00\x00\x02\x00\x00\x00" + face * 2
    collection = b"\x01\x07\x00\x00\x00\x03\x00\x00\x00" + surface * 2 + face

    def parse(data: bytes) -> object:
        with library_errors(Path("a.gpkg")):
            return read_wkb(np.array([data], object))

    only_ours(parse, collection)
    deep = b"\x01\x07\x00\x00\x00\x01\x00\x00\x00" * 40 + surface  # GDAL itself gives no deeper ones
    assert read_wkb(np.array([deep], object))[0].is_empty


def test_what_is_unpacked_is_bounded(monkeypatch):
    monkeypatch.setattr("terramorph.raster.tiles.reader.MOST_BYTES", 1 << 20)
    bomb = gzip.compress(bytes((1 << 20) + 1))
    with pytest.raises(OSError, match="more than 1 MiB"):
        unpacked(bomb)
    assert unpacked(gzip.compress(b"tile")) == unpacked(zlib.compress(b"tile")) == unpacked(b"tile") == b"tile"
    for damaged in mutations(gzip.compress(b"tile" * 100), 0):
        try:
            unpacked(damaged)
        except OSError:
            continue
