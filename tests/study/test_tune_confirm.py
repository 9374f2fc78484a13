"""The confirmation: with the objective, of what diverged too, and with the objective tested by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from terramorph.cli import tune as command
from terramorph.errors import ConfigError
from terramorph.study import StudyOptions, confirm_study, tune
from terramorph.study.confirm import _judged
from terramorph.study.record import read_record
from terramorph.study.run import METRICS, Scores
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
    assert list(confirmed.metrics)[:2] == ["rmse", "lpips"]
    assert [one.is_objective for one in confirmed.metrics.values()][:3] == [True, True, False]
    models = {path: path.stat().st_mtime_ns for path in out.glob("confirm/*/run/model.safetensors")}

    for path in out.glob("confirm/*-seed-1/scores/metrics.json"):  # as they were once scored without weights
        path.write_text(json.dumps(json.loads(path.read_text()) | {"lpips": None}))
    assert tune(town_pairs, out, tiny(optimizer__learning_rate=1e-7), options, cache=cache).confirmation is None
    assert confirm_study(out, cache=cache).confirmation == confirmed
    assert models == {path: path.stat().st_mtime_ns for path in out.glob("confirm/*/run/model.safetensors")}


def test_weights_that_are_given_later_score_the_confirmation_anew(
    town_pairs: Path, options: StudyOptions, tiny: Tiny, feature_weights: Path, tmp_path: Path
) -> None:
    out, cache = tmp_path / "study", tmp_path / "cache"
    tune(town_pairs, out, tiny(optimizer__learning_rate=1e-7), options, cache=cache)
    before = confirm_study(out, cache=cache).confirmation
    after = confirm_study(out, weights=feature_weights, cache=cache).confirmation
    assert before is not None
    assert after is not None
    assert after.metrics.keys() - before.metrics.keys() == {"lpips", "fd", "kd"}
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
    page = (out / "report.html").read_text()
    for seed in (1, 2, 3):
        record = read_record(out / "confirm" / f"trial-0000-seed-{seed}")
        assert record.state == "diverged"
        assert record.reason.startswith("At step")
        assert f"The preset, seed {seed}, diverged: At step" in page
        assert f"The preset, seed {seed}, diverged: At step" in done.output
    row = next(line for line in done.output.splitlines() if line.strip().startswith("RMSE"))
    assert row.split()[1] == "diverged"
    assert "nothing to compare" in row
    confirmed = confirm_study(out, cache=cache).confirmation
    assert confirmed is not None
    one = confirmed.metrics["rmse"]
    assert (one.default, len(one.best), one.effect, one.verdict) == ((), 3, None, None)


def test_one_run_that_diverged_leaves_the_others_to_be_judged() -> None:
    arms = {"default": [_scored(0.3, seed) for seed in (1, 2)], "best": [_scored(0.1, seed) for seed in (3, 4, 5)]}
    one = _judged(arms, ("rmse",))["rmse"]
    assert one.effect is not None
    assert one.effect.seeds == (2, 3)
    assert one.verdict == "better"
    assert _judged({"default": [], "best": []}, ("rmse",)) == {}


def _scored(rmse: float, seed: int) -> Scores:
    """A run of so much RMSE, and of other metrics that say nothing."""
    random = np.random.default_rng(seed)
    images = {"rmse": (rmse + 0.01 * random.normal(size=40)).tolist()}
    images |= {name: random.normal(size=40).tolist() for name in ("psnr", "ssim", "acc5", "acc10", "miou")}
    overall = {name: float(np.mean(images[name])) if name in images else None for name in METRICS}
    return Scores([str(number) for number in range(40)], images, overall, {})


def test_the_objective_is_not_charged_for_the_other_metrics() -> None:
    arms = {
        "default": [_scored(0.3, 1), _scored(0.35, 2), _scored(0.4, 3)],
        "best": [_scored(0.22, 4), _scored(0.24, 5), _scored(0.26, 6)],
    }
    alone = _judged(arms, ("rmse",))
    effect = alone["rmse"].effect
    assert effect is not None
    assert effect.p is not None
    assert 0.05 / 6 < effect.p < 0.05  # too weak for six metrics at once
    assert alone["rmse"].verdict == "better"
    assert next(iter(alone)) == "rmse"
    assert all(not one.is_objective for name, one in alone.items() if name != "rmse")
    assert _judged(arms, ("psnr", "ssim", "acc5", "acc10", "miou", "rmse"))["rmse"].verdict == "no difference shown"
