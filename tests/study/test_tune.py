"""Studies at work: tiny trainings on the town, killed, shared, confirmed, and everything that can be asked wrongly."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from terramorph.bundle import load_bundle
from terramorph.cli import tune as command
from terramorph.errors import ConfigError, MissingPackageError, StorageError, TerramorphError
from terramorph.metrics import METRICS, Metric
from terramorph.pairs import open_pairs
from terramorph.study import StudyOptions, TuneResult, climb, confirm_study, trials, tune
from terramorph.study.plan import IN_FOLDER, StudyPlan, load_plan
from terramorph.study.reporter import NoTracking
from terramorph.study.space import load_space
from terramorph.study.trials import Trial, Trials
from terramorph.study.tune_page import importance, render_study
from terramorph.training import health, load_config

from ..conftest import make_tiny as tiny
from ..conftest import tiny_settings

optuna = pytest.importorskip("optuna")

SPACE = """
"optimizer.learning_rate" = { low = 1e-5, high = 1e-2, log = true }
"loss.l1_weight" = { low = 1.0, high = 300.0, log = true }
"batch_size" = { choices = [1, 2] }
"""


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def progress(self, done: int, total: int, detail: str) -> None:
        self.last = (done, total, detail)

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "space.toml"
    path.write_text(SPACE)
    return path


@pytest.fixture(scope="module")
def study(town_pairs: Path, space: Path, study_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    """Five trials of at most 18 images."""
    out = tmp_path_factory.mktemp("study") / "study"
    return tune(town_pairs, out, tiny(), StudyOptions(trials=5, images=18, space=space), cache=study_cache)


def test_a_study_ends_with_a_preset_a_bundle_and_a_page(study: TuneResult, town_pairs: Path) -> None:
    assert study.finished
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3, 4]
    assert study.default is not None
    assert study.default.number == 0
    assert study.best is not None
    assert study.plan.objectives == ("miou",)
    complete = [trial for trial in study.trials if trial.state == "complete"]
    assert study.best.score("miou") == max(trial.score("miou") for trial in complete)
    assert all(sorted(trial.scores) == [2, 6, 18] for trial in complete)

    found = load_config(study.out / "best.toml")
    assert found == study.plan.config_of(study.best.values)
    header = load_bundle(study.out / "best.safetensors").header
    assert header.recipe["optimizer"] == found.model_dump(mode="json")["optimizer"]
    assert header.data["steps"] == 18 // found.batch_size

    page = (study.out / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count('<svg class="chart"') == 1 + 3  # history and a slice for each parameter
    assert page.count("data:image/webp") >= 2
    tuned = {name: open_pairs(study.out / "tuning", name).ids for name in ("train", "val")}
    assert sorted((*tuned["train"], *tuned["val"])) == sorted(open_pairs(town_pairs, "train").ids)


def test_a_pruned_trial_says_why_and_keeps_its_checkpoint(study: TuneResult) -> None:
    pruned = [trial for trial in study.trials if trial.state == "pruned"]
    assert pruned
    for trial in pruned:
        assert "is not among the best third" in trial.reason
        assert (study.out / "trials" / trial.folder / "run" / "checkpoint.safetensors").is_file()
    assert (study.out / "report.html").read_text().count("is not among the best third.") == len(pruned)


def test_a_study_that_is_done_is_not_done_again_and_can_be_made_longer(
    study: TuneResult, town_pairs: Path, space: Path, study_cache: Path
) -> None:
    options, told = StudyOptions(trials=5, images=18, space=space), Told()
    again = tune(town_pairs, study.out, tiny(), options, reporter=told, cache=study_cache)
    assert told.messages == []
    assert again.trials == study.trials
    longer = tune(town_pairs, study.out, tiny(), replace(options, trials=6), reporter=told, cache=study_cache)
    assert len(longer.trials) == 6
    assert [message[:8] for message in told.messages] == ["trial 5 "]


def test_several_objectives_one_of_them_from_outside_give_a_front(
    town_pairs: Path, space: Path, study_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def brightness(prediction: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return (prediction.double() - truth.double()).mean(dim=(1, 2, 3)).abs()

    monkeypatch.setitem(METRICS, "brightness", Metric("brightness", "error of the brightness", False, brightness))
    options = StudyOptions(trials=3, images=6, rungs=2, space=space, objectives=("miou", "brightness"))
    found = tune(town_pairs, tmp_path, tiny(), options, cache=study_cache)
    assert [(trial.state, sorted(trial.scores)) for trial in found.trials] == [("complete", [6])] * 3  # none is pruned
    assert found.best in found.front
    ended = [trial for trial in found.trials if trial.state == "complete"]
    assert min(ended, key=lambda trial: trial.score("brightness") or 0.0) in found.front
    page = (tmp_path / "report.html").read_text()
    assert "Pareto front" in page
    assert "error of the brightness" in page
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="'brightness', which ranks the trials of "):
        load_plan(tmp_path)


def test_what_health_declares_dead_is_pruned_with_the_reason(
    town_pairs: Path, space: Path, study_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_YOUNG", 0)
    monkeypatch.setattr(health, "_ONE_PICTURE", 1e9)
    options = StudyOptions(trials=1, images=6, rungs=2, space=space)
    found = tune(town_pairs, tmp_path / "one", tiny(), options, cache=study_cache)
    assert (found.trials[0].state, found.best) == ("pruned", None)
    assert "are nearly one picture" in found.trials[0].reason
    monkeypatch.undo()
    found = tune(town_pairs, tmp_path / "two", tiny(optimizer__learning_rate=1e30), options, cache=study_cache)
    assert found.trials[0].state == "pruned"
    assert "became nan" in found.trials[0].reason or "not finite" in found.trials[0].reason


def test_a_trial_that_cannot_be_trained_has_failed_and_the_study_goes_on(
    town_pairs: Path, study_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, told = tmp_path / "space.toml", Told()
    space.write_text('"loss.adversarial" = { choices = ["none"] }\n"loss.r1" = { choices = [1.0] }')
    options = StudyOptions(trials=3, images=4, rungs=1, space=space)
    train_to = climb.train_to

    def without_memory(*words: Any, **named: Any) -> Any:
        if len(told.messages) == 0:
            raise torch.OutOfMemoryError("no room")
        return train_to(*words, **named)

    monkeypatch.setattr(climb, "train_to", without_memory)
    found = tune(town_pairs, tmp_path / "study", tiny(), options, reporter=told, cache=study_cache)
    assert [trial.state for trial in found.trials] == ["failed"] * 3
    assert found.trials[0].reason == "no room"
    assert "loss.adversarial=none has none" in found.trials[1].reason
    assert len(told.messages) == 3
    assert found.best is None


def test_a_study_stops_between_steps_and_goes_on_though_its_data_set_was_moved(
    town_pairs: Path, space: Path, study_cache: Path, tmp_path: Path
) -> None:
    steps = iter([False] * 6 + [True] * 9)
    options = StudyOptions(trials=1, images=18, space=space)
    here, there, out = tmp_path / "here", tmp_path / "there", tmp_path / "study"
    shutil.copytree(town_pairs, here)
    found = tune(here, out, tiny(), options, should_stop=lambda: next(steps), cache=study_cache)
    assert [trial.state for trial in found.trials] == ["running"]
    assert not found.finished
    stopped = max(found.trials[0].scores)
    with pytest.raises(ConfigError, match="holds another study: dataset is"):
        tune(town_pairs, out, tiny(), options, cache=study_cache)
    here.rename(there)
    found = tune(there, out, tiny(), options, cache=study_cache)
    assert [trial.state for trial in found.trials] == ["complete"]
    log = (out / "trials" / "0000" / "run" / "log.jsonl").read_text()
    assert log.count('"event": "started"') == 1
    assert stopped in found.trials[0].scores


def _kill_a_worker_at_work(out: Path) -> None:
    """Waits for the first score and kills a process that may be at anything then."""
    while not list(out.glob("trials/*/scores/metrics.json")):
        time.sleep(0.01)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)


@pytest.mark.kills
def test_no_trial_is_done_twice_and_a_killed_process_loses_a_rung_at_most(
    town_pairs: Path, space: Path, study_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "SILENT", 2)  # of the second call; it waits so long for those that may live
    options, told = StudyOptions(trials=2, images=12, rungs=2, jobs=2, space=space), Told()
    killer = threading.Thread(target=_kill_a_worker_at_work, args=(tmp_path,))
    killer.start()
    tune(town_pairs, tmp_path, tiny(), options, reporter=told, cache=study_cache)
    killer.join()
    assert "A process of the study was killed; its trial is taken up by the next call." in told.messages
    before = {trial.number: trial for trial in Trials(tmp_path, load_plan(tmp_path)).all()}

    found = tune(town_pairs, tmp_path, tiny(), replace(options, jobs=1), cache=study_cache)
    assert found.finished
    assert [trial.number for trial in found.trials] == [0, 1]
    assert len({json.dumps(trial.values) for trial in found.trials}) == 2
    twice = 0
    for trial in found.trials:
        folder, earlier = tmp_path / "trials" / trial.folder, before.get(trial.number)
        lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
        begun = [line["step"] for line in lines if line["event"] in ("started", "resumed")]
        size = found.plan.config_of(trial.values).batch_size
        twice += sum(line["event"] == "started" for line in lines) - 1
        assert begun == sorted(begun)
        if earlier is not None:
            assert trial.scores.items() >= earlier.scores.items()
            assert all(step * size in (0, *trial.scores) for step in begun)
    assert twice <= 1  # what was killed before its first checkpoint


@pytest.fixture
def plan(space: Path, tmp_path: Path) -> StudyPlan:
    return StudyPlan(
        dataset=tmp_path, preset=tiny(), objectives=("ssim",), rungs=(2, 6, 18), space=load_space(space),
        tuned_on="2 pairs", confirmed_on="val", storage=IN_FOLDER,
    )  # fmt: skip


def test_a_damaged_storage_is_one_sentence(plan: StudyPlan, tmp_path: Path) -> None:
    (tmp_path / "trials.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"storage sqlite:.* cannot be used .*; free or restore it"):
        Trials(tmp_path, plan)


def test_a_study_of_an_earlier_version_is_one_sentence(town_pairs: Path, space: Path, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"dataset": "x", "images": [2, 6]}')
    with pytest.raises(ConfigError, match="made by another version of terramorph tune"):
        tune(town_pairs, tmp_path, tiny(), StudyOptions(trials=1, images=18, space=space))
    with pytest.raises(ConfigError, match="made by another version of terramorph tune"):
        confirm_study(tmp_path)


def test_a_storage_of_another_study_and_a_url_that_is_none_are_refused(plan: StudyPlan, tmp_path: Path) -> None:
    Trials(tmp_path, plan)
    with pytest.raises(ConfigError, match=r"holds the study .* with another objectives"):
        Trials(tmp_path, plan.model_copy(update={"objectives": ("rmse",)}))
    with pytest.raises(ConfigError, match="are in a file of its own; give the `storage`"):
        Trials(tmp_path, plan, "sqlite://")
    shared = plan.model_copy(update={"storage": "a database"})
    with pytest.raises(ConfigError, match=r"The storage nonsense cannot be opened .*give a URL of SQLAlchemy"):
        Trials(tmp_path, shared, "nonsense")
    with pytest.raises(ConfigError, match=r"The storage oracle\+nothing://.*host/it cannot be opened") as found:
        Trials(tmp_path, shared, "oracle+nothing://me:secret@host/it")
    assert "secret" not in str(found.value)
    assert Trials(tmp_path, shared, f"sqlite:///{tmp_path / 'elsewhere.db'}").all() == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objectives": ("lpips",)}, r"The objective lpips cannot be computed here: .*SqueezeNet and LPIPS weights"),
        ({"objectives": ("fd", "ssim")}, r"The objective fd cannot be computed here: .*SqueezeNet and LPIPS weights"),
        ({"objectives": ("mious",)}, "There is no metric 'mious'; did you mean 'miou'"),
        ({"objectives": ("ssim", "ssim")}, "The objectives must differ, got ssim, ssim"),
        ({"images": 12}, "The first rung must be >= 2 images, one step, got 1"),
        ({"images": 3}, "3 images are too few for 3 rungs"),
        ({"budget": 1e-3}, "The budget of 0 s ends before the first rung of 2 images"),
        ({"space": Path("nowhere.toml")}, "nowhere.toml cannot be read"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_training(
    town_pairs: Path, space: Path, study_cache: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    options = replace(StudyOptions(trials=1, images=18, space=space), **changes)
    with pytest.raises(ConfigError, match=sentence):
        tune(town_pairs, tmp_path / "study", tiny(), options, cache=study_cache)
    assert not list((tmp_path / "study").glob("trials/*/run"))


def test_a_target_that_is_no_map_has_no_miou(town_pairs: Path, space: Path, study_cache: Path, tmp_path: Path) -> None:
    options = StudyOptions(trials=1, images=18, space=space, objectives=("miou",))
    with pytest.raises(ConfigError, match=r"The objective miou cannot be computed here: No palette"):
        tune(town_pairs, tmp_path, tiny(direction="BtoA"), options, cache=study_cache)


def test_a_folder_of_another_study_is_refused(
    study: TuneResult, town_pairs: Path, space: Path, study_cache: Path, tmp_path: Path
) -> None:
    options = StudyOptions(trials=5, images=18, space=space)
    (tmp_path / "other").symlink_to(town_pairs)
    copied = tmp_path / "copy"
    for split in ("train", "val"):
        (copied / split).mkdir(parents=True)
        for file in (town_pairs / split).iterdir():
            (copied / split / file.name).symlink_to(file)
    with pytest.raises(ConfigError, match="holds another study: dataset is"):
        tune(copied, study.out, tiny(), options, cache=study_cache)
    with pytest.raises(ConfigError, match="holds another study: another preset"):
        tune(town_pairs, study.out, tiny(ema=0.5), options, cache=study_cache)
    with pytest.raises(ConfigError, match=r"images is \[2, 6, 18\] there and \[3, 9, 27\] here"):
        tune(town_pairs, study.out, tiny(), replace(options, images=27), cache=study_cache)


def test_without_optuna_the_extra_is_named(town_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingPackageError, match=r"terramorph\[study\]"):
        tune(town_pairs, tmp_path / "study", tiny())
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("name", ["trials", "jobs", "rungs", "images", "budget"])
def test_nothing_of_anything_is_no_study(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        StudyOptions(**{name: 0})


APP = typer.Typer()
APP.command(command.NAME, epilog=command.EXAMPLE)(command.run)


def test_what_decides_is_found_to_matter(plan: StudyPlan) -> None:
    random = np.random.default_rng(0)
    tried = []
    for number in range(16):
        rate, weight = 10 ** random.uniform(-5, -2), random.uniform(1, 300)
        values = {"optimizer.learning_rate": rate, "loss.l1_weight": weight, "batch_size": 1 + number % 2}
        scores: dict[int, dict[str, float | None]] = {2: {"ssim": -abs(np.log10(rate) + 3)}}
        tried.append(Trial(number, "pruned", values if number else {}, scores, "", 1.0))
    found = importance(tried, plan)
    assert found[0][0] == "optimizer.learning_rate"
    assert sum(share for _, share in found) == pytest.approx(1.0)
    assert found[0][1] > 0.6
    assert importance(tried[:7], plan) == []


def test_a_whole_number_among_the_choices_may_be_the_preset_s_fraction(plan: StudyPlan, tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text('"loss.feature_matching" = { choices = [0, 10] }\n')
    preset = tiny(loss__feature_matching=10.0)
    plan = plan.model_copy(update={"space": load_space(path), "preset": preset})
    tried = tuple(
        Trial(n, "complete", {"loss.feature_matching": 10 * (n % 3 > 0)} if n else {}, {2: {"ssim": n / 10}}, "", 1.0)
        for n in range(9)
    )
    page = render_study(TuneResult(tmp_path, plan, tried, tried[0], tried[:1], 9, None))
    assert "over loss.feature_matching" in page


def _cli(*words: object) -> Any:
    return CliRunner().invoke(APP, [str(word) for word in words])


def test_the_command_line(town_pairs: Path, space: Path, study_cache: Path, tmp_path: Path) -> None:
    words = [town_pairs, "--out", tmp_path / "s", "--trials", 1, "--images", 4, "--rungs", 1, "--space", space]
    done = _cli(*words, "--cache", study_cache, "--budget", "1h", *tiny_settings())
    assert done.exit_code == 0, done.output
    assert "1 of 1 trials have ended." in done.output
    done = _cli("report", "--out", tmp_path / "s", "--cache", study_cache)
    assert done.exit_code == 0, done.output
    assert "no trial is better than the preset" in done.output
    assert isinstance(_cli("--out", tmp_path / "s").exception, ConfigError)
    missing = _cli("--out", tmp_path / "none", "--report").exception
    assert isinstance(missing, TerramorphError)
    assert "holds no study" in str(missing)


def test_a_budget_is_written_as_people_do() -> None:
    assert [command.parse_duration(text) for text in ("90s", "30m", "2h", "1h30m", "1.5 min", "1d")] == [
        90, 1800, 7200, 5400, 90, 86400,
    ]  # fmt: skip
    for text in ("2", "h", "two hours", "2h or so", ""):
        with pytest.raises(ConfigError, match="budget must be a duration"):
            command.parse_duration(text)


def test_the_tracker_gets_parameters_scores_sheets_and_the_bundle(
    town_pairs: Path, space: Path, study_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []

    class Kept(NoTracking):
        def __init__(self, out: Path, experiment: str) -> None:
            kept.append((out, experiment))

        @contextmanager
        def run(self, name: str, parameters: Mapping[str, Any]) -> Iterator[Kept]:
            kept.append((name, parameters["loss.l1_weight"]))
            yield self

        def log_metrics(self, values: Mapping[str, float | None], step: int) -> None:
            kept.append((step, values["miou"]))

        def log_artifact(self, path: Path, folder: str = "") -> None:
            kept.append((folder, path.suffix))

    monkeypatch.setattr(climb, "MlflowTracking", Kept)
    options = StudyOptions(trials=1, images=4, rungs=1, space=space, mlflow=True)
    found = tune(town_pairs, tmp_path, tiny(), options, cache=study_cache)
    score = found.trials[0].score("miou")
    assert kept == [
        (tmp_path, "tune"), ("trial 0", 100.0), (4, score), ("samples", ".png"), ("", ".safetensors"),
    ]  # fmt: skip
