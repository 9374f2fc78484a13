"""Noise in ground coordinates."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine
from odc.geo.crs import CRS
from torch import Tensor, nn

from terramorph.bundle import Architecture, Bands, Bundle, Header, Mode
from terramorph.geo import Cover, Grid
from terramorph.raster import read_image, write_image
from terramorph.town import make_town
from terramorph.translate import Model
from terramorph.translate.noise import ground_noise
from terramorph.translate.plan import plan_cover

from ..seams import borders_of, seam_ratio, tiling_agreement

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


class Noisy(nn.Module):
    """A generator of source and noise whose field reaches 2 px, or over all of the image.

    Values and weights are multiples of powers of two, so that no sum depends on its order.
    """

    stride, noise = 4, 2
    halo: int | None

    def __init__(self, *, bounded: bool) -> None:
        super().__init__()
        self.halo = 2 if bounded else None
        self.body = nn.Sequential(nn.Conv2d(5, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
        random = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            parameter.data = torch.randint(-8, 9, parameter.shape, generator=random) / 64

    def forward(self, source: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            noise = source.new_zeros(len(source), self.noise, *source.shape[2:])
        y: Tensor = self.body(torch.cat([source, noise], dim=1).mul(64).round().div(64))
        if self.halo is None:
            y = y + 0.3 * source.mean(dim=(2, 3), keepdim=True)
        return y.clamp(-1.0, 1.0)


def noisy(*, bounded: bool = True, mode: Mode = "raster", seed: int = 0) -> Model:
    network, rgb = Noisy(bounded=bounded), Bands(names=("red", "green", "blue"))
    header = Header(
        architecture=Architecture(name="noisy", settings={}),
        source=rgb,
        target=rgb,
        size=32,
        stride=network.stride,
        halo=network.halo,
    )
    return Model(Bundle(network.eval(), header), mode=mode, precision="fp32", seed=seed)


@pytest.fixture
def town(tmp_path: Path) -> Path:
    write_image(make_town(size_px=640, seed=2).aerial(), tmp_path / "town.tif")
    return tmp_path / "town.tif"


def test_every_tiling_of_a_bounded_noisy_network_is_the_same(town: Path, tmp_path: Path, monkeypatch) -> None:
    model = noisy()
    whole = model.translate(town)
    plain = noisy(seed=1).translate(town)
    assert (plain.pixels != whole.pixels).mean() > 0.5, "the noise is seen, and another seed is other noise"
    for number, (window, offset) in enumerate(((64, (0, 0)), (96, (8, 20)), (200, (0, 0)))):
        with monkeypatch.context() as patch:
            patch.setattr("terramorph.translate.plan.Cover", partial(Cover, offset=offset))
            model.translate_to(town, tmp_path / f"{number}.tif", window=window)
        assert np.array_equal(read_image(tmp_path / f"{number}.tif").pixels, whole.pixels)
    with model.lazy(town, window=64) as lazy:
        assert np.array_equal(lazy.read(whole.grid.crop(100, 90, 200, 150)).pixels, whole.pixels[:, 100:300, 90:240])
    part = read_image(town).crop(160, 160, 320, 320)
    assert np.array_equal(model.translate(part).pixels[:, 2:-2, 2:-2], whole.pixels[:, 162:478, 162:478])


def test_noise_leaves_no_seam_where_windows_are_blended(town: Path) -> None:
    model = noisy(bounded=False)
    drawn = model.translate(town, window=192, overlap=64)
    cover = plan_cover(model, drawn.grid, 192, 64)
    rows, columns = borders_of(cover)
    found = seam_ratio(torch.from_numpy(drawn.pixels), rows, columns)
    assert 0.8 < found < 1.25
    other = model.translate(town, window=256, overlap=64)
    assert tiling_agreement(torch.from_numpy(drawn.pixels), torch.from_numpy(other.pixels))["p99"] < 8


def test_in_paper_mode_noise_is_the_samples(town: Path) -> None:
    model, image = noisy(mode="paper"), read_image(town).crop(0, 0, 64, 64)
    one, again, two = (model.translate(image, sample=number).pixels for number in (0, 0, 1))
    assert np.array_equal(one, again)
    assert (one != two).mean() > 0.5
    model.check_samples(2)
