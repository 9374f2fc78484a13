"""Folders that share a database, machines that are lost, and studies of which nothing comes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from terramorph.cli import app
from terramorph.study import StudyOptions, trials, tune
from terramorph.study.plan import StudyPlan
from terramorph.study.rungs import Rungs
from terramorph.study.space import load_space
from terramorph.study.trial import SILENCE
from terramorph.study.trials import GivenUp, Trials
from terramorph.training import TrainConfig, health

from ..conftest import tiny_settings

pytest.importorskip("optuna")

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def plan(tune_space: Path, tiny: Tiny, tmp_path: Path) -> StudyPlan:
    space = load_space(tune_space)
    return StudyPlan(tmp_path, tiny(), ("ssim",), Rungs((2, 6)), space, "2 pairs", "val", "a database")


def _both(plan: StudyPlan, root: Path) -> tuple[Trials, Trials]:
    """Two folders of one name, and the database that they share."""
    for name in ("one", "other"):
        (root / name / "study").mkdir(parents=True)
    url = f"sqlite:///{root / 'shared.db'}"
    one, other = (Trials(root / name / "study", plan, url, wanted=2) for name in ("one", "other"))
    return one, other


def test_folders_that_share_a_database_do_no_trial_twice(plan: StudyPlan, tmp_path: Path) -> None:
    one, other = _both(plan, tmp_path)
    with one.take() as first, other.take() as second, other.take() as third:
        assert first is not None
        assert second is not None
        assert (first.trial.number, second.trial.number, third) == (0, 1, None)
    # Both were let go. A folder of the right name says nothing: it may be of another trial.
    (tmp_path / "other" / "study" / "trials" / "0000").mkdir()
    for folder, number in ((other, 1), (one, 0)):
        with folder.take() as again, folder.take() as nothing:
            assert again is not None
            assert (again.trial.number, nothing) == (number, None)
    killed = Trials(tmp_path / "one" / "study", plan, str(one.url), wanted=2)  # another process of the same folder
    with killed.take() as again:
        assert again is not None
        assert again.trial.number == 0


def test_a_trial_of_a_lost_machine_is_given_up_when_nothing_else_is_left(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "_HEARD", 1)
    monkeypatch.setattr(trials, "_SILENT", 2)
    one, other = _both(plan, tmp_path)
    with one.take() as first, other.take() as second:
        assert first is not None
        assert second is not None
        time.sleep(3.1)
        with other.take() as third:  # both are heard of
            assert third is None
        assert [trial.state for trial in other.all()] == ["running", "running"]
        other.finish(second, "pruned", "Because.")
    time.sleep(3.1)
    with other.take() as rest:
        assert rest is None
    lost = one.all()[0]
    assert (lost.state, lost.reason) == ("failed", SILENCE)
    with one.take() as rest:
        assert rest is None
    for ending in (lambda: one.record(first, 2, {"ssim": 0.5}), lambda: one.finish(first, "failed", "Because.")):
        with pytest.raises(GivenUp):
            ending()
    assert not (first.folder / "trial.json").exists()


def test_a_machine_that_comes_back_to_a_trial_that_was_given_up_goes_on_with_others(
    town_pairs: Path, tune_space: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    record = Trials.record

    def late(self: Trials, taken: Any, images: int, scores: Any) -> None:
        if taken.trial.number == 0:
            with closing(sqlite3.connect(tmp_path / "shared.db")) as database, database:
                database.execute("UPDATE trials SET state = 'FAIL' WHERE number = 0")
        record(self, taken, images, scores)

    monkeypatch.setattr(Trials, "record", late)
    told = type("Told", (), {"progress": lambda *_: None, "message": lambda _, text: said.append(text)})()
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    options = StudyOptions(trials=2, images=4, rungs=1, space=tune_space, storage=url)
    found = tune(town_pairs, tmp_path / "s", tiny(), options, reporter=told, cache=tmp_path / "cache")
    assert [trial.state for trial in found.trials] == ["failed", "complete"]
    assert said[0] == "trial 0 was given up by another machine, which heard nothing."


def test_a_study_of_which_nothing_comes_says_why_and_ends_with_1(
    town_pairs: Path,
    tune_space: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["tune", str(town_pairs), "--out", str(tmp_path / "s"), "--space", str(tune_space), "--images", "6"]
    words += ["--rungs", "2", "--trials", "3", "--cache", str(tmp_path / "cache"), *tiny_settings()]
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
    town_pairs: Path, tune_space: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_YOUNG", 0)
    monkeypatch.setattr(health, "_ONE_PICTURE", 1e9)
    options = StudyOptions(trials=1, images=6, rungs=2, space=tune_space)
    tune(town_pairs, tmp_path / "s", tiny(), options, cache=tmp_path / "cache")
    over = replace(options, trials=9, budget=1e-3)
    found = tune(town_pairs, tmp_path / "s", tiny(), over, cache=tmp_path / "cache")
    assert (found.ended, found.best) == (1, None)
    assert found.why_none.startswith("None of the 1 trials")
