"""MBTiles, PMTiles, and what `open_source` makes of a path."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from odc.geo.crs import CRS
from PIL import Image
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer
from pyproj import Transformer
from tests.fuzz import MUTATIONS, only_ours

from terramorph.errors import InputWarning, RasterError
from terramorph.geo.mercator import TileBox, pixel_grid
from terramorph.raster import TileSource
from terramorph.raster.tiles import MBTiles, PMTiles
from terramorph.raster.tiles.source import decode_tile
from terramorph.sources import open_source

Z, X, Y = 15, 17601, 10746
SCENE = np.random.default_rng(8).integers(0, 256, (3, 512, 768), dtype=np.uint8)
GRID = pixel_grid(Z, TileBox(X, Y, X + 3, Y + 2), 256)
MISSING = (X + 1, Y + 1)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()


def tiles():
    found = {}
    for x in range(X, X + 3):
        for y in range(Y, Y + 2):
            if (x, y) != MISSING:
                found[Z, x, y] = png(SCENE[:, (y - Y) * 256 :, (x - X) * 256 :][:, :256, :256])
    found[Z - 1, X // 2, Y // 2] = png(np.full((3, 256, 256), 7, np.uint8))
    return found


def write_mbtiles(path, tiles, metadata=(), drop=None):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE metadata (name text, value text)")
        connection.execute(
            "CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob)"
        )
        connection.execute("CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row)")
        connection.executemany("INSERT INTO metadata VALUES (?, ?)", dict(metadata).items())
        rows = [(z, x, 2**z - 1 - y, data) for (z, x, y), data in tiles.items()]
        connection.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", rows)
        if drop:
            connection.execute(f"DROP TABLE {drop}")
    connection.close()
    return path


def degrees_of(grid):
    to_degrees = Transformer.from_crs(3857, 4326, always_xy=True)
    west, south = to_degrees.transform(grid.bounds.left, grid.bounds.bottom)
    east, north = to_degrees.transform(grid.bounds.right, grid.bounds.top)
    return west, south, east, north


def write_pmtiles(path, tiles, kind=TileType.PNG, bounds=None, **metadata):
    west, south, east, north = bounds or degrees_of(GRID)
    header = {"tile_type": kind, "tile_compression": Compression.NONE, "center_zoom": 0}
    for name, value in zip(("min_lon", "min_lat", "max_lon", "max_lat"), (west, south, east, north), strict=True):
        header[f"{name}_e7"] = int(value * 1e7)
    header |= {"center_lon_e7": 0, "center_lat_e7": 0}
    with path.open("wb") as file:
        writer = Writer(file)
        for number, data in sorted((zxy_to_tileid(*key), data) for key, data in tiles.items()):
            writer.write_tile(number, data)
        writer.finalize(header, metadata)
    return path


def expected():
    mask = np.ones((512, 768), bool)
    mask[256:, 256:512] = False
    return SCENE * mask, mask


@pytest.mark.parametrize("kind", ["mbtiles", "pmtiles"])
def test_archives_read_as_stored(tmp_path, kind):
    path = tmp_path / f"a town 100%.{kind}"
    about = {"attribution": "Town of A", "format": "png"}
    if kind == "mbtiles":
        write_mbtiles(path, tiles(), about)
    else:
        write_pmtiles(path, tiles(), **about)
    before = path.read_bytes()
    with open_source(path) as source:
        assert isinstance(source, TileSource)
        assert (source.zoom, source.grid, source.licence) == (Z, GRID, "Town of A")
        raster = source.read(GRID)
        coarse = source.read(GRID.resized(64, 96))
        fingerprint = source.fingerprint()
    pixels, mask = expected()
    assert np.array_equal(raster.mask, mask)
    assert np.array_equal(raster.pixels, pixels)
    assert (
        np.abs(coarse.pixels[:, 4:8, 4:8] - 127.5).max() < 60
    )  # means of noise: a coarser zoom without all tiles is 7
    assert len(fingerprint) == 32
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with open_source(path, zoom=Z - 1, terms="by letter") as source:
        assert source.licence == "by letter"
        assert (source.read(pixel_grid(Z - 1, TileBox(X // 2, Y // 2, X // 2 + 1, Y // 2 + 1), 256)).pixels == 7).all()


@pytest.mark.parametrize("kind", ["mbtiles", "pmtiles"])
def test_threads_read_the_same_and_close_ends_it(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    (write_mbtiles if kind == "mbtiles" else write_pmtiles)(path, tiles())
    windows = [GRID.crop(y, x, 120, 200) for y in range(0, 390, 60) for x in range(0, 560, 80)]
    source = open_source(path)
    with ThreadPoolExecutor(4) as pool:
        rasters = list(pool.map(source.read, windows))
    pixels, _ = expected()
    for window, raster in zip(windows, rasters, strict=True):
        x, y = (round(v) for v in ~GRID.affine @ (window.affine @ (0, 0)))
        assert np.array_equal(raster.pixels, pixels[:, y : y + 120, x : x + 200])
    source.close()
    with pytest.raises(RasterError, match="closed"):
        source.read(GRID)


def test_pmtiles_with_leaf_directories_and_repeated_tiles(tmp_path):
    # Enough tiles of different lengths for the index to need leaves; the sea's are one tile, many times.
    random = np.random.default_rng(3)
    sea, land = b"sea", {(x, y): random.bytes(random.integers(1, 400)) for x in range(40, 160) for y in range(160)}
    many = {(8, x, y): land.get((x, y), sea) for x in range(160) for y in range(160)} | {(7, 0, 0): b"all"}
    reader = PMTiles(write_pmtiles(tmp_path / "a.pmtiles", many))
    assert reader.header["leaf_directory_length"] > 0
    assert reader.zooms == (7, 8)
    for key in [(8, 0, 0), (8, 99, 159), (8, 100, 0), (8, 159, 159), (8, 131, 77), (7, 0, 0)]:
        assert reader.read(*key) == many[key]
    for key in [(8, 160, 0), (8, 255, 255), (7, 1, 0), (9, 0, 0), (8, 256, 0), (8, -1, 0)]:
        assert reader.read(*key) is None
        assert not reader.has(*key)
    reader.close()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"drop": "tiles"}, "has no table of tiles"),
        (
            {"metadata": {"format": "pbf"}, "tiles": {(3, 1, 1): b"mvt"}},
            "tile 3/1/1 is damaged",
        ),
        ({"tiles": {(3, 1, 1): gzip.compress(b"\x1a\x03mvt")}}, "tile 3/1/1 is damaged"),
        ({"tiles": {}}, "holds no tiles"),
        ({"tiles": {(31, 9, 1): b"x"}}, r"zooms \[31\], not all of 0 to 30"),
        ({"tiles": {(3, 9, 1): b"x"}}, "tile x=9 y=1 of zoom 3, and there is no such tile"),
    ],
)
def test_what_is_no_mbtiles(tmp_path, options, sentence):
    path = write_mbtiles(tmp_path / "a.mbtiles", **{"tiles": tiles()} | options)
    with pytest.raises(RasterError, match=rf"a\.mbtiles.*{sentence}"):
        open_source(path)


@pytest.mark.parametrize("kind", ["mbtiles", "pmtiles"])
def test_damaged_archives(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    whole = (write_mbtiles if kind == "mbtiles" else write_pmtiles)(path, tiles()).read_bytes()
    for data in (b"", b"SQLite format 2", whole[:90], whole[:200]):
        path.write_bytes(data)
        with pytest.raises(RasterError, match=rf"a\.{kind}"):
            open_source(path)
    path.write_bytes(whole[:-400_000])
    with pytest.raises(RasterError, match=rf"a\.{kind}"), open_source(path) as source:
        source.read(GRID)


@pytest.mark.parametrize("kind", ["mbtiles", "pmtiles"])
def test_a_damaged_tile_is_named(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    bad = tiles() | {(Z, X + 2, Y): b"\x89PNG\r\n\x1a\nnothing"}
    (write_mbtiles if kind == "mbtiles" else write_pmtiles)(path, bad)
    with open_source(path) as source, pytest.raises(RasterError, match=rf"a\.{kind}: tile {Z}/{X + 2}/{Y} is damaged"):
        source.read(GRID)


def test_vector_tiles_are_no_source_of_pixels(tmp_path):
    path = write_pmtiles(tmp_path / "a.pmtiles", {(3, 1, 1): b"x"}, TileType.MVT)
    with pytest.raises(RasterError, match="holds vector tiles"):
        TileSource(PMTiles(path))
    write_pmtiles(path, {(3, 1, 1): b"x"}, TileType.AVIF)
    with pytest.raises(RasterError, match="holds AVIF tiles"):
        open_source(path)


def test_what_is_nothing_to_open(tmp_path):
    (tmp_path / "a.geojson").write_text("{}")
    (tmp_path / "a.sqlitedb").write_text("")
    (tmp_path / "folder").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    for name, sentence in {
        "none.tif": "does not exist; check the path",
        "a.geojson": "as a vector file",
        "a.sqlitedb": "convert it to MBTiles",
        "folder": "holds no PNG, JPEG or WebP file",
    }.items():
        with pytest.raises(RasterError, match=sentence):
            open_source(tmp_path / name)
    with pytest.raises(RasterError, match="a layout is of folders"):
        open_source(tmp_path / "a.png", layout="xyz")


def test_an_image_is_opened_too(tmp_path):
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "a.png")
    with open_source(tmp_path / "a.png") as source:
        assert source.grid.shape == (4, 6)


def test_tiles_of_yandex_lie_elsewhere(tmp_path):
    path = write_mbtiles(tmp_path / "a.mbtiles", tiles())
    with open_source(path, crs=CRS("EPSG:3395")) as source:
        assert source.grid.crs == CRS("EPSG:3395")
        assert source.read(source.grid).mask.sum() == 5 * 256 * 256
        assert not source.read(GRID.crop(0, 0, 10, 10)).mask.any()  # some 20 km apart at this latitude
    reader = MBTiles(path)
    reader.close()
    with pytest.raises(RasterError, match="closed"):
        reader.read(Z, X, Y)


WRONG_BOUNDS = [(0, 0, 0, 0), (-180, -85, 180, 85), (10, 50, 10.1, 50.1), (61.0, 13.0, 62.0, 14.0)]


@pytest.mark.parametrize("bounds", WRONG_BOUNDS)
@pytest.mark.parametrize("kind", ["mbtiles", "pmtiles", "folder"])
def test_tiles_decide_where_they_lie_and_other_bounds_are_told(tmp_path, kind, bounds):
    path = tmp_path / f"a.{kind}"
    if kind == "pmtiles":
        write_pmtiles(path, tiles(), bounds=bounds)
    elif kind == "mbtiles":
        write_mbtiles(path, tiles(), {"bounds": ",".join(map(str, bounds))})
    else:
        write_folder(path, tiles(), bounds=bounds)
    with pytest.warns(InputWarning, match=r"gives bounds .*; the tiles lie in 13\.37"):
        source = open_source(path)
    with source:
        assert source.grid == GRID
        assert source.read(GRID).mask.sum() == 5 * 256 * 256


def write_folder(path, tiles, suffix=".png", **about):
    for (z, x, y), data in tiles.items():
        (path / f"{z}/{x}").mkdir(parents=True, exist_ok=True)
        (path / f"{z}/{x}/{y}{suffix}").write_bytes(data)
    (path / "tilejson.json").write_text(json.dumps(about))
    return path


@pytest.mark.parametrize("kind", ["mbtiles", "folder"])
def test_rows_counted_from_the_other_side_are_found_by_the_bounds(tmp_path, kind):
    turned = {(z, x, 2**z - 1 - y): data for (z, x, y), data in tiles().items()}
    path, bounds = tmp_path / f"a.{kind}", degrees_of(GRID)
    if kind == "mbtiles":
        write_mbtiles(path, turned, {"bounds": ",".join(map(str, bounds)), "scheme": "xyz"})
    else:
        write_folder(path, turned, bounds=list(bounds))
    with pytest.warns(InputWarning, match="rows of tiles are counted from the"):
        source = open_source(path)
    with source:
        assert source.grid == GRID
        assert np.array_equal(source.read(GRID).pixels, expected()[0])


@pytest.mark.parametrize("kind", ["mbtiles", "pmtiles"])
def test_archives_of_other_pyramids_are_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "mbtiles":
        write_mbtiles(path, tiles(), {"profile": "custom", "crs": "EPSG:5514"})
    else:
        write_pmtiles(path, tiles(), profile="custom", crs="EPSG:5514")
    with pytest.raises(RasterError, match="in EPSG:5514; only tiles of web mercator"):
        open_source(path)


def test_the_word_scheme_does_not_turn_rows(tmp_path):
    about = {"scheme": "xyz", "bounds": ",".join(map(str, degrees_of(GRID)))}
    with open_source(write_mbtiles(tmp_path / "a.mbtiles", tiles(), about)) as source:
        assert source.grid == GRID
    with pytest.warns(InputWarning, match="scheme xyz and no bounds"):
        source = open_source(write_mbtiles(tmp_path / "b.mbtiles", tiles(), {"scheme": "xyz"}))
    with source:
        assert source.grid == GRID


@pytest.mark.parametrize("kind", ["mbtiles", "pmtiles", "folder"])
def test_a_stray_tile_of_a_finer_zoom_does_not_count(tmp_path, kind):
    path, many = tmp_path / f"a.{kind}", {key: data for key, data in tiles().items() if key[0] == Z}
    many[Z + 2, X * 4 + 1, Y * 4 + 1] = many[Z + 3, X * 8 + 2, Y * 8 + 2] = png(np.full((3, 256, 256), 9, np.uint8))
    {"mbtiles": write_mbtiles, "pmtiles": write_pmtiles, "folder": write_folder}[kind](path, many)
    with pytest.warns(InputWarning, match=rf"zoom {Z + 3} \(1 of them\), zoom {Z + 2} .* cover little"):
        source = open_source(path)
    with source:
        assert source.grid == GRID
    for zoom, shape in ((Z, GRID.shape), (Z + 3, (256, 256))):
        with open_source(path, zoom=zoom) as source:
            assert (source.zoom, source.grid.shape) == (zoom, shape)
    with pytest.raises(RasterError, match="has no tiles of zoom 3"):
        open_source(path, zoom=3)
    with pytest.warns(InputWarning, match="cover little"):
        source = open_source(path, zoom=3, any_zoom=True)
    with source:
        assert source.zoom == Z


def test_a_finer_zoom_of_part_of_the_ground_counts(tmp_path):
    many = {key: data for key, data in tiles().items() if key[0] == Z}
    many |= {(Z + 1, 2 * X + x, 2 * Y + y): many[Z, X, Y] for x in range(3) for y in range(4)}
    with open_source(write_mbtiles(tmp_path / "a.mbtiles", many)) as source:
        assert source.zoom == Z + 1


def test_mbtiles_without_metadata(tmp_path):
    path = write_mbtiles(tmp_path / "a.mbtiles", tiles(), drop="metadata")
    with pytest.warns(InputWarning, match="no metadata table"):
        source = open_source(path)
    with source:
        assert np.array_equal(source.read(GRID).pixels, expected()[0])


def test_mbtiles_of_compressed_pictures_with_text_for_numbers(tmp_path):
    path = tmp_path / "a.mbtiles"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE metadata (name, value)")
        connection.execute("CREATE TABLE tiles (zoom_level, tile_column, tile_row, tile_data)")
        rows = [(str(z), str(x), f"{2**z - 1 - y}", gzip.compress(data, 1)) for (z, x, y), data in tiles().items()]
        connection.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", rows)
    connection.close()
    with open_source(path) as source:
        assert (source.zoom, source.grid) == (Z, GRID)
        assert np.array_equal(source.read(GRID).pixels, expected()[0])


@pytest.fixture(scope="module")
def mbtiles(tmp_path_factory):
    return write_mbtiles(tmp_path_factory.mktemp("mbtiles") / "a.mbtiles", tiles()).read_bytes()


@pytest.mark.parametrize("column", ["zoom_level", "tile_column", "tile_row", "tile_data"])
@pytest.mark.parametrize(
    "value", ["NULL", "'x'", "-1", "1e300", "X'ff00'", "9223372036854775807", "3.5", "zeroblob(9)"]
)
@pytest.mark.parametrize("which", ["1=1", f"zoom_level = {Z - 1}", "rowid = 3"])
def test_mbtiles_with_values_of_any_type(tmp_path, mbtiles, column, value, which):
    path = tmp_path / "a.mbtiles"
    path.write_bytes(mbtiles)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("DROP INDEX tile_index")
        connection.execute(f"UPDATE tiles SET {column} = {value} WHERE {which}")
    connection.close()
    with warnings.catch_warnings(), suppress(RasterError):
        warnings.simplefilter("ignore")
        with open_source(path) as source:
            source.read(GRID)


def test_names_for_fine_screens(tmp_path):
    fine = {key: png(np.zeros((3, 512, 512), np.uint8)) for key in tiles()}
    with open_source(write_folder(tmp_path / "a", fine, "@2x.png")) as source:
        assert (source.tile_size, source.zoom) == (512, Z)


def test_the_index_of_any_pmtiles_is_read_as_the_package_reads_it(tmp_path):
    random = np.random.default_rng(1)
    for number in range(20):
        zoom = int(random.integers(0, 7))
        left, top = random.integers(0, 1 << zoom, 2).tolist()
        right, bottom = (int(random.integers(side, 1 << zoom)) + 1 for side in (left, top))
        # A few contents, so that runs are long.
        many = {
            (zoom, x, y): bytes([int(random.integers(0, 2)), 1])
            for x in range(left, right)
            for y in range(top, bottom)
            if random.random() < 0.9 or number % 2
        } or {(zoom, 0, 0): b"x"}
        reader = PMTiles(write_pmtiles(tmp_path / f"{number}.pmtiles", many))
        xs, ys = [x for _, x, _ in many], [y for _, _, y in many]
        assert reader.zooms == (zoom,)
        assert reader.box(zoom) == TileBox(min(xs), min(ys), max(xs) + 1, max(ys) + 1)
        assert all(reader.read(*key) == data for key, data in many.items())
        assert (zoom, *reader.first(zoom)) in many
        reader.close()


@pytest.mark.parametrize("kind", ["mbtiles", "pmtiles"])
def test_mutated_archives_are_read_or_refused(tmp_path, kind):
    path, small = tmp_path / f"a.{kind}", png(np.zeros((3, 256, 256), np.uint8))
    few = {(z, 5 >> 3 - z, 3 >> 3 - z): small for z in range(4)}
    (write_mbtiles if kind == "mbtiles" else write_pmtiles)(path, few)
    grid = pixel_grid(3, TileBox(5, 3, 6, 4), 256)

    def parse(data):
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_source(path) as source:
                source.read(grid)

    assert 10 < only_ours(parse, path.read_bytes(), count=MUTATIONS) < MUTATIONS


def test_a_webp_that_claims_to_be_large_is_not_opened():
    for name, place, value in (("VP8X", 24, b"\xff\x3f\0\xff\x3f\0"), ("VP8L", 21, b"\xff\xff\xff\x0f")):
        data = bytearray(b"RIFF\0\0\0\0WEBP" + name.encode() + bytes(40))
        data[place : place + len(value)] = value
        with pytest.raises(RasterError, match="is 16384 x 16384 pixels"):
            decode_tile(bytes(data), "tile")
