"""One run of a study: trained to a budget or resumed, scored on held-out pairs, and recorded."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from terramorph.atomic import write_text
from terramorph.documents import flat, parse_json
from terramorph.errors import BundleError, CheckpointError, ConfigError, raised_as
from terramorph.evaluation import evaluate
from terramorph.header import read_header
from terramorph.metrics import METRICS
from terramorph.pairs import open_pairs
from terramorph.training import TrainConfig, TrainResult, parse_config, resume, train
from terramorph.training.config import PLACES
from terramorph.training.loop import MODEL
from terramorph.training.optimizer import total_steps
from terramorph.training.runlog import read_log
from terramorph.training.state import CHECKPOINT, CONFIG, read_position
from terramorph.translate import load
from terramorph.translate.memory import release_freed_memory

RECORD = "record.json"
SCORES = "scores"
"""Folder of the evaluation in a run's folder."""
_MAY_DIFFER = {"max_steps", *PLACES}


class Scores(BaseModel):
    """Scores of one run.

    Attributes:
        ids: Ids of the pairs, in the order of the split.
        per_image: Metric -> value of each pair, for metrics per image; None where it is undefined.
        overall: Metric -> mean over the pairs, or value of the set; None where it cannot be computed.
        reasons: Metric -> reason why it is None.
    """

    model_config = ConfigDict(frozen=True)

    ids: list[str]
    per_image: dict[str, list[float | None]]
    overall: dict[str, float | None]
    reasons: dict[str, str]


class Record(BaseModel):
    """State, cost and scores of a run: RUN/record.json.

    Attributes:
        state: `done`, `diverged` and `refused` (settings that do not fit together) are final.
        step: Optimizer steps taken; for a diverged run, the last one reported.
        reason: Reason why it diverged or was refused.
        parameters: Trainable parameters of each network.
        memory: Peak bytes in training: of tensors on the GPU, or of the process beyond its memory before.
        seconds_per_image: Seconds of training per image.
        train_seconds, score_seconds: Seconds of the training steps and of the evaluation.
        weights: Folder of the feature weights used for the scores.
        verdict: First warning of the health checks, or "".
        scores: Scores of a run that is done.
    """

    model_config = ConfigDict(frozen=True)

    state: Literal["waiting", "training", "trained", "done", "diverged", "refused"] = "waiting"
    step: int = 0
    reason: str = ""
    parameters: dict[str, int] | None = None
    memory: int | None = None
    seconds_per_image: float | None = None
    train_seconds: float | None = None
    score_seconds: float | None = None
    weights: str | None = None
    verdict: str = ""
    scores: Scores | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "diverged", "refused")


