"""Bands by their names, values by their units: what reaches the network is what it was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray
from odc.geo.crs import CRS
from odc.geo.xr import wrap_xr

from terramorph.bands import Units
from terramorph.bundle import Bands, Bundle
from terramorph.errors import InputError, InputWarning
from terramorph.geo import Grid
from terramorph.raster import Raster, ReadOptions, read_image, write_image
from terramorph.translate import Model

from .conftest import make_bundle

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 64, 72), dtype=np.uint8)
DEEP = RNG.integers(0, 4000, (3, 64, 72), dtype=np.uint16)
OLD, NEW = Units((1e-4,) * 3, (0.0,) * 3), Units((1e-4,) * 3, (-0.1,) * 3)
AFFINE = Grid.pixels(64, 72).affine.translation(500_000, 4_000_000) @ Grid.pixels(64, 72).affine.scale(1, -1)


def deep_bundle(units: Units | None = None) -> Bundle:
    source = Bands(names=("red", "green", "blue"), dtype="uint16", low=0, high=4000, units=units)
    return make_bundle(header={"source": source})


def named(pixels: np.ndarray, *bands: str, units: Units | None = None) -> Raster:
    return replace(Raster.from_pixels(pixels, bands=bands), units=units)


def test_bands_come_in_the_order_of_the_model_every_way(bundle: Bundle, tmp_path: Path) -> None:
    model = Model(bundle)
    want = model.translate(PIXELS)
    turned = named(PIXELS[::-1].copy(), "Blue", "Green", "Red")
    four = named(np.concatenate([PIXELS[:1] // 2, PIXELS]), "nir", "red", "green", "blue")
    for number, raster in enumerate((turned, four)):
        assert np.array_equal(model.translate(raster).pixels, want)
        path = tmp_path / f"{number}.tif"
        write_image(raster, path)
        assert np.array_equal(model.translate(path).pixels, want)
        model.translate_to(path, tmp_path / f"one{number}.png")
        assert np.array_equal(read_image(tmp_path / f"one{number}.png").pixels, want)
        model.translate_to(path, tmp_path / f"whole{number}.tif")
        assert np.array_equal(read_image(tmp_path / f"whole{number}.tif").pixels, want)


def test_bands_of_an_array_are_told_by_their_coordinates(bundle: Bundle) -> None:
    model = Model(bundle)
    box = Grid(64, 72, AFFINE, CRS("EPSG:32633")).geobox
    arrays = [
        wrap_xr(pixels, box, dims=("band", "y", "x"), axis=1).assign_coords(band=names)
        for pixels, names in ((PIXELS, ["red", "green", "blue"]), (PIXELS[::-1].copy(), ["blue", "green", "red"]))
    ]
    one, other = (model.translate(array) for array in arrays)
    assert isinstance(one, xarray.DataArray)
    assert np.array_equal(one, other)
    four = xarray.concat([arrays[1].isel(band=[0]).assign_coords(band=["nir"]), arrays[1]], "band")
    assert np.array_equal(model.translate(four.chunk({"y": 40})), one)


def test_a_model_of_blue_green_red_takes_red_green_blue() -> None:
    bundle = make_bundle(header={"source": Bands(names=("blue", "green", "red"))})
    model = Model(bundle)
    want = model.translate(named(PIXELS, "blue", "green", "red")).pixels
    assert np.array_equal(model.translate(named(PIXELS[::-1].copy(), "red", "green", "blue")).pixels, want)


def test_bands_that_are_not_there_are_refused_with_both_orders(bundle: Bundle, tmp_path: Path) -> None:
    write_image(named(PIXELS, "nir", "red", "green"), tmp_path / "a.tif")
    with pytest.raises(InputError, match="the bands nir, red, green and the model takes 3 bands"):
        Model(bundle).translate(tmp_path / "a.tif")
    options = ReadOptions(bands=(1, 2, 3))
    Model(bundle).translate_to(tmp_path / "a.tif", tmp_path / "b.tif", options=options)
    want = Model(bundle).translate(PIXELS)
    assert np.array_equal(read_image(tmp_path / "b.tif").pixels, want), "who picks them decides what they are"


def test_bands_of_unknown_names_are_taken_in_their_order_and_said(bundle: Bundle) -> None:
    model = Model(bundle)
    with pytest.warns(InputWarning, match="B02, B03, B04, .* red, green, blue"):
        found = model.translate(named(PIXELS, "B02", "B03", "B04")).pixels
    assert np.array_equal(found, model.translate(PIXELS))


def test_a_grey_image_stands_for_every_band(bundle: Bundle, tmp_path: Path) -> None:
    write_image(named(PIXELS[:1], "band1"), tmp_path / "grey.tif")
    model = Model(bundle)
    with pytest.raises(InputError, match="such as 1,1,1"):
        model.translate(tmp_path / "grey.tif")
    model.translate_to(tmp_path / "grey.tif", tmp_path / "out.tif", options=ReadOptions(bands=(1, 1, 1)))
    want = model.translate(np.repeat(PIXELS[:1], 3, axis=0))
    assert np.array_equal(read_image(tmp_path / "out.tif").pixels, want)
    # As the sentence says it.
    assert np.array_equal(model.translate(tmp_path / "grey.tif", bands=(1, 1, 1)).pixels, want)
    assert np.array_equal(model.translate(PIXELS[0], bands=(1, 1, 1)), want)


def test_units_of_another_baseline_are_converted() -> None:
    model = Model(deep_bundle(OLD))
    want = model.translate(named(DEEP, "red", "green", "blue", units=OLD)).pixels
    moved = named(DEEP[::-1] + np.uint16(1000), "blue", "green", "red", units=NEW)
    assert np.array_equal(model.translate(moved).pixels, want)
    with pytest.warns(InputWarning, match=r"taken to be those .*scale 0\.0001, offset 0"):
        assert np.array_equal(model.translate(DEEP), want)
    with pytest.warns(InputWarning, match=r"scale 0\.0001, offset -0\.1, and the model does not know"):
        Model(deep_bundle()).translate(moved)


def test_units_of_the_target_are_written(tmp_path: Path) -> None:
    target = Bands(names=("height",), dtype="uint16", low=0, high=9000, units=Units((0.01,), (-10.0,)))
    bundle = make_bundle(out_bands=1, header={"target": target})
    write_image(Raster.from_pixels(PIXELS), tmp_path / "a.tif")
    Model(bundle).translate_to(tmp_path / "a.tif", tmp_path / "b.tif")
    Model(bundle).translate_to(tmp_path / "a.tif", tmp_path / "c.tif")
    for name in ("b.tif", "c.tif"):
        made = read_image(tmp_path / name)
        assert (made.bands, made.units) == (("height",), target.units)
    assert target.physical == (-10, 80)
    bundle.save(tmp_path / "m.safetensors")


def test_undeclared_nodata_is_told() -> None:
    pixels = DEEP.copy()
    pixels[:, :3] = 65535
    with pytest.warns(InputWarning, match="the image are 65535"):
        Model(deep_bundle()).translate(pixels)


def test_the_last_axis_of_an_array_is_told_from_bands(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"4 bands along its last axis and the model takes 3 .*array\[\.\.\., :3\]"):
        Model(bundle).translate(RNG.integers(0, 256, (64, 72, 4), dtype=np.uint8))
    assert Model(bundle).translate(PIXELS.transpose(1, 2, 0)).shape == (64, 72, 3)


def test_floats_without_data_in_one_band_are_translated() -> None:
    source = Bands(names=("a", "b"), dtype="float32", low=0, high=300)
    model = Model(make_bundle(in_bands=2, header={"source": source}))
    pixels = np.full((2, 64, 64), 100, np.float32)
    want = model.translate(pixels)
    pixels[1, 10:20] = np.nan
    made = model.translate(Raster.from_pixels(pixels))
    assert made.mask.all()
    assert np.array_equal(made.pixels, want), "the other band stands for it"
