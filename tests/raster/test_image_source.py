from __future__ import annotations

import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS as RasterioCRS
from rasterio.shutil import copy

from terramorph.errors import RasterError
from terramorph.geo import Grid
from terramorph.raster import ImageSource, Raster, ReadOptions, Source, image_source, read_image, stored, write_image
from terramorph.raster.dataset import gdal_session
from terramorph.raster.resample import resize_pixels

RNG = np.random.default_rng(0)
MERCATOR, UTM = CRS("EPSG:3857"), CRS("EPSG:32632")
HEIGHT, WIDTH = 90, 120
COLOURS = RNG.integers(0, 256, (3, HEIGHT, WIDTH), dtype=np.uint8)
HWC = np.ascontiguousarray(COLOURS.transpose(1, 2, 0))
GRID = Grid(HEIGHT, WIDTH, Affine(0.5, 0, 1_252_344, 0, -0.5, 5_430_000), MERCATOR)
PROFILE = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "transform": GRID.affine, "crs": "EPSG:3857"}
SMOOTH = np.stack(
    [
        np.add.outer(np.linspace(20, 120, HEIGHT), np.linspace(0, 100, WIDTH)),
        np.add.outer(np.linspace(200, 50, HEIGHT), np.zeros(WIDTH)),
        np.add.outer(np.zeros(HEIGHT), np.linspace(50, 150, WIDTH)),
    ]
).astype(np.uint8)


def geotiff(path: Path, pixels: np.ndarray = COLOURS, mask: np.ndarray | None = None, grid: Grid = GRID) -> Path:
    write_image(Raster.from_pixels(pixels, grid, mask), path)
    return path


def same_as_read_image(path: Path) -> None:
    whole = read_image(path)
    with ImageSource(path) as source:
        assert source.grid == whole.grid
        assert source.bands == whole.bands
        assert source.dtype == whole.dtype
        read = source.read(source.grid)
        assert np.array_equal(read.pixels, whole.pixels, equal_nan=whole.dtype.kind == "f")
        assert np.array_equal(read.mask, whole.mask)
        part = source.read(source.grid.crop(7, 11, 20, 30))
        assert np.array_equal(part.pixels, read.pixels[:, 7:27, 11:41], equal_nan=whole.dtype.kind == "f")
        assert np.array_equal(part.mask, read.mask[7:27, 11:41])


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".ppm"])
def test_colours_are_those_of_read_image(tmp_path, suffix):
    Image.fromarray(HWC).save(tmp_path / f"a{suffix}")
    same_as_read_image(tmp_path / f"a{suffix}")


def test_rarer_modes_are_those_of_read_image(tmp_path):
    colour = Image.fromarray(HWC)
    gray = colour.convert("L")
    alpha = Image.fromarray(np.where(HWC[..., 0] > 99, 255, 0).astype(np.uint8))
    palette = colour.quantize(40)
    with_alpha = colour.copy()
    with_alpha.putalpha(alpha)
    gray_alpha = gray.copy()
    gray_alpha.putalpha(alpha)
    deep = Image.fromarray(RNG.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16))
    images = {"gray": gray, "bits": gray.convert("1"), "palette": palette, "rgba": with_alpha, "la": gray_alpha}
    for name, image in {**images, "deep": deep}.items():
        image.save(tmp_path / f"{name}.png")
        same_as_read_image(tmp_path / f"{name}.png")
    for name in ("gray", "bits", "palette", "rgba"):
        images[name].save(tmp_path / f"{name}.bmp")
        same_as_read_image(tmp_path / f"{name}.bmp")
    palette.save(tmp_path / "clear.png", transparency=3)
    colour.save(tmp_path / "key.png", transparency=tuple(HWC[4, 4].tolist()))
    with_alpha.save(tmp_path / "alpha.webp", lossless=True)
    gray.save(tmp_path / "gray.jpg")
    gray.save(tmp_path / "progressive.jpg", progressive=True)
    for name in ("clear.png", "key.png", "alpha.webp", "gray.jpg", "progressive.jpg"):
        same_as_read_image(tmp_path / name)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_tiffs_of_any_bands_are_those_of_read_image(tmp_path, dtype):
    pixels = RNG.integers(0, 100, (5, HEIGHT, WIDTH)).astype(dtype)
    if dtype.startswith("float"):
        pixels[2, 8, 12] = np.nan
    geotiff(tmp_path / "a.tif", pixels, RNG.random((HEIGHT, WIDTH)) > 0.3)
    same_as_read_image(tmp_path / "a.tif")
    with rasterio.open(tmp_path / "n.tif", "w", count=5, dtype=dtype, nodata=7, **PROFILE) as dataset:
        dataset.write(pixels)
    same_as_read_image(tmp_path / "n.tif")
    with rasterio.open(tmp_path / "n.tif", "r+") as dataset:
        dataset.set_band_description(1, "nir")
    copy(tmp_path / "n.tif", tmp_path / "n.vrt", driver="VRT")
    same_as_read_image(tmp_path / "n.vrt")
    copy(tmp_path / "n.tif", tmp_path / "cog.tif", driver="COG")
    same_as_read_image(tmp_path / "cog.tif")