def read_record(run: Path) -> Record:
    """Read a run's record; a new one if there is none or it cannot be read."""
    try:
        record = Record.model_validate(parse_json((run / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return Record()
    # Records of earlier versions have no scores: such a run is scored again.
    return (
        record.model_copy(update={"state": "trained"}) if record.state == "done" and record.scores is None else record
    )


def write_record(run: Path, record: Record) -> None:
    """Write a run's record, or raise StorageError."""
    write_text(run / RECORD, record.model_dump_json(indent=1) + "\n", make_folder=True)


def train_to(out: Path, dataset: Path, config: TrainConfig, *, images: int, **how: Any) -> TrainResult:
    """Train a run, or resume it, until it has seen a number of images.

    A run that has seen as many is unchanged. A shorter one resumes from its checkpoint, and its model is replaced.
    """
    if images < config.per_step:
        raise ConfigError(
            f"The budget must be >= {config.per_step} images, one step, got {images}; give more `images`."
        )
    steps = math.ceil(images / config.per_step)
    longest = total_steps(config.schedule, len(open_pairs(dataset, "train")), config.per_step)
    if steps > longest:
        raise ConfigError(
            f"The schedule of {longest} steps is shorter than {images} images, {steps} steps; lengthen "
            "schedule.constant or schedule.decay."
        )
    done = _done(out, dataset, config)
    if done is not None and done >= steps:
        return TrainResult(True, out / MODEL, out / CHECKPOINT, done, done)
    if done is not None and not (out / CHECKPOINT).is_file():
        raise ConfigError(
            f"The run {out} was finished after {done} steps and its checkpoint deleted, so it cannot be resumed to "
            f"{steps}; delete the folder to train it from the start."
        )
    return _train(out, dataset, config, steps, how)


def train_for(out: Path, dataset: Path, config: TrainConfig, *, minutes: float, **how: Any) -> TrainResult:
    """Train a run, or resume it, for a time; arguments and errors as `train_to`.

    Only steps count, not decoding, writing and scoring. Their number depends on the load of the machine, so such a run
    is not reproducible.
    """
    done, begun = _done(out, dataset, config), (out / CHECKPOINT).is_file()
    steps = read_position(out / CHECKPOINT).step if begun else 0
    if done is not None and done >= steps:
        return TrainResult(True, out / MODEL, out / CHECKPOINT, done, done)
    left = 60 * minutes - steps * config.per_step * ((begun and seconds_per_image(out)) or 0.0)
    asked, end = how.pop("should_stop", None), math.inf

    def is_over() -> bool:
        nonlocal end
        end = min(end, time.monotonic() + left)  # first called after the first step, so the clock starts there
        return time.monotonic() >= end

    stop = {"should_stop": lambda: (asked is not None and asked()) or is_over()}
    result = _train(out, dataset, config, None, how | stop)
    if result.finished or not is_over():
        return result
    return _train(out, dataset, config, result.step, {key: how[key] for key in how if key != "reporter"})


def score(run: Path, dataset: Path, split: str, out: Path, **how: Any) -> Scores:
    """Score a finished run by protocol maps-256."""
    model = load(run / MODEL, device=how.pop("device", "auto"), allowed=how.pop("allowed", ()))
    found = evaluate(model, dataset, out, split=split, **how)
    columns = {key: column for key, column in found["per_image"].items() if column}
    ids = columns.pop("id")
    per_image = {key: [value if math.isfinite(value) else None for value in own] for key, own in columns.items()}
    overall = {key: found.get(key) for key in METRICS}
    return Scores(ids=ids, per_image=per_image, overall=overall, reasons=found["reasons"])


def require_same_run(out: Path, dataset: Path, config: TrainConfig) -> None:
    """Raise ConfigError unless a folder holds a run of this configuration and dataset, whatever its length."""
    failed = f"{out} must be the folder of a run, but its {CONFIG} cannot be read"
    kinds = (OSError, ValueError, KeyError, TypeError)
    with raised_as(CheckpointError, failed, "choose another folder, or delete it", *kinds):
        saved: dict[str, Any] = parse_json((out / CONFIG).read_text(encoding="utf-8"))
        theirs = flat_settings(parse_config(saved["config"])) | {"dataset": str(saved["dataset"])}
    ours = {key: value for key, value in flat_settings(config).items() if key not in _MAY_DIFFER}
    require_same(out, "run", theirs, ours | {"dataset": str(dataset.resolve())})


def require_same(out: Path, what: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first difference between the settings in OUT and the wanted ones; `what` names them.

    A dataset may have been moved: then the recorded folder is gone.
    """
    for key, value in ours.items():
        if theirs[key] != value and not (key == "dataset" and not Path(theirs[key]).exists()):
            short = isinstance(value, str | int | float | list | None) and len(str(value)) < 200
            said = f"{key} is {theirs[key]} there and {value} here" if short else f"another {key}"
            raise ConfigError(
                f"{out} holds another {what}: {said}; resume with the settings it was begun with, choose another "
                "folder, or delete it."
            )


def _done(out: Path, dataset: Path, config: TrainConfig) -> int | None:
    """Return the steps of a run's model, None without one; raise ConfigError if the folder holds another run."""
    done = finished_steps(out)
    if done is not None or (out / CHECKPOINT).is_file():
        require_same_run(out, dataset, config)
    return done


def _train(out: Path, dataset: Path, config: TrainConfig, steps: int | None, how: dict[str, Any]) -> TrainResult:
    """Train from the start or resume, to a number of steps or the end of the schedule."""
    wanted = config if steps is None else config.model_copy(update={"max_steps": steps})
    if not (out / CHECKPOINT).is_file():
        return train(dataset, out, wanted, **how)
    saved = parse_json((out / CONFIG).read_text(encoding="utf-8"))
    saved["config"] = wanted.model_dump(mode="json")  # the folder of feature weights may have moved
    write_text(out / CONFIG, json.dumps(saved, indent=2) + "\n")
    return resume(out, dataset, **how)


def flat_settings(config: TrainConfig) -> dict[str, Any]:
    """Return every setting by its dotted key, as plain data."""
    return flat(config.model_dump(mode="json"))


def finished_steps(out: Path) -> int | None:
    """Return the steps of a run's `model.safetensors`; None if it is missing or cannot be read."""
    try:
        return int(read_header(out / MODEL).data["steps"])
    except (BundleError, OSError, KeyError):
        return None


def seconds_per_image(run: Path) -> float | None:
    """Return the seconds of training per image from a run's log; None if nothing was logged yet.

    For a run that was trained in one call the first step, the warm-up, is left out. Else all logged steps count,
    including the writing between them.
    """
    lines = read_log(run)
    if lines and lines[-1]["event"] == "finished" and not any(line["event"] == "resumed" for line in lines):
        measured = lines[-1].get("seconds_per_image")
        if isinstance(measured, float):
            return measured
    seconds, last = 0.0, 0
    for line in lines:
        if line["event"] == "step" and line.get("images per second", 0) > 0:
            seconds += (line["step"] - last) / line["images per second"]
            last = line["step"]
    return seconds / last if last else None


def first_warning(run: Path) -> str:
    """Return the first warning of the health checks in a run's log, or ""."""
    return next((line["text"] for line in read_log(run) if line["event"] == "warning"), "")


class PeakMemory:
    """Peak memory since it was made: of tensors on the GPU if one is in use, else of this process beyond what it held
    before, so that a run does not count what earlier runs left behind."""

    def __init__(self) -> None:
        self._before: int | None = None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        gc.collect()
        release_freed_memory()  # what is still held would be taken again unnoticed
        with suppress(OSError):  # only Linux tells, and not in every sandbox
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._before = _status("VmRSS")

    def bytes(self) -> int | None:
        """Return the peak memory in bytes; None where the system does not state it."""
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            return int(torch.cuda.max_memory_allocated())
        peak = None if self._before is None else _status("VmHWM")
        return None if peak is None or self._before is None else max(0, peak - self._before)


def _status(key: str) -> int | None:
    """Return a field of /proc/self/status in bytes; None if it does not exist."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
