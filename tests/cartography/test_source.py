from __future__ import annotations

import gzip
import shutil
import sqlite3
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
from affine import Affine
from odc.geo.crs import CRS
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from terramorph.cartography import CLASSES, PALETTE, VectorSource, classic, classify, load_style
from terramorph.cartography.detect import is_vector
from terramorph.cartography.vectorfile import project_box
from terramorph.errors import ConfigError, InputWarning, RasterError
from terramorph.geo import Grid

UTM = CRS("EPSG:32633")
X, Y = 392_000, 5_820_000
GRID = Grid(256, 256, Affine(2, 0, X, 0, -2, Y), UTM)
SHARED = Path(__file__).parents[3] / "shared" / "data" / "geo"


def frame(crs="EPSG:32633"):
    """A park with a hole, a building, a highway and two roads, one of which runs in a tunnel."""
    geometries = [
        Polygon(box(X, Y - 200, X + 200, Y).exterior, [box(X + 60, Y - 140, X + 140, Y - 60).exterior]),
        MultiPolygon([box(X + 300, Y - 200, X + 400, Y - 100), box(X + 300, Y - 300, X + 400, Y - 250)]),
        LineString([(X, Y - 300), (X + 512, Y - 300)]),
        LineString([(X + 250, Y), (X + 250, Y - 512)]),
        LineString([(X, Y - 400), (X + 512, Y - 400)]),
    ]
    tags = {
        "leisure": ["park", None, None, None, None],
        "building": [None, "yes", None, None, None],
        "highway": [None, None, "motorway", "residential", "primary"],
        "tunnel": [None, None, None, None, "yes"],
    }
    return geopandas.GeoDataFrame(tags, geometry=geometries, crs="EPSG:32633").to_crs(crs)


def polygons():
    return frame().iloc[:2]


def check(raster):
    """What `frame` must look like on `GRID`."""
    assert raster.mask.all()
    assert raster.pixels.dtype == np.uint8
    classes = classify(raster.pixels)
    seen = [CLASSES[classes[y, x]] for y, x in [(10, 10), (50, 50), (70, 175), (135, 160), (150, 60), (240, 125)]]
    assert seen == ["park", "land", "building", "building", "highway", "road"]
    assert CLASSES[classes[200, 50]] == "land"
    assert (classes == CLASSES.index("park")).mean() == pytest.approx((200**2 - 80**2) / 512**2, rel=0.03)


def covers_the_town(source):
    bounds = project_box(source.extent.boundingbox.bbox, source.extent.crs, UTM)
    assert np.allclose(bounds, (X, Y - 512, X + 512, Y), atol=30)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3857"])
@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb"])
def test_files_are_drawn_on_the_grid_that_is_asked_for(tmp_path, suffix, crs):
    path = tmp_path / f"town.{suffix}"
    frame(crs).to_file(path)
    assert is_vector(path)
    with VectorSource(path, classic()) as source:
        assert (source.grid, source.bands, source.sequential) == (None, ("red", "green", "blue"), False)
        raster = source.read(GRID)
        assert raster.grid == GRID
        check(raster)
        assert source.table.name == "osm"
        covers_the_town(source)


def test_web_mercator_grids_keep_widths_in_metres(tmp_path):
    path = tmp_path / "town.gpkg"
    frame().to_file(path)
    left, _, _, top = frame("EPSG:3857").total_bounds
    grid = Grid(200, 200, Affine(4, 0, left, 0, -4, top), CRS("EPSG:3857"))
    raster = VectorSource(path, load_style("classes")).read(grid)
    column = classify(raster.pixels)[:, 20] == CLASSES.index("highway")
    assert column.sum() * grid.ground_resolution == pytest.approx(16, abs=3)


