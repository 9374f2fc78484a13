from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from terramorph.errors import RasterError
from terramorph.geo import Grid
from terramorph.raster import ImageSource, Raster, ReadOptions, image, probe_image, read_image, write_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (3, 20, 30), dtype=np.uint8)
HWC = np.ascontiguousarray(RGB.transpose(1, 2, 0))
GRID = Grid(20, 30, Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000), CRS("EPSG:32633"))


def probed(path: Path, raster: Raster) -> bool:
    return probe_image(path) == (raster.height, raster.width, raster.count, raster.dtype.name)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".ppm"])
def test_rgb_is_read_exactly(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(HWC).save(path, lossless=True) if suffix == ".webp" else Image.fromarray(HWC).save(path)
    raster = read_image(path)
    assert np.array_equal(raster.pixels, RGB)
    assert raster.mask.all()
    assert raster.grid == Grid.pixels(20, 30)
    assert raster.bands == ("red", "green", "blue")
    assert probed(path, raster)


def test_kind_is_told_by_content_not_by_name(tmp_path):
    Image.fromarray(HWC).save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(read_image(tmp_path / "a.jpg").pixels, RGB)
    (tmp_path / "a.jpg").rename(tmp_path / "a")
    (tmp_path / "a.w").write_text("2\n0\n0\n-2\n101\n99\n")
    raster = read_image(tmp_path / "a")
    assert np.array_equal(raster.pixels, RGB)
    assert raster.grid.affine == Affine(2, 0, 100, 0, -2, 100)
    with ImageSource(tmp_path / "a") as source:
        assert source.grid == raster.grid


def test_modes_of_png(tmp_path):
    path = tmp_path / "a.png"
    gray = HWC[..., 0]
    alpha = np.full((20, 30), 255, np.uint8)
    alpha[3, 4] = 0
    alpha[5, 6] = 1
    for mode, array, bands in (("RGBA", np.dstack([HWC, alpha]), 3), ("LA", np.dstack([gray, alpha]), 1)):
        Image.fromarray(array).save(path)
        with Image.open(path) as written:
            assert written.mode == mode
        raster = read_image(path)
        assert raster.count == bands
        assert np.argwhere(~raster.mask).tolist() == [[3, 4]]
        assert probed(path, raster)
    palette = Image.fromarray(gray % 3).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(path)
    raster = read_image(path)
    assert raster.pixels[:, 0, 0].tolist() == [10 + 30 * (gray[0, 0] % 3) + i for i in (0, 10, 20)]
    assert probed(path, raster)
    palette.save(path, transparency=1)
    assert np.array_equal(read_image(path).mask, gray % 3 != 1)
    palette.save(path)
    assert np.array_equal(read_image(path, ReadOptions(nodata=2)).mask, gray % 3 != 2)  # an index
    Image.fromarray(gray > 99).save(path)
    raster = read_image(path)
    assert np.array_equal(raster.pixels[0], np.where(gray > 99, 255, 0))
    assert raster.dtype == np.uint8
    assert probed(path, raster)
    Image.fromarray(gray > 99).save(path, transparency=0)
    assert np.array_equal(read_image(path).mask, gray > 99)
    Image.fromarray(gray.astype(np.uint16) * 99).save(path, transparency=99 * int(gray[0, 0]))
    assert np.array_equal(read_image(path).mask, gray != gray[0, 0])


def test_a_png_that_its_texts_place_is_not_turned(tmp_path):
    path, texts, exif = tmp_path / "a.png", PngInfo(), Image.Exif()
    texts.add_text("GeoTransform", "1,2,0,5,0,-2")
    exif[0x112] = 6
    Image.fromarray(HWC).save(path, pnginfo=texts, exif=exif)
    raster = read_image(path)
    assert np.array_equal(raster.pixels, RGB)
    assert probed(path, raster)


def test_sixteen_bit_png_keeps_its_bits(tmp_path):
    path = tmp_path / "a.png"
    deep = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
    Image.fromarray(deep).save(path)
    raster = read_image(path)
    assert raster.dtype == np.uint16
    assert np.array_equal(raster.pixels[0], deep)
    assert probed(path, raster)
    # Colour of 16 bits: PIL cannot write it, so the file is made by hand.
    colour = RNG.integers(0, 65536, (4, 5, 3), dtype=np.uint16)
    path.write_bytes(png_bytes(4, 5, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)))
    raster = read_image(path)
    assert raster.dtype == np.uint16
    assert np.array_equal(raster.pixels, colour.transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_tiff_round_trip_of_any_bands_with_place_and_mask(tmp_path, dtype):
    path = tmp_path / "a.tif"
    pixels = RNG.integers(0, 100, (5, 20, 30)).astype(dtype)
    mask = RNG.random((20, 30)) > 0.3
    write_image(Raster.from_pixels(pixels, GRID, mask, ("a", "b", "c", "d", "nir")), path)
    raster = read_image(path)
    assert np.array_equal(raster.pixels, pixels)
    assert raster.dtype == dtype
    assert np.array_equal(raster.mask, mask)
    assert raster.grid == GRID
    assert raster.bands == ("a", "b", "c", "d", "nir")
    assert probed(path, raster)
    with rasterio.open(path) as dataset:
        assert dataset.compression.name == "deflate"
        assert dataset.profile["tiled"]


def test_nodata_alpha_and_nan_become_mask(tmp_path):
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "height": 4, "width": 5, "transform": GRID.affine, "crs": "EPSG:32633"}
    values = np.ones((1, 4, 5), np.int16)
    values[0, 1, 2] = -99
    with rasterio.open(path, "w", count=1, dtype="int16", nodata=-99, **profile) as dataset:
        dataset.write(values)
    assert np.argwhere(~read_image(path).mask).tolist() == [[1, 2]]
    rgba = np.full((4, 4, 5), 255, np.uint8)
    rgba[3, 0, 3] = 0
    with rasterio.open(path, "w", count=4, dtype="uint8", photometric="rgb", alpha="yes", **profile) as dataset:
        dataset.write(rgba)
    raster = read_image(path)
    assert raster.bands == ("red", "green", "blue")
    assert np.argwhere(~raster.mask).tolist() == [[0, 3]]
    assert probed(path, raster)
    floats = np.ones((2, 4, 5), np.float32)
    floats[:, 2, 0] = np.nan
    with rasterio.open(path, "w", count=2, dtype="float32", **profile) as dataset:
        dataset.write(floats)
    assert np.argwhere(~read_image(path).mask).tolist() == [[2, 0]]


