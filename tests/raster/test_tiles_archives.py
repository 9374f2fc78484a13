"""MBTiles, PMTiles, and what `open_source` makes of a path."""

from __future__ import annotations

import gzip
import io
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from odc.geo.crs import CRS
from PIL import Image
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer
from pyproj import Transformer

from terramorph.errors import RasterError
from terramorph.raster import TileSource, open_source
from terramorph.raster.tiles import MBTiles, PMTiles
from terramorph.raster.tiles.scheme import TileBox, pixel_grid

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


def write_pmtiles(path, tiles, kind=TileType.PNG, **metadata):
    to_degrees = Transformer.from_crs(3857, 4326, always_xy=True)
    west, south = to_degrees.transform(GRID.bounds.left, GRID.bounds.bottom)
    east, north = to_degrees.transform(GRID.bounds.right, GRID.bounds.top)
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
    assert reader._header["leaf_directory_length"] > 0
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
        ({"drop": "metadata"}, "has tiles but no metadata table"),
        ({"drop": "tiles"}, "has no table of tiles"),
        ({"metadata": {"format": "pbf"}}, "vector tiles; give it as --target to be drawn"),
        ({"tiles": {(3, 1, 1): gzip.compress(b"mvt")}}, "vector tiles; give it as --target to be drawn"),
        ({"tiles": {}}, "holds no tiles"),
        ({"tiles": {(31, 9, 1): b"x"}}, r"zooms \[31\], not all of which there are"),
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


def test_vector_pmtiles_are_refused(tmp_path):
    path = write_pmtiles(tmp_path / "a.pmtiles", {(3, 1, 1): b"x"}, TileType.MVT)
    with pytest.raises(RasterError, match="vector tiles; give it as --target to be drawn"):
        open_source(path)


def test_what_is_nothing_to_open(tmp_path):
    (tmp_path / "a.geojson").write_text("{}")
    (tmp_path / "a.sqlitedb").write_text("")
    (tmp_path / "folder").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    for name, sentence in {
        "none.tif": "does not exist; check the path",
        "a.geojson": "holds vectors",
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