def test_tiles_have_the_pixels_of_the_whole_and_threads_agree(tmp_path):
    path = tmp_path / "town.fgb"
    frame("EPSG:4326").to_file(path)
    whole = VectorSource(path, classic()).read(GRID).pixels
    windows = [(y, x) for y in range(-64, 320, 64) for x in range(-64, 320, 64)]
    source = VectorSource(path, classic())
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda w: source.read(GRID.crop(*w, 64, 64)).pixels, windows))
    for (y, x), part in zip(windows, parts, strict=True):
        if 0 <= y < 256 and 0 <= x < 256:
            assert np.abs(part.astype(int) - whole[:, y : y + 64, x : x + 64]).max() <= 24
    far = source.read(GRID.crop(0, 20_000, 64, 64))
    assert (far.pixels == PALETTE[0][:, None, None]).all()
    assert source.skipped == 0


def test_a_shapefile_and_its_zip(tmp_path):
    path = tmp_path / "parts.shp"
    polygons().to_file(path)
    with zipfile.ZipFile(tmp_path / "parts.zip", "w") as archive:
        for part in tmp_path.glob("parts.*"):
            if part.suffix != ".zip":
                archive.write(part, part.name)
    for each in (path, tmp_path / "parts.zip"):
        assert is_vector(each)
        classes = classify(VectorSource(each, classic()).read(GRID).pixels)
        assert CLASSES[classes[70, 175]] == "building"
    before = VectorSource(path, classic()).fingerprint()
    (tmp_path / "parts.dbf").write_bytes((tmp_path / "parts.dbf").read_bytes() + b" ")
    assert VectorSource(path, classic()).fingerprint() != before


def test_a_shapefile_without_its_parts_is_refused_and_crs_can_be_given(tmp_path):
    path = tmp_path / "parts.shp"
    polygons().to_file(path)
    (tmp_path / "parts.prj").unlink()
    with pytest.raises(RasterError, match=r"no CRS \(the .prj"):
        VectorSource(path, classic())
    check_one = VectorSource(path, classic(), crs="EPSG:32633").read(GRID)
    assert CLASSES[classify(check_one.pixels)[70, 175]] == "building"
    (tmp_path / "parts.dbf").unlink()
    with pytest.raises(RasterError, match=r"no \.dbf"):
        VectorSource(path, classic(), crs="EPSG:32633")
    plain = VectorSource(path, classic(), crs="EPSG:32633", kind="water").read(GRID)
    assert CLASSES[classify(plain.pixels)[10, 10]] == "water"
    (tmp_path / "parts.shx").unlink()
    with pytest.raises(RasterError, match=r"no \.shx"):
        VectorSource(path, classic(), crs="EPSG:32633", kind="water")


def osm_xml(path):
    lonlat = frame("EPSG:4326")
    nodes, ways = [], []
    tags = [c for c in lonlat.columns if c != "geometry"]
    for row in [0, 2, 3, 4]:
        geometry = lonlat.geometry.iloc[row]
        line = geometry.exterior if row == 0 else geometry
        first = len(nodes) + 1
        nodes += [f'<node id="{first + i}" lat="{y}" lon="{x}" version="1"/>' for i, (x, y) in enumerate(line.coords)]
        refs = list(range(first, first + len(line.coords)))
        refs[-1] = first if row == 0 else refs[-1]
        found = "".join(
            f'<tag k="{t}" v="{lonlat[t].iloc[row]}"/>' for t in tags if isinstance(lonlat[t].iloc[row], str)
        )
        ways.append(f'<way id="{row + 1}" version="1">' + "".join(f'<nd ref="{r}"/>' for r in refs) + found + "</way>")
    path.write_text(f'<?xml version="1.0"?><osm version="0.6">{"".join(nodes + ways)}</osm>')


