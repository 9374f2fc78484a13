"""How the runs of a study may end, where they are scored, and who is told."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from terramorph.atomic import locked
from terramorph.cli.reporting import StudyProgress
from terramorph.errors import ConfigError, DatasetError, InputError, StorageError, TrainingDivergedError
from terramorph.study import compare, load_study
from terramorph.study.comparison import conclude
from terramorph.study.reporter import NoTracking
from terramorph.study.run import train_to
from terramorph.training import TrainConfig, TrainResult

WriteStudy = Callable[..., Path]

LSGAN = '[[change]]\nname = "lsgan"\nsettings.loss.adversarial = "lsgan"\nsource = "Mao et al."\n'
BROKEN = '[[change]]\nname = "broken"\nsettings.optimizer.learning_rate = 1e20\n'


def test_a_change_that_cannot_be_trained_is_a_row(
    write_study: WriteStudy, town_pairs: Path, study_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(out: Path, dataset: Path, config: TrainConfig, **how: Any) -> TrainResult:
        if config.loss.adversarial == refused:
            raise ConfigError("These settings do not go together.")
        return train_to(out, dataset, config, **how)

    monkeypatch.setattr(sys.modules["terramorph.study.compare"], "train_to", refusing)
    study = load_study(write_study(LSGAN), seeds=1)
    refused = "lsgan"
    document = compare(town_pairs, study, tmp_path / "out", cache=study_cache)
    assert [run["state"] for run in document["runs"]] == ["done", "refused"]
    assert document["finished"] is True
    assert [said.text for said in conclude(document)] == [
        "lsgan could not be trained: These settings do not go together."
    ]
    refused = "bce"
    with pytest.raises(ConfigError, match="do not go together"):
        compare(town_pairs, study, tmp_path / "other", cache=study_cache)


def failing(monkeypatch: pytest.MonkeyPatch, name: str, fails: Callable[[str], Exception | None]) -> None:
    """Lets train_to or score of a comparison fail where `fails` says how, by the adversarial loss."""
    module = sys.modules["terramorph.study.compare"]
    real = getattr(module, name)

    def instead(run: Path, dataset: Path, *what: Any, **how: Any) -> Any:
        if name == "train_to":
            loss = what[0].loss.adversarial
        else:
            loss = json.loads((run / "config.json").read_text())["config"]["loss"]["adversarial"]
        error = fails(loss)
        if error is not None:
            raise error
        return real(run, dataset, *what, **how)

    monkeypatch.setattr(module, name, instead)


@pytest.mark.parametrize("where", ["train_to", "score"])
def test_a_run_that_needs_more_memory_than_there_is_is_a_row(
    where: str,
    write_study: WriteStudy,
    town_pairs: Path,
    study_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total of 8 GiB. More.")
    study = load_study(write_study(LSGAN), seeds=1)
    with monkeypatch.context() as once:
        failing(once, where, lambda loss: full if loss == "lsgan" else None)
        document = compare(town_pairs, study, tmp_path / "out", cache=study_cache)
    assert [run["state"] for run in document["runs"]] == ["done", "refused"]
    assert document["runs"][1]["reason"] == (
        "lsgan-seed0 ran out of memory (CUDA out of memory. Tried to allocate 2.00 GiB); lower batch_size or "
        "data.crop_size of the whole study."
    )
    if where == "train_to":
        again = compare(town_pairs, study, tmp_path / "out", cache=study_cache)["runs"][1]
        assert (again["state"], again["reason"]) == ("done", "")
    with monkeypatch.context() as once:
        failing(once, where, lambda loss: full)
        with pytest.raises(ConfigError, match="base-seed0 ran out of memory"):
            compare(town_pairs, study, tmp_path / "other", cache=study_cache)


def test_a_base_that_diverges_is_said_to_be_why_nothing_is_compared(
    write_study: WriteStudy, town_pairs: Path, study_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "train_to", lambda loss: TrainingDivergedError("It blew up.") if loss == "bce" else None)
    document = compare(town_pairs, load_study(write_study(LSGAN), seeds=1), tmp_path, cache=study_cache)
    said = "The base diverged with every seed so far, so no change can be compared with it: It blew up."
    assert [conclusion.text for conclusion in conclude(document)] == [said]
    assert conclude(document)[0].html in (tmp_path / "comparison.html").read_text()


def test_what_the_health_checks_found_is_kept_and_shown(
    write_study: WriteStudy,
    town_pairs: Path,
    study_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("terramorph.training.health._YOUNG", 0)
    monkeypatch.setattr("terramorph.training.health._ONE_PICTURE", 10.0)
    study = load_study(write_study(LSGAN), seeds=1)
    with StudyProgress("runs") as reporter:
        document = compare(town_pairs, study, tmp_path, cache=study_cache, reporter=reporter)
    run = document["runs"][1]
    assert "are nearly one picture" in run["verdict"]
    assert document["variants"][1]["warned"] == [{"seed": 0, "verdict": run["verdict"]}]
    page = (tmp_path / "comparison.html").read_text()
    assert f"unhealthy: {run['verdict']}" in page
    assert f"lsgan-seed0 is unhealthy: {run['verdict']}" in capsys.readouterr().out


def test_the_tracker_gets_scores_sheets_bundles_and_failures(
    write_study: WriteStudy, town_pairs: Path, study_cache: Path, tmp_path: Path
) -> None:
    study = load_study(write_study(BROKEN), seeds=1)
    noted = Noted()
    document = compare(town_pairs, study, tmp_path, cache=study_cache, tracker=noted)
    reason = document["runs"][1]["reason"]
    scores = document["runs"][0]["scores"]
    assert noted.kept == [
        ("base-seed0", 100.0), (6, scores["psnr"]), ("", "model.safetensors"), ("samples", ".png"),
        ("broken-seed0", 100.0), reason,
    ]  # fmt: skip


class Noted(NoTracking):
    """A tracker that lists what it is given."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, Any]) -> Iterator[Noted]:
        assert "loss.perceptual_weights" not in parameters
        self.kept.append((name, parameters["loss.l1_weight"]))
        yield self

    def log_metrics(self, values: Mapping[str, float | None], step: int) -> None:
        self.kept.append((step, values["psnr"]))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        assert path.is_file()
        self.kept.append((folder, path.suffix if folder else path.name))

    def fail(self, reason: str) -> None:
        self.kept.append(reason)