def test_jpeg_differs_from_read_image_in_the_colour_of_edges_only(tmp_path):
    smooth = Image.fromarray(np.ascontiguousarray(SMOOTH.transpose(1, 2, 0)))
    for subsampling, most in ((0, 1), (2, 3)):
        smooth.save(tmp_path / "a.jpg", quality=95, subsampling=subsampling)
        with ImageSource(tmp_path / "a.jpg") as source:
            read = source.read(source.grid)
        apart = np.abs(read.pixels.astype(int) - read_image(tmp_path / "a.jpg").pixels)
        assert apart.max() <= most
        assert apart.mean() < 0.3


def test_a_source_as_the_protocol_says(tmp_path):
    with ImageSource(geotiff(tmp_path / "a.tif")) as opened:
        source: Source = opened
        assert source.name == str(tmp_path / "a.tif")
        assert source.grid == GRID
        assert source.extent.crs == MERCATOR
        assert tuple(source.extent.boundingbox) == tuple(GRID.bounds)
        assert source.bands == ("red", "green", "blue")
        assert source.dtype == np.uint8
        assert not source.sequential
        assert source.licence is None
    with rasterio.open(tmp_path / "a.tif", "r+") as dataset:
        dataset.update_tags(TIFFTAG_COPYRIGHT=" CC BY 4.0 ")
    with ImageSource(tmp_path / "a.tif") as source:
        assert source.licence == "CC BY 4.0"
    for name in ("a.png", "a.jpg", "a.bmp"):
        Image.fromarray(HWC).save(tmp_path / name)
        with ImageSource(tmp_path / name) as source:
            assert source.sequential


@pytest.mark.parametrize("name", ["a.tif", "a.png", "bits.png"])
def test_windows_may_reach_outside(tmp_path, name):
    if name == "bits.png":
        Image.fromarray(HWC[..., 0] > 99).save(tmp_path / name)
    else:
        geotiff(tmp_path / name)
    with ImageSource(tmp_path / name) as source:
        whole = source.read(source.grid)
        around = source.read(source.grid.crop(-5, -7, HEIGHT + 9, WIDTH + 20))
        assert np.array_equal(around.pixels[:, 5 : 5 + HEIGHT, 7 : 7 + WIDTH], whole.pixels)
        assert around.mask.sum() == HEIGHT * WIDTH
        assert not around.pixels[:, ~around.mask].any()
        almost = Grid(20, 30, source.grid.affine @ Affine.translation(10.0009, 5), source.grid.crs)
        assert np.array_equal(source.read(almost).pixels, whole.pixels[:, 5:25, 10:40])
        beyond = source.read(source.grid.crop(0, WIDTH, 10, 10))
        assert not beyond.mask.any()


