"""Checkpoints: interruptions of every kind change nothing, and what does not fit is refused."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from terramorph.bundle import load_bundle
from terramorph.errors import CheckpointError, ConfigError, InputWarning, StorageError, TrainingDivergedError
from terramorph.pixels import Batch
from terramorph.processor import native_bf16
from terramorph.training import devices, resume, train
from terramorph.training.pix2pix import Pix2Pix
from terramorph.training.state import read_position

from ..bf16 import needs_bf16
from ..processes import start_python, wait_until
from .conftest import Tiny, losses_of, same_weights


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_stopping_and_resuming_changes_nothing(town_pairs: Path, tmp_path: Path, tiny: Tiny, precision: str) -> None:
    config = tiny(max_steps=5, ema=0.99, precision=precision, data__jitter=0.2, log__samples=2)
    train(town_pairs, tmp_path / "whole", config, cache=tmp_path)
    steps = iter([False, True])
    stopped = train(town_pairs, tmp_path / "parts", config, should_stop=lambda: next(steps), cache=tmp_path)
    assert (stopped.finished, stopped.step, stopped.model) == (False, 2, None)
    assert resume(tmp_path / "parts", cache=tmp_path).finished
    for name in ("model.safetensors", "checkpoint.safetensors"):
        assert same_weights(tmp_path / "whole" / name, tmp_path / "parts" / name)


def test_a_run_goes_on_in_the_precision_that_it_began_in(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(max_steps=3)
    monkeypatch.setattr(devices, "native_bf16", lambda device: False)
    train(town_pairs, tmp_path / "whole", config, cache=tmp_path)
    train(town_pairs, tmp_path / "parts", config, should_stop=lambda: True, cache=tmp_path)
    monkeypatch.setattr(devices, "native_bf16", lambda device: True)
    assert resume(tmp_path / "parts", cache=tmp_path).finished
    assert same_weights(tmp_path / "whole" / "model.safetensors", tmp_path / "parts" / "model.safetensors")


@needs_bf16
def test_a_run_in_bf16_goes_on_where_there_is_none_and_says_so(
    town_pairs: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(town_pairs, tmp_path, tiny(max_steps=3), should_stop=lambda: True, cache=tmp_path)
    assert read_position(tmp_path / "checkpoint.safetensors").precision == "bf16-mixed"
    monkeypatch.setattr(devices, "native_bf16", lambda device: False)
    with pytest.warns(InputWarning, match="continues in fp32"):
        assert resume(tmp_path, cache=tmp_path).finished
    assert read_position(tmp_path / "checkpoint.safetensors").precision == "32-true"


@pytest.mark.kills
def test_kill_9_and_resume_gives_the_same_bits(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    precision = "bf16" if native_bf16("cpu") else "fp32"  # found out once for both processes
    config = tiny(max_steps=60, precision=precision, log__checkpoint=3, log__scalars=1, log__samples=1000, log__sheet=0)
    train(town_pairs, tmp_path / "whole", config, cache=tmp_path)
    script = f"""
        import itertools, json, time
        import torch
        from terramorph.training import parse_config, train
        steps = itertools.count()
        torch.set_num_threads({torch.get_num_threads()})
        config = parse_config(json.loads({config.model_dump_json()!r}))
        def waits():  # at last, however late it is killed
            if next(steps) > 50:
                time.sleep(240)
        train({str(town_pairs)!r}, {str(tmp_path / "killed")!r}, config, cache={str(tmp_path)!r}, should_stop=waits)
    """
    process = start_python(script)
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    wait_until(lambda: checkpoint.exists() or not process.is_alive())
    time.sleep(random.uniform(0.0, 0.2))  # any step, in the middle of it or of writing a checkpoint
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert resume(tmp_path / "killed", cache=tmp_path).finished
    assert same_weights(tmp_path / "whole" / "model.safetensors", tmp_path / "killed" / "model.safetensors")
    steps = [event["step"] for event in losses_of(tmp_path / "killed")]
    assert steps == list(range(1, 61)), "the log of a resumed run tells every step once"


def test_a_run_is_never_overwritten(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(town_pairs, tmp_path / "run", tiny(max_steps=1), cache=tmp_path)
    with pytest.raises(ConfigError, match="already holds a run"):
        train(town_pairs, tmp_path / "run", tiny(max_steps=1), cache=tmp_path)


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
    assert same_weights(tmp_path / "whole" / "model.safetensors", tmp_path / "run" / "model.safetensors")


def test_resuming_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not the folder of a run"):
        resume(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"its config\.json cannot be read .* give the `out` of a run"):
        resume(tmp_path)


@pytest.mark.parametrize("change", ["missing", "unknown", "malformed"])
def test_a_checkpoint_without_all_moments_is_refused(town_pairs: Path, tmp_path: Path, tiny: Tiny, change: str) -> None:
    train(town_pairs, tmp_path / "run", tiny(max_steps=3), should_stop=lambda: True, cache=tmp_path)
    path = tmp_path / "run" / "checkpoint.safetensors"
    tensors = load_file(path)
    moved = tensors.pop("optimizer.generator.0.exp_avg")
    if change != "missing":
        tensors[{"unknown": "optimizer.generator.99.exp_avg", "malformed": "optimizer.generator.exp_avg"}[change]] = (
            moved
        )
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match="does not fit the run"):
        resume(tmp_path / "run", cache=tmp_path)


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


def test_a_run_goes_on_where_its_data_set_was_moved(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    shutil.copytree(town_pairs, tmp_path / "here")
    train(tmp_path / "here", tmp_path / "run", tiny(max_steps=3), should_stop=lambda: True, cache=tmp_path)
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(CheckpointError, match="new folder"):
        resume(tmp_path / "run", cache=tmp_path)
    min((tmp_path / "there" / "train").glob("*.png")).rename(tmp_path / "held.png")
    with pytest.raises(CheckpointError, match="are not those"):
        resume(tmp_path / "run", tmp_path / "there", cache=tmp_path)
    name = min((town_pairs / "train").glob("*.png")).name
    (tmp_path / "held.png").rename(tmp_path / "there" / "train" / name)
    moved = resume(tmp_path / "run", tmp_path / "there", cache=tmp_path, max_steps=2)
    assert moved.finished
    assert resume(tmp_path / "run", cache=tmp_path, max_steps=3).step == 3  # its new place is remembered
    whole = train(town_pairs, tmp_path / "whole", tiny(max_steps=3), cache=tmp_path)
    assert whole.model is not None
    assert moved.model is not None
    assert same_weights(whole.model, moved.model)


def test_another_length_can_be_given_when_resuming(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(town_pairs, tmp_path / "run", tiny(max_steps=5), should_stop=lambda: True, cache=tmp_path)
    shorter = resume(tmp_path / "run", cache=tmp_path, max_steps=1)
    assert (shorter.finished, shorter.step, shorter.total) == (True, 1, 1)
    with pytest.raises(ConfigError, match="max_steps cannot be -5"):
        resume(tmp_path / "run", cache=tmp_path, max_steps=-5)


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
        assert same_weights(tmp_path / "whole" / name, run / name)
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
    assert same_weights(tmp_path / "whole" / "model.safetensors", run / "model.safetensors")


def test_a_setting_changed_behind_the_checkpoint_is_refused(town_pairs: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(town_pairs, tmp_path / "run", tiny(), should_stop=lambda: True, cache=tmp_path)
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"l1_weight": 100.0', '"l1_weight": 1.0'))
    with pytest.raises(CheckpointError, match=r"loss\.l1_weight .* is not what the checkpoint was trained with"):
        resume(tmp_path / "run", cache=tmp_path)
