"""One run of a study: trained to a budget, going on where it was, scored on held-out pairs, and what is remembered."""

from __future__ import annotations

import ctypes
import gc
import json
import math
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from terramorph.atomic import atomic
from terramorph.data import DEFAULT_CACHE
from terramorph.documents import parse_json
from terramorph.errors import BundleError, CheckpointError, ConfigError
from terramorph.evaluation import evaluate
from terramorph.header import read_header
from terramorph.metrics import METRICS
from terramorph.pairs import open_pairs
from terramorph.training import Reporter, TrainConfig, TrainResult, parse_config, resume, train
from terramorph.training.config import PLACES
from terramorph.training.loop import MODEL
from terramorph.training.page import read_log
from terramorph.training.schedule import total_steps
from terramorph.training.state import CHECKPOINT, CONFIG, read_position
from terramorph.translate import load

RECORD = "record.json"
SCORES = "scores"
"""Folder of a run's evaluation, in the run's."""
_MAY_DIFFER = {"max_steps", *PLACES}


class Scores(BaseModel):
    """What one run scored.

    Attributes:
        ids: the pairs, in the order of the split.
        per_image: metric -> one value per pair, for the metrics that have them; None for a pair that has none.
        overall: metric -> mean over the pairs or figure of the set; None where it cannot be computed.
        reasons: metric -> a sentence for each None.
    """

    model_config = ConfigDict(frozen=True)

    ids: list[str]
    per_image: dict[str, list[float | None]]
    overall: dict[str, float | None]
    reasons: dict[str, str]


