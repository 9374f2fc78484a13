"""One run of a study: trained to a budget, going on where it was, and scored on held-out pairs."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terramorph.atomic import atomic
from terramorph.data import DEFAULT_CACHE
from terramorph.documents import parse_json
from terramorph.errors import BundleError, CheckpointError, ConfigError, InputError
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

_MAY_DIFFER = {"max_steps", *PLACES}


@dataclass(frozen=True)
class Scores:
    """What one run scored.

    Attributes:
        ids: the pairs, in the order of the split.
        per_image: metric -> one value per pair, for the metrics that have them.
        overall: metric -> mean over the pairs or figure of the set; None where it cannot be computed.
        reasons: metric -> a sentence for each None.
    """

    ids: list[str]
    per_image: dict[str, list[float]]
    overall: dict[str, float | None]
    reasons: dict[str, str]


def train_to(
    out: Path,
    dataset: Path,
    config: TrainConfig,
    *,
    images: int,
    reporter: Reporter | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache: str | Path = DEFAULT_CACHE,
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
        reporter, should_stop, cache: as in `terramorph.training.train`.

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
    done = finished_steps(out)
    if done is not None or (out / CHECKPOINT).is_file():
        require_same(out, dataset, config)
    if done is not None and done >= steps:
        return TrainResult(True, out / MODEL, out / CHECKPOINT, done, done)
    if not (out / CHECKPOINT).is_file():
        if done is not None:
            raise ConfigError(
                f"{out} holds a run that is finished after {done} steps, and its checkpoint was deleted then, so it "
                f"cannot go on to {steps}; delete the folder, and it is trained from the start."
            )
        wanted = config.model_copy(update={"max_steps": steps})
        return train(dataset, out, wanted, reporter=reporter, should_stop=should_stop, cache=cache)
    _renew_places(out, config)
    return resume(out, dataset, reporter=reporter, should_stop=should_stop, cache=cache, max_steps=steps)


def train_for(
    out: Path,
    dataset: Path,
    config: TrainConfig,
    *,
    minutes: float,
    reporter: Reporter | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache: str | Path = DEFAULT_CACHE,
) -> TrainResult:
    """Starts a run, or goes on with it, until it has trained for so long; arguments and errors as `train_to`.

    Only steps count: decoding pairs, writing the model and scoring do not. How many steps fit depends on what else the
    machine does, so a budget in minutes is noisy and does not end with the same weights twice.
    """
    steps, pace, done = 0, 0.0, finished_steps(out)
    if done is not None or (out / CHECKPOINT).is_file():
        require_same(out, dataset, config)
    if (out / CHECKPOINT).is_file():
        steps, pace = read_position(out / CHECKPOINT).step, seconds_per_image(out) or 0.0
    if done is not None and done >= steps:
        return TrainResult(True, out / MODEL, out / CHECKPOINT, done, done)
    clock = _Clock(60 * minutes - steps * config.batch_size * config.accumulate * pace)
    asked = should_stop or (lambda: False)

    def stop() -> bool:
        return asked() or clock.is_over()

    if steps:
        _renew_places(out, config)
        result = resume(out, dataset, reporter=reporter, should_stop=stop, cache=cache)
    else:
        result = train(dataset, out, config, reporter=reporter, should_stop=stop, cache=cache)
    if result.finished or not clock.is_over():
        return result
    return resume(out, dataset, cache=cache, max_steps=result.step)


class _Clock:
    """Runs out so many seconds after it was first looked at, which is after the first step."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end: float | None = None

    def is_over(self) -> bool:
        if self._end is None:
            self._end = time.monotonic() + self._seconds
        return time.monotonic() >= self._end


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
) -> Scores:
    """Scores a finished run by protocol maps-256 and reads the result back from `out`.

    Args:
        run: its folder.
        dataset, split: the pairs it is scored on.
        out: folder for `metrics.json`, `per_image.csv` and `report.html`.
        weights, limit, device, progress: as in `terramorph.evaluation.evaluate`.

    Raises:
        BundleError, ConfigError, DatasetError, InputError, StorageError: as `evaluate`.
    """
    model = load(run / MODEL, device=device)
    evaluate(model, dataset, out, split=split, weights=weights, limit=limit, progress=progress)
    return read_scores(out)


def read_scores(folder: Path) -> Scores:
    """What an evaluation wrote.

    Raises:
        InputError: if its files are missing or damaged.
    """
    try:
        document: dict[str, Any] = parse_json((folder / "metrics.json").read_text(encoding="utf-8"))
        with (folder / "per_image.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        ids = [row.pop("id") for row in rows]
        per_image = {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else {})}
        return Scores(ids, per_image, {key: document.get(key) for key in METRICS}, dict(document["reasons"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The scores in {folder} cannot be read ({error}); delete the folder and they are made again."
        ) from error


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

    def walk(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for name, value in values.items():
            flat |= walk(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return flat

    return walk(config.model_dump(mode="json"), "")


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