def test_bad_places(write_study: WriteStudy, town_pairs: Path, tmp_path: Path) -> None:
    study = load_study(write_study())
    with pytest.raises(DatasetError, match="has no split 'nowhere'"):
        compare(town_pairs, load_study(write_study(head='split = "nowhere"\n')), tmp_path / "out")
    with pytest.raises(InputError, match="weights"):
        compare(town_pairs, study, tmp_path / "out", weights=tmp_path / "weights")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be made"):
        compare(town_pairs, study, tmp_path / "file")
    (tmp_path / "out").mkdir()
    with (
        locked(tmp_path / "out/.lock", RuntimeError()),
        pytest.raises(ConfigError, match="Another process uses"),
    ):
        compare(town_pairs, study, tmp_path / "out")


def test_runs_are_scored_on_val_or_on_test_without_val_or_on_what_is_asked_for(
    write_study: WriteStudy, town_pairs: Path, study_cache: Path, tmp_path: Path
) -> None:
    pairs = shutil.copytree(town_pairs, tmp_path / "pairs")
    shutil.move(pairs / "val", pairs / "test")
    stop: dict[str, Any] = {"cache": study_cache, "should_stop": lambda: True}
    assert compare(town_pairs, load_study(write_study()), tmp_path / "a", **stop)["split"] == "val"
    assert compare(pairs, load_study(write_study()), tmp_path / "b", **stop)["split"] == "test"
    assert compare(pairs, load_study(write_study(), split="train"), tmp_path / "c", **stop)["split"] == "train"
    with pytest.raises(DatasetError, match="has no split 'val'"):
        compare(pairs, load_study(write_study(), split="val"), tmp_path / "d", **stop)
    with pytest.raises(ConfigError, match="split is test there and train here"):
        compare(pairs, load_study(write_study(), split="train"), tmp_path / "b", **stop)
