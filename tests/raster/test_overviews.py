"""Reduced reading: from overviews that hold means, else from full resolution; the pixels are nearly the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling

from terramorph.geo import Grid
from terramorph.raster import ImageSource, Raster, ReadOptions, write_image


@pytest.fixture
def town(small_town_sides: tuple[Raster, Raster], tmp_path: Path) -> tuple[Path, Raster]:
    """509 x 501 px with a hole, without overviews."""
    aerial = small_town_sides[0].crop(0, 0, 509, 501)
    mask = aerial.mask.copy()
    mask[200:300, 100:260] = False
    raster = Raster.from_pixels(aerial.pixels, aerial.grid, mask)
    write_image(raster, tmp_path / "town.tif")
    return tmp_path / "town.tif", raster


def reduced(path: Path, grid: Grid, factor: float, **how: ReadOptions) -> tuple[Raster, list[bool]]:
    """The image reduced, and whether an overview was read."""
    high, wide = int(grid.height // factor), int(grid.width // factor)
    coarse = Grid(high, wide, grid.affine @ Affine.scale(factor), grid.crs)
    with ImageSource(path, **how) as source:
        level = source._level(coarse)
        return source.read(coarse), [level.grid != source.grid]


def build(path: Path, method: Resampling) -> None:
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], method)


@pytest.mark.parametrize("factor", [4.0, 8.0, 10.5])
def test_means_are_nearly_what_full_resolution_gives(town: tuple[Path, Raster], factor: float) -> None:
    path, raster = town
    full, used = reduced(path, raster.grid, factor)
    assert used == [False]
    build(path, Resampling.average)
    quick, used = reduced(path, raster.grid, factor)
    assert used == [True]
    both = quick.mask & full.mask
    off = np.abs(quick.pixels.astype(int) - full.pixels)[:, both]
    assert 0 < off.mean() < 1.5
    assert np.percentile(off, 99) < 8
    assert (quick.mask != full.mask).mean() < 0.02


def test_overviews_of_chosen_pixels_are_not_read(town: tuple[Path, Raster]) -> None:
    path, raster = town
    full, _ = reduced(path, raster.grid, 8)
    build(path, Resampling.nearest)
    got, used = reduced(path, raster.grid, 8)
    assert used == [False]
    assert np.array_equal(got.pixels, full.pixels)


def test_small_reductions_and_classes_come_from_full_resolution(town: tuple[Path, Raster]) -> None:
    path, raster = town
    before = [reduced(path, raster.grid, 3)[0], reduced(path, raster.grid, 8, options=ReadOptions(categorical=True))[0]]
    build(path, Resampling.average)
    with ImageSource(path) as source:
        assert np.array_equal(source.read(raster.grid).pixels[:, raster.mask], raster.pixels[:, raster.mask])
    after = [reduced(path, raster.grid, 3)[0], reduced(path, raster.grid, 8, options=ReadOptions(categorical=True))[0]]
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert np.array_equal(one.mask, other.mask)
