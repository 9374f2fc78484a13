"""Folders of tiles and the raster they make together."""

from __future__ import annotations

import io
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image
from pyproj import Transformer

from terramorph.errors import RasterError
from terramorph.geo import Grid
from terramorph.geo.mercator import TileBox, degrees_of_corner, pixel_grid, tiles_of_degrees
from terramorph.raster import Raster
from terramorph.raster.tiles import LAYOUTS, FolderTiles, TileSource
from terramorph.raster.warp import warp

Z, X, Y = 17, 70406, 42987
BOX = TileBox(X, Y, X + 3, Y + 2)
SCENE = np.random.default_rng(5).integers(0, 256, (3, 512, 768), dtype=np.uint8)
GRID = pixel_grid(Z, BOX, 256)


def encode(pixels, mode="RGB", kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode=None).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def put(folder, path, data):
    target = Path(folder) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def tiles_of(scene, box=BOX, size=256):
    for row in range(box.top, box.bottom):
        for column in range(box.left, box.right):
            y, x = (row - box.top) * size, (column - box.left) * size
            yield column, row, np.ascontiguousarray(scene[:, y : y + size, x : x + size].transpose(1, 2, 0))


def write_folder(folder, scene=SCENE, skip=(), zoom=Z, box=BOX, size=256):
    for x, y, pixels in tiles_of(scene, box, size):
        if (x, y) not in skip:
            put(folder, f"{zoom}/{x}/{y}.png", encode(pixels))
    return folder


def test_the_pyramid_is_the_web_s():
    # The formulas of the OpenStreetMap wiki give this tile for this place, and its corner back.
    assert tiles_of_degrees(17, 13.3777, 52.5163, 13.3777, 52.5163) == (70406, 42987, 70407, 42988)
    left, bottom, right, top = pixel_grid(1, TileBox(1, 0, 2, 1), 256).bounds
    assert (left, bottom) == pytest.approx((0, 0), abs=1e-6)
    assert (right, top) == pytest.approx((20037508.342789244, 20037508.342789244))
    lon, lat = Transformer.from_crs(3857, 4326, always_xy=True).transform(*(GRID.affine @ (0, 0)))
    assert lon == pytest.approx(X / 2**Z * 360 - 180)
    assert lat == pytest.approx(np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * Y / 2**Z)))))


def test_bounds_on_the_edges_of_tiles_take_no_others():
    to_degrees = Transformer.from_crs(3857, 4326, always_xy=True)
    west, south = to_degrees.transform(GRID.bounds.left, GRID.bounds.bottom)
    east, north = to_degrees.transform(GRID.bounds.right, GRID.bounds.top)
    assert tiles_of_degrees(Z, *(round(v, 7) for v in (west, south, east, north))) == BOX
    assert tiles_of_degrees(3, -180, -90, 180, 90) == (0, 0, 8, 8)
    assert tiles_of_degrees(3, 180, -90, 180, -90) == (7, 7, 8, 8)


