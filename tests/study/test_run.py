"""One run: trained to a budget, going on, and scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from terramorph.errors import CheckpointError, ConfigError
from terramorph.metrics import METRICS
from terramorph.study.run import (
    Record,
    finished_steps,
    first_warning,
    flat_settings,
    read_record,
    require_same_run,
    score,
    seconds_per_image,
    train_for,
    train_to,
    write_record,
)
from terramorph.training import TrainConfig, load_config, resume
from terramorph.training.runlog import read_log

from ..conftest import make_tiny


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return make_tiny(log__sheet=0, log__scalars=1)


@pytest.fixture(scope="module")
def run(config: TrainConfig, town_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 5 images, which are 3 steps."""
    folder = tmp_path_factory.mktemp("run")
    result = train_to(folder / "run", town_pairs, config, images=5, cache=folder / "cache")
    assert result.finished
    assert result.step == 3
    return folder / "run"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_longer_budget_goes_on_to_the_same_weights(
    run: Path, config: TrainConfig, town_pairs: Path, tmp_path: Path
) -> None:
    cache = run.parent / "cache"
    for images in (2, 6):
        train_to(tmp_path / "two", town_pairs, config, images=images, cache=cache)
    assert finished_steps(tmp_path / "two") == 3
    assert same(run, tmp_path / "two")


def test_what_was_trained_that_far_is_left_alone(run: Path, config: TrainConfig, town_pairs: Path) -> None:
    before = (run / "model.safetensors").stat().st_mtime_ns
    for images in (2, 6):
        assert train_to(run, town_pairs, config, images=images, cache=run.parent / "cache").step == 3
    assert (run / "model.safetensors").stat().st_mtime_ns == before


def test_a_finished_run_needs_no_checkpoint_and_cannot_grow_without(
    run: Path, config: TrainConfig, town_pairs: Path, tmp_path: Path
) -> None:
    out, cache = shutil.copytree(run, tmp_path / "run"), run.parent / "cache"
    (out / "checkpoint.safetensors").unlink()
    before = (out / "model.safetensors").stat().st_mtime_ns
    assert train_to(out, town_pairs, config, images=5, cache=cache).step == 3
    assert train_for(out, town_pairs, config, minutes=60, cache=cache).step == 3
    with pytest.raises(ConfigError, match=r"finished after 3 steps and its checkpoint deleted.* delete the fol"):
        train_to(out, town_pairs, config, images=8, cache=cache)
    other = load_config("pix2pix", {**flat_settings(config), "loss.l1_weight": 5.0})
    with pytest.raises(ConfigError, match=r"loss\.l1_weight is 100\.0 there and 5\.0 here"):
        train_to(out, town_pairs, other, images=5)
    with pytest.raises(ConfigError, match=r"loss\.l1_weight is 100\.0 there and 5\.0 here"):
        train_for(out, town_pairs, other, minutes=1)
    assert (out / "model.safetensors").stat().st_mtime_ns == before


def test_the_features_of_a_perceptual_loss_may_move(
    run: Path, config: TrainConfig, town_pairs: Path, tmp_path: Path
) -> None:
    moved = load_config("pix2pix", {**flat_settings(config), "loss.perceptual_weights": "/elsewhere"})
    require_same_run(run, town_pairs, moved)
    assert train_to(run, town_pairs, moved, images=5).step == 3
    out = shutil.copytree(run, tmp_path / "run")
    train_to(out, town_pairs, moved, images=8, cache=run.parent / "cache")
    assert json.loads((out / "config.json").read_text())["config"]["loss"]["perceptual_weights"] == "/elsewhere"


def test_a_run_is_repeated_from_its_configuration_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    assert resume(tmp_path, cache=run.parent / "cache").finished
    assert same(run, tmp_path)


def test_another_configuration_is_refused(run: Path, config: TrainConfig, town_pairs: Path, tmp_path: Path) -> None:
    other = load_config("pix2pix", {**flat_settings(config), "loss.l1_weight": 5.0})
    with pytest.raises(ConfigError, match=r"loss\.l1_weight is 100\.0 there and 5\.0 here"):
        train_to(run, town_pairs, other, images=6)
    with pytest.raises(ConfigError, match="holds another run: dataset is"):
        require_same_run(run, tmp_path, config)
    moved = shutil.copytree(run, tmp_path / "moved")
    settings = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**settings, "dataset": str(tmp_path / "gone")}))
    require_same_run(moved, town_pairs, config)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        require_same_run(tmp_path, town_pairs, config)


def test_budgets_that_cannot_be(config: TrainConfig, town_pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be >= 2 images, one step, got 1"):
        train_to(tmp_path / "run", town_pairs, config, images=1)
    with pytest.raises(ConfigError, match="The schedule of 1200 steps is shorter than 3000 images, 1500 steps"):
        train_to(tmp_path / "run", town_pairs, config, images=3000)
    assert not (tmp_path / "run").exists()


def test_a_budget_of_time_ends_with_a_model(run: Path, config: TrainConfig, town_pairs: Path, tmp_path: Path) -> None:
    cache = run.parent / "cache"
    result = train_for(tmp_path, town_pairs, config, minutes=1e-9, cache=cache)
    assert (result.finished, result.step) == (True, 1)
    assert train_for(tmp_path, town_pairs, config, minutes=1e-9, cache=cache).step == 1


def test_a_budget_of_time_can_be_stopped_before(
    run: Path, config: TrainConfig, town_pairs: Path, tmp_path: Path
) -> None:
    cache = run.parent / "cache"
    result = train_for(tmp_path, town_pairs, config, minutes=60, should_stop=lambda: True, cache=cache)
    assert (result.finished, result.step) == (False, 1)
    assert finished_steps(tmp_path) is None
    assert train_for(tmp_path, town_pairs, config, minutes=1e-9, cache=cache).finished


def test_scores_are_those_of_the_evaluation(run: Path, town_pairs: Path, tmp_path: Path) -> None:
    scores = score(run, town_pairs, "val", tmp_path, device="cpu")
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert len(scores.ids) == document["n"] == 4
    assert scores.overall.keys() == METRICS.keys()
    assert scores.overall["psnr"] == document["psnr"] == pytest.approx(sum(scores.per_image["psnr"]) / 4, rel=1e-5)
    assert scores.overall["lpips"] is None
    assert "weights" in scores.reasons["lpips"]
    write_record(tmp_path, record := Record(state="done", scores=scores))
    assert read_record(tmp_path) == record
    (tmp_path / "record.json").write_text('{"state": "done", "memory_is_own": true}')  # of an earlier version
    assert read_record(tmp_path).state == "trained"


def test_seconds_per_image_come_from_the_log(run: Path, tmp_path: Path) -> None:
    assert (seconds_per_image(run) or 0) > 0
    assert seconds_per_image(tmp_path) is None
    lines = [
        {"event": "started", "step": 0, "total": 20},
        {"event": "step", "step": 10, "images per second": 20.0},
        {"event": "step", "step": 20, "images per second": 5.0},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "st')
    assert seconds_per_image(tmp_path) == pytest.approx((10 / 20 + 10 / 5) / 20)
    assert len(read_log(tmp_path)) == 3


def test_the_first_warning_of_the_health_checks_comes_from_the_log(run: Path, tmp_path: Path) -> None:
    assert first_warning(run) == first_warning(tmp_path) == ""
    lines = [{"event": "warning", "step": step, "text": text} for step, text in ((5, "Won."), (9, "One picture."))]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert first_warning(tmp_path) == "Won."
