from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from PIL import Image
from rasterio.enums import ColorInterp

from terramorph.bands import Units
from terramorph.errors import InputWarning, RasterError
from terramorph.geo import Grid
from terramorph.raster import ImageSource, Raster, read_image
from terramorph.raster.layout import ReadOptions
from terramorph.sources import open_source

RNG = np.random.default_rng(0)
AFFINE = Affine(1, 0, 500_000, 0, -1, 4_000_000)
RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def written(path: Path, pixels: NDArray[Any], mask: NDArray[np.bool_] | None = None, **how: Any) -> Path:
    about = {key: how.pop(key) for key in ("colorinterp", "descriptions", "scales", "offsets") if key in how}
    profile = {"driver": "GTiff", "height": pixels.shape[1], "width": pixels.shape[2], "count": len(pixels)}
    profile |= {"dtype": pixels.dtype.name, "transform": AFFINE, "crs": "EPSG:32633", "photometric": "minisblack"}
    with rasterio.open(path, "w", **{**profile, **how}) as dataset:
        dataset.write(pixels)
        for key, value in about.items():
            setattr(dataset, key, value)
        if mask is not None:
            dataset.write_mask(mask)
    return path


def both(path: Path, options: ReadOptions | None = None) -> Raster:
    """What `read_image` gives, which is what `ImageSource` gives."""
    image = read_image(path, options)
    with ImageSource(path, options=options) as source:
        read = source.read(image.grid)
        assert (source.bands, source.dtype, source.units) == (image.bands, image.dtype, image.units)
    assert np.array_equal(read.pixels, image.pixels, equal_nan=image.dtype.kind == "f")
    assert np.array_equal(read.mask, image.mask)
    return image


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", 0), ("uint8", 200), ("uint16", 0), ("uint16", 65535), ("int16", 0), ("int16", -9999), ("float32", 0),
     ("float32", -9999), ("float32", -3.4028234663852886e38), ("float32", np.nan)],
)  # fmt: skip
def test_a_pixel_holds_data_where_any_band_does_as_gdal_says(tmp_path, dtype, nodata):
    values = RNG.integers(10, 90, (4, 9, 8)).astype(dtype)
    values[3, 2:5] = nodata
    values[:, 7] = nodata
    path = written(tmp_path / "a.tif", values, nodata=nodata)
    raster = both(path)
    with rasterio.open(path) as dataset:
        assert np.array_equal(raster.mask, dataset.dataset_mask() != 0)
    assert np.array_equal(raster.pixels[:3, :7], values[:3, :7])
    held = raster.pixels[3, 2:5].astype(float)
    if nodata == 0 or dtype == "uint8":
        assert (held == nodata).all(), "dark and bright pixels are measurements"
    else:
        assert np.abs(held - values[:3, 2:5].mean(axis=0)).max() <= 0.5, "nothing far from what the other bands hold"


def test_mask_of_the_dataset_and_nodata_of_a_band_of_floats(tmp_path):
    mask = RNG.random((20, 30)) > 0.3
    assert np.array_equal(both(written(tmp_path / "a.tif", np.ones((3, 20, 30), np.uint16), mask)).mask, mask)
    values = np.ones((2, 4, 5), np.float32)
    values[0, 1], values[1, 2] = np.nan, np.inf
    raster = both(written(tmp_path / "b.tif", values))
    assert raster.mask.all()
    assert (raster.pixels == 1).all()


def near_infrared(dtype: str = "uint8") -> NDArray[Any]:
    values = np.cumsum(RNG.integers(-1, 2, (4, 300, 250)), axis=2) + 90
    values[3, 40:200, 30:220] = 0
    return values.clip(0, 200).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_near_infrared_that_is_tagged_as_alpha_is_a_band(tmp_path, dtype):
    values = near_infrared(dtype)
    path = written(tmp_path / "a.tif", values, photometric="rgb", alpha="yes")
    with pytest.warns(InputWarning, match=r"Band 4 of .* alpha .* near infrared"):
        raster = both(path)
    assert raster.bands == ("red", "green", "blue", "nir")
    assert np.array_equal(raster.pixels, values)
    assert raster.mask.all()
    assert both(path, ReadOptions(bands=(1, 2, 3))).bands == ("red", "green", "blue")
    assert both(path, ReadOptions(bands=(4, 1))).bands == ("nir", "red")


