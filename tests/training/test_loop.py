"""Runs: what they leave behind, and what they learn."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from terramorph.atomic import locked
from terramorph.bundle import Bundle, load_bundle
from terramorph.data import Augmentation, TrainingBatches, decode
from terramorph.errors import ConfigError, DatasetError, InputWarning
from terramorph.pairs import open_pairs
from terramorph.training import Plan, StepReport, Validation, recalibrate, recalibrate_network, resume, train
from terramorph.training.devices import make_fabric
from terramorph.training.health import Health
from terramorph.training.reporter import Silent
from terramorph.training.validation import open_validation

from ..processes import free_port, start_python
from .conftest import Tiny, losses_of, same_weights

# Without batch statistics and noise, a batch is the sum of its parts.
NO_STATISTICS = {
    "generator__norm": "instance",
    "generator__dropout": 0.0,
    "discriminator__norm": "instance",
    "precision": "fp32",
    "log__scalars": 1,
}


class Listener(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.reports: list[StepReport] = []
        self.messages: list[str] = []
        self.validations: list[Validation] = []

    def started(self, plan: Plan) -> None:
        self.plan = plan

    def step(self, report: StepReport) -> None:
        self.reports.append(report)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def validated(self, validation: Validation) -> None:
        self.validations.append(validation)


def _assert_same_losses(first: Path, second: Path, steps: int) -> None:
    """Two runs told the same losses at every step, to rounding."""
    one, two = losses_of(first), losses_of(second)
    assert len(one) == len(two) == steps
    for a, b in zip(one, two, strict=True):
        assert [b[key] for key in ("generator", "discriminator", "l1")] == pytest.approx(
            [a[key] for key in ("generator", "discriminator", "l1")], abs=2e-5
        )


def test_a_run_leaves_all_it_should(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    listener = Listener()
    result = train(town_pairs, tmp_path / "run", tiny(log__scalars=1, ema=0.9), reporter=listener, cache=tmp_path)
    assert result.finished
    assert result.model == tmp_path / "run" / "model.safetensors"
    assert listener.plan is not None
    assert listener.plan.total_steps == 3
    assert [r.step for r in listener.reports] == [1, 2, 3]
    assert {"generator", "discriminator", "l1"} <= listener.reports[0].losses.keys()
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {
        ".lock",
        "config.json",
        "checkpoint.safetensors",
        "model.safetensors",
        "log.jsonl",
        "run.html",
        "samples",
        "tensorboard",
    }
    assert [p.name for p in (tmp_path / "run" / "samples").iterdir()] == ["step_0000003.png"]
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["started", "step", "step", "step", "validation", "finished"]
    assert listener.validations[0].scores == {key: events[4][key] for key in ("psnr", "ssim")}
    header = load_bundle(result.model).header
    assert (header.direction, header.size, header.recalibrated) == ("AtoB", 64, True)
    assert header.data["pairs"] == 12
    assert header.recipe["generator"]["width"] == 4


def test_training_learns(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    listener = Listener()
    config = tiny(max_steps=40, batch_size=4, optimizer__learning_rate=2e-3, generator__width=8, log__sheet=0)
    train(town_pairs, tmp_path / "run", config, reporter=listener, cache=tmp_path)
    first, last = ([r.losses["l1"] for r in part] for part in (listener.reports[:5], listener.reports[-5:]))
    assert sum(last) < 0.7 * sum(first)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    town_pairs: Path, tmp_path: Path, tiny: Tiny
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(town_pairs, tmp_path / name, tiny(seed=seed), cache=tmp_path)
    assert same_weights(tmp_path / "a" / "model.safetensors", tmp_path / "b" / "model.safetensors")
    assert not same_weights(tmp_path / "a" / "model.safetensors", tmp_path / "c" / "model.safetensors")


def test_accumulated_batches_are_one_larger_batch(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    """Without batch statistics and noise, two batches of two are a batch of four, to rounding."""
    train(town_pairs, tmp_path / "one", tiny(batch_size=4, **NO_STATISTICS), cache=tmp_path)
    train(town_pairs, tmp_path / "two", tiny(batch_size=2, accumulate=2, **NO_STATISTICS), cache=tmp_path)
    _assert_same_losses(tmp_path / "one", tmp_path / "two", steps=3)


@pytest.mark.kills
def test_two_processes_are_one_with_twice_the_batch(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that are told what torchrun tells, in the environment, which is all that it does for them."""
    settings = {**NO_STATISTICS, "loss__r1": 0.5, "loss__r1_every": 2}
    train(town_pairs, tmp_path / "one", tiny(batch_size=4, **settings), cache=tmp_path)
    script = f"""
        import json
        from terramorph.training import parse_config, train
        from terramorph.training.reporter import Silent
        class Reporter(Silent):
            def started(self, plan): assert plan.processes == 2, plan
        config = parse_config(json.loads({tiny(batch_size=2, **settings).model_dump_json()!r}))
        train({str(town_pairs)!r}, {str(tmp_path / "two")!r}, config, reporter=Reporter(), cache={str(tmp_path)!r})
    """
    for name, value in {
        "TORCHELASTIC_RUN_ID": "town", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    group = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        group.append(start_python(script))
    for process in group:
        process.join(240)
        process.kill()  # where one waits for the other in vain
    assert [process.exitcode for process in group] == [0, 0]
    _assert_same_losses(tmp_path / "one", tmp_path / "two", steps=3)


def test_a_dry_run_stops_after_the_configuration(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    listener = Listener()
    result = train(town_pairs, tmp_path / "run", tiny(), reporter=listener, cache=tmp_path, dry_run=True)
    assert not result.finished
    assert listener.plan is not None
    assert listener.reports == []
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "config.json"]


def test_a_folder_in_which_another_process_trains(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with (
        locked(out / ".lock", RuntimeError()),
        pytest.raises(ConfigError, match=r"Another process trains in .*run; wait for it"),
    ):
        train(town_pairs, out, tiny(), cache=tmp_path)
    assert [path.name for path in out.iterdir()] == [".lock"]
    assert train(town_pairs, out, tiny(), cache=tmp_path).finished


def test_too_few_pairs_are_told(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    with pytest.warns(
        InputWarning, match=r"^12 pairs to train on: too few.* more ground, smaller or overlapping tiles"
    ):
        train(town_pairs, tmp_path / "run", tiny(), cache=tmp_path / "cache", dry_run=True)


def test_no_validation_split_means_no_sheets(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train").symlink_to(town_pairs / "train")
    assert train(tmp_path / "set", tmp_path / "run", tiny(max_steps=1), cache=tmp_path).finished
    assert not (tmp_path / "run" / "samples").exists()


def test_a_missing_split_is_said_before_anything_is_made(tmp_path: Path, tiny: Tiny) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(DatasetError, match="no split 'train'"):
        train(tmp_path / "set", tmp_path / "run", tiny(), cache=tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")  # torch.compile warns of what it does itself
def test_a_compiled_run_takes_the_steps_of_an_eager_one(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without graphs, which take most of a minute: tests/networks/test_convolutions.py makes some.
    wrapped, compiled = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: wrapped.append(module) or compiled(module))
    for launch in ("eager", "compile"):
        assert not wrapped
        config = tiny(launch=launch, precision="fp32", max_steps=2, log__scalars=1, log__sheet=0)
        with torch.compiler.set_stance("force_eager"):
            train(town_pairs, tmp_path / launch, config, cache=tmp_path)
    assert len(wrapped) == 3  # the generator, the discriminator, and its features
    assert load_bundle(tmp_path / "compile").header.data["steps"] == 2
    for eager, compiled in zip(losses_of(tmp_path / "eager"), losses_of(tmp_path / "compile"), strict=True):
        for name in ("discriminator", "generator", "l1"):
            assert compiled[name] == pytest.approx(eager[name], rel=1e-4)


def test_a_graph_and_a_gpu_need_one(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device here"):
        train(town_pairs, tmp_path / "run", tiny(device="cuda"), cache=tmp_path)
    with pytest.raises(ConfigError, match="launch=graph needs a CUDA device"):
        train(town_pairs, tmp_path / "run", tiny(launch="graph"), cache=tmp_path)


def test_fabric_tells_nothing_unless_its_logger_was_given_a_level(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger("lightning_fabric.utilities.rank_zero")
    for before, after in ((logging.NOTSET, logging.WARNING), (logging.DEBUG, logging.DEBUG)):
        monkeypatch.setattr(log, "level", before)
        make_fabric(tiny())
        assert log.level == after


def test_recalibrated_statistics_are_the_average_over_the_pairs(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    result = train(town_pairs, tmp_path / "run", tiny(recalibrate=0), cache=tmp_path)
    assert result.model is not None
    before = load_bundle(result.model)
    assert not before.header.recalibrated
    scored = Bundle(before.network, before.header.model_copy(update={"scores": {"val psnr": 20.0}}), before.path)
    scored.save(result.model)
    after = load_bundle(recalibrate(result.model, town_pairs, tmp_path / "new.safetensors", cache=tmp_path))
    assert after.header.recalibrated
    assert after.header.scores == {}, "they were scored with the old statistics"
    key = "down_norm.1.running_mean"
    assert not torch.equal(before.network.state_dict()[key], after.network.state_dict()[key])
    # The first normalised layer by hand: the average of its input's mean over the batches.
    pairs = decode(open_pairs(town_pairs, "train"), size=72, cache=tmp_path)
    scaling = before.header.source.scaling
    batches = TrainingBatches(pairs, pairs.a, pairs.a, (scaling, scaling), Augmentation(64, mirror=False), seed=0)
    means = []
    for n in range(6):
        first = before.network.down[0](batches.batch(2 * n, 2).source)
        means.append(before.network.down[1](functional.leaky_relu(first, 0.2)).mean(dim=(0, 2, 3)))
    torch.testing.assert_close(after.network.state_dict()[key], torch.stack(means).mean(0), atol=1e-4, rtol=1e-3)
    for name, value in before.network.named_parameters():
        assert torch.equal(value, dict(after.network.named_parameters())[name])


def test_what_a_run_has_cost(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    result = train(town_pairs, tmp_path / "run", tiny(max_steps=3), cache=tmp_path)
    cost = result.cost
    assert cost is not None
    assert cost.seconds_per_image is not None
    assert 0.0 < cost.seconds_per_image < 10.0
    assert cost.peak_memory > 2**20
    assert cost.parameters.keys() == {"generator", "discriminator"}
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["event"] == "finished"
    assert lines[-1]["parameters"] == cost.parameters
    one = train(town_pairs, tmp_path / "one", tiny(max_steps=1), cache=tmp_path).cost
    assert one is not None
    assert one.seconds_per_image is None, "the first step is warming up"


def test_a_caller_learns_why_a_run_is_dead_and_ends_it(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("terramorph.training.health._WON", 100.0)
    monkeypatch.setattr("terramorph.training.health._PATIENCE", 3)
    listener = Listener()
    result = train(
        town_pairs,
        tmp_path / "run",
        tiny(max_steps=9, log__sheet=0),
        reporter=listener,
        should_stop=lambda: listener.reports[-1].verdict is not None,
        cache=tmp_path,
    )
    assert (result.finished, result.step) == (False, 3)
    assert result.verdict == listener.messages[0]
    assert "tells every picture apart" in result.verdict
    assert resume(tmp_path / "run", cache=tmp_path).verdict == result.verdict


def test_sheets_show_what_the_bundle_would_do_and_change_nothing(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[torch.Tensor] = []
    check = Health.check_outputs

    def watched(self: Health, step: int, translated: torch.Tensor, truth: torch.Tensor) -> list[str]:
        shown.append(translated)
        return check(self, step, translated, truth)

    monkeypatch.setattr(Health, "check_outputs", watched)
    for name, every in (("often", 1), ("rarely", 100)):
        config = tiny(precision="fp32", log__samples=every, recalibrate=12)
        model = train(town_pairs, tmp_path / name, config, cache=tmp_path).model
    assert same_weights(tmp_path / "often" / "model.safetensors", tmp_path / "rarely" / "model.safetensors")
    # All 12 training pairs go into both here, so the last sheet is of the bundle to the last bit.
    bundle = load_bundle(model)
    scalings = (bundle.header.source.scaling, bundle.header.target.scaling)
    pairs = decode(open_pairs(town_pairs, "train"), size=72, cache=tmp_path)
    held_out = open_validation(town_pairs, config, pairs, scalings, False, tmp_path, torch.device("cpu"))
    assert held_out is not None
    with torch.no_grad():
        wanted = bundle.network.eval()(held_out.source)
    torch.testing.assert_close(shown[-1], wanted, atol=1e-4, rtol=0)


def test_recalibration_takes_batches_of_the_size_trained_with(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    """Statistics of the same images in batches of one would miss how images differ from each other."""
    result = train(town_pairs, tmp_path / "run", tiny(batch_size=4, ema=0.9), cache=tmp_path)
    assert result.model is not None
    new = load_bundle(recalibrate(result.model, town_pairs, tmp_path / "new.safetensors", images=12, cache=tmp_path))
    pairs = decode(open_pairs(town_pairs, "train"), size=72, cache=tmp_path)
    scaling = new.header.source.scaling
    batches = TrainingBatches(pairs, pairs.a, pairs.a, (scaling, scaling), Augmentation(64, mirror=False), seed=0)
    by_four, by_one = (load_bundle(result.model).network for _ in range(2))
    recalibrate_network(by_four, (batches.batch(4 * n, 4).source for n in range(3)))
    recalibrate_network(by_one, (batches.batch(n, 1).source for n in range(12)))
    key = "up_norm.0.running_var"
    torch.testing.assert_close(new.network.state_dict()[key], by_four.state_dict()[key])
    assert not torch.allclose(new.network.state_dict()[key], by_one.state_dict()[key], rtol=0.05)


def test_a_validation_split_of_another_kind_is_refused_before_training(
    town_pairs: Path, tmp_path: Path, tiny: Tiny
) -> None:
    (tmp_path / "set" / "val").mkdir(parents=True)
    (tmp_path / "set" / "train").symlink_to(town_pairs / "train")
    Image.fromarray(np.zeros((128, 256), np.uint8)).save(tmp_path / "set" / "val" / "grey.png")
    with pytest.raises(DatasetError, match="splits train and val, got 3 bands of uint8 and 1 bands of uint8"):
        train(tmp_path / "set", tmp_path / "run", tiny(), cache=tmp_path)
    assert not (tmp_path / "run").exists()


def test_what_lies_under_the_mask_is_not_learnt_from(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    """Two sets that differ only where there is no data train to the same weights."""
    for name, hole in (("dark", 0), ("bright", 255)):
        (tmp_path / name / "train").mkdir(parents=True)
        for file in sorted((town_pairs / "train").glob("*.png"))[:4]:
            pixels = np.asarray(Image.open(file).convert("RGBA")).copy()
            pixels[30:60, 20:80] = hole
            pixels[30:60, 148:208] = hole
            pixels[30:60, 20:80, 3] = pixels[30:60, 148:208, 3] = 0
            Image.fromarray(pixels).save(tmp_path / name / "train" / file.name)
        config = tiny(data__load_size=0, data__crop_size=64, precision="fp32")
        train(tmp_path / name, tmp_path / f"run-{name}", config, cache=tmp_path)
    assert same_weights(tmp_path / "run-dark" / "model.safetensors", tmp_path / "run-bright" / "model.safetensors")