class Record(BaseModel):
    """One run, as RUN/record.json keeps it.

    Attributes:
        state: `diverged` and `refused` (its settings do not go together) are ends as `done` is.
        step: optimizer steps at the end; of a run that diverged, the last that was known to be good.
        reason: why it diverged or was refused, one sentence.
        parameters: of each network.
        memory: bytes at most while it trained: allocated on the GPU, or resident in the process beyond what it held
            before; None if not known.
        seconds_per_image: of the training steps, without the first where the run was trained in one go; None if not
            known.
        train_seconds: in the training steps.
        score_seconds: in the evaluation.
        weights: folder of feature weights that it was scored with, or None.
        verdict: why health checks think that the run is dead, although it went on to its end; "" if they do not.
        scores: of a run that is done.
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
        """Whether nothing is left to do."""
        return self.state in ("done", "diverged", "refused")

    def having(self, **changes: Any) -> Record:
        """The record with some changes."""
        return self.model_copy(update=changes)


def read_record(run: Path) -> Record:
    """A run's record; that of a run that waits if there is none or it cannot be read.

    A run whose scores are not in its record, as those of earlier versions, is one that is trained and scored again.
    """
    try:
        record = Record.model_validate(parse_json((run / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return Record()
    return record.having(state="trained") if record.state == "done" and record.scores is None else record


def write_record(run: Path, record: Record) -> None:
    """Writes a run's record, whole or not at all.

    Raises:
        StorageError: if it cannot be written.
    """
    with atomic(run / RECORD, make_folder=True) as part:
        part.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def train_to(
    out: Path,
    dataset: Path,
    config: TrainConfig,
    *,
    images: int,
    reporter: Reporter | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache: str | Path = DEFAULT_CACHE,
    allowed: Collection[str] = (),
) -> TrainResult:
    """Starts a run, or goes on with it, until so many images have been seen.

    The number of images is rounded up to whole steps. A run whose model has been there already is left as it is, with
    or without its checkpoint; one that was shorter goes on from it, and `model.safetensors` becomes that of the longer
    run.

    Args:
        out: the run's folder.
        dataset: folder of pairs.
        config: resolved; its `max_steps` does not matter.
        images: seen since the start, repetitions counted.
        reporter, should_stop, cache, allowed: as in `terramorph.training.train`.

    Returns:
        How it ended; unfinished if `should_stop` said so.

    Raises:
        ConfigError: if the folder holds a run of another configuration or dataset, or a shorter one whose checkpoint
            was deleted; if the budget is less than one step, or the schedule ends before it.
        TrainingDivergedError, DatasetError, CheckpointError, StorageError: as `train` and `resume`.
    """
    per_step = config.batch_size * config.accumulate
    if images < per_step:
        raise ConfigError(f"A budget of {images} images is less than one step of {per_step}; give more images.")
    steps = math.ceil(images / per_step)
    longest = total_steps(config.schedule, len(open_pairs(dataset, "train")), per_step)
    if steps > longest:
        raise ConfigError(
            f"The schedule ends after {longest} steps and {images} images are {steps}; lengthen schedule.constant or "
            "schedule.decay."
        )
    done = _done(out, dataset, config)
    if done is not None and done >= steps:
        return TrainResult(True, out / MODEL, out / CHECKPOINT, done, done)
    how: dict[str, Any] = {"reporter": reporter, "should_stop": should_stop, "cache": cache, "allowed": allowed}
    if not (out / CHECKPOINT).is_file():
        if done is not None:
            raise ConfigError(
                f"{out} holds a run that is finished after {done} steps, and its checkpoint was deleted then, so it "
                f"cannot go on to {steps}; delete the folder, and it is trained from the start."
            )
        wanted = config.model_copy(update={"max_steps": steps})
        return train(dataset, out, wanted, **how)
    _renew_places(out, config)
    return resume(out, dataset, max_steps=steps, **how)


def train_for(
    out: Path,
    dataset: Path,
    config: TrainConfig,
    *,
    minutes: float,
    reporter: Reporter | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache: str | Path = DEFAULT_CACHE,
    allowed: Collection[str] = (),
) -> TrainResult:
    """Starts a run, or goes on with it, until it has trained for so long; arguments and errors as `train_to`.

    Only steps count: decoding pairs, writing the model and scoring do not. How many steps fit depends on what else the
    machine does, so a budget in minutes is noisy and does not end with the same weights twice.
    """
    steps, pace, done = 0, 0.0, _done(out, dataset, config)
    if (out / CHECKPOINT).is_file():
        steps, pace = read_position(out / CHECKPOINT).step, seconds_per_image(out) or 0.0
    if done is not None and done >= steps:
        return TrainResult(True, out / MODEL, out / CHECKPOINT, done, done)
    seconds, end = 60 * minutes - steps * config.batch_size * config.accumulate * pace, math.inf

    def is_over() -> bool:
        nonlocal end
        end = min(end, time.monotonic() + seconds)  # it is first looked at after the first step
        return time.monotonic() >= end

    def stop() -> bool:
        return (should_stop is not None and should_stop()) or is_over()

    how: dict[str, Any] = {"reporter": reporter, "should_stop": stop, "cache": cache, "allowed": allowed}
    if steps:
        _renew_places(out, config)
        result = resume(out, dataset, **how)
    else:
        result = train(dataset, out, config, **how)
    if result.finished or not is_over():
        return result
    return resume(out, dataset, cache=cache, max_steps=result.step, allowed=allowed)


def score(
    run: Path,
    dataset: Path,
    split: str,
    out: Path,
    *,
    weights: Path | None = None,
    limit: int | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    allowed: Collection[str] = (),
) -> Scores:
    """Scores a finished run by protocol maps-256.

    Args:
        run: its folder.
        dataset, split: the pairs it is scored on.
        out: folder for `metrics.json`, `per_image.csv` and `report.html`.
        weights, limit, device, progress: as in `terramorph.evaluation.evaluate`.
        allowed: as in `terramorph.load`.

    Raises:
        BundleError, ConfigError, DatasetError, InputError, StorageError: as `evaluate`.
    """
    model = load(run / MODEL, device=device, allowed=allowed)
    found = evaluate(model, dataset, out, split=split, weights=weights, limit=limit, progress=progress)
    images = dict(found["per_image"])
    ids = images.pop("id")
    values = {
        key: [value if math.isfinite(value) else None for value in column] for key, column in images.items() if column
    }
    return Scores(ids=ids, per_image=values, overall={key: found.get(key) for key in METRICS}, reasons=found["reasons"])


def _done(out: Path, dataset: Path, config: TrainConfig) -> int | None:
    """The steps behind a run's model, if it has one; a folder that holds a run must hold this one."""
    done = finished_steps(out)
    if done is not None or (out / CHECKPOINT).is_file():
        require_same(out, dataset, config)
    return done


