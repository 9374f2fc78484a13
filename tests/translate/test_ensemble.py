"""The mean over the eight flips and turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from odc.geo.crs import CRS
from torch import Tensor

from terramorph.geo import Grid
from terramorph.raster import Raster, read_image, write_image
from terramorph.translate import Model
from terramorph.translate.backends.protocol import VIEWS, Ensemble, view

from .conftest import make_bundle


class Recorder:
    """A backend that gives the first band plus a ramp from the left, and remembers what it saw."""

    name, device, batch_size, noisy, noise_bands = "recorder", torch.device("cpu"), 1, False, 1

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor | None]] = []

    def run(self, source: Tensor, seed: int = 0, noise: Tensor | None = None) -> Tensor:
        self.seen.append((source, noise))
        return source[:, :1] + torch.linspace(0, 1, source.shape[3])

    def release(self) -> None:
        self.seen.clear()


@pytest.mark.parametrize("number", range(VIEWS))
def test_a_view_is_undone(number: int) -> None:
    image = torch.arange(24.0).view(1, 1, 4, 6)
    assert torch.equal(view(view(image, number), number, back=True), image)


def test_the_eight_views_differ() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert len({tuple(view(image, number).flatten().tolist()) for number in range(VIEWS)}) == VIEWS


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (7, 5)])
def test_what_a_direction_adds_is_averaged_out(size: tuple[int, int]) -> None:
    backend = Recorder()
    source, noise = torch.rand(2, 3, *size), torch.rand(2, 1, *size)
    noise[:, 0] = source[:, 1]
    made = Ensemble(backend, 4).run(source, noise=noise)
    assert made.shape == (2, 1, *size)
    if size[0] % 4 == size[1] % 4 == 0:  # a ramp and its mirror image add up to one
        assert torch.allclose(made, source[:, :1] + 0.5, atol=1e-6)
    assert len(backend.seen) == VIEWS
    for seen, beside in backend.seen:
        assert beside is not None
        assert torch.equal(beside[:, 0], seen[:, 1])  # noise is turned with the image
        assert seen.shape[2] % 4 == seen.shape[3] % 4 == 0


def test_translation_commutes_with_flips_and_turns() -> None:
    bundle = make_bundle()
    image = (torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255).byte()

    def furthest(model: Model) -> int:
        """How far a turned image's output is from the turned output, at most over all views."""
        made = torch.from_numpy(model.translate(image.numpy()))
        turned = [torch.from_numpy(model.translate(view(image, n).contiguous().numpy())) for n in range(VIEWS)]
        return max(int((one.int() - view(made, n).int()).abs().max()) for n, one in enumerate(turned))

    assert furthest(Model(bundle, precision="fp32", ensemble=True)) <= 1
    assert furthest(Model(bundle, precision="fp32")) > 1


def test_the_ground_keeps_its_noise_in_every_view() -> None:
    bundle = make_bundle("lite-unet", width=10, noise=2)
    source = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    here, there = (Model(bundle, precision="fp32", ensemble=True, seed=seed).translate_batch(source) for seed in (0, 1))
    again = Model(bundle, precision="fp32", ensemble=True).translate_batch(source)
    assert torch.equal(here, again)
    assert not torch.equal(here, there)


def test_a_raster_in_windows_is_the_image_in_one(tmp_path: Path) -> None:
    bundle = make_bundle("resnet6", width=4)
    image = np.random.default_rng(0).integers(0, 256, (3, 320, 300), np.uint8)
    grid = Grid(320, 300, Affine(1.0, 0.0, 4e5, 0.0, -1.0, 5.8e6), CRS("EPSG:32633"))
    write_image(Raster.from_pixels(image, grid), tmp_path / "in.tif")
    model = Model(bundle, precision="fp32", ensemble=True)
    model.translate_to(tmp_path / "in.tif", tmp_path / "out.tif", window=192)
    off = np.abs(read_image(tmp_path / "out.tif").pixels.astype(int) - model.translate(image))
    assert off.max() <= 1
    with rasterio.open(tmp_path / "out.tif") as file:
        assert "eight" in file.tags()["TERRAMORPH_ENSEMBLE"]


def test_parts_of_one_pass_are_not_taken_for_those_of_eight() -> None:
    bundle = make_bundle()
    assert Model(bundle, ensemble=True).backend.name != Model(bundle).backend.name
