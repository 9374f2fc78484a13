"""Runs that start from a model: all of it, a part, or with layers that are not trained."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from terramorph.bundle import load_bundle
from terramorph.cli.app import run as command
from terramorph.errors import CheckpointError, ConfigError
from terramorph.training import config_of, resume, train
from terramorph.training.finetune import inherited_note

from .conftest import Tiny, losses_of, same_weights

STEPS = {"schedule__unit": "steps", "schedule__constant": 100, "schedule__decay": 0, "log__scalars": 1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(town_pairs: Path, cache: Path, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of thirty steps."""
    out = tmp_path_factory.mktemp("model") / "run"
    config = tiny(max_steps=30, batch_size=4, optimizer__learning_rate=2e-3, **STEPS)
    train(town_pairs, out, config, cache=cache)
    return out


def test_it_starts_where_the_model_is(model: Path, town_pairs: Path, cache: Path, tmp_path: Path) -> None:
    bundle = load_bundle(model)
    recipe = {**bundle.header.recipe, "device": "cuda", "precision": "bf16"}
    elsewhere = replace(bundle, header=bundle.header.model_copy(update={"recipe": recipe}))
    config = config_of(elsewhere.save(tmp_path / "elsewhere.safetensors"))
    assert (config.device, config.precision) == ("auto", "auto"), "those of this machine"
    config = config_of(model, {"max_steps": 2})
    assert config.batch_size == 4  # its own recipe
    assert config.max_steps == 2
    train(town_pairs, tmp_path / "run", config, cache=cache)
    first, last = losses_of(tmp_path / "run")[0], losses_of(model)[-1]
    start = losses_of(model)[0]
    assert abs(first["l1"] - last["l1"]) < 0.3 * abs(start["l1"] - last["l1"])
    # The discriminator comes from the checkpoint beside the model.
    shutil.copytree(model, tmp_path / "alone")
    (tmp_path / "alone" / "checkpoint.safetensors").unlink()
    train(town_pairs, tmp_path / "other", config_of(tmp_path / "alone", {"max_steps": 1}), cache=cache)
    assert losses_of(tmp_path / "other")[0]["discriminator"] != first["discriminator"]


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_model_again(
    model: Path, town_pairs: Path, cache: Path, tmp_path: Path
) -> None:
    config = config_of(model, {"max_steps": 2})
    whole = train(town_pairs, tmp_path / "whole", config, cache=cache)
    train(town_pairs, tmp_path / "again", config, cache=cache, dry_run=True)  # leaves config.json alone
    again = resume(tmp_path / "again", cache=cache)
    assert whole.model is not None
    assert again.model is not None
    assert same_weights(whole.model, again.model)


def test_what_does_not_fit_is_refused_or_starts_afresh(
    model: Path, town_pairs: Path, cache: Path, tmp_path: Path, tiny: Tiny
) -> None:
    wider = {"start__model": str(model), "generator__width": 8, "max_steps": 1}
    with pytest.raises(CheckpointError, match=r"down\.0\.weight is \(4, 3, 4, 4\) there and \(8, 3, 4, 4\) here"):
        train(town_pairs, tmp_path / "run", tiny(**wider), cache=cache)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert train(town_pairs, tmp_path / "run", tiny(**wider, start__partial=True), cache=cache).finished


def test_another_number_of_bands_adapts_the_first_convolution(
    model: Path, cache: Path, tmp_path: Path, tiny: Tiny
) -> None:
    for split in ("train", "val"):
        for side, mode in (("A", "L"), ("B", "RGB")):
            (tmp_path / "grey" / split / side).mkdir(parents=True)
            for number in range(4):
                pixels = np.random.default_rng(number).integers(0, 255, (72, 72, 3), np.uint8)
                Image.fromarray(pixels).convert(mode).save(tmp_path / "grey" / split / side / f"{number}.png")
    with pytest.raises(CheckpointError, match="does not fit"):
        train(tmp_path / "grey", tmp_path / "run", config_of(model, {"max_steps": 1}), cache=cache)
    rate = {"optimizer.learning_rate": 1e-9, "max_steps": 1, "start.partial": True, "recalibrate": 0}
    result = train(tmp_path / "grey", tmp_path / "run", config_of(model, rate), cache=cache)
    assert result.model is not None
    before, after = load_file(model / "model.safetensors"), load_file(result.model)
    assert torch.allclose(after["down.0.weight"], before["down.0.weight"][:, :1] * 3, atol=1e-5)
    assert torch.allclose(after["up.0.weight"], before["up.0.weight"], atol=1e-5)


def test_rights_go_along_with_the_weights(model: Path, town_pairs: Path, cache: Path, tmp_path: Path) -> None:
    before = load_bundle(model)
    said = replace(before, header=before.header.model_copy(update={"note": "Research only."}))
    path = said.save(tmp_path / "said.safetensors")
    config = config_of(path, {"max_steps": 1})
    result = train(town_pairs, tmp_path / "run", config, cache=cache)
    assert result.model is not None
    assert load_bundle(result.model).header.note == "Research only."
    path.unlink()  # while the run was going on
    assert "not known" in inherited_note(config.start)


def test_a_checkpoint_goes_on_where_the_model_is_gone(
    model: Path, town_pairs: Path, cache: Path, tmp_path: Path
) -> None:
    whole = train(town_pairs, tmp_path / "whole", config_of(model, {"max_steps": 2}), cache=cache)
    shutil.copytree(model, tmp_path / "moved")
    begun = config_of(tmp_path / "moved", {"max_steps": 2})
    train(town_pairs, tmp_path / "parts", begun, cache=cache, should_stop=lambda: True)
    shutil.rmtree(tmp_path / "moved")
    parts = resume(tmp_path / "parts", cache=cache)
    assert whole.model is not None
    assert parts.model is not None
    assert same_weights(whole.model, parts.model)


def test_frozen_weights_stay(model: Path, town_pairs: Path, cache: Path, tmp_path: Path) -> None:
    frozen = config_of(model, {"max_steps": 2, "start.freeze": ["down.*", "down_norm.*"]})
    result = train(town_pairs, tmp_path / "run", frozen, cache=cache)
    assert result.model is not None
    before, after = load_file(model / "model.safetensors"), load_file(result.model)
    assert torch.equal(before["down.1.weight"], after["down.1.weight"])
    assert not torch.equal(before["up.1.weight"], after["up.1.weight"])
    assert resume(tmp_path / "run", cache=cache, max_steps=3).step == 3
    for pattern, says in (
        ("encoder.*", "no weight of the generator matches"),
        ("*", "no weight of the generator to train"),
    ):
        with pytest.raises(ConfigError, match=says):
            train(town_pairs, tmp_path / "no", config_of(model, {"start.freeze": [pattern]}), cache=cache)


def test_the_command(
    model: Path, town_pairs: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", town_pairs, "--from", model, "--out", tmp_path / "run", "--max-steps", 1, "--cache", cache]
    assert command([str(word) for word in words]) == 0
    assert str(model) in capsys.readouterr().out
    words = ["train", town_pairs, "--from", "no-such-model", "--out", tmp_path / "no"]
    assert command([str(word) for word in words]) == 2
    assert "no-such-model" in capsys.readouterr().err
