"""What a study is about: settled before its first trial, kept in STUDY/study.json, and the same for all who join in."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from terramorph.atomic import atomic, locked
from terramorph.documents import parse_json
from terramorph.errors import ConfigError, StorageError
from terramorph.metrics import METRICS
from terramorph.study.definition import stretched
from terramorph.study.objectives import choose_objectives
from terramorph.study.run import is_same_folder
from terramorph.study.space import Space, changed, load_space, space_of
from terramorph.study.splits import choose_splits, link_pairs
from terramorph.training import TrainConfig, parse_config
from terramorph.training.schedule import total_steps

PLAN = "study.json"
TUNING = "tuning"
IN_FOLDER = "a file of its own"
"""Where trials are kept, in words, if no database is named."""
ETA = 3
"""A trial is scored after 1/9, 1/3 and all of its images (for three rungs), and one in so many goes on."""
_FORMAT = 2
_MOMENT = 120.0  # seconds that another process is waited for while it writes study.json


class TuneReporter(Protocol):
    """Who is told how a study goes."""

    def progress(self, done: int, total: int, detail: str) -> None:
        """Trials (or runs of the confirmation) that have ended, of how many, and what is being done."""

    def message(self, text: str) -> None:
        """A sentence: how a trial ended."""


class SilentTuning:
    """A reporter that says nothing."""

    def progress(self, done: int, total: int, detail: str) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class StudyOptions:
    """What is asked of a study.

    Attributes:
        objectives: metrics of the tuning pairs that trials are ranked by; several give a Pareto front, and then no
            trial is pruned. Empty for the first of the main metrics that can be computed.
        trials: in all, those of earlier calls and other processes included.
        budget: seconds this call may take; None for no limit.
        images: that a trial sees if it is never pruned; None for the preset's whole schedule.
        rungs: times a trial is scored on the way; 1 to prune nothing, as with several objectives.
        jobs: processes of this machine.
        space: TOML file of what may be changed; None for the default space.
        storage: URL of a database that machines share; None for an SQLite file in the study's folder.
        weights: folder with the weights of LPIPS and FD; None for the one that was given last.
        mlflow: keep every trial in an MLflow store too.
    """

    objectives: tuple[str, ...] = ()
    trials: int = 40
    budget: float | None = None
    images: int | None = None
    rungs: int = 3
    jobs: int = 1
    space: Path | None = None
    storage: str | None = None
    weights: Path | None = None
    mlflow: bool = False

    def __post_init__(self) -> None:
        for name in ("trials", "jobs", "rungs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if self.budget is not None and self.budget <= 0:
            raise ConfigError(f"The budget is {self.budget:g} s; it must be more than nothing.")
        if self.images is not None and self.images < 1:
            raise ConfigError(f"images is {self.images}; it must be 1 or more.")


@dataclass(frozen=True)
class StudyPlan:
    """What all trials of a study have in common.

    Attributes:
        dataset: folder of pairs, absolute.
        preset: what trials change; its own values are trial 0.
        objectives: metrics, the first of which ranks.
        rungs: images seen at which trials are scored, rising; the last is the whole length.
        space: what may be changed.
        tuned_on: what the pairs are that trials are scored on, in words.
        confirmed_on: the split that only the confirmation is scored on.
        storage: whether the trials are in a file of the study or in a database.
        weights: folder with the weights of LPIPS and FD, absolute; no part of what a study is about.
    """

    dataset: Path
    preset: TrainConfig
    objectives: tuple[str, ...]
    rungs: tuple[int, ...]
    space: Space
    tuned_on: str
    confirmed_on: str
    storage: str
    weights: Path | None = None

    def config_of(self, values: Mapping[str, Any]) -> TrainConfig:
        """The configuration of a trial with these settings.

        Raises:
            ConfigError: if they do not fit together.
        """
        config = changed(self.preset, values)
        return stretched(config, -(-self.rungs[-1] // (config.batch_size * config.accumulate)))

    def plain(self) -> dict[str, Any]:
        """What makes it this study, as plain data, by names that a sentence can use."""
        return {
            "dataset": str(self.dataset),
            "preset": self.preset.model_dump(mode="json"),
            "objectives": list(self.objectives),
            "images": list(self.rungs),
            "space": self.space.plain(),
            "tuned on": self.tuned_on,
            "confirmed on": self.confirmed_on,
            "storage": self.storage,
        }


def make_plan(
    dataset: Path, out: Path, preset: TrainConfig, options: StudyOptions, allowed: Collection[str] = ()
) -> StudyPlan:
    """Settles a new study, or checks that an old one is about the same; writes nothing.

    Raises:
        ConfigError: if the space, an objective or the number of images cannot be used, or OUT is another study.
        DatasetError: if there are no pairs to tune or to confirm on.
    """
    space = load_space(options.space)
    if options.space is None:
        space = space.fitted(preset)
    else:
        space.check(preset, f"The space {options.space}")
    splits = choose_splits(dataset, preset.seed)
    begun = load_plan(out) if (out / PLAN).is_file() else None
    if begun is not None:
        _same(begun.plain(), {"dataset": str(dataset.resolve())}, out)
    weights = options.weights.resolve() if options.weights else begun.weights if begun else None
    objectives = choose_objectives(options.objectives, dataset, splits, preset, weights, allowed)
    per_step = preset.batch_size * preset.accumulate
    whole = total_steps(preset.schedule, len(splits.train), per_step, preset.max_steps) * per_step
    rungs = rungs_of(options.images or whole, options.rungs if len(objectives) == 1 else 1)
    step = preset.accumulate * max([preset.batch_size, *space.samples("batch_size")])
    if rungs[0] < step:
        raise ConfigError(
            f"The first rung of {rungs[0]} images is less than one step of {step}; give more images or fewer rungs."
        )
    source = "the val split" if splits.tuning_split == "val" else "train, held out from the trials"
    plan = StudyPlan(
        dataset=dataset.resolve(),
        preset=preset,
        objectives=objectives,
        rungs=rungs,
        space=space,
        tuned_on=f"{len(splits.tuning)} pairs of {source}",
        confirmed_on=splits.confirmation,
        storage="a database" if options.storage else IN_FOLDER,
        weights=weights,
    )
    if begun is not None:
        _same(begun.plain(), plan.plain(), out)
    return plan


def rungs_of(images: int, count: int) -> tuple[int, ...]:
    """So many rungs, each `ETA` times the one before, that end at a number of images.

    Raises:
        ConfigError: if the first would have no image.
    """
    if images // ETA ** (count - 1) < 1:
        raise ConfigError(f"{images} images are too few for {count} rungs; give more images or fewer rungs.")
    return tuple(round(images / ETA**n) for n in reversed(range(count)))


def keep_plan(out: Path, plan: StudyPlan) -> None:
    """Binds OUT to a study that has passed every check: links its pairs and writes study.json, if that is not done.

    Raises:
        ConfigError: if OUT has become another study since.
        StorageError: if OUT cannot be written.
    """
    splits = choose_splits(plan.dataset, plan.preset.seed)
    with in_turn(out):
        if (out / PLAN).is_file():
            begun = load_plan(out)
            _same(begun.plain(), plan.plain(), out)
            moved = begun.dataset != plan.dataset
            link_pairs(plan.dataset, splits, out / TUNING, anew=moved)
            if moved:
                _write(out, begun := replace(begun, dataset=plan.dataset))
            _keep_weights(out, begun, plan.weights)
        else:
            # Links without a study are those of a call that came to nothing, and may be of another dataset.
            link_pairs(plan.dataset, splits, out / TUNING, anew=True)
            _write(out, plan)


def keep_weights(out: Path, weights: Path) -> StudyPlan:
    """Remembers where the weights of LPIPS and FD are, for calls that do not say so.

    Returns:
        The plan with them.

    Raises:
        ConfigError, StorageError: as `load_plan`, or if OUT cannot be written.
    """
    with in_turn(out):
        return _keep_weights(out, load_plan(out), weights.resolve())


@contextmanager
def in_turn(out: Path) -> Iterator[None]:
    """Holds the study's lock for a moment; others wait."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / "lock", StorageError(f"Another process holds {out / 'lock'}; end it if it hangs."), _MOMENT):
            yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{out} cannot be written ({error.strerror or error}); check the folder.") from error


