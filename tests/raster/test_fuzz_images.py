"""Mutated images of every kind and encoding: read, or refused with an error of ours."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from terramorph.geo import Grid
from terramorph.raster import read_image
from terramorph.sources import open_source

from ..fuzz import MUTATIONS, only_ours

# rasterio cannot decode GDAL's messages in other code pages, and says so where nobody can catch it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

RGB = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
PLACE = Affine(1, 0, 500000, 0, -1, 5400000)


def _encoded(kind: str, mode: str = "RGB", **how: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RGB).convert(mode).save(stream, kind, **how)  # type: ignore[arg-type]
    return stream.getvalue()


def _geotiff(folder: Path, **profile: object) -> bytes:
    path = folder / "good.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=24, width=32, count=3, dtype="uint8", crs="EPSG:32633", transform=PLACE,
        **profile,
    ) as dataset:  # fmt: skip
        dataset.write(RGB.transpose(2, 0, 1))
    return path.read_bytes()


def _look(path: Path) -> None:
    """Reads a file by both ways: a window of the source, stored and moved, and all of it."""
    with open_source(path) as source:
        grid = source.grid
        assert grid is not None
        source.read(grid.crop(0, 0, min(grid.height, 64), min(grid.width, 64)))
        source.read(Grid(3, 3, grid.affine @ Affine.scale(1.5), grid.crs))
    read_image(path)


def _look_at(path: Path) -> Callable[[bytes], None]:
    def parse(data: bytes) -> None:
        path.write_bytes(data)
        _look(path)

    return parse


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("PNG", {}),
        ("PNG", {"mode": "P"}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("BMP", {}),
        ("BMP", {"mode": "L"}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {"mode": "P"}),
        ("TIFF", {}),
    ],
)
def test_images(kind: str, how: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / f"image.{kind.lower()}"
    refused = only_ours(_look_at(path), _encoded(kind, **how))  # type: ignore[arg-type]
    assert 0 < refused < MUTATIONS or kind == "PNG"  # whose every byte is summed


@pytest.mark.parametrize(
    "profile",
    [{"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}, {"compress": "lzw"},
     {"interleave": "band", "nodata": 0}],
)  # fmt: skip
def test_geotiffs(profile: dict[str, object], tmp_path: Path) -> None:
    assert 0 < only_ours(_look_at(tmp_path / "image.tif"), _geotiff(tmp_path, **profile)) < MUTATIONS