def test_openstreetmap_with_its_packed_tags(tmp_path):
    path = tmp_path / "town.osm"
    osm_xml(path)
    source = VectorSource(path, classic())
    classes = classify(source.read(GRID).pixels)
    assert [CLASSES[classes[y, x]] for y, x in [(10, 10), (150, 60), (240, 125), (200, 50)]] == [
        "park",
        "highway",
        "road",
        "land",
    ]
    assert "OpenStreetMap" in source.licence
    covers_the_town(source)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """The town as vector tiles of three layers, written by GDAL: bytes by (zoom, x, y). Tiles joined are a tile."""
    folder = tmp_path_factory.mktemp("tiles")
    whole = frame("EPSG:3857")
    whole["kind_detail"], whole["is_tunnel"] = whole["highway"], [False, False, False, False, True]
    whole["kind"] = whole["leisure"]
    found: dict[tuple[int, int, int], bytes] = {}
    for name, rows in {"landuse": slice(0, 1), "buildings": slice(1, 2), "roads": slice(2, 5)}.items():
        part = whole.iloc[rows][["kind", "kind_detail", "is_tunnel", "geometry"]]
        options = {"MINZOOM": 15, "MAXZOOM": 15, "COMPRESS": "NO"}
        pyogrio.write_dataframe(part, folder / name, layer=name, driver="MVT", **options)
        for file in (folder / name).rglob("*.pbf"):
            zoom, x, y = (int(w) for w in (*file.parts[-3:-1], file.stem))
            found[zoom, x, y] = found.get((zoom, x, y), b"") + file.read_bytes()
    return found


def as_pmtiles(tiles, path, layers=("land", "buildings", "roads"), bounds=None):
    west, south, east, north = frame("EPSG:4326").total_bounds if bounds is None else bounds
    with path.open("wb") as file:
        writer = Writer(file)
        for number, data in sorted(tiles.items(), key=lambda t: zxy_to_tileid(*t[0])):
            writer.write_tile(zxy_to_tileid(*number), gzip.compress(data))
        header = {"tile_type": TileType.MVT, "tile_compression": Compression.GZIP, "min_zoom": 15, "max_zoom": 15}
        header |= {"min_lon_e7": int(west * 1e7), "min_lat_e7": int(south * 1e7), "max_lon_e7": int(east * 1e7)}
        header |= {"max_lat_e7": int(north * 1e7), "center_zoom": 15, "center_lon_e7": 0, "center_lat_e7": 0}
        metadata = {"attribution": "<a>Town &amp; Sons</a>", "vector_layers": [{"id": n} for n in layers]}
        writer.finalize(header, metadata)


def as_mbtiles(tiles, path):
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TABLE metadata (name TEXT, value TEXT)")
        file.execute("CREATE TABLE tiles (zoom_level INT, tile_column INT, tile_row INT, tile_data BLOB)")
        bounds = ",".join(map(str, frame("EPSG:4326").total_bounds))
        file.executemany("INSERT INTO metadata VALUES (?, ?)", [("format", "pbf"), ("bounds", bounds)])
        rows = [(z, x, (1 << z) - 1 - y, gzip.compress(d)) for (z, x, y), d in tiles.items()]
        file.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", rows)


@pytest.mark.parametrize(("suffix", "write"), [("pmtiles", as_pmtiles), ("mbtiles", as_mbtiles)])
def test_vector_tiles_are_drawn_whatever_the_metadata_calls_their_layers(tiles, tmp_path, suffix, write):
    path = tmp_path / f"town.{suffix}"
    write(tiles, path)
    assert is_vector(path)
    with VectorSource(path, classic()) as source:
        check(source.read(GRID))
        assert source.table.name == "protomaps"
        covers_the_town(source)
        assert source.licence == ("Town & Sons" if suffix == "pmtiles" else None)


@pytest.mark.parametrize("bounds", [(0, 0, 0, 0), (-180, -85, 180, 85), (52, 13, 53, 14)])
def test_the_tiles_that_there_are_count_and_not_what_a_header_states(tiles, tmp_path, bounds):
    path = tmp_path / "town.pmtiles"
    as_pmtiles(tiles, path, bounds=bounds)
    with pytest.warns(InputWarning, match="gives bounds"):
        source = VectorSource(path, classic())
    check(source.read(GRID))
    left, bottom, right, top = project_box(source.extent.boundingbox.bbox, source.extent.crs, UTM)
    assert X - 3000 < left < X < right < X + 3000
    assert Y - 3000 < bottom < Y < top < Y + 3000