def load_plan(out: Path) -> StudyPlan:
    """The plan of a study that was begun.

    Raises:
        ConfigError: if there is none, or its objective is a metric from outside that was not added by `add_metrics`.
        StorageError: if it cannot be understood.
    """
    path = out / PLAN
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
        if values.get("format") != _FORMAT:
            raise ConfigError(f"{out} was made by another version of terramorph tune; choose another --out.")
        plan = StudyPlan(
            dataset=Path(values["dataset"]),
            preset=parse_config(values["preset"]),
            objectives=tuple(values["objectives"]),
            rungs=tuple(values["images"]),
            space=space_of(values["space"], str(path)),
            tuned_on=values["tuned on"],
            confirmed_on=values["confirmed on"],
            storage=values["storage"],
            weights=Path(values["weights"]) if values.get("weights") else None,
        )
    except FileNotFoundError as error:
        raise ConfigError(
            f"{out} holds no study ({PLAN} is missing); begin one with terramorph tune DATASET."
        ) from error
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path} cannot be understood ({error}); restore it, or choose another --out.") from error
    unknown = next((name for name in plan.objectives if name not in METRICS), None)
    if unknown is not None:
        raise ConfigError(f"Trials of {out} are ranked by {unknown}, and there is no metric {unknown!r} here; add it.")
    return plan


def _write(out: Path, plan: StudyPlan) -> None:
    weights = None if plan.weights is None else str(plan.weights)
    with atomic(out / PLAN) as part:
        part.write_text(
            json.dumps(plan.plain() | {"weights": weights, "format": _FORMAT}, indent=1) + "\n", encoding="utf-8"
        )


def _keep_weights(out: Path, plan: StudyPlan, weights: Path | None) -> StudyPlan:
    if weights is None or weights == plan.weights:
        return plan
    plan = replace(plan, weights=weights)
    _write(out, plan)
    return plan


def _same(theirs: dict[str, Any], ours: dict[str, Any], out: Path) -> None:
    """Raises ConfigError for the first thing in which two studies differ."""
    for key, value in ours.items():
        if theirs[key] != value and not (key == "dataset" and is_same_folder(theirs[key], Path(value))):
            short = isinstance(value, str | list) and len(str(value)) < 200
            said = f" ({theirs[key]} there, {value} here)" if short else ""
            raise ConfigError(
                f"{out} is a study with another {key}{said}; go on with what it was begun with, or choose another "
                "--out."
            )
