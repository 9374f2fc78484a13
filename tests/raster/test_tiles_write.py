"""Sources written as tiles, and read back."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geom import box
from PIL import Image
from pmtiles.reader import MmapSource, Reader, all_tiles
from pyproj import Transformer

from terramorph.errors import RasterError, StorageError
from terramorph.geo.grid import Grid
from terramorph.geo.mercator import HALF_WORLD, TileBox, pixel_grid
from terramorph.raster import ImageSource, Raster, TileSource, write_image
from terramorph.raster.tiles import FolderTiles, MBTiles, PMTiles
from terramorph.raster.tiles.write import write_tiles
from terramorph.sources import open_source
from terramorph.town import make_town

KINDS = {"xyz": FolderTiles, "mbtiles": MBTiles, "pmtiles": PMTiles}
PICTURES = np.random.default_rng(2)
Z, X, Y = 16, 35202, 21492
ALIGNED = pixel_grid(Z, TileBox(X, Y, X + 4, Y + 2), 256)
SCENE = np.kron(PICTURES.integers(0, 256, (3, 64, 128), dtype=np.uint8), np.ones((1, 8, 8), np.uint8))


class Held:
    """A source that is in memory: windows of its own grid only, and what was asked for."""

    licence = None

    def __init__(self, raster, sequential=False, name="held"):
        self.raster, self.sequential, self.name, self.asked = raster, sequential, name, []
        self.grid, self.bands, self.dtype = raster.grid, raster.bands, raster.dtype
        self.extent = box(*raster.grid.bounds, crs=raster.grid.crs)

    def read(self, grid):
        self.asked.append(grid)
        x, y = (round(side) for side in ~self.grid.affine @ grid.affine @ (0, 0))
        pixels, mask = np.zeros((len(self.bands), *grid.shape), self.dtype), np.zeros(grid.shape, bool)
        top, left = max(y, 0), max(x, 0)
        bottom, right = min(y + grid.height, self.grid.height), min(x + grid.width, self.grid.width)
        if top < bottom and left < right:
            there = np.s_[top - y : bottom - y, left - x : right - x]
            pixels[:, *there] = self.raster.pixels[:, top:bottom, left:right]
            mask[there] = self.raster.mask[top:bottom, left:right]
        return Raster(pixels * mask, mask, grid, self.bands)


def scene(mask=None):
    return Held(Raster.from_pixels(SCENE, ALIGNED, mask))


def archive(tmp_path, kind):
    return tmp_path / ("tiles" if kind == "xyz" else f"a.{kind}")


def content(path):
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return {file.name if file == path else file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def numbers(reader):
    found = {}
    for zoom in reader.zooms:
        held = reader.box(zoom)
        found[zoom] = {
            (x, y)
            for x in range(held.left - 1, held.right + 1)
            for y in range(held.top - 1, held.bottom + 1)
            if reader.has(zoom, x, y)
        }
    return found


def degrees(grid):
    left, bottom, right, top = grid.bounds
    to_degrees = Transformer.from_crs(3857, 4326, always_xy=True)
    return [*to_degrees.transform(left, bottom), *to_degrees.transform(right, top)]


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A photograph in UTM, turned against the tiles, with a corner without data."""
    path = tmp_path_factory.mktemp("town") / "town.tif"
    made = make_town(420, seed=4, resolution=0.9).aerial()
    mask = np.ones(made.mask.shape, bool)
    mask[:180, :156] = False
    write_image(Raster(made.pixels, mask, made.grid, made.bands), path)
    return path


