from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image

from terramorph.bands import Units
from terramorph.errors import RasterError
from terramorph.geo import Grid
from terramorph.raster import Raster, read_image
from terramorph.raster.array_source import ArraySource
from terramorph.raster.save import PREVIEW_PX


def test_defaults():
    raster = Raster.from_pixels(np.zeros((3, 4, 5), np.uint8))
    assert (raster.count, raster.height, raster.width, raster.dtype) == (3, 4, 5, np.uint8)
    assert raster.bands == ("red", "green", "blue")
    assert raster.mask.all()
    assert raster.grid == Grid.pixels(4, 5)
    assert Raster.from_pixels(np.zeros((2, 4, 5))).bands == ("band1", "band2")


def test_crop_takes_pixels_mask_and_grid_together():
    pixels = np.arange(60).reshape(3, 4, 5)
    mask = pixels[0] != 7
    part = Raster.from_pixels(pixels, mask=mask).crop(y=1, x=2, height=2, width=3)
    assert part.pixels[0].tolist() == [[7, 8, 9], [12, 13, 14]]
    assert part.mask.tolist() == [[False, True, True], [True, True, True]]
    assert part.grid.affine @ (0, 0) == (2, 1)


@pytest.mark.parametrize("window", [(-1, 0, 2, 2), (0, 4, 2, 2), (0, 0, 0, 1), (3, 0, 2, 2)])
def test_crop_outside_is_refused(window):
    with pytest.raises(RasterError, match="window"):
        Raster.from_pixels(np.zeros((1, 4, 5), np.uint8)).crop(*window)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"pixels": np.zeros((4, 5), np.uint8)},
        {"pixels": np.zeros((0, 4, 5), np.uint8)},
        {"pixels": np.zeros((1, 4, 5), np.complex64)},
        {"pixels": np.zeros((1, 4, 5), np.uint8), "mask": np.ones((5, 4), bool)},
        {"pixels": np.zeros((1, 4, 5), np.uint8), "mask": np.ones((4, 5), np.uint8)},
        {"pixels": np.zeros((1, 4, 5), np.uint8), "grid": Grid.pixels(5, 4)},
        {"pixels": np.zeros((1, 4, 5), np.uint8), "bands": ("a", "b")},
    ],
)
def test_parts_that_disagree_are_refused(kwargs):
    with pytest.raises(RasterError):
        Raster.from_pixels(**kwargs)


def preview(raster):
    image = Image.open(BytesIO(raster._repr_png_()))
    return image.mode, np.asarray(image)


def test_a_preview_is_small_and_in_colour_and_clear_without_data():
    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 7), np.uint8)
    mask = np.arange(42).reshape(6, 7) != 3
    mode, shown = preview(Raster.from_pixels(pixels, mask=mask, bands=("nir", "blue", "green", "red")))
    assert mode == "RGBA"
    assert np.array_equal(shown[..., :3], pixels[[3, 2, 1]].transpose(1, 2, 0))
    assert np.array_equal(shown[..., 3] == 255, mask)
    mode, shown = preview(Raster.from_pixels(pixels[:1]))
    assert mode == "L"
    assert np.array_equal(shown, pixels[0])
    _, shown = preview(Raster.from_pixels(np.zeros((3, 3000, 5000), np.uint8)))
    assert max(shown.shape) == PREVIEW_PX


def test_a_preview_of_measurements_is_stretched_over_what_is_real():
    heights = np.linspace(100.0, 200.0, 2500, dtype=np.float32).reshape(1, 50, 50)
    heights[0, :5] = np.nan
    mask = np.isfinite(heights[0])
    mask[-5:] = False
    heights[0, -5:] = 1e20
    _, shown = preview(Raster.from_pixels(heights, mask=mask))
    grey = shown[..., 0][mask]
    assert (grey.min(), grey.max()) == (0, 255)
    assert 100 < grey[len(grey) // 2] < 155
    assert preview(Raster.from_pixels(np.full((1, 4, 4), np.nan)))[1].shape == (4, 4)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_a_raster_comes_back_from_xarray(dtype, turned):
    affine = Affine(2, 0, 500000, 0, -2, 5000000) @ (Affine.rotation(30) if turned else Affine.identity())
    grid = Grid(20, 30, affine, CRS("EPSG:32633"))
    pixels = np.random.default_rng(2).integers(0, 100, (2, 20, 30)).astype(dtype)
    mask = np.random.default_rng(3).random((20, 30)) < 0.8
    raster = Raster(pixels, mask, grid, ("height", "slope"), Units.of([0.1, 0.2], [0.0, 5.0]))
    with ArraySource(raster.to_xarray()) as source:
        back = source.read(grid)
        assert source.grid == grid
    assert (back.bands, back.units) == (raster.bands, raster.units)
    assert back.dtype == np.dtype(dtype)
    assert np.array_equal(back.mask, mask)
    assert np.array_equal(back.pixels[:, mask], pixels[:, mask])


def test_integers_that_use_every_value_are_handed_on_as_floats():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    mask = np.ones((16, 16), bool)
    whole = Raster.from_pixels(pixels).to_xarray()
    assert (whole.dtype, whole.odc.crs) == (np.uint8, None)
    mask[5, 5] = False
    array = Raster.from_pixels(pixels, mask=mask).to_xarray()
    assert array.dtype == np.float32
    assert np.array_equal(np.isfinite(array.values[0]), mask)
    assert np.array_equal(array.values[0][mask], pixels[0][mask])


def test_a_raster_says_in_a_line_what_it_holds():
    mask = np.arange(20).reshape(4, 5) < 10
    text = repr(Raster.from_pixels(np.zeros((3, 4, 5), np.uint8), mask=mask))
    assert text == "Raster(3 x 4 x 5 uint8, red, green, blue, no CRS, 50% with data)"


def test_a_raster_is_saved_with_its_place(tmp_path):
    grid = Grid(20, 30, Affine(2, 0, 500000, 0, -2, 5000000), CRS("EPSG:32633"))
    raster = Raster.from_pixels(np.random.default_rng(2).integers(0, 100, (3, 20, 30), np.uint8), grid)
    raster.save(tmp_path / "a.tif")
    back = read_image(tmp_path / "a.tif")
    assert back.grid == grid
    assert np.array_equal(back.pixels, raster.pixels)