def test_numbers_and_truth_values_of_tiles_are_text_as_their_writer_wrote_them(tmp_path):
    """GDAL gives all numbers of an attribute as floating point where a feature has none."""
    own = tmp_path / "own.toml"
    kinds = {"level": {"-1": "water", "2": "park"}, "built": {"true": "building"}}
    own.write_text(
        "\n".join(
            f'[[match]]\nkeys = ["{key}"]\n[match.kinds]\n' + "\n".join(f'"{v}" = "{k}"' for v, k in each.items())
            for key, each in kinds.items()
        )
    )
    places = [box(X + 100 * n, Y - 100, X + 100 * (n + 1), Y) for n in range(4)]
    data = geopandas.GeoDataFrame({"level": [-1, 2, None, None]}, geometry=places, crs=32633).to_crs(3857)
    data["level"], data["built"] = data["level"].astype("Int64"), [None, None, True, False]
    data["built"] = data["built"].astype("boolean")
    path = tmp_path / "town.mbtiles"
    pyogrio.write_dataframe(data, path, layer="town", driver="MVT", MINZOOM=15, MAXZOOM=15)
    with VectorSource(path, load_style("classes"), table=own) as source:
        classes = classify(source.read(GRID).pixels)
    assert [CLASSES[classes[25, x]] for x in (25, 75, 125, 175)] == ["water", "park", "building", "land"]


def test_no_seam_shows_where_tiles_meet(tiles, tmp_path):
    path = tmp_path / "town.pmtiles"
    as_pmtiles(tiles, path)
    assert len(tiles) > 1
    seen = VectorSource(path, load_style("osm")).read(GRID).pixels.astype(int)
    straight = tmp_path / "town.gpkg"
    frame().to_file(straight)
    whole = VectorSource(straight, load_style("osm")).read(GRID).pixels
    assert (np.abs(seen - whole).max(0) > 100).mean() < 0.002


def test_damaged_archives_are_named(tiles, tmp_path):
    path = tmp_path / "town.pmtiles"
    as_pmtiles(dict.fromkeys(tiles, b"\x1a\xff"), path)
    with pytest.raises(RasterError, match=r"tile 15/.* is damaged"):
        VectorSource(path, classic())
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(RasterError, match="cannot be read as PMTiles"):
        VectorSource(path, classic())
    with pytest.raises(RasterError, match="cannot be read as MBTiles"):
        VectorSource(path.rename(tmp_path / "town.mbtiles"), classic())


def test_one_kind_tables_and_what_has_no_kind(tmp_path):
    path = tmp_path / "footprints.gpkg"
    polygons()[["geometry"]].assign(height=3.0).to_file(path, layer="stuff")
    with pytest.raises(RasterError, match=r"stuff \(height\).*Give a kind"):
        VectorSource(path, classic())
    assert CLASSES[classify(VectorSource(path, classic(), kind="building").read(GRID).pixels)[10, 10]] == "building"
    own = tmp_path / "own.toml"
    own.write_text('[[match]]\nkeys = ["height"]\n[match.kinds]\n"3.0" = "water"\n')
    assert CLASSES[classify(VectorSource(path, classic(), table=own).read(GRID).pixels)[10, 10]] == "water"
    with pytest.raises(ConfigError, match="did you mean 'building'"):
        VectorSource(path, classic(), kind="buildings")
    with pytest.raises(RasterError, match="one of them"):
        VectorSource(path, classic(), kind="building", table="osm")
    named = tmp_path / "named.gpkg"
    polygons()[["geometry"]].to_file(named, layer="Building_Footprints")
    assert VectorSource(named, classic()).table.name == "plain"


def test_tags_without_a_known_value_are_refused(tmp_path):
    for suffix in ("gpkg", "geojson"):
        path = tmp_path / f"odd.{suffix}"
        polygons()[["geometry"]].assign(highway="nonsense").to_file(path)
        with pytest.raises(RasterError, match="gives no feature a kind"):
            VectorSource(path, classic())