def test_nodata_of_colours_is_the_whole_colour(tmp_path):
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "height": 4, "width": 5, "transform": GRID.affine}
    colours = np.full((3, 4, 5), 9, np.uint8)
    colours[:, 0, 0], colours[1:, 2, 2] = 0, 0
    with rasterio.open(path, "w", count=3, dtype="uint8", nodata=0, photometric="rgb", **profile) as dataset:
        dataset.write(colours)
    assert np.argwhere(~read_image(path).mask).tolist() == [[0, 0]], "pure red is a colour"


def test_nodata_and_alpha_both_count(tmp_path):
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "height": 4, "width": 5, "transform": GRID.affine}
    values = np.full((4, 4, 5), 255, np.uint8)
    values[:3, 1, 1], values[3, 2, 3] = 7, 0
    with rasterio.open(path, "w", count=4, dtype="uint8", nodata=7, photometric="rgb", alpha="yes", **profile) as made:
        made.write(values)
    assert np.argwhere(~read_image(path).mask).tolist() == [[1, 1], [2, 3]]


@pytest.mark.parametrize(
    ("name", "world"),
    [("a.jpg", "a.jgw"), ("a.jpg", "a.jpgw"), ("a.png", "a.PGW"), ("a.png", "a.pngw"), ("a.tif", "a.tfw"),
     ("a.tif", "a.tifw"), ("a.bmp", "a.bpw"), ("a.png", "a.wld"), ("a.png", "a.w"), ("a.PNG", "a.pgw")],
)  # fmt: skip
def test_world_files_are_found_and_start_at_the_centre_of_a_pixel(tmp_path, name, world):
    Image.fromarray(HWC).save(tmp_path / name)
    (tmp_path / world).write_text("0.5\n0\n0\n-0.5\n500000.25\n3999999.75\n")
    raster = read_image(tmp_path / name)
    assert raster.grid.affine == GRID.affine
    assert raster.grid.crs is None


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_place_of_png_and_jpeg_survives_the_round_trip(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_image(Raster.from_pixels(RGB, GRID), path)
    assert read_image(path).grid == GRID
    write_image(Raster.from_pixels(RGB), path)
    assert read_image(path).grid == Grid.pixels(20, 30), (
        "the world file of the earlier image must not place the new one"
    )


@pytest.mark.parametrize("text", ["", "1 2 3", "1\n0\n0\n-1\nx\n3", "1 0 0 nan 1 1", "0 0 0 0 5 5", "1 2 3 4 5 6 7"])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_damaged_world_file_is_named(tmp_path, text, name):
    Image.fromarray(HWC).save(tmp_path / name)
    world = tmp_path / f"a{'.pgw' if name == 'a.png' else '.tfw'}"
    world.write_text(text)
    with pytest.raises(RasterError, match=world.name):
        read_image(tmp_path / name)


def test_damaged_prj_is_named(tmp_path):
    write_image(Raster.from_pixels(RGB, GRID), tmp_path / "a.png")
    (tmp_path / "a.prj").write_text("PROJCS[nonsense")
    with pytest.raises(RasterError, match=r"a\.prj"):
        read_image(tmp_path / "a.png")


def damaged(kind: str, tmp_path: Path) -> Path:
    path = tmp_path / f"bad.{kind.split('-')[0]}"
    big = RNG.integers(0, 256, (90, 90, 3), dtype=np.uint8)
    if kind.endswith("missing"):
        return path
    if kind.endswith("empty"):
        path.touch()
    elif kind.endswith("text"):
        path.write_text("this is not an image, it is a sentence\n" * 9)
    elif kind.endswith("folder"):
        path.mkdir()
    else:
        Image.fromarray(big).save(path)
        content = path.read_bytes()
        if kind.endswith("middle"):
            path.write_bytes(content[: len(content) // 2])
        elif kind.endswith("header"):
            path.write_bytes(content[:20])
        elif kind.endswith("flipped"):
            half = len(content) // 2
            path.write_bytes(content[:half] + bytes(200) + content[half + 200 :])
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "png-missing",
        "png-empty",
        "png-text",
        "png-folder",
        "png-middle",
        "png-header",
        "png-flipped",
        "jpg-middle",
        "jpg-header",
        "jpg-text",
        "tif-middle",
        "tif-header",
        "tif-empty",
        "tif-text",
        "bmp-middle",
        "webp-middle",
    ],
)
def test_unreadable_files_are_errors_that_name_them(tmp_path, kind):
    path = damaged(kind, tmp_path)
    with pytest.raises(RasterError) as caught:
        read_image(path)
    assert path.name in str(caught.value)


def png_bytes(height: int, width: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_bombs_are_refused_before_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(60_000, 60_000, 8, 2, b""))
    with pytest.raises(RasterError, match=r"bomb\.png claims 60000 x 60000"):
        read_image(path)


def test_more_pixels_than_pil_allows_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name in ("a.png", "a.jpg", "a.bmp"):
        Image.fromarray(HWC).save(tmp_path / name)
        assert read_image(tmp_path / name).width == 30
    monkeypatch.setattr(image, "MAX_PIXELS", 599)
    with pytest.raises(RasterError, match="limit"):
        read_image(tmp_path / "a.png")


def test_a_tiff_of_more_blocks_than_it_lists_is_refused_and_a_sparse_one_is_read(tmp_path):
    path = tmp_path / "a.tif"
    profile = {
        "driver": "GTiff",
        "height": 6000,
        "width": 64,
        "count": 1,
        "dtype": "uint8",
        "transform": Affine.scale(2),
    }
    with rasterio.open(path, "w", blockysize=2, SPARSE_OK=True, **profile):
        pass
    assert read_image(path).pixels.shape == (1, 6000, 64)
    data = path.read_bytes()
    height = struct.pack("<HHIHH", 257, 3, 1, 6000, 0)  # the tag of the height: a short
    assert data.count(height) == 1
    path.write_bytes(data.replace(height, struct.pack("<HHII", 257, 4, 1, 6_000_000)))
    for read in (read_image, ImageSource):
        with pytest.raises(RasterError, match=r"a\.tif claims 6000000 x 64 pixels in 3,000,000 blocks"):
            read(path)


@pytest.mark.parametrize(
    ("name", "place", "value"), [("VP8X", 24, b"\xff\x3f\0\xff\x3f\0"), ("VP8L", 21, b"\xff\xff\xff\x0f")]
)
def test_a_webp_that_claims_more_than_memory_holds_is_refused_unopened(tmp_path, name, place, value):
    data = bytearray(b"RIFF\0\0\0\0WEBP" + name.encode() + bytes(40))
    data[place : place + len(value)] = value
    path = tmp_path / "a.webp"
    path.write_bytes(data)
    for read in (read_image, probe_image):
        with pytest.raises(RasterError, match="claims 16384 x 16384 pixels, over the limit"):
            read(path)
    with pytest.raises(RasterError, match=r"a\.webp"):
        ImageSource(path)
