from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image

from terramorph.errors import RasterError, StorageError
from terramorph.geo import Grid
from terramorph.raster import Raster, read_image, save, write_image
from terramorph.raster.writer import write_cog

RGB = np.random.default_rng(1).integers(0, 256, (3, 16, 24), dtype=np.uint8)


def test_png_mask_is_alpha(tmp_path):
    mask = np.ones((16, 24), bool)
    mask[2:5] = False
    for pixels in (RGB, RGB[:1]):
        write_image(Raster.from_pixels(pixels, mask=mask), tmp_path / "a.png")
        raster = read_image(tmp_path / "a.png")
        assert np.array_equal(raster.mask, mask)
        assert np.array_equal(raster.pixels, pixels)


PLACED = Grid(4, 5, Affine(10, 0, 500_000, 0, -10, 5_000_000), CRS("EPSG:32633"))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "cog.tif"])
def test_the_place_of_an_earlier_image_does_not_stay(tmp_path, name):
    path, raster = tmp_path / name, Raster.from_pixels(np.ones((3, 4, 5), np.uint8), PLACED)
    path.with_name(f"{name}.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:3857</SRS><GeoTransform>1,2,0,100,0,-2</GeoTransform></PAMDataset>"
    )
    if name == "cog.tif":
        write_cog(path, PLACED, raster.bands, np.uint8, [(slice(0, 4), raster.pixels, raster.mask)], masked=False)
    else:
        write_image(raster, path)
    assert read_image(path).grid == PLACED


def test_the_prj_of_a_shapefile_stays(tmp_path):
    (tmp_path / "city.shp").touch()
    (tmp_path / "city.prj").write_text("EPSG:4326")
    raster = Raster.from_pixels(np.ones((3, 4, 5), np.uint8), PLACED)
    with pytest.raises(RasterError, match=r"replace that of .*city\.shp; choose another name"):
        write_image(raster, tmp_path / "city.png")
    write_image(Raster.from_pixels(raster.pixels, replace(PLACED, crs=None)), tmp_path / "city.png")
    write_image(Raster.from_pixels(raster.pixels), tmp_path / "city.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["city.png", "city.prj", "city.shp"]
    assert (tmp_path / "city.prj").read_text() == "EPSG:4326"


def test_jpeg_is_close_and_rgb(tmp_path):
    smooth = np.broadcast_to(np.linspace(0, 255, 24).astype(np.uint8), (3, 16, 24)).copy()
    write_image(Raster.from_pixels(smooth), tmp_path / "a.jpeg")
    assert np.abs(read_image(tmp_path / "a.jpeg").pixels.astype(int) - smooth).max() < 8


def test_uint16_gray_png(tmp_path):
    deep = RGB[:1].astype(np.uint16) * 257
    write_image(Raster.from_pixels(deep), tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png").pixels, deep)


@pytest.mark.parametrize(
    ("name", "pixels", "masked"),
    [
        ("a.jpg", RGB.astype(np.uint16), False),
        ("a.jpg", RGB[:2], False),
        ("a.jpg", RGB, True),
        ("a.png", RGB.astype(np.float32), False),
        ("a.png", RGB.astype(np.uint16), False),
        ("a.png", np.repeat(RGB, 2, axis=0), False),
        ("a.png", RGB[:1].astype(np.uint16), True),
        ("a.gif", RGB, False),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_tif_proposed(tmp_path, name, pixels, masked):
    mask = np.full((16, 24), not masked)
    with pytest.raises(RasterError, match=r"\.tif"):
        write_image(Raster.from_pixels(pixels, mask=mask), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_what_a_format_cannot_hold_is_known_before_there_is_an_image():
    for name in ("a.png", "a.jpg"):
        with pytest.raises(RasterError, match=r"use \.tif"):
            save.check_format(name, bands=3, dtype="float32")
        save.check_format(name, bands=3, dtype="uint8", side=65500)
    with pytest.raises(RasterError, match="longer than 65500"):
        save.check_format("a.jpg", bands=3, dtype="uint8", side=65501)
    save.check_format("a.tif", bands=9, dtype="float32", masked=True, side=10**6)


def test_tiff_refuses_half_floats(tmp_path):
    with pytest.raises(RasterError, match="float32"):
        write_image(Raster.from_pixels(RGB.astype(np.float16)), tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_missing_folder_is_a_storage_error(tmp_path, name):
    with pytest.raises(StorageError, match="cannot be written"):
        write_image(Raster.from_pixels(RGB), tmp_path / "nowhere" / name)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(Raster.from_pixels(RGB), path)

    def fail(self, file, **options):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(StorageError, match="No space left"):
        write_image(Raster.from_pixels(255 - RGB), path)
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]
    assert np.array_equal(read_image(path).pixels, RGB)


def test_a_tiff_that_did_not_reach_the_disk_is_noticed(tmp_path, monkeypatch):
    whole = save._verify_tiff

    def cut(raster, path):
        path.write_bytes(path.read_bytes()[:-300])
        whole(raster, path)

    monkeypatch.setattr(save, "_verify_tiff", cut)
    with pytest.raises(StorageError, match=r"/a\.tif cannot be written"):
        write_image(Raster.from_pixels(np.random.default_rng(0).random((1, 64, 64))), tmp_path / "a.tif")
    assert list(tmp_path.iterdir()) == []