@pytest.mark.parametrize("opacity", [255, 128])
def test_an_alpha_with_soft_edges_is_a_mask(tmp_path, opacity):
    values = near_infrared()
    values[3] = np.where(np.indices((300, 250)).sum(axis=0) < 400, opacity, 0)
    values[3, 100] = np.arange(250)
    assert np.array_equal(both(written(tmp_path / "a.tif", values, photometric="rgb", alpha="yes")).mask, values[3] > 0)


def test_an_alpha_that_fades_widely_is_a_mask(tmp_path):
    values = near_infrared()
    rows, columns = np.indices((300, 250))
    inside = np.minimum.reduce([rows, columns, 299 - rows, 249 - columns])
    values[3] = (inside * 4).clip(0, 255)
    assert np.array_equal(both(written(tmp_path / "a.tif", values, photometric="rgb", alpha="yes")).mask, inside > 0)


def test_what_an_alpha_says_of_itself_comes_before_its_values(tmp_path):
    values = near_infrared()
    names = ("red", "green", "blue", "alpha")
    path = written(tmp_path / "a.tif", values, photometric="rgb", alpha="yes", descriptions=names)
    assert np.array_equal(both(path).mask, values[3] > 0)
    values[3] = 255
    names = ("red", "green", "blue", "Near infrared")
    path = written(tmp_path / "b.tif", values, photometric="rgb", alpha="yes", descriptions=names)
    with pytest.warns(InputWarning):
        assert both(path).bands == names
    Image.fromarray(near_infrared().transpose(1, 2, 0)).save(tmp_path / "a.png")
    assert both(tmp_path / "a.png").count == 3, "alpha of a PNG is one"


def test_bands_are_called_what_the_file_says(tmp_path):
    values = np.ones((4, 4, 5), np.uint16)
    assert both(written(tmp_path / "a.tif", values)).bands == ("band1", "band2", "band3", "band4")
    tagged = (*RGB[::-1], ColorInterp.undefined)
    assert both(written(tmp_path / "b.tif", values, colorinterp=tagged)).bands == ("blue", "green", "red", "band4")
    names = ("B2", "B3", None, "B8")
    assert both(written(tmp_path / "c.tif", values, descriptions=names)).bands == ("B2", "B3", "band3", "B8")


def test_bands_are_picked_by_number_in_any_order(tmp_path):
    values = RNG.integers(0, 99, (4, 4, 5)).astype(np.uint16)
    path = written(tmp_path / "a.tif", values, descriptions=("blue", "green", "red", "nir"))
    raster = both(path, ReadOptions(bands=(3, 4)))
    assert raster.bands == ("red", "nir")
    assert np.array_equal(raster.pixels, values[2:])
    assert both(path, ReadOptions(bands=(3, 4), names=("a", "b"))).bands == ("a", "b")
    Image.fromarray(values[:3].transpose(1, 2, 0).astype(np.uint8)).save(tmp_path / "a.png")
    assert np.array_equal(both(tmp_path / "a.png", ReadOptions(bands=(3, 1))).pixels, values[2::-2])
    for file in (path, tmp_path / "a.png"):
        with pytest.raises(RasterError, match="no band 5"):
            read_image(file, ReadOptions(bands=(5,)))
        with pytest.raises(RasterError, match="2 bands are read and 3 are needed"):
            read_image(file, ReadOptions(bands=(1, 2), names=("a", "b", "c")))
    with pytest.raises(RasterError, match="must be numbers from 1"):
        ReadOptions(bands=(0, 1))


@pytest.mark.parametrize("value", [-9999, -3.4e38, 55.5])
def test_nodata_that_no_file_declares_can_be_said(tmp_path, value):
    values = RNG.integers(10, 90, (2, 9, 8)).astype(np.float32)
    values[:, 2] = -3.4028234663852886e38 if value < -1e30 else value
    raster = both(written(tmp_path / "a.tif", values), ReadOptions(nodata=value))
    assert np.flatnonzero(~raster.mask.all(axis=1)).tolist() == [2]
    assert not raster.mask[2].any()


def test_scale_and_offset_travel_unless_raw_values_are_asked_for(tmp_path):
    path = written(tmp_path / "a.tif", np.ones((2, 4, 5), np.int16), scales=(0.1, 0.1), offsets=(0.0, 5.0))
    assert both(path).units == Units((0.1, 0.1), (0.0, 5.0))
    assert both(path, ReadOptions(bands=(2,))).units == Units((0.1,), (5.0,))
    assert both(path, ReadOptions(raw=True)).units is None


