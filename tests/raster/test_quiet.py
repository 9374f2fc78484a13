"""Silence in many threads at once."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from terramorph.raster import Raster, read_image, write_image


def test_files_without_a_place_are_read_in_silence_by_many_threads(tmp_path: Path) -> None:
    for number in range(4):
        write_image(Raster.from_pixels(np.zeros((1, 8, 8), np.uint16)), tmp_path / f"{number}.tif")
    with ThreadPoolExecutor(8) as pool:  # a warning is an error here, and read_image would pass it on
        assert len(list(pool.map(lambda n: read_image(tmp_path / f"{n % 4}.tif"), range(400)))) == 400


def test_whoever_reads_files_too_hears_of_them_as_before(tmp_path: Path) -> None:
    write_image(Raster.from_pixels(np.zeros((1, 8, 8), np.uint16)), tmp_path / "a.tif")
    before = list(warnings.filters)
    read_image(tmp_path / "a.tif")
    assert warnings.filters == before
    with pytest.warns(NotGeoreferencedWarning):
        rasterio.open(tmp_path / "a.tif").close()
