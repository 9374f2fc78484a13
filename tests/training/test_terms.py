"""Terms of the generator's loss: those of the flagship against numbers done by hand, and one's own from outside."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from terramorph.cli.app import run
from terramorph.errors import CheckpointError, ConfigError
from terramorph.pixels import Batch
from terramorph.training import Features, Term, resume, train

from ..conftest import tiny_settings
from .conftest import Tiny, losses_of, same_weights

OUTSIDE = '''
import torch

def brightness(batch, output, features):
    """The mean brightness should be that of the target."""
    return (output.mean() - batch.target.mean()).abs()

def patches(batch, output, features):
    return (output - batch.target).abs()
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module beside the package."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "my_terms.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    yield "my_terms"
    sys.modules.pop("my_terms", None)


def constant(_batch: Batch, output: Tensor, _features: Features) -> Tensor:
    """A term that pulls to 0."""
    return output.square().mean()


def test_a_term_from_outside_trains_and_is_logged(town_pairs: Path, tmp_path: Path, tiny: Tiny, outside: str) -> None:
    settings = {
        "loss__adversarial": "none",
        "loss__l1_weight": 0.0,
        "log__scalars": 1,
        "optimizer__learning_rate": 1e-2,
    }
    config = tiny(
        max_steps=8, loss__terms={"brightness": {"function": f"{outside}:brightness", "weight": 3.0}}, **settings
    )
    train(town_pairs, tmp_path / "run", config, cache=tmp_path, allowed=[outside])
    told = [line["brightness"] for line in losses_of(tmp_path / "run")]
    assert sum(told[-2:]) < 0.7 * sum(told[:2]), "nothing else is learnt from here"


def test_nothing_from_outside_runs_unasked(town_pairs: Path, tmp_path: Path, tiny: Tiny, outside: str) -> None:
    config = tiny(loss__terms={"brightness": f"{outside}:brightness"})
    with pytest.raises(ConfigError, match="my_terms:brightness is code from outside"):
        train(town_pairs, tmp_path / "run", config, cache=tmp_path)
    assert outside not in sys.modules
    train(town_pairs, tmp_path / "run", config, cache=tmp_path, allowed=[outside], should_stop=lambda: True)
    with pytest.raises(ConfigError, match="my_terms:brightness is code from outside"):
        resume(tmp_path / "run", cache=tmp_path)
    assert resume(tmp_path / "run", cache=tmp_path, allowed=[outside]).finished


def test_a_term_at_hand_is_recorded_and_wanted_again(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    term = Term("pull", 2.0, constant)
    train(town_pairs, tmp_path / "whole", tiny(), cache=tmp_path, terms=[term])
    train(town_pairs, tmp_path / "run", tiny(), cache=tmp_path, terms=[term], should_stop=lambda: True)
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["loss"]["terms"]
    assert recorded == {"pull": {"function": f"{__name__}:constant", "weight": 2.0}}
    with pytest.raises(CheckpointError, match=r"loss\.terms\.pull\.weight"):
        resume(tmp_path / "run", cache=tmp_path, terms=[Term("pull", 1.0, constant)])
    assert resume(tmp_path / "run", cache=tmp_path, terms=[term]).finished
    assert same_weights(tmp_path / "whole" / "model.safetensors", tmp_path / "run" / "model.safetensors")


def test_what_a_term_must_be(town_pairs: Path, tmp_path: Path, tiny: Tiny, outside: str) -> None:
    config = tiny(loss__terms={"patches": f"{outside}:patches"})
    with pytest.raises(ConfigError, match=r"patches returned a tensor of shape \(2, 3, 64, 64\)"):
        train(town_pairs, tmp_path / "run", config, cache=tmp_path, allowed=[outside])
    with pytest.raises(ConfigError, match=r"loss\.terms\.l1 is that of a term"):
        train(town_pairs, tmp_path / "other", tiny(), cache=tmp_path, terms=[Term("l1", 1.0, constant)])


def test_the_command_line_takes_a_term_by_name(town_pairs: Path, tmp_path: Path, outside: str) -> None:
    named = ["--set", f"loss.terms.brightness={outside}:brightness", *tiny_settings(max_steps=1, log__scalars=1)]
    assert run(["train", str(town_pairs), "--out", str(tmp_path / "run"), "--cache", str(tmp_path), *named]) == 0
    assert losses_of(tmp_path / "run")[0]["brightness"] >= 0.0
    again = ["train", "--resume", str(tmp_path / "run"), "--cache", str(tmp_path), "--max-steps", "2"]
    assert run(again) != 0
    assert run([*again, "--allow", outside]) == 0