# One tile, z=17 x=70406 y=42987, as each program names it.
PATHS = {
    "xyz": "17/70406/42987.png",
    "tms": "17/70406/88084.png",
    "zyx": "17/42987/70406.png",
    "sas": "z18/68/x70406/41/y42987.png",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    put(tmp_path, PATHS[layout], encode(SCENE[:, :256, :256].transpose(1, 2, 0)))
    put(tmp_path, "preview.png", b"no tile")
    asked = layout if layout in ("tms", "zyx") else None
    with TileSource(FolderTiles(tmp_path, asked)) as source:
        assert source.grid == GRID.crop(0, 0, 256, 256)
        raster = source.read(source.grid)
    assert raster.mask.all()
    assert np.array_equal(raster.pixels, SCENE[:, :256, :256])
    assert FolderTiles(tmp_path, layout).first(17) == (X, Y)


def test_osmand_and_upper_case_names(tmp_path):
    put(tmp_path, "17/70406/42987.png.tile", encode(np.zeros((256, 256, 3), np.uint8)))
    put(tmp_path, "17/70406/42988.JPG", encode(np.zeros((256, 256, 3), np.uint8), kind="JPEG"))
    put(tmp_path, "17/70406/42989.tne", b"")
    assert FolderTiles(tmp_path).box(17) == (X, Y, X + 1, Y + 2)


def test_tms_is_told_by_what_lies_beside(tmp_path):
    put(tmp_path / "a", PATHS["tms"], b"")
    put(tmp_path / "a", "tilemapresource.xml", b"<TileMap><SRS>EPSG:3857</SRS></TileMap>")
    put(tmp_path / "b", PATHS["tms"], b"")
    put(tmp_path / "b", "metadata.json", b'{"scheme": "tms", "attribution": "Town of B", "minzoom": 3}')
    put(tmp_path / "c", PATHS["xyz"], b"")
    put(tmp_path / "c", "tilemapresource.xml", b"<TileMap><SRS>EPSG:3857</SRS></TileMap>")
    assert FolderTiles(tmp_path / "a").first(17) == (X, Y)
    assert FolderTiles(tmp_path / "b").first(17) == (X, Y)
    assert FolderTiles(tmp_path / "b").licence == "Town of B"
    assert FolderTiles(tmp_path / "c", "xyz").first(17) == (X, Y)


@pytest.mark.parametrize(
    ("files", "layout", "sentence"),
    [
        (
            ["z18/68/x70406/41/y42987.png", "17/70406/42987.png"],
            None,
            r"xyz \(1 files\) and sas \(1 files\).*layout",
        ),
        (["a.png"], None, "no image whose path is that of a tile"),
        (["a.txt"], None, "no PNG, JPEG or WebP"),
        (["17/1/2.png"], "sas", "laid out as sas, such as z18"),
        (["17/1/2.png"], "wms", "must be one of xyz, tms, zyx, sas, got 'wms'"),
        (["17/1/2.pbf"], None, "holds vector tiles"),
        (["notes/protocol.pbf", "a.txt"], None, "no PNG, JPEG or WebP"),
        (["z18/5/1.sqlitedb"], None, "SQLite files.*MBTiles"),
        (["sat/z18/68/x70406/41/y42987.png", "map/17/70406/42987.png"], None, r"folders of tiles \(map, sat\)"),
        (["3/8/1.png"], None, r"3/8/1\.png would be tile x=8 y=1 of zoom 3, and there is no such tile"),
        (["3/1/1.png", "3/1/1.jpg"], None, "are the same tile"),
        (["3/1/1.png", "metadata.json"], None, r"metadata\.json is not JSON"),
    ],
)
def test_what_is_no_folder_of_tiles(tmp_path, files, layout, sentence):
    for path in files:
        put(tmp_path, path, b"x")
    with pytest.raises(RasterError, match=sentence):
        FolderTiles(tmp_path, layout)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 3, 2)])
@pytest.mark.parametrize("layout", ["xyz", "tms"])
@pytest.mark.parametrize("word", ["tilemapresource.xml", "metadata.json"])
def test_bounds_decide_from_which_side_rows_count_and_not_the_word(tmp_path, order, layout, word):
    put(tmp_path, PATHS[layout], encode(np.zeros((256, 256, 3), np.uint8)))
    west, north = degrees_of_corner(Z, X, Y)
    east, south = degrees_of_corner(Z, X + 1, Y + 1)
    ends = (west, south, east, north)
    if word == "metadata.json":
        put(tmp_path, word, json.dumps({"scheme": "tms", "bounds": ends}).encode())
    else:
        said = zip(("minx", "miny", "maxx", "maxy"), (ends[i] for i in order), strict=True)
        box = " ".join(f'{key}="{value:.14f}"' for key, value in said)
        put(tmp_path, word, f"<TileMap><SRS>EPSG:900913</SRS><BoundingBox {box}/></TileMap>".encode())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tiles = FolderTiles(tmp_path)
        assert tiles.default_zoom() == Z
    assert (tiles.layout, tiles.first(Z)) == (layout, (X, Y))
    assert ["from the north (layout xyz)" in str(one.message) for one in told] == [True] * (layout == "xyz")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tilemapresource.xml", "<TileMap><SRS>EPSG:4326</SRS></TileMap>", "EPSG:4326"),
        ("tilemapresource.xml", '<TileMap><SRS></SRS><TileSets profile="raster"></TileSets></TileMap>', "raster"),
        ("tilemapresource.xml", '<TileMap><SRS/><TileSets x="1" profile="global-geodetic"/></TileMap>', "geodetic"),
        ("metadata.json", '{"profile": "custom", "crs": "EPSG:5514"}', "EPSG:5514"),
        ("metadata.json", '{"profile": "geodetic"}', "geodetic"),
    ],
)
def test_tiles_of_other_pyramids_are_refused(tmp_path, name, text, said):
    put(tmp_path, "3/1/1.png", b"x")
    put(tmp_path, name, text.encode())
    with pytest.raises(RasterError, match=f"in .*{said}; only tiles of web mercator"):
        FolderTiles(tmp_path)


