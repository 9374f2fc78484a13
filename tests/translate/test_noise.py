"""Noise in ground coordinates."""

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS

from terramorph.geo import Grid
from terramorph.translate.noise import ground_noise

GRIDS = {
    "pixels": Grid.pixels(96, 80),
    "utm": Grid(96, 80, Affine(0.3, 0, 500_000.1, 0, -0.3, 5_400_000.2), CRS("EPSG:32633")),
    "half a pixel off": Grid(96, 80, Affine(2, 0, 500_001, 0, -2, 5_400_001), CRS("EPSG:32633")),
    "south and west of the origin": Grid(96, 80, Affine(0.6, 0, -13_000_000, 0, -0.6, -4_000_000), CRS("EPSG:3857")),
    "turned": Grid(
        96, 80, Affine.translation(7e5, 5e6) @ Affine.rotation(31) @ Affine.scale(0.5, -0.5), CRS("EPSG:32633")
    ),
    "degrees": Grid(96, 80, Affine(1e-5, 0, 72.8, 0, -1e-5, 19.0), CRS("EPSG:4326")),
}


@pytest.mark.parametrize("name", GRIDS)
def test_the_noise_of_a_window_is_the_window_of_the_noise(name: str) -> None:
    grid = GRIDS[name]
    whole = ground_noise(grid, 5, seed=3)
    for y, x, height, width in [(0, 0, 10, 10), (31, 17, 20, 33), (95, 79, 1, 1)]:
        part = ground_noise(grid.crop(y, x, height, width), 5, seed=3)
        assert np.array_equal(part, whole[:, y : y + height, x : x + width])
    outside = ground_noise(grid.crop(-5, -7, 20, 20), 5, seed=3)  # a halo reaches outside
    assert np.array_equal(outside[:, 5:, 7:], whole[:, :15, :13])


def test_it_is_normal_and_its_cells_bands_and_seeds_are_independent() -> None:
    grid = Grid.pixels(256, 256)
    noise = ground_noise(grid, 6)
    assert noise.shape == (6, 256, 256)
    assert noise.dtype == np.float32
    assert np.abs(noise).max() < 5.8
    # Of 65,536 independent draws the mean deviates by 0.004, so these bounds are five deviations wide.
    for band in noise:
        assert abs(band.mean()) < 0.02
        assert abs(band.std() - 1) < 0.015
        assert abs((band**4).mean() - 3) < 0.2
        assert abs((band**3).mean()) < 0.06
        for shifted in (band[1:], band[:, 1:], band[1:, 1:], band[8:], band[:, 64:]):
            assert abs((band[: shifted.shape[0], : shifted.shape[1]] * shifted).mean()) < 0.022
    pairs = np.corrcoef(np.concatenate([noise, ground_noise(grid, 6, seed=1)]).reshape(12, -1))
    assert np.abs(pairs - np.eye(12)).max() < 0.022


def test_it_is_the_same_on_every_machine() -> None:
    values = ground_noise(Grid.pixels(1, 2), 4, seed=7)[:, 0]
    # Worked out in whole numbers and double precision, apart from this code.
    assert values[:, 0] == pytest.approx([-1.5078923, 1.7300745, 0.0089665, 0.2295291], abs=1e-5)
