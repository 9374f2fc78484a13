"""Folders that share a database, machines that are lost, and studies of which nothing comes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from terramorph.cli import app
from terramorph.study import StudyOptions, climb, trials, tune
from terramorph.study.plan import StudyPlan
from terramorph.study.space import load_space
from terramorph.study.trials import SCORES, VALUES, Trials
from terramorph.training import TrainConfig, health

from ..conftest import tiny_settings

optuna = pytest.importorskip("optuna")

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def plan(tune_space: Path, tiny: Tiny, tmp_path: Path) -> StudyPlan:
    return StudyPlan(
        dataset=tmp_path, preset=tiny(), objectives=("ssim",), rungs=(2, 6), space=load_space(tune_space),
        tuned_on="2 pairs", confirmed_on="val", storage="a database",
    )  # fmt: skip


def _both(plan: StudyPlan, root: Path) -> tuple[Trials, Trials]:
    """Two folders of one name, and the database that they share."""
    for name in ("one", "other"):
        (root / name / "study").mkdir(parents=True)
    url = f"sqlite:///{root / 'shared.db'}"
    one, other = (Trials(root / name / "study", plan, url) for name in ("one", "other"))
    return one, other


@pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed")  # what is asked for is never trained
def test_what_is_handed_out_twice_or_beyond_what_is_wanted_is_given_back(plan: StudyPlan, tmp_path: Path) -> None:
    one, other = _both(plan, tmp_path)
    assert one.is_open(2)
    handed = [(machine, machine.study.ask()) for machine in (one, other, other)]
    assert [machine.number_of(trial, 2) for machine, trial in handed] == [0, 1, None]
    one.study.tell(0, state=optuna.trial.TrialState.FAIL)  # interrupted
    for machine in (one, other):  # as two that queue it again at the same time
        trials._retry(machine.study, machine.study.trials[0])
    handed = [(machine, machine.study.ask()) for machine in (other, one)]
    assert [machine.number_of(trial, 2) for machine, trial in handed] == [0, None]


@pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed")  # what is asked for is never trained
def test_a_trial_whose_process_is_gone_is_put_back_with_its_settings_and_scores(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "SILENT", 3600)
    one, other = _both(plan, tmp_path)
    lost = one.study.ask()
    values = plan.space.suggest(lost, plan.preset)
    lost.set_user_attr(VALUES, values)
    lost.set_user_attr(SCORES, {"2": {"ssim": 0.5}})
    one.study._storage.record_heartbeat(lost._trial_id)
    assert not other.is_open(1)
    with closing(sqlite3.connect(tmp_path / "shared.db")) as database, database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-2 hours')")
    assert other.is_open(1)
    assert [(trial.number, trial.state, trial.scores) for trial in other.all()] == [(0, "running", {2: {"ssim": 0.5}})]
    again = other.study.ask()
    assert other.number_of(again, 1) == 0
    assert plan.space.suggest(again, plan.preset) == values
    assert not one.is_open(1)


def test_a_machine_that_comes_back_to_a_trial_that_was_given_up_goes_on_with_others(
    town_pairs: Path, tune_space: Path, tiny: Tiny, study_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    score = climb.score

    def late(*words: Any, **named: Any) -> Any:
        with closing(sqlite3.connect(tmp_path / "shared.db")) as database, database:
            database.execute("UPDATE trials SET state = 'FAIL' WHERE number = 0 AND state = 'RUNNING'")
        return score(*words, **named)

    monkeypatch.setattr(climb, "score", late)
    told = type("Told", (), {"progress": lambda *_: None, "message": lambda _, text: said.append(text)})()
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    options = StudyOptions(trials=2, images=4, rungs=1, space=tune_space, storage=url)
    found = tune(town_pairs, tmp_path / "s", tiny(), options, reporter=told, cache=study_cache)
    assert [trial.state for trial in found.trials] == ["complete", "complete"]  # from where it was
    assert said[0] == "trial 0 was given up by another machine, which heard nothing."


def test_a_study_of_which_nothing_comes_says_why_and_ends_with_1(
    town_pairs: Path,
    tune_space: Path,
    study_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["tune", str(town_pairs), "--out", str(tmp_path / "s"), "--space", str(tune_space), "--images", "6"]
    words += ["--rungs", "2", "--trials", "3", "--cache", str(study_cache), *tiny_settings()]
    monkeypatch.setattr(health, "_YOUNG", 0)
    monkeypatch.setattr(health, "_ONE_PICTURE", 1e9)
    assert app.run(words) == 1
    shown = capsys.readouterr()
    assert "3 of 3 trials have ended." in shown.out
    assert "None of the 3 trials that have ended came to the last rung of 6 images; the reason: At step" in shown.err
    assert "are nearly one picture" in shown.err
    assert "None of the 3 trials" in (tmp_path / "s" / "report.html").read_text()

    monkeypatch.undo()  # one more, and it comes to its end
    words[words.index("3")] = "4"
    assert app.run(words) == 0


def test_a_budget_that_ended_trials_is_not_called_too_small(
    town_pairs: Path, tune_space: Path, tiny: Tiny, study_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_YOUNG", 0)
    monkeypatch.setattr(health, "_ONE_PICTURE", 1e9)
    options = StudyOptions(trials=1, images=6, rungs=2, space=tune_space)
    tune(town_pairs, tmp_path / "s", tiny(), options, cache=study_cache)
    over = replace(options, trials=9, budget=1e-3)
    found = tune(town_pairs, tmp_path / "s", tiny(), over, cache=study_cache)
    assert (found.ended, found.best) == (1, None)
    assert found.why_none.startswith("None of the 1 trials")