def test_tiles_that_say_web_mercator_or_yandex_s(tmp_path):
    for name, about in (("a", {"profile": "mercator", "crs": "EPSG:3857"}), ("b", {"crs": "EPSG:3395"})):
        put(tmp_path / name, "3/1/1.png", encode(np.zeros((256, 256, 3), np.uint8)))
        put(tmp_path / name, "metadata.json", json.dumps(about).encode())
        with TileSource(FolderTiles(tmp_path / name)) as source:
            assert str(source.grid.crs) == about["crs"]


def test_windows_are_unchanged_and_what_is_not_there_is_masked(tmp_path):
    with TileSource(FolderTiles(write_folder(tmp_path, skip=[(X + 1, Y)]))) as source:
        assert source.grid == GRID
        assert (source.bands, source.dtype, source.zoom) == (("red", "green", "blue"), np.uint8, 17)
        window = GRID.crop(-20, 200, 400, 700)
        raster = source.read(window)
        away = source.read(GRID.crop(5000, 5000, 10, 10))
    expected = np.zeros((400, 700), bool)
    expected[20:, :568] = True
    expected[20:276, 56:312] = False
    assert np.array_equal(raster.mask, expected)
    padded = np.zeros((3, 400, 700), np.uint8)
    padded[:, 20:, :568] = SCENE[:, :380, 200:]
    assert np.array_equal(raster.pixels, padded * expected)
    assert raster.grid == window
    assert not away.mask.any()


def test_kinds_of_tiles_become_red_green_blue(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    hole = np.dstack([SCENE[:, :256, :256].transpose(1, 2, 0), np.where(ramp < 100, 0, 255).astype(np.uint8)])
    put(tmp_path, f"{Z}/{X}/{Y}.png", encode(ramp, "L"))
    palette = Image.fromarray(ramp // 64, mode=None).convert("P")
    palette.putpalette([0, 9, 99, 50, 60, 70, 255, 0, 1, 4, 5, 6])
    palette.save(buffer := io.BytesIO(), "PNG")
    put(tmp_path, f"{Z}/{X + 1}/{Y}.png", buffer.getvalue())
    put(tmp_path, f"{Z}/{X + 2}/{Y}.png", encode(hole, "RGBA"))
    buffer = io.BytesIO()
    Image.fromarray(hole[..., :3]).save(buffer, "WEBP", lossless=True)
    put(tmp_path, f"{Z}/{X + 3}/{Y}.webp", buffer.getvalue())
    with TileSource(FolderTiles(tmp_path)) as source:
        raster = source.read(source.grid)
    assert np.array_equal(raster.pixels[:, :, :256], np.stack([ramp] * 3))
    assert raster.pixels[:, 7, [256, 511]].T.tolist() == [[0, 9, 99], [4, 5, 6]]
    assert np.array_equal(raster.mask[:, 512:768], ramp >= 100)
    assert (raster.pixels[:, :, 512:612] == 0).all()
    assert np.array_equal(raster.pixels[:, :, 768:], hole[..., :3].transpose(2, 0, 1))
    assert raster.mask[:, :512].all()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (encode(np.zeros((256, 256, 3), np.uint8))[:60], rf"tile {Z}/{X}/{Y + 1} is damaged"),
        (b"<html>", "is damaged or no PNG, JPEG or WebP; fetch"),
        (b"", "is empty"),
        (encode(np.zeros((512, 512, 3), np.uint8)), "is 512 x 512 pixels and not 256 x 256 as the others"),
        (encode(np.zeros((256, 256), np.uint16) + 900, "I;16"), "more than 8 bits a band"),
    ],
)
def test_a_bad_tile_is_named(tmp_path, data, sentence):
    put(tmp_path, f"{Z}/{X}/{Y}.png", encode(np.zeros((256, 256, 3), np.uint8)))
    put(tmp_path, f"{Z}/{X}/{Y + 1}.png", data)
    with TileSource(FolderTiles(tmp_path)) as source, pytest.raises(RasterError, match=sentence) as raised:
        source.read(source.grid)
    assert str(tmp_path) in str(raised.value)


def test_a_size_that_no_tile_has_is_refused(tmp_path):
    put(tmp_path, "3/1/1.png", encode(np.zeros((100, 100, 3), np.uint8)))
    with pytest.raises(RasterError, match="100 x 100 pixels and not 256 x 256 or 512 x 512"):
        TileSource(FolderTiles(tmp_path))


