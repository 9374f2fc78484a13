"""Images in ZIP archives."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image

from terramorph.errors import RasterError
from terramorph.geo import Grid
from terramorph.raster import Raster, probe_image, read_image, write_image
from terramorph.sources import open_source

PIXELS = np.random.default_rng(0).integers(0, 255, (3, 20, 30), np.uint8)
GRID = Grid(20, 30, Affine(1, 0, 500000, 0, -1, 5400000), CRS("EPSG:32633"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_image(Raster.from_pixels(PIXELS, GRID), tmp_path / "b.tif")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.write(tmp_path / "b.tif", "scene/b.tif")
        file.writestr("readme.txt", "A scene.")
    (tmp_path / "b.tif").unlink()
    return tmp_path / "a.zip"


@pytest.mark.parametrize(
    "name", ["{a}", "zip://{a}!scene/b.tif", "zip://{a}", "/vsizip/{a}/scene/b.tif", "/vsizip/{{{a}}}/scene/b.tif"]
)
def test_an_image_in_an_archive(archive: Path, name: str) -> None:
    with open_source(name.format(a=archive)) as source:
        assert source.grid == GRID
        assert np.array_equal(source.read(GRID).pixels, PIXELS)
        assert source.name.endswith("a.zip!scene/b.tif")
    assert np.array_equal(read_image(name.format(a=archive)).pixels, PIXELS)
    assert read_image(Path(name.format(a=archive))).grid == GRID  # a Path of a URL has lost a slash


def test_what_lies_beside_it_places_it_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    Image.fromarray(PIXELS.transpose(1, 2, 0)).save(tmp_path / "c.png")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as file:
        file.write(tmp_path / "c.png", "c.png")
        file.writestr("c.pgw", "1\n0\n0\n-1\n500000.5\n5399999.5\n")
        file.writestr("c.prj", GRID.crs.to_wkt() if GRID.crs else "")
    source = open_source(tmp_path / "c.zip")
    assert source.grid == GRID
    source.close()
    del source
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as file:
        file.writestr("d.tif", b"II*\0 and no more")
    for read in (open_source, read_image):
        with pytest.raises(RasterError):
            read(tmp_path / "d.zip")
    assert not list((tmp_path / "tmp").iterdir())


def test_errors_name_the_archive(archive: Path, tmp_path: Path) -> None:
    assert probe_image(archive) == (*GRID.shape, 3, "uint8")
    write_image(Raster.from_pixels(PIXELS, GRID), tmp_path / "b.tif")
    data = (tmp_path / "b.tif").read_bytes()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("b.tif", data[: len(data) // 2])
    for read in (lambda: read_image(archive), lambda: open_source(archive).read(GRID)):
        with pytest.raises(RasterError, match=r"^zip://.*a\.zip!b\.tif cannot be read"):
            read()


def test_what_cannot_be_opened(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("second.png", b"")
    with pytest.raises(RasterError, match=r"2 images.*scene/b\.tif, second\.png"):
        open_source(archive)
    with pytest.raises(RasterError, match=r"holds no x\.tif"):
        open_source(f"zip://{archive}!x.tif")
    with pytest.raises(RasterError, match="does not exist"):
        open_source("/vsizip/nothing.zip/x.tif")
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(RasterError, match="cannot be unpacked"):
        open_source(archive)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as file:
        file.writestr("a.txt", "")
    with pytest.raises(RasterError, match="no image"):
        open_source(tmp_path / "empty.zip")