def require_same(out: Path, dataset: Path, config: TrainConfig) -> None:
    """Checks that a run's folder holds a run of this configuration and dataset, whatever its length.

    Where the files that a loss needs lie may differ too, as it may when training goes on.

    Raises:
        ConfigError: naming the first setting that differs.
        CheckpointError: if its config.json cannot be read.
    """
    try:
        saved: dict[str, Any] = parse_json((out / CONFIG).read_text(encoding="utf-8"))
        there, pairs = parse_config(saved["config"]), str(saved["dataset"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{out} is not the folder of a run: its {CONFIG} cannot be read ({error}); choose another folder, or "
            "delete that one."
        ) from error
    ours, theirs = flat_settings(config), flat_settings(there)
    changed = next((key for key in ours if key not in _MAY_DIFFER and ours[key] != theirs[key]), None)
    if changed is not None:
        raise ConfigError(
            f"{out} holds a run with {changed} = {theirs[changed]!r}, and {ours[changed]!r} is wanted; choose another "
            "folder, or delete that one."
        )
    if not is_same_folder(pairs, dataset):
        raise ConfigError(f"{out} holds a run on {pairs}, and {dataset} is wanted; choose another folder.")


def is_same_folder(recorded: str, dataset: Path) -> bool:
    """Whether a data set is the one that was recorded, or has taken its place: that of a folder that is gone.

    What trains on with it checks its content.
    """
    return recorded == str(dataset.resolve()) or not Path(recorded).exists()


def _renew_places(out: Path, config: TrainConfig) -> None:
    """Writes where the files that a loss needs lie now into the config.json that a run goes on by."""
    saved: dict[str, Any] = parse_json((out / CONFIG).read_text(encoding="utf-8"))
    before, now = json.dumps(saved), flat_settings(config)
    for place in PLACES:
        section, key = place.split(".")
        saved["config"][section][key] = now[place]
    if json.dumps(saved) != before:
        with atomic(out / CONFIG) as part:
            part.write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")


def flat_settings(config: TrainConfig) -> dict[str, Any]:
    """Every setting by its dotted key, as plain data."""
    return flat(config.model_dump(mode="json"))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables within tables by dotted keys."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def finished_steps(out: Path) -> int | None:
    """The steps behind a run's `model.safetensors`; None if there is none that can be read."""
    try:
        return int(read_header(out / MODEL).data["steps"])
    except (BundleError, OSError, KeyError):
        return None


def seconds_per_image(out: Path) -> float | None:
    """What a training image cost in seconds, over all logged steps of a run; None if nothing was logged yet.

    Waiting for batches is in it, and so is what is written between two log lines; decoding and scoring are not.
    """
    seconds, last = 0.0, 0
    for line in read_log(out):
        if line["event"] == "step" and line.get("images per second", 0) > 0:
            seconds += (line["step"] - last) / line["images per second"]
            last = line["step"]
    return seconds / last if last else None


def first_warning(out: Path) -> str:
    """Why a run is thought dead, as `TrainResult.verdict`, from its log; "" where health checks found nothing."""
    return next((line["text"] for line in read_log(out) if line["event"] == "warning"), "")


class PeakMemory:
    """The most memory that was taken since it was made: by tensors on the GPU if there is one in use, else by this
    process beyond what it held before, so that a run does not count what runs before it left behind."""

    def __init__(self) -> None:
        self._before: int | None = None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        gc.collect()
        with suppress(OSError, AttributeError):  # only Linux knows it, and not in every sandbox
            ctypes.CDLL(None).malloc_trim(0)  # what was freed and is still held would be taken again unnoticed
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status("VmRSS")

    def bytes(self) -> int | None:
        """None where it is not known."""
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            return int(torch.cuda.max_memory_allocated())
        with suppress(OSError):
            peak = _status("VmHWM")
            if peak is not None and self._before is not None:
                return max(0, peak - self._before)
        return None


def _status(key: str) -> int | None:
    """Bytes that Linux says of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None
