"""The confirmation: on unseen pairs, of the objective, of what diverged too, and scored anew for other weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from markupsafe import Markup
from typer.testing import CliRunner

from terramorph.cli import tune as command
from terramorph.errors import ConfigError
from terramorph.report import charts
from terramorph.study import StudyOptions, TuneResult, conclusion, confirm_study, tune
from terramorph.study.run import read_record
from terramorph.training import TrainConfig

from ..conftest import make_tiny

pytest.importorskip("optuna")

Tiny = Callable[..., TrainConfig]


@pytest.fixture(autouse=True, scope="module")
def _two_seeds_and_no_charts() -> Iterator[None]:
    """A confirmation of four runs instead of six, whose charts are not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conclusion, "SEEDS", 2)
        patch.setattr(charts, "chart_svg", lambda figure, name, tips=(): Markup('<svg class="chart"></svg>'))
        yield


@pytest.fixture(scope="module")
def options(tune_space: Path) -> StudyOptions:
    return StudyOptions(trials=2, images=4, rungs=1, space=tune_space, objectives=("rmse",))


@pytest.fixture(scope="module")
def confirmed(
    town_pairs: Path, options: StudyOptions, study_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> TuneResult:
    """A study whose preset hardly learns, so that its other trial is the best, confirmed."""
    out = tmp_path_factory.mktemp("confirmed")
    found = tune(town_pairs, out, make_tiny(optimizer__learning_rate=1e-7), options, cache=study_cache)
    assert found.confirmation is None
    assert found.best is not None
    assert not found.best.is_preset
    return confirm_study(out, cache=study_cache)


def test_the_confirmation_is_on_pairs_that_tuning_never_saw(confirmed: TuneResult) -> None:
    document = confirmed.confirmation
    assert document is not None
    assert (document["split"], document["pairs"]) == ("val", 4)
    runs = {(run["variant"], run["seed"]): run for run in document["runs"]}
    assert len({runs["trial-1", seed]["scores"]["rmse"] for seed in range(2)}) == 2
    for run in runs.values():
        folder = confirmed.out / "confirm" / run["folder"]
        assert json.loads((folder / "scores/metrics.json").read_text())["dataset"]["split"] == "val"
        assert json.loads((folder / "config.json").read_text())["config"]["seed"] == 1 + run["seed"]
    assert "confirm/comparison.html" in (confirmed.out / "report.html").read_text()


def test_weights_that_are_given_later_score_the_confirmation_anew_and_train_nothing(
    confirmed: TuneResult, study_cache: Path, feature_weights: Path, tmp_path: Path
) -> None:
    out, before = shutil.copytree(confirmed.out, tmp_path / confirmed.out.name, symlinks=True), confirmed.confirmation
    models = {path: path.stat().st_mtime_ns for path in out.glob("confirm/runs/*/model.safetensors")}
    assert len(models) == 4
    after = confirm_study(out, weights=feature_weights, cache=study_cache).confirmation
    assert models == {path: path.stat().st_mtime_ns for path in models}
    assert before is not None
    assert after is not None
    assert [(one["key"], one["secondary"]) for one in after["metrics"]][:3] == [
        ("rmse", False), ("lpips", True), ("miou", True),
    ]  # fmt: skip
    missing = [{one["key"] for one in found["metrics"] if one["missing"]} for found in (before, after)]
    assert missing[0] - missing[1] == {"lpips", "fd", "kd"}
    assert confirm_study(out, cache=study_cache).confirmation == after


def test_an_objective_that_cannot_be_computed_is_not_confirmed(
    town_pairs: Path, options: StudyOptions, tiny: Tiny, feature_weights: Path, study_cache: Path, tmp_path: Path
) -> None:
    options = replace(options, objectives=("rmse", "lpips"), weights=feature_weights)
    tune(town_pairs, tmp_path, tiny(optimizer__learning_rate=1e-7), options, cache=study_cache)
    document = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(document | {"weights": None}))
    with pytest.raises(ConfigError, match="The objective lpips cannot be computed here"):
        confirm_study(tmp_path, cache=study_cache)
    assert not list(tmp_path.glob("confirm/*/run"))


def test_a_preset_that_diverges_is_a_result(
    town_pairs: Path, options: StudyOptions, tiny: Tiny, study_cache: Path, tmp_path: Path
) -> None:
    found = tune(town_pairs, tmp_path, tiny(optimizer__learning_rate=1e30), options, cache=study_cache)
    assert [trial.state for trial in found.trials] == ["pruned", "complete"]
    app = typer.Typer()
    app.command(command.NAME)(command.run)
    done = CliRunner().invoke(app, ["--out", str(tmp_path), "--report", "--cache", str(study_cache)])
    assert done.exit_code == 0, done.output
    assert "The base diverged with every seed so far" in done.output
    begun = {path: path.stat().st_mtime_ns for path in tmp_path.glob("confirm/runs/*/config.json")}
    document = confirm_study(tmp_path, cache=study_cache).confirmation
    assert begun == {path: path.stat().st_mtime_ns for path in begun}  # what diverged is not tried again
    assert document is not None
    for seed in range(2):
        assert read_record(tmp_path / f"confirm/runs/base-seed{seed}").state == "diverged"
    assert [(variant["done"], len(variant["diverged"])) for variant in document["variants"]] == [(0, 2), (2, 0)]
    assert document["effects"] == []
