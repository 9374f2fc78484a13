"""The confirmation: with the objective, of what diverged too, and with the objective tested by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from terramorph.cli import tune as command
from terramorph.errors import ConfigError
from terramorph.study import StudyOptions, confirm_study, tune
from terramorph.study.run import read_record
from terramorph.training import TrainConfig

pytest.importorskip("optuna")

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def options(tune_space: Path) -> StudyOptions:
    return StudyOptions(trials=2, images=4, rungs=1, space=tune_space, objectives=("rmse",))


def _forget_weights(out: Path) -> None:
    document = json.loads((out / "study.json").read_text())
    (out / "study.json").write_text(json.dumps(document | {"weights": None}))


def test_the_confirmation_is_of_the_objective(
    town_pairs: Path, options: StudyOptions, tiny: Tiny, feature_weights: Path, tmp_path: Path
) -> None:
    out, cache = tmp_path / "study", tmp_path / "cache"
    # The first objective makes the preset, which hardly learns, the poorer one; the other needs weights.
    options = replace(options, objectives=("rmse", "lpips"), weights=feature_weights)
    found = tune(town_pairs, out, tiny(optimizer__learning_rate=1e-7), options, cache=cache)
    assert found.best is not None
    assert not found.best.is_preset
    _forget_weights(out)
    with pytest.raises(ConfigError, match="The objective lpips cannot be computed here"):
        confirm_study(out, cache=cache)
    assert not list(out.glob("confirm/*/run"))

    tune(town_pairs, out, tiny(optimizer__learning_rate=1e-7), options, cache=cache)
    confirmed = confirm_study(out, cache=cache).confirmation
    assert confirmed is not None
    assert [(one["key"], one["secondary"]) for one in confirmed["metrics"]][:3] == [
        ("rmse", False), ("lpips", False), ("miou", True),
    ]  # fmt: skip
    models = {path: path.stat().st_mtime_ns for path in out.glob("confirm/runs/*/model.safetensors")}
    assert len(models) == 6
    assert confirm_study(out, cache=cache).confirmation == confirmed
    assert models == {path: path.stat().st_mtime_ns for path in models}


def test_weights_that_are_given_later_score_the_confirmation_anew(
    town_pairs: Path, options: StudyOptions, tiny: Tiny, feature_weights: Path, tmp_path: Path
) -> None:
    out, cache = tmp_path / "study", tmp_path / "cache"
    tune(town_pairs, out, tiny(optimizer__learning_rate=1e-7), options, cache=cache)
    before = confirm_study(out, cache=cache).confirmation
    after = confirm_study(out, weights=feature_weights, cache=cache).confirmation
    assert before is not None
    assert after is not None
    missing = [{one["key"] for one in found["metrics"] if one["missing"]} for found in (before, after)]
    assert missing[0] - missing[1] == {"lpips", "fd", "kd"}
    assert confirm_study(out, cache=cache).confirmation == after


def test_a_preset_that_diverges_is_a_result(
    town_pairs: Path, options: StudyOptions, tiny: Tiny, tmp_path: Path
) -> None:
    out, cache = tmp_path / "study", tmp_path / "cache"
    found = tune(town_pairs, out, tiny(optimizer__learning_rate=1e30), options, cache=cache)
    assert [trial.state for trial in found.trials] == ["pruned", "complete"]
    app = typer.Typer()
    app.command(command.NAME)(command.run)
    for _ in range(2):  # what diverged is not tried again
        done = CliRunner().invoke(app, ["--out", str(out), "--report", "--cache", str(cache)])
        assert done.exit_code == 0, done.output
    assert "The base diverged with every seed so far" in done.output
    confirmed = confirm_study(out, cache=cache).confirmation
    assert confirmed is not None
    for seed in range(3):
        assert read_record(out / f"confirm/runs/base-seed{seed}").state == "diverged"
    assert [(variant["done"], len(variant["diverged"])) for variant in confirmed["variants"]] == [(0, 3), (3, 0)]
    assert confirmed["effects"] == []
