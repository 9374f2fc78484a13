from __future__ import annotations

import numpy as np
import pytest

from terramorph.errors import RasterError
from terramorph.geo import Grid
from terramorph.raster import Raster


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
