"""Pixels that lie otherwise than they are seen: EXIF, and grids that are mirrored or turned."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image, ImageOps

from terramorph.geo import Grid
from terramorph.raster import ImageSource, probe_image, read_image
from terramorph.raster.resample import INVERSE, north_up, orientation_between, upright, upright_grid

PIXELS = np.random.default_rng(0).integers(0, 255, (7, 5, 3), dtype=np.uint8)
UTM = CRS("EPSG:32633")


def save(path: Path, orientation: int, pixels: np.ndarray = PIXELS) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    quality = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(pixels).save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else quality))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_an_image_without_a_place_is_turned_as_viewers_show_it(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a{suffix}"
    save(path, orientation)
    save(tmp_path / f"stored{suffix}", 1)
    stored = np.asarray(Image.open(tmp_path / f"stored{suffix}"))
    tagged = Image.fromarray(stored)
    tagged.getexif()[0x112] = orientation
    seen = np.asarray(ImageOps.exif_transpose(tagged)).transpose(2, 0, 1)
    image = read_image(path)
    assert np.array_equal(image.pixels, seen)
    assert probe_image(path)[:2] == image.grid.shape == seen.shape[1:]
    with ImageSource(path) as source:
        assert source.grid == image.grid
        part = source.read(source.grid.crop(1, 2, 4, 3))
        whole = source.read(source.grid)
    assert np.array_equal(part.pixels, whole.pixels[:, 1:5, 2:5])
    if suffix != ".jpg":  # whose colours GDAL decodes in its own way
        assert np.array_equal(whole.pixels, seen)


def test_a_png_of_16_bits_and_one_of_4_bits_are_turned(tmp_path: Path) -> None:
    deep = np.arange(35, dtype=np.uint16).reshape(7, 5) * 1000
    exif = Image.Exif()
    exif[0x112] = 8
    Image.fromarray(deep).save(tmp_path / "deep.png", exif=exif)
    Image.fromarray((deep > 9000).astype(np.uint8) * 255).convert("1").save(tmp_path / "flat.png", exif=exif)
    for name, seen in (("deep.png", np.rot90(deep)), ("flat.png", np.rot90(deep > 9000) * 255)):
        assert np.array_equal(read_image(tmp_path / name).pixels[0], seen)
        with ImageSource(tmp_path / name) as source:
            assert np.array_equal(source.read(source.grid).pixels[0], seen)


def test_an_image_with_a_place_keeps_its_pixels(tmp_path: Path) -> None:
    for suffix, world in ((".png", ".pgw"), (".tif", ".tfw")):
        path = tmp_path / f"a{suffix}"
        save(path, 6)
        path.with_suffix(world).write_text("1\n0\n0\n-1\n500000.5\n4999999.5\n")
        assert np.array_equal(read_image(path).pixels.transpose(1, 2, 0), PIXELS)
        assert probe_image(path)[:2] == (7, 5)
        with ImageSource(path) as source:
            assert source.grid.shape == (7, 5)
            assert np.array_equal(source.read(source.grid).pixels.transpose(1, 2, 0), PIXELS)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(tmp_path: Path, value: int) -> None:
    save(tmp_path / "a.png", value)
    assert read_image(tmp_path / "a.png").grid.shape == (7, 5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_grid_is_of_the_same_pixels(orientation: int) -> None:
    stored = np.arange(12).reshape(3, 4)
    grid = Grid(3, 4, Affine(2, 0, 100, 0, -2, 50), UTM)
    turned, seen = upright_grid(grid, orientation), upright(stored, orientation)
    assert turned.shape == seen.shape
    for row, column in np.ndindex(turned.shape):
        x, y = ~grid.affine @ (turned.affine @ (column + 0.5, row + 0.5))
        assert stored[int(y), int(x)] == seen[row, column]
    assert orientation_between(grid, turned) == orientation
    assert north_up(turned) == grid
    assert upright_grid(turned, INVERSE.get(orientation, orientation)) == grid


def test_what_runs_askew_stays() -> None:
    askew = Grid(3, 4, Affine.rotation(7) @ Affine.scale(1, -1), UTM)
    assert north_up(askew) == askew


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_mirrored_or_turned_file_is_read_north_up_without_resampling(tmp_path: Path, orientation: int) -> None:
    upwards = Grid(7, 5, Affine(1, 0, 500_000, 0, -1, 5_000_000), UTM)
    inverse = INVERSE.get(orientation, orientation)
    grid = upright_grid(upwards, inverse)
    stored = upright(PIXELS.transpose(2, 0, 1), inverse)
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        driver="GTiff",
        count=3,
        dtype="uint8",
        height=grid.height,
        width=grid.width,
        transform=grid.affine,
        crs="EPSG:32633",
    ) as file:
        file.write(stored)
    with ImageSource(tmp_path / "a.tif") as source:
        assert north_up(source.grid) == upwards
        read = source.read(upwards.crop(-1, 1, 6, 5))
    assert np.array_equal(read.pixels[:, 1:, :4], PIXELS.transpose(2, 0, 1)[:, :5, 1:])
    assert not read.mask[0].any()
    assert not read.mask[:, 4].any()
    assert read.mask[1:, :4].all()