def test_the_finest_zoom_is_what_warping_gives(tmp_path, town):
    path, windows = tmp_path / "a.pmtiles", []
    with ImageSource(town) as source:
        read = source.read
        source.read = lambda grid: windows.append(read(grid)) or windows[-1]
        write_tiles(source, path, kind="pmtiles", name="Town", attribution="© us")
        with TileSource(PMTiles(path)) as made:
            assert made.zoom == 17  # 1.19 m on the equator, and 0.73 m at the town's latitude
            assert made.licence == "© us"
            for window in windows:
                found = made.read(window.grid)
                assert np.array_equal(found.mask, window.mask)
                assert np.array_equal(found.pixels, window.pixels)
            wanted, found = read(made.grid), made.read(made.grid)
    assert {window.grid.shape for window in windows} == {(256, 256)}
    # GDAL goes from one projection to another in steps, which begin elsewhere in another window.
    assert 0.3 < wanted.mask.mean() < 0.9
    assert (found.mask != wanted.mask).mean() < 1e-4
    assert np.abs(found.pixels.astype(int) - wanted.pixels)[:, found.mask & wanted.mask].max() <= 3
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_whatever_the_threads(tmp_path, kind, monkeypatch):
    made = []
    for threads in (1, 3):
        path = archive(tmp_path, kind)
        path = path.with_name(f"{threads}{path.name}")
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        write_tiles(scene(), path, kind=kind, name="Town")
        made.append(content(path) if kind == "xyz" else path.read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_holds_the_pixels(tmp_path, kind):
    path = archive(tmp_path, kind)
    smooth = np.broadcast_to(np.linspace(0, 255, 1024).astype(np.uint8), (3, 512, 1024))
    write_tiles(Held(Raster.from_pixels(smooth, ALIGNED)), path, kind=kind, name="a")
    reader = KINDS[kind](path)
    assert numbers(reader) == {
        Z: {(x, y) for x in range(X, X + 4) for y in (Y, Y + 1)},
        Z - 1: {(X // 2, Y // 2), (X // 2 + 1, Y // 2)},
        Z - 2: {(X // 4, Y // 4), (X // 4 + 1, Y // 4)},
    }
    assert Image.open(io.BytesIO(reader.read(Z, X, Y))).format == "PNG"
    with TileSource(reader) as made:
        found = made.read(ALIGNED)
    assert found.mask.all()
    assert np.array_equal(found.pixels, smooth)


@pytest.mark.parametrize("sequential", [False, True])
def test_coarser_zooms_are_means_of_what_there_is(tmp_path, sequential):
    mask = np.ones((512, 1024), bool)
    mask[:, 100:301] = False
    mask[256:, 512:] = False
    source = scene(mask)
    source.sequential = sequential
    told = []
    write_tiles(
        *(source, tmp_path / "a.mbtiles"),
        kind="mbtiles",
        name="a",
        progress=lambda *done: told.append(done),
    )
    reader = MBTiles(tmp_path / "a.mbtiles")
    assert numbers(reader)[Z] == {(X + x, Y + y) for x in range(4) for y in range(2)} - {(X + 2, Y + 1), (X + 3, Y + 1)}
    assert told[-1][0] == told[-1][1] >= 8
    # In whole rows where a source is decoded from the top.
    assert len({(grid.width, grid.affine.c) for grid in source.asked}) == (1 if sequential else 6)
    values, real = SCENE.astype(int), mask
    for zoom in (Z - 1, Z - 2):

        def four(array):
            return sum(array[..., y::2, x::2] for y in (0, 1) for x in (0, 1))

        count = four(real.astype(int))
        values, real = (four(values * real) + count // 2) // np.maximum(count, 1), count > 0
        with TileSource(MBTiles(tmp_path / "a.mbtiles"), zoom) as made:
            place = ALIGNED.resized(*real.shape)
            found = made.read(place)
        assert np.array_equal(found.mask, real)
        assert np.array_equal(found.pixels, values * real)
    reader.close()


def test_one_band_is_grey(tmp_path):
    mask = np.ones((512, 1024), bool)
    mask[:10] = False
    source = Held(Raster.from_pixels(SCENE[:1], ALIGNED, mask))
    write_tiles(source, tmp_path / "a.pmtiles", kind="pmtiles", name="a")
    with TileSource(PMTiles(tmp_path / "a.pmtiles")) as made:
        found = made.read(ALIGNED)
    assert np.array_equal(found.mask, mask)
    assert np.array_equal(found.pixels, np.repeat(SCENE[:1] * mask, 3, axis=0))


def test_what_mbtiles_says_of_itself(tmp_path):
    mask = np.zeros((512, 1024), bool)
    mask[128:512, 256:512] = True
    write_tiles(scene(mask), tmp_path / "a.mbtiles", kind="mbtiles", name="A town", attribution="us")
    connection = sqlite3.connect(tmp_path / "a.mbtiles")
    told = dict(connection.execute("SELECT name, value FROM metadata"))
    rows = connection.execute(
        "SELECT zoom_level, tile_column, tile_row FROM tiles WHERE zoom_level = ?", (Z,)
    ).fetchall()
    assert connection.execute("PRAGMA application_id").fetchone() == (0x4D504258,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert {(z, x, 2**Z - 1 - row) for z, x, row in rows} == {(Z, X + 1, Y), (Z, X + 1, Y + 1)}
    corners = degrees(ALIGNED.crop(128, 256, 384, 256))
    assert np.allclose([float(side) for side in told.pop("bounds").split(",")], corners, atol=2e-7)
    center = [float(side) for side in told.pop("center").split(",")]
    assert np.allclose(center, [(corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2, Z - 2], atol=2e-7)
    assert told == {
        "name": "A town",
        "format": "png",
        "minzoom": str(Z - 2),
        "maxzoom": str(Z),
        "type": "overlay",
        "attribution": "us",
    }


def test_what_pmtiles_says_of_itself_and_the_order_of_its_tiles(tmp_path, town):
    with ImageSource(town) as source:
        write_tiles(source, tmp_path / "a.pmtiles", kind="pmtiles", name="Town", attribution="us")
    with (tmp_path / "a.pmtiles").open("rb") as file:
        reader = Reader(MmapSource(file))
        header, metadata = reader.header(), reader.metadata()
        tiles = [number for number, _ in all_tiles(MmapSource(file))]
    assert header["clustered"]
    assert (header["min_zoom"], header["max_zoom"], header["center_zoom"]) == (15, 17, 15)
    assert [zoom for zoom, _, _ in tiles] == sorted(zoom for zoom, _, _ in tiles)
    assert header["addressed_tiles_count"] == len(tiles) == len(set(tiles))
    assert metadata == {"name": "Town", "type": "overlay", "attribution": "us"}
    assert header["min_lon_e7"] < header["center_lon_e7"] < header["max_lon_e7"]
    assert header["min_lat_e7"] < header["center_lat_e7"] < header["max_lat_e7"]


def test_what_a_folder_says_of_itself(tmp_path):
    write_tiles(scene(), tmp_path / "a", kind="xyz", name="Ä", attribution="us")
    told = json.loads((tmp_path / "a" / "tilejson.json").read_text(encoding="utf-8"))
    assert told.pop("bounds") == pytest.approx(degrees(ALIGNED), abs=2e-7)
    assert told.pop("center")[2] == Z - 2
    assert told == {
        "tilejson": "3.0.0",
        "name": "Ä",
        "tiles": ["{z}/{x}/{y}.png"],
        "scheme": "xyz",
        "minzoom": Z - 2,
        "maxzoom": Z,
        "attribution": "us",
    }
    assert (tmp_path / "a").stat().st_mode & 0o777 == (tmp_path / "a" / str(Z)).stat().st_mode & 0o777
    assert sorted(content(tmp_path / "a"))[0] == f"{Z - 2}/{X // 4}/{Y // 4}.png"


@pytest.mark.parametrize(
    ("resolution", "latitude", "crs", "zoom"),
    [(0.6, 51.0, "EPSG:32637", 17), (0.5, 51.0, "EPSG:32637", 18), (30.0, 0.0, "EPSG:32637", 12)],
)
def test_the_finest_zoom_is_the_nearest(tmp_path, resolution, latitude, crs, zoom):
    affine = Affine(resolution, 0, 5e5, 0, -resolution, latitude * 110_900)
    path = tmp_path / "a.tif"
    write_image(Raster.from_pixels(SCENE[:, :64, :64], Grid(64, 64, affine, CRS(crs))), path)
    with ImageSource(path) as source:
        write_tiles(source, tmp_path / "a.pmtiles", kind="pmtiles", name="a")
        ground = source.grid.ground_resolution
    with TileSource(PMTiles(tmp_path / "a.pmtiles")) as made:
        assert made.zoom == zoom
        assert 1 / 1.42 < made.grid.ground_resolution / ground < 1.42


def test_the_whole_world_in_degrees(tmp_path):
    globe = np.repeat(np.repeat(PICTURES.integers(0, 256, (3, 18, 36), dtype=np.uint8), 10, 1), 10, 2)
    write_image(
        Raster.from_pixels(globe, Grid(180, 360, Affine(1, 0, -180, 0, -1, 90), CRS("EPSG:4326"))), tmp_path / "a.tif"
    )
    with ImageSource(tmp_path / "a.tif") as source:
        write_tiles(source, tmp_path / "a.mbtiles", kind="mbtiles", name="globe")
    with TileSource(MBTiles(tmp_path / "a.mbtiles"), 0) as made:
        assert made.read(made.grid).mask[4:-4, 4:-4].all()


def refused():
    plain = Raster.from_pixels(SCENE)
    two = Raster.from_pixels(SCENE[:2], ALIGNED)
    deep = Raster.from_pixels(SCENE.astype(np.uint16), ALIGNED)
    nothing = Raster.from_pixels(SCENE, ALIGNED, np.zeros((512, 1024), bool))
    far = Raster.from_pixels(SCENE, Grid(512, 1024, Affine(0.001, 0, 0, 0, -0.001, 89.9), CRS("EPSG:4326")))
    return [
        (plain, "held has no CRS.*georeference it"),
        (two, "held has 2 bands.*choose some"),
        (deep, "held holds uint16.*0 ... 255"),
        (nothing, "held has no pixel with data"),
        (far, "held has no pixel with data|held lies nowhere"),
    ]


@pytest.mark.parametrize(("raster", "says"), refused())
def test_what_cannot_be_tiles_is_refused_and_nothing_is_left(tmp_path, raster, says):
    with pytest.raises(RasterError, match=says):
        write_tiles(Held(raster), tmp_path / "a.pmtiles", kind="pmtiles", name="a")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "tiles").mkdir()
    write_tiles(scene(), tmp_path / "tiles", kind="xyz", name="a")
    before = content(tmp_path / "tiles")
    with pytest.raises(RasterError, match="tiles is there already and not empty; remove it"):
        write_tiles(scene(), tmp_path / "tiles", kind="xyz", name="b")
    assert content(tmp_path / "tiles") == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_source_leaves_nothing(tmp_path, kind):
    source = scene()

    def breaks(grid):
        if len(source.asked) == 1:
            raise RasterError("it is damaged there")
        return Held.read(source, grid)

    source.read = breaks
    with pytest.raises(RasterError, match="it is damaged there"):
        write_tiles(source, archive(tmp_path, kind), kind=kind, name="a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, kind):
    noise = Held(Raster.from_pixels(PICTURES.integers(0, 256, SCENE.shape, dtype=np.uint8), ALIGNED))
    resource = pytest.importorskip("resource")  # POSIX
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot be written .*free some space"):
            write_tiles(noise, archive(tmp_path, kind), kind=kind, name="a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def told_longitudes(made, kind):
    """The longitudes of the bounds and of the center that an archive states."""
    if kind == "pmtiles":
        with made.open("rb") as file:
            header = Reader(MmapSource(file)).header()
        return [header[f"{name}_lon_e7"] / 1e7 for name in ("min", "max", "center")]
    if kind == "mbtiles":
        with sqlite3.connect(made) as connection:
            told = dict(connection.execute("SELECT name, value FROM metadata"))
        bounds, center = ([float(side) for side in told[name].split(",")] for name in ("bounds", "center"))
    else:
        told = json.loads((made / "tilejson.json").read_text(encoding="utf-8"))
        bounds, center = told["bounds"], told["center"]
    return bounds[0], bounds[2], center[0]


def across(tmp_path, crs, name="line.tif"):
    """An image across the line at 17 S, whose rows and columns are those of its CRS."""
    smooth = np.asarray(
        Image.fromarray(np.random.default_rng(4).integers(0, 256, (48, 64, 3), dtype=np.uint8)).resize(
            (256, 192), Image.Resampling.BICUBIC
        )
    )
    turns = {
        "EPSG:4326": (179.99, -17.0, 1e-4),
        "EPSG:3857": (20037000.0, -1900000.0, 10.0),
        "EPSG:3832": (3338000.0, -1900000.0, 10.0),
    }
    if crs == "west":
        x, y, step, crs = -180.01, -17.0, 1e-4, "EPSG:4326"
    elif crs == "EPSG:32760":
        x, y = Transformer.from_crs(4326, 32760, always_xy=True).transform(179.99, -17.0)
        step = 10.0
    else:
        x, y, step = turns[crs]
    grid = Grid(192, 256, Affine(step, 0, x, 0, -step, y), CRS(crs))
    path = tmp_path / name
    write_image(Raster(smooth.transpose(2, 0, 1), np.ones(grid.shape, bool), grid, ("red", "green", "blue")), path)
    return path


@pytest.mark.parametrize(
    ("crs", "kind"),
    [
        ("EPSG:4326", "xyz"),
        ("west", "mbtiles"),
        ("EPSG:3857", "pmtiles"),
        ("EPSG:3832", "mbtiles"),
        ("EPSG:32760", "pmtiles"),
    ],
)
def test_ground_across_180_degrees_is_written_and_read_on_both_sides(tmp_path, crs, kind):
    made = tmp_path / f"made.{kind}"
    with open_source(across(tmp_path, crs)) as source:
        write_tiles(source, made, kind=kind, name="Line")
        with open_source(made) as tiles:
            count = 1 << tiles.zoom
            assert tiles.grid.width < 4 * 256 + 512
            assert tiles.grid.bounds.left < HALF_WORLD < tiles.grid.bounds.right
            reader = KINDS[kind](made)
            rows = range(reader.box(tiles.zoom).top, reader.box(tiles.zoom).bottom)
            assert all(any(reader.has(tiles.zoom, x, y) for y in rows) for x in (0, count - 1))
            reader.close()
            west, east, middle = told_longitudes(made, kind)
            assert (west, east) == (-180, 180)
            assert abs(middle) > 179.9
            # What is read back on the source's own pixels is the source, seen through pixels of another size.
            back = tiles.read(source.grid)
            wanted = source.read(source.grid)
            assert back.mask[4:-4, 4:-4].all()
            off = np.abs(back.pixels[:, 8:-8, 8:-8].astype(int) - wanted.pixels[:, 8:-8, 8:-8])
            assert off.mean() < 12


def test_pixels_across_180_degrees_are_those_of_any_ground(tmp_path):
    with open_source(across(tmp_path, "EPSG:4326")) as source:
        here = source.read(source.grid)
        turned = replace(source.grid, affine=Affine.translation(-360, 0) @ source.grid.affine)
        assert np.array_equal(source.read(turned).pixels, here.pixels)
        for crs, x, y in (("EPSG:3857", 20037000.0, -1922000.0), ("EPSG:3857", -20037000.0, -1922000.0)):
            grid = Grid(60, 60, Affine(10, 0, x, 0, -10, y), CRS(crs))
            turn = -2 * HALF_WORLD if x > 0 else 2 * HALF_WORLD
            other = replace(grid, affine=Affine.translation(turn, 0) @ grid.affine)
            first, second = source.read(grid), source.read(other)
            assert first.mask.all()
            assert np.abs(first.pixels.astype(int) - second.pixels).max() <= 1