def test_wrong_input_is_named(tmp_path):
    with pytest.raises(RasterError, match="does not exist"):
        VectorSource(tmp_path / "none.gpkg", classic())
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    assert not is_vector(text)
    with pytest.raises(RasterError, match="not a vector file"):
        VectorSource(text, classic())
    broken = tmp_path / "broken.fgb"
    broken.write_text("hello")
    with pytest.raises(RasterError, match="damaged or of an unknown kind"):
        VectorSource(broken, classic())
    points = tmp_path / "points.geojson"
    geopandas.GeoDataFrame({"a": [1]}, geometry=[Point(1, 1)], crs="EPSG:4326").to_file(points)
    with pytest.raises(RasterError, match="no lines or polygons"):
        VectorSource(points, classic())


@pytest.mark.parametrize("suffix", ["geojson", "gpkg"])
def test_coordinates_that_are_no_degrees_are_refused(tmp_path, suffix):
    path = tmp_path / f"swapped.{suffix}"
    geopandas.GeoDataFrame({"building": ["yes"]}, geometry=[box(43, 130, 44, 131)], crs="EPSG:4326").to_file(path)
    with pytest.raises(RasterError, match="swapped"):
        VectorSource(path, classic())


def test_grids_that_cannot_be_drawn_on_are_refused(tmp_path):
    path = tmp_path / "town.gpkg"
    frame().to_file(path)
    source = VectorSource(path, classic())
    with pytest.raises(RasterError, match="without a CRS"):
        source.read(Grid.pixels(64, 64))
    with pytest.raises(RasterError, match="degrees"):
        source.read(Grid(64, 64, Affine(1e-4, 0, 13, 0, -1e-4, 52), CRS("EPSG:4326")))
    source.close()
    with pytest.raises(RasterError, match="closed"):
        source.read(GRID)


def test_fingerprint_is_content_style_and_table(tmp_path):
    path = tmp_path / "town.gpkg"
    frame().to_file(path)
    copy = Path(shutil.copy(path, tmp_path / "copy.gpkg"))
    prints = {VectorSource(p, classic()).fingerprint() for p in (path, copy)}
    assert len(prints) == 1
    prints.add(VectorSource(path, load_style("osm")).fingerprint())
    prints.add(VectorSource(path, classic(), kind="park").fingerprint())
    assert len(prints) == 3
    assert all(len(p) == 32 for p in prints)


def test_what_is_vector_is_told_by_content_where_suffixes_are_shared(tmp_path):
    def file(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    assert is_vector(file("a.osm.pbf", b"\x00\x00\x00\x0d\x0a\x09OSMHeader"))
    assert not is_vector(file("1.pbf", b"\x00\x01"))
    assert is_vector(file("c.json", b'{"type": "FeatureCollection", "features": []}'))
    assert not is_vector(file("d.json", b'{"version": 8, "layers": [{"type": "line"}]}'))
    images = bytearray(127)
    images[:8], images[99] = b"PMTiles\x03", 2
    assert not is_vector(file("e.pmtiles", bytes(images)))
    assert not is_vector(file("f.gpkg", b"nothing"))
    assert not is_vector(file("g.zip", b"nothing"))
    assert not is_vector("https://example.org/{z}/{x}/{y}.mvt")


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "firenze.pmtiles").exists(), reason="no data beside the project")
def test_florence_has_what_florence_has():
    grid = Grid(512, 512, Affine(2, 0, 681_000, 0, -2, 4_849_000), CRS("EPSG:32632"))
    with VectorSource(SHARED / "firenze.pmtiles", load_style("classes")) as source:
        pixels = source.read(grid).pixels
        assert source.skipped == 0
    colours = {tuple(c) for c in np.unique(pixels.reshape(3, -1), axis=1).T.tolist()}
    assert colours <= {tuple(c) for c in PALETTE.tolist()}
    shares = np.bincount(classify(pixels).ravel(), minlength=7) / pixels[0].size
    for name, low in {"building": 0.2, "road": 0.1, "water": 0.03, "park": 0.005}.items():
        assert shares[CLASSES.index(name)] > low, name