def test_tiles_of_512(tmp_path):
    folder = write_folder(tmp_path, box=TileBox(X, Y, X + 1, Y + 1), size=512)
    with TileSource(FolderTiles(folder)) as source:
        assert source.tile_size == 512
        assert source.grid.bounds == pytest.approx(GRID.crop(0, 0, 256, 256).bounds)
        assert np.array_equal(source.read(source.grid).pixels, SCENE[:, :, :512])


def test_zoom_and_crs_are_checked(tmp_path):
    write_folder(tmp_path)
    put(tmp_path, "16/35203/21493.png", encode(np.zeros((256, 256, 3), np.uint8)))
    assert TileSource(FolderTiles(tmp_path)).zoom == 17
    assert TileSource(FolderTiles(tmp_path), 16).grid == pixel_grid(16, TileBox(35203, 21493, 35204, 21494), 256)
    with pytest.raises(RasterError, match="no tiles of zoom 15; it has 16, 17"):
        TileSource(FolderTiles(tmp_path), 15)
    with pytest.raises(RasterError, match="EPSG:3857 or EPSG:3395"):
        TileSource(FolderTiles(tmp_path), crs=CRS("EPSG:4326"))
    assert TileSource(FolderTiles(tmp_path), crs=CRS("EPSG:3395")).grid.crs == CRS("EPSG:3395")


def test_a_town_comes_back_in_utm(tmp_path, small_town):
    aerial = small_town.aerial()
    bounds = aerial.grid.bounds
    to_degrees = Transformer.from_crs(32633, 4326, always_xy=True)
    west, south = to_degrees.transform(bounds.left, bounds.bottom)
    east, north = to_degrees.transform(bounds.right, bounds.top)
    box = tiles_of_degrees(18, west, south, east, north)
    mosaic = warp(aerial, pixel_grid(18, box, 256))
    folder = write_folder(tmp_path, mosaic.pixels, zoom=18, box=box)
    with TileSource(FolderTiles(folder)) as source:
        inner = aerial.crop(100, 100, 300, 300)
        again = source.read(inner.grid)
        half = source.read(inner.grid.resized(150, 150))
    assert again.mask.all()
    error = np.abs(again.pixels.astype(float) - inner.pixels)
    assert error.mean() < 4
    moved = np.abs(np.roll(again.pixels, 1, axis=2).astype(float) - inner.pixels)
    assert moved.mean() > 2 * error.mean()
    means = inner.pixels.reshape(3, 150, 2, 150, 2).mean(axis=(2, 4))
    assert np.abs(half.pixels - means).mean() < 4


def turned(height, width, step=1.7, left=40, top=30):
    """A grid that is no window of `GRID`: other pixels, and a little rotated."""
    affine = GRID.affine @ Affine.translation(left, top) @ Affine.rotation(3) @ Affine.scale(step)
    return Grid(height, width, affine, GRID.crs)


def test_nothing_of_a_missing_tile_reaches_others(tmp_path):
    white = np.full_like(SCENE, 200)
    with TileSource(FolderTiles(write_folder(tmp_path, white, skip=[(X + 1, Y)]))) as source:
        for step in (0.7, 1.7, 3.3):
            raster = source.read(turned(int(500 / step), int(700 / step), step, -50, -40))
            assert 0.3 < raster.mask.mean() < 0.8
            assert (raster.pixels[:, raster.mask] == 200).all()
            assert (raster.pixels[:, ~raster.mask] == 0).all()


def test_windows_read_one_by_one_fit_together(tmp_path):
    grid = turned(120, 160)
    with TileSource(FolderTiles(write_folder(tmp_path))) as source:
        whole = source.read(grid)
        part = source.read(grid.crop(50, 70, 40, 60))
    assert np.abs(part.pixels.astype(int) - whole.pixels[:, 50:90, 70:130]).max() <= 2


