"""Runs: what they leave behind, and that interruptions change nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional

from terramorph.bundle import load_bundle
from terramorph.data import Augmentation, TrainingBatches, decode
from terramorph.errors import CheckpointError, ConfigError, DatasetError, StorageError, TrainingDivergedError
from terramorph.pairs import open_pairs
from terramorph.pixels import Batch
from terramorph.training import Plan, StepReport, TrainConfig, recalibrate, recalibrate_network, resume, train
from terramorph.training.pix2pix import Pix2Pix
from terramorph.training.state import read_position

Tiny = Callable[..., TrainConfig]

# Without batch statistics and noise, a batch is the sum of its parts.
NO_STATISTICS = {
    "generator__norm": "instance",
    "generator__dropout": 0.0,
    "discriminator__norm": "instance",
    "precision": "fp32",
    "log__scalars": 1,
}


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.reports: list[StepReport] = []
        self.messages: list[str] = []

    def started(self, plan: Plan) -> None:
        self.plan = plan

    def step(self, report: StepReport) -> None:
        self.reports.append(report)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def decoding(self, done: int, total: int) -> None:
        pass


def _same(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _losses(run: Path) -> list[dict[str, float]]:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]


def _assert_same_losses(first: Path, second: Path, steps: int) -> None:
    """Two runs told the same losses at every step, to rounding."""
    one, two = _losses(first), _losses(second)
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
        "config.json",
        "checkpoint.safetensors",
        "model.safetensors",
        "log.jsonl",
        "samples",
        "tensorboard",
    }
    assert [p.name for p in (tmp_path / "run" / "samples").iterdir()] == ["step_0000003.png"]
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["started", "step", "step", "step", "finished"]
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
    assert _same(tmp_path / "a" / "model.safetensors", tmp_path / "b" / "model.safetensors")
    assert not _same(tmp_path / "a" / "model.safetensors", tmp_path / "c" / "model.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopping_and_resuming_changes_nothing(town_pairs: Path, tmp_path: Path, tiny: Tiny, precision: str) -> None:
    config = tiny(max_steps=5, ema=0.99, precision=precision, data__jitter=0.2, log__samples=2)
    train(town_pairs, tmp_path / "whole", config, cache=tmp_path)
    steps = iter([False, True])
    stopped = train(town_pairs, tmp_path / "parts", config, should_stop=lambda: next(steps), cache=tmp_path)
    assert (stopped.finished, stopped.step, stopped.model) == (False, 2, None)
    assert resume(tmp_path / "parts", cache=tmp_path).finished
    for name in ("model.safetensors", "checkpoint.safetensors"):
        assert _same(tmp_path / "whole" / name, tmp_path / "parts" / name)


def test_kill_9_and_resume_gives_the_same_bits(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    config = tiny(max_steps=400, log__checkpoint=3, log__scalars=1, log__samples=1000, log__sheet=0)
    train(town_pairs, tmp_path / "whole", config, cache=tmp_path)
    script = textwrap.dedent(
        f"""
        import json, pathlib
        from terramorph.training import parse_config, train
        config = parse_config(json.loads({config.model_dump_json()!r}))
        train({str(town_pairs)!r}, {str(tmp_path / "killed")!r}, config, cache={str(tmp_path)!r})
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    )
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.uniform(0.0, 0.3))  # any step, in the middle of it or of writing a checkpoint
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert resume(tmp_path / "killed", cache=tmp_path).finished
    assert _same(tmp_path / "whole" / "model.safetensors", tmp_path / "killed" / "model.safetensors")
    steps = [event["step"] for event in _losses(tmp_path / "killed")]
    assert steps == list(range(1, 401)), "the log of a resumed run tells every step once"


