"""Model: what it takes, what it gives, and what it refuses."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS

import terramorph
from terramorph.bundle import Bands, Bundle
from terramorph.errors import BundleError, ConfigError, InputError, RasterError
from terramorph.geo import Grid
from terramorph.networks import set_noise
from terramorph.networks.inference import per_image_statistics
from terramorph.pixels import image_to_unit, unit_to_image
from terramorph.raster import Raster, write_image
from terramorph.translate import Model, plan

from ..bf16 import needs_bf16
from .conftest import RGB, make_bundle

Picture = Callable[..., NDArray[np.uint8]]


def placed(pixels: NDArray[Any], metres: float = 1.0, mask: NDArray[np.bool_] | None = None) -> Raster:
    grid = Grid(*pixels.shape[1:], Affine(metres, 0, 500_000, 0, -metres, 4_500_000), CRS("EPSG:32618"))
    return Raster.from_pixels(pixels, grid, mask)


def test_raster_mode_is_the_network(bundle: Bundle, picture: Picture) -> None:
    pixels = picture(64, 96)
    target = Model(bundle, precision="fp32").translate(Raster.from_pixels(pixels))
    with torch.no_grad():
        expected = unit_to_image(bundle.network(image_to_unit(pixels)))
    assert target.pixels.dtype == np.uint8
    assert np.abs(target.pixels.astype(int) - expected).max() <= 1
    assert target.bands == ("red", "green", "blue")
    assert target.mask.all()


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
@pytest.mark.parametrize("name", ["unet64", "resnet6"])
def test_same_pixels_whatever_the_batch(name: str, precision: str, picture: Picture) -> None:
    bundle = make_bundle(name, gain=0.15 if name == "unet64" else 0.05)
    units = torch.cat([image_to_unit(picture(64, 64, seed=seed)) for seed in range(5)])
    whole = Model(bundle, precision=precision, batch_size=5).translate_batch(units)
    again = Model(bundle, precision=precision, batch_size=2).translate_batch(units)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, Model(bundle, precision=precision, batch_size=5).translate_batch(units))
    # Kernels may sum in another order for another shape; a rounding error, at most one grey level.
    limit = 1e-5 if precision == "fp32" else 2 / 255
    assert float((whole - again).abs().max()) < limit


def test_paper_mode_repeats_and_varies(picture: Picture) -> None:
    bundle = make_bundle(header={"mode": "paper"})
    first, second = picture(64, 64), picture(64, 64, seed=1)
    model = Model(bundle, seed=4)
    assert model.mode == "paper"
    samples = [model.translate(first, sample=number) for number in range(3)]
    assert not np.array_equal(samples[0], samples[1])
    model.translate(second)
    assert np.array_equal(model.translate(first), samples[0])
    both = model.translate_batch(torch.cat([image_to_unit(second), image_to_unit(first)]))
    assert np.array_equal(unit_to_image(both[1]), samples[0])
    assert not np.array_equal(Model(bundle, seed=5).translate(first), samples[0])


def test_paper_mode_is_a_batch_of_one_with_noise(picture: Picture) -> None:
    bundle = make_bundle()
    unit = image_to_unit(picture(64, 64))
    model = Model(bundle, mode="paper", precision="fp32")
    network = per_image_statistics(bundle.network, dropout=True)
    set_noise(network, torch.Generator().manual_seed(model._seed(unit, 0)))
    assert torch.equal(model.translate_batch(unit), network(unit))
    still = Model(bundle, mode="paper", precision="fp32", dropout=False)
    assert still.backend.name != model.backend.name, "parts of one are not those of the other"
    assert torch.equal(still.translate_batch(unit), per_image_statistics(bundle.network, dropout=False)(unit))


def test_the_bundle_is_not_changed(bundle: Bundle, picture: Picture) -> None:
    before = {key: tensor.clone() for key, tensor in bundle.network.state_dict().items()}
    Model(bundle, mode="paper").translate(picture(64, 64))
    Model(bundle, mode="raster").translate(picture(64, 64))
    assert all(torch.equal(before[key], tensor) for key, tensor in bundle.network.state_dict().items())
    assert not bundle.network.training


def test_arrays_in_every_order(bundle: Bundle, picture: Picture) -> None:
    model = Model(bundle)
    pixels = picture(40, 72)
    expected = model.translate(pixels)
    assert expected.shape == pixels.shape
    assert np.array_equal(model.translate(pixels.transpose(1, 2, 0)), expected.transpose(1, 2, 0))
    gray = Model(make_bundle(in_bands=1, header={"source": Bands(names=("gray",))}))
    assert gray.translate(pixels[0]).shape == (3, 40, 72)


def test_place_and_mask_are_kept(bundle: Bundle, picture: Picture) -> None:
    pixels = picture(70, 50)
    mask = np.ones((70, 50), np.bool_)
    mask[:20, :30] = False
    raster = placed(pixels, mask=mask)
    target = Model(bundle).translate(raster)
    assert target.grid == raster.grid
    assert np.array_equal(target.mask, mask)
    assert not target.pixels[:, ~mask].any()
    pixels[:, ~mask] = 255  # what lies under the mask must not matter
    assert np.array_equal(Model(bundle).translate(placed(pixels, mask=mask)).pixels, target.pixels)


def test_floats_without_data(picture: Picture) -> None:
    radar = Bands(names=("vv",), dtype="float32", low=-25.0, high=5.0)
    model = Model(make_bundle(in_bands=1, header={"source": radar}))
    pixels = picture(64, 64, bands=1).astype(np.float32) / 10 - 25
    pixels[0, 3, 4] = np.nan
    target = model.translate(Raster.from_pixels(pixels))
    assert not target.mask[3, 4]
    assert int(target.mask.sum()) == 64 * 64 - 1


def test_other_targets(picture: Picture) -> None:
    height = Bands(names=("height",), dtype="uint16", low=0, high=3000)
    target = Model(make_bundle(out_bands=1, header={"target": height})).translate(Raster.from_pixels(picture(64, 64)))
    assert target.pixels.dtype == np.uint16
    assert target.bands == ("height",)
    assert 255 < target.pixels.max() <= 3000


def test_refusals(bundle: Bundle, picture: Picture) -> None:
    model = Model(bundle)
    with pytest.raises(InputError, match=r"4 bands and the model takes 3 bands \(red, green, blue\)"):
        model.translate(picture(64, 64, bands=4))
    with pytest.raises(InputError, match="uint16 and the model takes uint8"):
        model.translate(picture(64, 64).astype(np.uint16))
    with pytest.raises(InputError, match="no image"):
        model.translate(np.zeros((2, 3, 4, 5), np.uint8))
    with pytest.raises(RasterError, match="does not exist"):
        model.translate("nowhere.png")
    with pytest.raises(InputError, match="the model takes"):
        model.translate_batch(torch.zeros(1, 2, 64, 64))
    with pytest.raises(ConfigError, match="would be equal"):
        model.check_samples(2)
    with pytest.raises(ConfigError, match="would be equal"):
        Model(bundle, mode="paper", dropout=False).check_samples(2)
    with pytest.raises(ConfigError, match="0 samples"):
        model.check_samples(0)
    impossible: tuple[dict[str, int], ...] = ({"window": 0}, {"window": -5}, {"overlap": -1}, {"sample": -1})
    for how in impossible:
        with pytest.raises(ConfigError, match=rf"`{next(iter(how))}` must be >= \d.*, got {next(iter(how.values()))}"):
            model.translate(picture(64, 64), **how)
    for wrong in ({"mode": "fast"}, {"device": "abacus"}, {"device": "mps"}, {"precision": "int3"}, {"batch_size": 0}):
        with pytest.raises(ConfigError):
            Model(bundle, **wrong)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no device cuda"):
            Model(bundle, device="cuda")


def test_ground_resolution(picture: Picture) -> None:
    bundle = make_bundle(header={"ground_resolution": 1.0})
    pixels = picture(64, 64)
    model = Model(bundle)
    made = model.translate(placed(pixels, 1.3))
    assert made.grid.ground_resolution == pytest.approx(1.0, rel=1e-3), "it is brought to the scale of training"
    assert model.translate(placed(pixels, 1.3), match_source=True).grid == placed(pixels, 1.3).grid
    model.translate(pixels)  # not known
    with pytest.raises(InputError, match=r"is 5 m and the model was trained at 1 m; translate it at resolution 1"):
        model.translate(placed(pixels, 5.0))
    with pytest.raises(InputError, match="at resolution 1"):
        model.translate(placed(pixels, 0.5))
    for impossible in (0.0, math.inf, math.nan):
        with pytest.raises(InputError, match="must be > 0 metres per pixel and finite"):
            model.translate(placed(pixels, 1.0), resolution=impossible)
    with pytest.raises(RasterError, match=r"One pixel of the grid asked for is .* over the limit of 400"):
        model.translate(placed(pixels, 1.0), resolution=1e9)
    Model(bundle, any_resolution=True).translate(placed(pixels, 5.0))


def test_windows_of_a_bounded_network_are_exact(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle("resnet6", gain=0.05, width=2, header={"size": 32})
    model = Model(bundle, precision="fp32")
    pixels = picture(343, 270)
    whole = model.translate(pixels)
    monkeypatch.setattr(plan, "WHOLE_PIXELS", 1000)
    parts = model.translate(pixels)
    difference = np.abs(whole.astype(int) - parts)
    assert difference.max() <= 1  # a rounding error may fall on either side of a grey level
    assert (difference > 0).mean() < 1e-3


def test_windows_of_an_unbounded_network_are_blended(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(gain=0.08)
    model = Model(bundle, precision="fp32")
    pixels = picture(300, 520)
    mask = np.ones((300, 520), np.bool_)
    mask[:, 500:] = False
    whole = model.translate(placed(pixels, mask=mask))
    monkeypatch.setattr(plan, "WHOLE_PIXELS", 1000)
    parts = model.translate(placed(pixels, mask=mask))
    assert parts.grid == whole.grid
    assert not parts.pixels[:, ~mask].any()
    difference = np.abs(whole.pixels.astype(int) - parts.pixels)
    assert difference.mean() < 0.1 * whole.pixels.std()
    again = Model(bundle, mode="paper").translate(placed(pixels, mask=mask))
    assert again.pixels.shape == whole.pixels.shape


def test_load(bundle: Bundle, picture: Picture, tmp_path: Path) -> None:
    path = bundle.save(tmp_path / "model.safetensors")
    pixels = picture(64, 64)
    write_image(Raster.from_pixels(pixels), tmp_path / "in.png")
    model = terramorph.load(path, mode="raster", device="cpu")
    expected = Model(bundle).translate(pixels)
    assert np.array_equal(model.translate(tmp_path / "in.png").pixels, expected)
    assert np.array_equal(model.translate(str(tmp_path / "in.png")).pixels, expected)
    with pytest.raises(BundleError):
        terramorph.load(tmp_path / "none.safetensors")


def test_a_loaded_model_is_loaded_again_in_another_process(bundle: Bundle, picture: Picture, tmp_path: Path) -> None:
    path = bundle.save(tmp_path / "model.safetensors")
    threads = torch.get_num_threads()
    model = terramorph.load(path, precision="fp32", seed=7)
    assert torch.get_num_threads() == threads
    again = pickle.loads(pickle.dumps(model))
    assert (again.digest, again.seed, again.backend.name) == (model.digest, 7, model.backend.name)
    assert np.array_equal(again.translate(picture(64, 64)), model.translate(picture(64, 64)))
    with pytest.raises(ConfigError, match="made in memory cannot be sent"):
        pickle.dumps(Model(bundle))


def test_a_header_alone_needs_a_backend(bundle: Bundle) -> None:
    assert bundle.header.source == RGB
    with pytest.raises(ConfigError, match="no network"):
        Model(bundle.header)


def test_a_model_says_what_it_is_and_a_seed_is_a_whole_number(bundle: Bundle, picture: Picture, tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    bundle.save(path)
    model = terramorph.load(path)
    assert repr(model).startswith(f"Model({path}, red, green, blue -> ")
    write_image(placed(picture(64, 64)), tmp_path / "a.tif")
    with model.lazy(tmp_path / "a.tif") as drawn:
        assert "a.tif, 64 x 64 uint8, red, green, blue" in repr(drawn)
    for seed in (-1, 2**63, 1.5, "1", True):
        with pytest.raises(ConfigError, match="seed must be a whole number"):
            terramorph.load(path, seed=seed)  # type: ignore[arg-type]


def test_what_an_array_masks_has_no_data(bundle: Bundle, picture: Picture) -> None:
    model, pixels = Model(bundle, precision="fp32"), picture(64, 64)
    hidden = np.zeros(pixels.shape, np.bool_)
    hidden[:, :20] = True
    made = model.translate(np.ma.masked_array(pixels, hidden))
    assert isinstance(made, np.ma.MaskedArray)
    assert np.array_equal(np.ma.getmaskarray(made), hidden)
    expected = model.translate(Raster.from_pixels(pixels, mask=~hidden[0])).pixels
    assert np.array_equal(made.data, expected)
    assert not np.array_equal(model.translate(pixels)[:, 20:], expected[:, 20:])
    last = model.translate(np.ma.masked_array(pixels, hidden).transpose(1, 2, 0))
    assert np.array_equal(last.data, expected.transpose(1, 2, 0))