def test_coarse_pixels_come_from_a_coarser_zoom_where_it_is_whole(tmp_path):
    box, lower = TileBox(X, Y - 1, X + 2, Y + 1), TileBox(X // 2, Y // 2, X // 2 + 1, Y // 2 + 1)
    bright, dark = np.full((3, 512, 512), 200, np.uint8), np.full((3, 512, 512), 100, np.uint8)
    write_folder(tmp_path, bright, box=box)
    write_folder(tmp_path, dark[:, :256, :256], zoom=Z - 1, box=lower)
    fine = pixel_grid(Z, box, 256)
    with TileSource(FolderTiles(tmp_path)) as source:
        assert (source.read(fine.resized(100, 100)).pixels[:, 1:-1, 1:-1] == 100).all()
        assert (source.read(fine.resized(300, 300)).pixels[:, 5:-5, 5:-5] == 200).all()
        quarter = source.read(fine.resized(101, 101).crop(3, 3, 95, 95))
        assert quarter.mask.all()
    (tmp_path / f"{Z - 1}/{X // 2}/{Y // 2}.png").unlink()
    put(tmp_path, f"{Z - 1}/{X // 2 + 9}/{Y // 2}.png", b"")
    with TileSource(FolderTiles(tmp_path)) as source:
        assert (source.read(fine.resized(100, 100)).pixels[:, 3:-3, 3:-3] == 200).all()


def test_very_coarse_pixels_are_means(tmp_path):
    slope = np.broadcast_to((np.arange(768) % 2 * 20 + np.arange(768) / 4).astype(np.uint8), (3, 512, 768))
    with TileSource(FolderTiles(write_folder(tmp_path, slope))) as source:
        raster = source.read(GRID.resized(16, 24))
        far = source.read(pixel_grid(5, TileBox(X >> 12, Y >> 12, (X >> 12) + 1, (Y >> 12) + 1), 256))
    assert raster.mask[1:-1, 1:-1].all()
    means = slope.reshape(3, 16, 32, 24, 32).mean(axis=(2, 4))
    assert np.abs(raster.pixels - means)[:, 1:-1, 2:-2].max() < 2
    assert not far.mask.any()


def test_threads_read_the_same(tmp_path):
    windows = [GRID.crop(y, x, 130, 170) for y in range(0, 380, 60) for x in range(0, 590, 60)]
    with TileSource(FolderTiles(write_folder(tmp_path))) as source, ThreadPoolExecutor(4) as pool:
        rasters = list(pool.map(source.read, windows))
    for window, raster in zip(windows, rasters, strict=True):
        x, y = ~GRID.affine @ (window.affine @ (0, 0))
        assert np.array_equal(raster.pixels, SCENE[:, round(y) : round(y) + 130, round(x) : round(x) + 170])


def test_the_fingerprint_is_of_names_and_bytes(tmp_path):
    a, b = write_folder(tmp_path / "a"), write_folder(tmp_path / "b")
    assert FolderTiles(a).fingerprint() == FolderTiles(b).fingerprint()
    put(b, f"{Z}/{X}/{Y}.png", encode(np.zeros((256, 256, 3), np.uint8)))
    changed = FolderTiles(b).fingerprint()
    assert len(changed) == 32
    assert changed != FolderTiles(a).fingerprint()
    (a / f"{Z}/{X}/{Y}.png").rename(a / f"{Z}/{X}/{Y + 5}.png")
    assert FolderTiles(a).fingerprint() not in (changed, FolderTiles(write_folder(tmp_path / "c")).fingerprint())


def test_a_tile_that_went_away_is_said(tmp_path):
    with TileSource(FolderTiles(write_folder(tmp_path))) as source:
        (tmp_path / f"{Z}/{X + 2}/{Y + 1}.png").unlink()
        with pytest.raises(RasterError, match="cannot be read"):
            source.read(GRID)


def test_warp_of_grids_without_a_crs():
    raster = Raster.from_pixels(SCENE[:, :64, :64])
    doubled = warp(raster, raster.grid.resized(128, 128), "nearest")
    assert np.array_equal(doubled.pixels[:, 10:20, 10:20], SCENE[:, 5:10, 5:10].repeat(2, 1).repeat(2, 2))
    with pytest.raises(RasterError, match="one has a CRS and the other has none"):
        warp(raster, GRID)


def test_warp_keeps_floats_and_masks_around(small_town):
    grid = small_town.grid.crop(0, 0, 64, 64)
    values = np.linspace(-1000, 1000, 64 * 64).reshape(1, 64, 64)
    mask = np.ones((64, 64), bool)
    mask[20:30, 20:30] = False
    values[0, ~mask] = np.nan
    raster = Raster.from_pixels(values, grid, mask)
    warped = warp(raster, Grid(70, 70, grid.affine @ Affine.translation(0.25, 0), grid.crs), "bilinear")
    assert warped.dtype == np.float64
    assert np.isfinite(warped.pixels).all()
    assert not warped.mask[20:30, 20:29].any()
    assert not warped.mask[64:].any()
    inside = warped.mask.copy()
    assert inside[1:19, 1:60].all()
    step = 2000 / (64 * 64 - 1)
    assert np.allclose(warped.pixels[0, 1:19, 1:60], values[0, 1:19, 1:60] + 0.25 * step)