def test_accumulated_batches_are_one_larger_batch(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    """Without batch statistics and noise, two batches of two are a batch of four, to rounding."""
    train(town_pairs, tmp_path / "one", tiny(batch_size=4, **NO_STATISTICS), cache=tmp_path)
    train(town_pairs, tmp_path / "two", tiny(batch_size=2, accumulate=2, **NO_STATISTICS), cache=tmp_path)
    _assert_same_losses(tmp_path / "one", tmp_path / "two", steps=3)


def test_two_processes_are_one_with_twice_the_batch(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    settings = {**NO_STATISTICS, "loss__r1": 0.5, "loss__r1_every": 2}
    train(town_pairs, tmp_path / "one", tiny(batch_size=4, **settings), cache=tmp_path)
    script = tmp_path / "worker.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import json
            from terramorph.training import parse_config, train
            config = parse_config(json.loads({tiny(batch_size=2, **settings).model_dump_json()!r}))
            class Reporter:
                def started(self, plan): assert plan.processes == 2, plan
                def step(self, report): pass
                def message(self, text): pass
                def decoding(self, done, total): pass
            train({str(town_pairs)!r}, {str(tmp_path / "two")!r}, config, reporter=Reporter(), cache={str(tmp_path)!r})
            """
        )
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]

    _assert_same_losses(tmp_path / "one", tmp_path / "two", steps=3)


def test_a_dry_run_stops_after_the_configuration(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    listener = Listener()
    result = train(town_pairs, tmp_path / "run", tiny(), reporter=listener, cache=tmp_path, dry_run=True)
    assert not result.finished
    assert listener.plan is not None
    assert listener.reports == []
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_run_is_never_overwritten(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(town_pairs, tmp_path / "run", tiny(max_steps=1), cache=tmp_path)
    with pytest.raises(ConfigError, match="already holds a run"):
        train(town_pairs, tmp_path / "run", tiny(max_steps=1), cache=tmp_path)


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


def test_a_diverging_run_keeps_its_last_good_checkpoint(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Pix2Pix.step

    def poisoned(self: Pix2Pix, batches: list[Batch], number: int) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) == 4:
            with torch.no_grad():
                self.networks["generator"].head.weight.fill_(float("nan"))
        return real(self, batches, number)

    calls: list[int] = []
    monkeypatch.setattr(Pix2Pix, "step", poisoned)
    with pytest.raises(TrainingDivergedError, match=r"step 4 the loss '.*' became nan \(the weight generator\."):
        train(town_pairs, tmp_path / "run", tiny(max_steps=9, log__checkpoint=1, log__sheet=0), cache=tmp_path)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    kept = tmp_path / "run" / "checkpoint.safetensors"
    assert read_position(kept).step == 3
    assert all(torch.isfinite(t).all() for t in load_file(kept).values())
    monkeypatch.undo()
    assert resume(tmp_path / "run", cache=tmp_path).finished


def test_a_full_disk_keeps_the_checkpoint_before(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terramorph.training import state

    real, calls = state.save_file, []

    def full(tensors: object, path: Path, metadata: object) -> None:
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        real(tensors, path, metadata)

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(
        StorageError,
        match=r"step 2 could not be written .*No space left.*is intact in .*checkpoint.safetensors",
    ):
        train(town_pairs, tmp_path / "run", tiny(log__checkpoint=1), cache=tmp_path)
    assert not list((tmp_path / "run").glob(".*.part"))
    monkeypatch.undo()
    result = resume(tmp_path / "run", cache=tmp_path)
    assert result.finished
    train(town_pairs, tmp_path / "whole", tiny(log__checkpoint=1), cache=tmp_path)
    assert _same(tmp_path / "whole" / "model.safetensors", tmp_path / "run" / "model.safetensors")


def test_resuming_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not the folder of a run"):
        resume(tmp_path)


def test_resuming_with_other_pairs_or_a_damaged_checkpoint(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(town_pairs, tmp_path / "run", tiny(max_steps=3), should_stop=lambda: True, cache=tmp_path)
    config = tmp_path / "run" / "config.json"
    text = config.read_text()
    (tmp_path / "other" / "train").mkdir(parents=True)
    file = min((town_pairs / "train").glob("*.png"))
    (tmp_path / "other" / "train" / file.name).write_bytes(file.read_bytes())
    config.write_text(text.replace(json.dumps(str(town_pairs)), json.dumps(str(tmp_path / "other"))))
    with pytest.raises(CheckpointError, match="are not those"):
        resume(tmp_path / "run", cache=tmp_path)
    config.write_text(text)
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        resume(tmp_path / "run", cache=tmp_path)


def test_a_graph_and_a_gpu_need_one(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device here"):
        train(town_pairs, tmp_path / "run", tiny(device="cuda"), cache=tmp_path)
    with pytest.raises(ConfigError, match="launch=graph is a CUDA graph"):
        train(town_pairs, tmp_path / "run", tiny(launch="graph"), cache=tmp_path)


def test_recalibrated_statistics_are_the_average_over_the_pairs(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    result = train(town_pairs, tmp_path / "run", tiny(recalibrate=0), cache=tmp_path)
    assert result.model is not None
    before = load_bundle(result.model)
    assert not before.header.recalibrated
    after = load_bundle(recalibrate(result.model, town_pairs, tmp_path / "new.safetensors", cache=tmp_path))
    assert after.header.recalibrated
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


def test_another_length_can_be_given_when_resuming(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(town_pairs, tmp_path / "run", tiny(max_steps=5), should_stop=lambda: True, cache=tmp_path)
    shorter = resume(tmp_path / "run", cache=tmp_path, max_steps=1)
    assert (shorter.finished, shorter.step, shorter.total) == (True, 1, 1)


def test_a_finished_run_goes_on_to_a_longer_one(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    """As a run of that length from the start, to the bit; until then its model is the one it had."""
    settings = {"ema": 0.9, "schedule__unit": "steps", "schedule__constant": 100, "schedule__decay": 0}
    train(town_pairs, tmp_path / "whole", tiny(max_steps=6, **settings), cache=tmp_path)
    run = tmp_path / "run"
    train(town_pairs, run, tiny(max_steps=2, **settings), cache=tmp_path)
    first = (run / "model.safetensors").read_bytes()
    steps = iter([False, True])
    assert not resume(run, cache=tmp_path, max_steps=6, should_stop=lambda: next(steps)).finished
    assert (run / "model.safetensors").read_bytes() == first
    assert resume(run, cache=tmp_path).step == 6
    for name in ("model.safetensors", "checkpoint.safetensors"):
        assert _same(tmp_path / "whole" / name, run / name)
    assert load_bundle(run).header.data["steps"] == 6


def test_an_error_on_the_way_to_a_longer_run_leaves_its_model(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(town_pairs, run, tiny(max_steps=2), cache=tmp_path)
    before = {name: (run / name).read_bytes() for name in ("model.safetensors", "checkpoint.safetensors")}
    real = Pix2Pix.step

    def poisoned(self: Pix2Pix, batches: list[Batch], number: int) -> dict[str, torch.Tensor]:
        losses = real(self, batches, number)
        return {**losses, "l1": losses["l1"] * float("nan")} if number == 3 else losses

    monkeypatch.setattr(Pix2Pix, "step", poisoned)
    with pytest.raises(TrainingDivergedError, match="step 4 the loss 'l1' became nan"):
        resume(run, cache=tmp_path, max_steps=6)
    assert {name: (run / name).read_bytes() for name in before} == before


def test_a_run_from_before_there_were_switches_goes_on(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    """Its config.json and its checkpoint know nothing of them."""
    train(town_pairs, tmp_path / "whole", tiny(max_steps=4), cache=tmp_path)
    run, steps = tmp_path / "run", iter([False, True])
    train(town_pairs, run, tiny(max_steps=4), should_stop=lambda: next(steps), cache=tmp_path)
    old = json.loads((run / "config.json").read_text())
    for section, keys in {
        "data": ["diffaugment"],
        "generator": ["skips", "upsampling"],
        "discriminator": ["conditional", "spectral_norm", "scales"],
        "loss": ["l2_weight", "feature_matching", "r1", "r1_every", "perceptual", "perceptual_weights"],
    }.items():
        for key in keys:
            del old["config"][section][key]
    (run / "config.json").write_text(json.dumps(old))
    position = read_position(run / "checkpoint.safetensors")
    header = {"format": 1, **vars(position), "config": old["config"], "health": {"steps_won": 0, "warned": []}}
    tensors = load_file(run / "checkpoint.safetensors")
    save_file(tensors, run / "checkpoint.safetensors", metadata={"terramorph-checkpoint": json.dumps(header)})
    assert resume(run, cache=tmp_path).finished
    assert _same(tmp_path / "whole" / "model.safetensors", run / "model.safetensors")


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


def test_a_setting_changed_behind_the_checkpoint_is_refused(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(town_pairs, tmp_path / "run", tiny(), should_stop=lambda: True, cache=tmp_path)
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"l1_weight": 100.0', '"l1_weight": 1.0'))
    with pytest.raises(CheckpointError, match=r"loss\.l1_weight .* is not what the checkpoint was trained with"):
        resume(tmp_path / "run", cache=tmp_path)


def test_a_validation_split_of_another_kind_is_refused_before_training(
    town_pairs: Path, tmp_path: Path, tiny: Tiny
) -> None:
    (tmp_path / "set" / "val").mkdir(parents=True)
    (tmp_path / "set" / "train").symlink_to(town_pairs / "train")
    Image.fromarray(np.zeros((128, 256), np.uint8)).save(tmp_path / "set" / "val" / "grey.png")
    with pytest.raises(DatasetError, match=r"split val of .* has 1 bands of uint8 and that of train has 3"):
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
    assert _same(tmp_path / "run-dark" / "model.safetensors", tmp_path / "run-bright" / "model.safetensors")