def test_warped_pixels_are_those_of_the_place(tmp_path):
    with ImageSource(geotiff(tmp_path / "a.tif", SMOOTH)) as source:
        shifted = source.read(Grid(40, 50, GRID.affine @ Affine.translation(20.5, 30.25), MERCATOR))
        assert shifted.mask.all()
        expected = SMOOTH[:, 30:70, 20:70].astype(float) + np.array([0.42 + 0.28, 0, 0.42])[:, None, None]
        expected[1] -= 150 / 89 / 4
        assert np.abs(shifted.pixels - expected).max() <= 1.6
        half = source.read(Grid(HEIGHT // 2, WIDTH // 2, GRID.affine @ Affine.scale(2), MERCATOR))
        inner = (slice(None), slice(3, -3), slice(3, -3))
        assert np.abs(half.pixels.astype(int) - resize_pixels(SMOOTH, HEIGHT // 2, WIDTH // 2))[inner].max() <= 1
        there = rasterio.warp.transform("EPSG:3857", "EPSG:32632", [GRID.affine.c + 30], [GRID.affine.f - 22.5])
        x, y = there[0][0], there[1][0]
        elsewhere = source.read(Grid(11, 11, Affine(0.4, 0, x - 2.2, 0, -0.4, y + 2.2), UTM))
        assert elsewhere.mask.all()
        assert np.abs(elsewhere.pixels[:, 5, 5] - SMOOTH[:, 45, 60].astype(int)).max() <= 2


def test_shrinking_does_not_alias(tmp_path):
    checks = np.broadcast_to((np.indices((HEIGHT, WIDTH)).sum(axis=0) % 2 * 200).astype(np.uint8), (3, HEIGHT, WIDTH))
    with ImageSource(geotiff(tmp_path / "a.tif", checks)) as source:
        small = source.read(Grid(20, 25, GRID.affine @ Affine.translation(10.3, 11.2) @ Affine.scale(3), MERCATOR))
        assert np.abs(small.pixels.astype(int) - 100).max() <= 8
    with ImageSource(tmp_path / "a.tif", options=ReadOptions(categorical=True)) as source:
        small = source.read(Grid(20, 25, GRID.affine @ Affine.translation(10.3, 11.2) @ Affine.scale(3), MERCATOR))
        assert set(np.unique(small.pixels)) == {0, 200}


def test_masked_pixels_reach_no_others(tmp_path):
    pixels = np.full((3, HEIGHT, WIDTH), 90, np.uint8)
    mask = np.ones((HEIGHT, WIDTH), np.bool_)
    mask[30:60, 40:80] = False
    pixels[:, ~mask] = 255
    for grid in (
        Grid(HEIGHT + 20, WIDTH + 20, GRID.affine @ Affine.translation(-10.4, -10.3), MERCATOR),
        Grid(50, 60, GRID.affine @ Affine.translation(-6, -6) @ Affine.scale(2.5), MERCATOR),
    ):
        with ImageSource(geotiff(tmp_path / "a.tif", pixels, mask)) as source:
            read = source.read(grid)
        assert np.all(read.pixels[:, read.mask] == 90)
        assert not read.pixels[:, ~read.mask].any()
        columns, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
        to_own = ~GRID.affine @ grid.affine
        x, y = to_own.a * columns + to_own.c, to_own.e * rows + to_own.f
        hole = (x > 40) & (x < 80) & (y > 30) & (y < 60)
        assert not read.mask[hole].any()
        assert not read.mask[(x < 0) | (y < 0) | (x > WIDTH) | (y > HEIGHT)].any()
        far = 2 * to_own.a + 1
        away = (x < 40 - far) | (x > 80 + far) | (y < 30 - far) | (y > 60 + far)
        inside = (x > far) & (y > far) & (x < WIDTH - far) & (y < HEIGHT - far)
        assert read.mask[away & inside].all()


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_pieces_make_the_same_picture_as_one(tmp_path, monkeypatch, name):
    mask = np.ones((HEIGHT, WIDTH), np.bool_)
    mask[40:44, 50:54] = False
    geotiff(tmp_path / name, SMOOTH, mask)
    grid = Grid(100, 130, GRID.affine @ Affine.translation(-3.3, -4.4) @ Affine.rotation(4), MERCATOR)
    with ImageSource(tmp_path / name) as source:
        whole = source.read(grid)
        for pixels, rows in ((900, 1 << 30), (900, 0)):
            monkeypatch.setattr(image_source, "_WARP_PIXELS", pixels)
            monkeypatch.setattr(image_source, "_CACHED_BYTES", rows)
            pieces = source.read(grid)
            assert np.array_equal(pieces.mask, whole.mask)
            assert np.abs(pieces.pixels.astype(int) - whole.pixels).max() <= 1
    assert 0.7 < whole.mask.mean() < 1


def test_turned_images_are_read_in_place(tmp_path):
    turned = Grid(HEIGHT, WIDTH, GRID.affine @ Affine.translation(60, 45) @ Affine.rotation(30), MERCATOR)
    with ImageSource(geotiff(tmp_path / "a.tif", SMOOTH, grid=turned)) as source:
        assert source.grid == turned
        assert np.array_equal(source.read(turned.crop(5, 6, 7, 8)).pixels, SMOOTH[:, 5:12, 6:14])
        x, y = turned.affine @ (70.5, 30.5)
        upright = source.read(Grid(1, 1, Affine(0.5, 0, x - 0.25, 0, -0.5, y + 0.25), MERCATOR))
        assert np.abs(upright.pixels[:, 0, 0] - SMOOTH[:, 30, 70].astype(int)).max() <= 2


def with_points(path: Path, bend: float, pixels: np.ndarray = SMOOTH, **profile: object) -> Path:
    points = []
    for column in (0, WIDTH / 2, WIDTH):
        for row in (0, HEIGHT / 2, HEIGHT):
            x, y = GRID.affine @ (column + bend * row * row / HEIGHT, row)
            points.append(GroundControlPoint(row, column, x, y))
    shape = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": len(pixels), "dtype": pixels.dtype.name}
    with gdal_session(), rasterio.open(path, "w", **shape, **profile) as dataset:
        dataset.gcps = (points, RasterioCRS.from_epsg(3857))
        dataset.write(pixels)
    return path


def test_control_points_on_a_straight_grid_are_an_affine(tmp_path):
    with ImageSource(with_points(tmp_path / "a.tif", 0)) as source:
        assert source.grid.crs == MERCATOR
        assert source.grid.affine.almost_equals(GRID.affine, 1e-6)
        assert np.array_equal(source.read(source.grid).pixels, SMOOTH)


@pytest.mark.parametrize("points", [[(0, 0)], [(0, 0), (0, 50)], [(0, 0), (20, 30), (40, 60)], [(5, 5)] * 4])
def test_control_points_that_place_nothing_are_said_as_that(tmp_path, points):
    gcps = [GroundControlPoint(row, column, *(GRID.affine @ (column, row))) for row, column in points]
    shape = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 3, "dtype": "uint8"}
    with gdal_session(), rasterio.open(tmp_path / "a.tif", "w", **shape) as dataset:
        dataset.gcps = (gcps, RasterioCRS.from_epsg(3857))
        dataset.write(SMOOTH)
    with pytest.raises(RasterError, match=rf"placed by {len(points)} ground control point.*not on one line"):
        ImageSource(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["plain", "nodata", "mask"])
def test_bent_control_points_are_warped(tmp_path, kind):
    pixels = SMOOTH.copy()
    pixels[:, 40:50, 50:70] = 0
    path = with_points(tmp_path / "a.tif", 0.2, pixels, **({"nodata": 0} if kind == "nodata" else {}))
    if kind == "mask":
        with gdal_session({"GDAL_TIFF_INTERNAL_MASK": True}), rasterio.open(path, "r+") as dataset:
            dataset.write_mask((pixels != 0).any(axis=0))
    with ImageSource(path) as source:
        assert source.grid.crs == MERCATOR
        assert source.bands == ("red", "green", "blue")
        read = source.read(source.grid)
        assert 0.7 < read.mask.mean() < 0.97
        for column, row in ((30, 20), (80, 70), (60, 45)):
            x, y = GRID.affine @ (column + 0.5 + 0.2 * (row + 0.5) ** 2 / HEIGHT, row + 0.5)
            there = source.read(Grid(1, 1, Affine(0.5, 0, x - 0.25, 0, -0.5, y + 0.25), MERCATOR))
            assert there.mask[0, 0] == (kind == "plain" or (column, row) != (60, 45))
            if there.mask[0, 0]:
                assert np.abs(there.pixels[:, 0, 0] - pixels[:, row, column].astype(int)).max() <= 4


def test_a_plane_without_a_name(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(HWC).save(path)
    with ImageSource(path, crs=MERCATOR) as source:
        assert source.grid == Grid.pixels(HEIGHT, WIDTH), "a CRS alone is no place"
        with pytest.raises(RasterError, match="does not say where on Earth"):
            source.read(GRID)
    (tmp_path / "a.pgw").write_text("0.5\n0\n0\n-0.5\n1252344.25\n5429999.75\n")
    with ImageSource(path) as source:
        assert source.grid == Grid(HEIGHT, WIDTH, GRID.affine)
        assert source.extent.crs is None
        shifted = Grid(20, 30, GRID.affine @ Affine.translation(10.5, 10), None)
        read = source.read(shifted)
        assert read.mask.all()
        expected = COLOURS[:, 10:30, 10:41].astype(float)
        between = (
            9 * (expected[..., :-1] + expected[..., 1:]) - COLOURS[:, 10:30, 9:39] - COLOURS[:, 10:30, 12:42]
        ) / 16
        assert np.abs(read.pixels - between.clip(0, 255)).max() <= 1.01
        with pytest.raises(RasterError, match="does not say in which CRS"):
            source.read(GRID)
    with ImageSource(path, crs=MERCATOR) as source:
        assert source.grid == GRID
        with pytest.raises(RasterError, match="the grid asked for has no CRS"):
            source.read(shifted)
    geotiff(tmp_path / "b.tif")
    with ImageSource(tmp_path / "b.tif", crs=UTM) as source:
        assert source.grid.crs == MERCATOR, "what the file says comes first"


def test_a_map_file_stands_for_its_image(tmp_path):
    Image.fromarray(HWC).save(tmp_path / "MOSAIC.jpg")
    points = [(x, y, *(GRID.affine @ (x, y))) for x, y in ((0, 0), (WIDTH, 0), (0, HEIGHT))]
    rows = ",\n".join(f'({x}, {y}) ({column}, {row}) Label "P"' for column, row, x, y in points)
    (tmp_path / "place.tab").write_text(
        f'!table\n!version 300\nDefinition Table\nFile "MOSAIC.jpg"\nType "RASTER"\n{rows}\n'
        'CoordSys Earth Projection 10, 157, "m", 0\nUnits "m"\n'
    )
    with ImageSource(tmp_path / "place.tab") as source:
        assert source.name == str(tmp_path / "place.tab")
        assert source.grid.crs == MERCATOR
        assert source.grid.affine.almost_equals(GRID.affine, 1e-6)
        before = source.fingerprint()
    with (tmp_path / "place.tab").open("a") as file:
        file.write("\n")
    with ImageSource(tmp_path / "place.tab") as source:
        assert source.fingerprint() != before


def test_fingerprint_is_of_content_and_place_and_not_of_names(tmp_path):
    (tmp_path / "other").mkdir()
    for name in ("a.png", "other/b.png"):
        geotiff(tmp_path / name)
    with ImageSource(tmp_path / "a.png") as first, ImageSource(tmp_path / "other" / "b.png") as second:
        before = first.fingerprint()
        assert len(before) == 32
        assert second.fingerprint() == before
        for changed in ("a.pgw", "a.prj", "a.png"):
            content = (tmp_path / changed).read_bytes()
            (tmp_path / changed).write_bytes(content + b" ")
            assert first.fingerprint() != before
            (tmp_path / changed).write_bytes(content)
        assert first.fingerprint() == before
    geotiff(tmp_path / "c.tif")
    copy(tmp_path / "c.tif", tmp_path / "c.vrt", driver="VRT")
    with ImageSource(tmp_path / "c.vrt") as source:
        before = source.fingerprint()
        geotiff(tmp_path / "c.tif", SMOOTH)
        assert source.fingerprint() != before, "a VRT is what it refers to"


@pytest.mark.parametrize("name", ["a.tif", "a.png", "bits.png"])
def test_threads_read_what_one_would(tmp_path, name):
    if name == "bits.png":
        Image.fromarray(HWC[..., 0] > 99).save(tmp_path / name)
    else:
        geotiff(tmp_path / name)
    whole = read_image(tmp_path / name).pixels
    with ImageSource(tmp_path / name) as source, ThreadPoolExecutor(8) as pool:
        at = [(int(y), int(x)) for y, x in RNG.integers(0, 60, (200, 2))]
        reads = pool.map(lambda place: source.read(source.grid.crop(*place, 16, 16)), at)
        for (y, x), read in zip(at, reads, strict=True):
            assert np.array_equal(read.pixels, whole[:, y : y + 16, x : x + 16])


def test_reading_after_closing_is_an_error_in_any_thread(tmp_path):
    source = ImageSource(geotiff(tmp_path / "a.tif"))
    source.read(GRID.crop(0, 0, 5, 5))
    source.close()
    caught = []

    def read() -> None:
        with pytest.raises(RasterError, match="was closed") as error:
            source.read(GRID.crop(0, 0, 5, 5))
        caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    read()
    assert len(caught) == 2


def test_a_huge_sparse_tiff_is_read_in_parts(tmp_path):
    path = tmp_path / "huge.tif"
    place = Affine(1, 0, 500_000, 0, -1, 5_000_000)
    shape = {"driver": "GTiff", "height": 100_000, "width": 100_000, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **shape, transform=place, crs="EPSG:32632", tiled=True, sparse_ok=True) as dataset:
        dataset.write(COLOURS, window=rasterio.windows.Window(50_000, 70_000, WIDTH, HEIGHT))
    with ImageSource(path) as source:
        assert np.array_equal(source.read(source.grid.crop(70_000, 50_000, HEIGHT, WIDTH)).pixels, COLOURS)
        coarse = Grid(6, 8, place @ Affine.translation(49_990.5, 69_990) @ Affine.scale(20), UTM)
        assert source.read(coarse).pixels.any()
        with pytest.raises(RasterError, match="ask for a finer grid"):
            source.read(source.grid.resized(100, 100))


def png_bytes(height: int, width: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_bombs_and_blocks_too_large_are_refused(tmp_path, monkeypatch):
    (tmp_path / "bomb.png").write_bytes(png_bytes(60_000, 60_000, bytes(1_000_000)))
    with pytest.raises(RasterError, match=r"bomb\.png claims 60000 x 60000 pixels in"):
        ImageSource(tmp_path / "bomb.png")
    monkeypatch.setattr(stored, "MAX_PIXELS", 99)
    Image.new("RGB", (500, 500)).save(tmp_path / "flat.png")
    with pytest.raises(RasterError, match="claims"):
        ImageSource(tmp_path / "flat.png")
    Image.fromarray(HWC).save(tmp_path / "fine.png")
    ImageSource(tmp_path / "fine.png").close()
    monkeypatch.setattr(stored, "MAX_WHOLE", 99)
    Image.fromarray(HWC[..., 0] > 9).save(tmp_path / "bits.png")
    with pytest.raises(RasterError, match=r"bits\.png .* convert it to GeoTIFF"):
        ImageSource(tmp_path / "bits.png")
    monkeypatch.setattr(stored, "MAX_BLOCK", 999)
    with pytest.raises(RasterError, match=r"a\.tif is stored in blocks .* TILED=YES"):
        ImageSource(geotiff(tmp_path / "a.tif"))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "p.jpg", "a.bmp", "a.webp", "tail.tif", "a.tif", "bits.png"])
def test_truncated_files_are_named(tmp_path, name):
    path = tmp_path / name
    if name == "a.tif":
        geotiff(path, np.repeat(np.repeat(COLOURS, 5, 1), 5, 2), grid=GRID.resized(5 * HEIGHT, 5 * WIDTH))
    elif name == "bits.png":
        Image.fromarray(RNG.random((300, 300)) > 0.5).save(path)
    else:
        image = Image.fromarray(RNG.integers(0, 256, (300, 300, 3), dtype=np.uint8))
        image.save(path, **({"progressive": True} if name == "p.jpg" else {}))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])

    def read_strips() -> None:
        with ImageSource(path) as source:
            for y in range(0, source.grid.height, 50):
                source.read(source.grid.crop(y, 0, 50, source.grid.width))

    with pytest.raises(RasterError, match=name) as caught:
        read_strips()
    assert "truncated" in str(caught.value)
    with pytest.raises(RasterError, match=name), ImageSource(path) as source:
        source.read(source.grid)


def test_a_reader_goes_on_after_a_damaged_part(tmp_path):
    image = RNG.integers(0, 256, (300, 300, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with ImageSource(path) as source:
        for _ in range(2):
            with pytest.raises(RasterError):
                source.read(source.grid.crop(250, 0, 50, 300))
            top = source.read(source.grid.crop(10, 0, 50, 300))
            assert np.array_equal(top.pixels, image.transpose(2, 0, 1)[:, 10:60])


def test_what_is_no_image_is_refused_with_a_sentence_of_its_own(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.tif").touch()
    (tmp_path / "a.ecw").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "a.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    (tmp_path / "header.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "zero.png").write_bytes(png_bytes(0, 0, b""))
    complex_profile = {**PROFILE, "count": 1, "dtype": "complex64"}
    with rasterio.open(tmp_path / "radar.tif", "w", **complex_profile) as dataset:
        dataset.write(np.ones((1, HEIGHT, WIDTH), np.complex64))
    with rasterio.open(tmp_path / "slc.tif", "w", **{**complex_profile, "dtype": "complex_int16"}):
        pass
    sentences = {
        "missing.tif": "does not exist",
        "folder": "is a folder",
        "empty.tif": "is empty",
        "a.ecw": r"convert it to GeoTIFF .* gdal_translate a\.ecw converted\.tif",
        "a.geojson": "not an image",
        "header.png": "damaged, truncated",
        "zero.png": "damaged, truncated",
        "radar.tif": "complex numbers",
        "slc.tif": "complex numbers",
    }
    for name, sentence in sentences.items():
        with pytest.raises(RasterError, match=sentence) as caught:
            ImageSource(tmp_path / name)
        assert name in str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "deep.png"])
def test_a_damaged_world_file_is_named(tmp_path, name):
    if name == "deep.png":
        Image.fromarray(RNG.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)).save(tmp_path / name)
    else:
        Image.fromarray(HWC).save(tmp_path / name)
    (tmp_path / name).with_suffix(".wld").write_text("1\n0\n0\nminus one\n10\n20\n")
    with pytest.raises(RasterError, match=r"\.wld: a world file must hold six numbers"):
        ImageSource(tmp_path / name)
