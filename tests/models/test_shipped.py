"""The models in the repository are the networks that were trained: equal to outputs of the code that trained them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from terramorph.bundle import Bundle, load_bundle
from terramorph.cartography import CLASSES, classify
from terramorph.models import named
from terramorph.town import make_town
from terramorph.training import config_of
from terramorph.translate import load

HERE = Path(__file__).parent
MODELS = HERE.parents[1] / "models"
NAMES = ("sat2map", "map2sat")

pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason="the models for research are in the repository only")


def _made(bundle: Bundle, source: Tensor, noise: Tensor) -> Tensor:
    """What the network gives, in [-1, 1]."""
    with torch.no_grad():
        made: Tensor = bundle.network(source, noise if bundle.header.architecture.settings["noise"] else None)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_output_is_that_of_the_code_that_trained_it(name: str) -> None:
    known = np.load(HERE / f"{name}.npz")
    source = torch.from_numpy(known["source"])[None].float() / 127.5 - 1.0
    noise = torch.from_numpy(known["noise"])[None].float() / 40.0
    made = _made(load_bundle(MODELS / f"{name}.safetensors"), source, noise)
    assert float((made - torch.from_numpy(known["output"])[None].float()).abs().max()) < 2e-3


def test_the_town_model_maps_a_town_it_has_not_seen() -> None:
    town = make_town(size_px=512, seed=200)
    made = load("town-sat2map", precision="fp32").translate(town.aerial())
    made, true = (classify(raster.pixels.transpose(1, 2, 0)) for raster in (made, town.map()))
    share = float(np.mean(made == true))
    assert share > 0.85


def test_the_town_model_paints_a_town_it_has_not_seen() -> None:
    """Nearer to the true aerial image than that one's mean colour; water, parks and highways in their tones."""
    town = make_town(size_px=512, seed=200)
    drawn, true = town.map(), town.aerial().pixels.astype(float)
    model = load("town-map2sat", precision="fp32")
    made = model.translate(drawn).pixels.astype(float)
    error = np.abs(made - true).mean()
    assert error < 0.65 * np.abs(true.mean((1, 2), keepdims=True) - true).mean()
    kinds = classify(drawn.pixels)
    tones = {name: made[:, kinds == CLASSES.index(name)].mean(1) for name in ("water", "park", "highway")}
    assert tones["water"].argmax() == 2
    assert tones["park"].argmax() == 1
    assert tones["highway"].min() > 130


@pytest.mark.parametrize("name", ["town-sat2map", "town-map2sat"])
def test_the_models_in_the_package_are_small(name: str) -> None:
    path = named(name)
    assert path is not None
    assert path.stat().st_size <= 10_000_000


@pytest.mark.parametrize("name", NAMES)
def test_bundle_is_small_and_says_what_it_is(name: str) -> None:
    path = MODELS / f"{name}.safetensors"
    header = load_bundle(path).header
    assert path.stat().st_size <= 20_000_000
    assert header.direction == {"sat2map": "AtoB", "map2sat": "BtoA"}[name]
    assert header.source.names == header.target.names == ("red", "green", "blue")
    assert (header.size, header.stride, header.halo, header.mode) == (256, 32, None, "raster")
    assert header.recalibrated
    assert header.ground_resolution == pytest.approx(2.12)
    config = config_of(path)
    assert config.generator.arguments()["width"] == header.architecture.settings["width"]
    assert config.loss.palette if name == "sat2map" else config.loss.projected, "what is fine-tuned keeps its losses"
    assert (config.precision, config.start.model) == ("auto", str(path.resolve()))
    assert header.data["pairs"] == 1096
    assert header.note == "Research and demonstration: trained on images of a map provider."