def labels() -> NDArray[np.uint8]:
    values = np.where(np.arange(64) < 32, 0, 5).astype(np.uint8) * np.ones((64, 1), np.uint8)
    values[20:40, 20:40] = 2
    return values[None]


FINER = Grid(256, 256, AFFINE @ Affine.scale(0.25), CRS("EPSG:32633"))


def test_classes_are_never_mixed(tmp_path):
    path = written(tmp_path / "a.tif", labels())
    with ImageSource(path) as source, pytest.warns(InputWarning, match="3 values"):
        assert set(np.unique(source.read(FINER).pixels)) == {0, 2, 5}
    with ImageSource(path, options=ReadOptions(categorical=True)) as source:
        assert set(np.unique(source.read(FINER).pixels)) == {0, 2, 5}
    with ImageSource(path, options=ReadOptions(categorical=False)) as source:
        assert len(np.unique(source.read(FINER).pixels)) > 3


def test_fields_larger_than_the_places_that_are_looked_at_are_classes(tmp_path):
    fields = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((200, 200))).astype(np.uint8)[None] * 10
    with (
        ImageSource(written(tmp_path / "a.tif", fields)) as source,
        pytest.warns(InputWarning, match="9 values") as told,
    ):
        moved = source.read(source.grid.crop(150, 150, 100, 100).resized(260, 260))
    assert set(np.unique(moved.pixels)) == {10, 20, 40, 50}
    assert len(told) == 1


def test_palettes_are_of_classes(tmp_path):
    path = written(tmp_path / "a.tif", labels(), photometric="palette")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (0, 0, 0, 255), 2: (255, 0, 0, 255), 5: (0, 0, 255, 255)})
    with ImageSource(path) as source:
        assert len(np.unique(source.read(FINER).pixels.reshape(3, -1), axis=1).T) == 3


@pytest.mark.parametrize("bits", [1, 4])
def test_classes_of_few_bits_are_never_mixed(tmp_path, bits):
    shades = Image.fromarray(labels()[0] > 0) if bits == 1 else Image.fromarray(labels()[0]).quantize(4)
    shades.save(tmp_path / "a.png", bits=bits)
    (tmp_path / "a.pgw").write_text("1\n0\n0\n-1\n500000.5\n3999999.5\n")
    (tmp_path / "a.prj").write_text(CRS("EPSG:32633").to_wkt())
    with ImageSource(tmp_path / "a.png") as source:
        own = {tuple(colour) for colour in source.read(source.grid).pixels.reshape(len(source.bands), -1).T}
        with pytest.warns(InputWarning) if bits == 1 else nullcontext():
            moved = source.read(FINER)
    assert {tuple(colour) for colour in moved.pixels.reshape(len(moved.bands), -1).T} == own


def test_noise_of_few_steps_is_no_class(tmp_path):
    noise = RNG.integers(90, 110, (1, 64, 64)).astype(np.uint8)
    with ImageSource(written(tmp_path / "a.tif", noise)) as source:
        source.read(FINER)
        assert source.resampling == "bicubic"


def test_measurements_of_few_steps_are_no_classes(tmp_path):
    smooth = (np.hypot(*np.mgrid[-32:32, -32:32]) / 4).astype(np.uint8)[None]
    with ImageSource(written(tmp_path / "a.tif", smooth)) as source:
        source.read(FINER)
        assert source.resampling == "bicubic"


def test_images_inside_a_file_are_listed(tmp_path):
    for name in ("one", "two"):
        profile = {"driver": "GPKG", "height": 4, "width": 5, "count": 3, "dtype": "uint8", "crs": "EPSG:3857"}
        more = {"RASTER_TABLE": name} | ({"APPEND_SUBDATASET": "YES"} if name == "two" else {})
        with rasterio.open(tmp_path / "a.gpkg", "w", **profile, transform=Affine(2, 0, 0, 0, -2, 0), **more) as file:
            file.write(np.zeros((3, 4, 5), np.uint8))
    with pytest.raises(RasterError, match=r"holds 2 inside; .*: GPKG:.*:one, GPKG:.*:two"):
        open_source(tmp_path / "a.gpkg")
    with open_source(f"GPKG:{tmp_path / 'a.gpkg'}:two") as source:
        assert source.read(source.grid).pixels.shape == (3, 4, 5)
