"""Trains every variant of a study with several seeds, scores all runs, and says what each change is worth.

OUT/study.json           what the study is about
OUT/runs/NAME-seedN/     a run: its training, record.json, scores/, and examples/ of the first seed
OUT/comparison.json      the figures (comparison.py), and comparison.html, the page (compare_page.py)
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from terramorph.atomic import atomic, locked, make_folder
from terramorph.data import DEFAULT_CACHE
from terramorph.documents import parse_json
from terramorph.errors import ConfigError, StorageError, TrainingDivergedError
from terramorph.metrics import Lpips
from terramorph.pairs import has_split, open_pairs
from terramorph.study.compare_page import keep_examples, render_comparison
from terramorph.study.comparison import make_comparison
from terramorph.study.definition import BASE, Study, Variant, load_study
from terramorph.study.run import (
    SCORES,
    PeakMemory,
    Record,
    first_warning,
    flat_settings,
    is_same_folder,
    read_record,
    require_same,
    score,
    seconds_per_image,
    train_for,
    train_to,
    write_record,
)
from terramorph.study.tracking import NoTracking
from terramorph.training import Plan, Reporter, StepReport, TrainConfig, TrainResult, Validation
from terramorph.training.config import PLACES
from terramorph.training.loop import MODEL
from terramorph.training.reporter import Silent
from terramorph.training.state import CHECKPOINT, CONFIG

STUDY = "study.json"
FIGURES = "comparison.json"
PAGE = "comparison.html"


class StudyReporter(Reporter, Protocol):
    """Who is told how a study goes, and within it how each run goes."""

    def run(self, name: str, number: int, total: int) -> None:
        """A run is about to be trained or scored: number `number` of `total`, from 1."""

    def scoring(self, done: int, total: int) -> None:
        """Pairs are being scored."""

    def ended(self, name: str, record: Record) -> None:
        """A run is done, has diverged, or was refused."""


@dataclass(frozen=True, eq=False)  # a key of dictionaries by itself: configurations hold some
class Job:
    """One run of a study.

    Attributes:
        variant: what is trained.
        seed: number of the repetition, from 0.
        folder: OUT/runs/NAME-seedN.
    """

    variant: Variant
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Also that of its folder."""
        return self.folder.name

    @property
    def config(self) -> TrainConfig:
        """With the seed of this repetition."""
        config = self.variant.config
        return config.model_copy(update={"seed": config.seed + self.seed})


def compare(
    dataset: str | Path,
    study: Study | str | Path,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    cache: str | Path = DEFAULT_CACHE,
    reporter: StudyReporter | None = None,
    should_stop: Callable[[], bool] | None = None,
    tracker: NoTracking | None = None,
    allowed: Collection[str] = (),
) -> dict[str, Any]:
    """Goes through a study, or goes on with it.

    All variants are trained with the first seed, then all with the next, so that what is there is comparable at any
    time; `comparison.json` and `comparison.html` are written after each run. A run with the same number has the same
    seed in every variant, and so the same order of the same pairs. Every run's folder is one of
    `terramorph.training.train`, with a config.json of its own, and is complete without the study. A run that diverges
    is a row with a reason, and the study goes on.

    A study may gain changes and seeds later; it is refused if a run that was made would be another one now. A run that
    is scored keeps its model and loses its checkpoint, which is several times as large: its budget cannot grow.

        comparison = terramorph.compare("data/maps", "improvements", "studies/better")
        for conclusion in terramorph.study.conclude(comparison):
            print(conclusion.text)

    Args:
        dataset: folder of pairs with a train split and the one that the study names, or else val or test.
        study: what to compare, or its name or file.
        out: folder for everything.
        weights: folder of feature weights for LPIPS, FD and FID.
        cache: folder of the decoded pairs.
        reporter: told how it goes.
        should_stop: asked after every step; if it says True the run writes a checkpoint and the study ends unfinished.
        tracker: keeps the runs elsewhere too.
        allowed: modules from outside whose code may run, where a setting names it.

    Returns:
        What comparison.json holds; its `finished` says whether all runs are over.

    Raises:
        ConfigError: the study or `out` cannot be used, or the base cannot be trained as configured.
        DatasetError: a split is missing, or a pair cannot be read.
        InputError: the feature weights are missing or damaged.
        StorageError: something cannot be written.
    """
    dataset, out = Path(dataset), Path(out)
    study = study if isinstance(study, Study) else load_study(study, weights=weights)
    feature_weights = None if weights is None else Path(weights).resolve()
    if feature_weights is not None:
        Lpips.from_folder(feature_weights)  # what is missing there is better said before the first run than after it
    if not study.split:
        study = replace(study, split="val" if has_split(dataset, "val") or not has_split(dataset, "test") else "test")
    for split in ("train", study.split):
        open_pairs(dataset, split)
    jobs = jobs_of(study, out)
    stop = should_stop or (lambda: False)
    make_folder(out)
    with locked(
        out / ".lock", ConfigError(f"Another process is at work on {out}; wait for it, or choose another --out.")
    ):
        _claim(out, study, dataset, jobs)
        worker = _Worker(
            study,
            dataset,
            feature_weights,
            Path(cache),
            reporter or _SilentStudy(),
            tracker or NoTracking(),
            allowed,
            {job: read_record(job.folder) for job in jobs},
        )
        document = _publish(worker, out)
        for number, job in enumerate(jobs, 1):
            if worker.is_through(job):
                worker.drop_checkpoint(job)
                continue
            if stop():
                break
            worker.reporter.run(job.name, number, len(jobs))
            over = worker.go(job, stop)
            document = _publish(worker, out)
            if not over:
                break
        return document


def read_comparison(study: Study, dataset: Path, out: Path) -> dict[str, Any]:
    """What comparison.json would hold of what there is in a study's folder; nothing is trained or written."""
    jobs = jobs_of(study, out)
    return make_comparison(study, dataset, {job: read_record(job.folder) for job in jobs})


def jobs_of(study: Study, out: Path) -> list[Job]:
    """All runs of a study in the order they are made: seed by seed, the base first."""
    return [
        Job(variant, seed, out / "runs" / f"{variant.name}-seed{seed}")
        for seed in range(study.seeds)
        for variant in study.variants
    ]


def _publish(worker: _Worker, out: Path) -> dict[str, Any]:
    """Writes comparison.json and comparison.html from the records of the runs, and returns the former."""
    document = make_comparison(worker.study, worker.dataset, worker.records)
    with atomic(out / FIGURES) as part:
        part.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with atomic(out / PAGE) as part:
        part.write_text(render_comparison(document, out), encoding="utf-8")
    return document


def _claim(out: Path, study: Study, dataset: Path, jobs: Sequence[Job]) -> None:
    """Writes study.json, or checks that what `out` holds is of this study."""
    mine = {
        "study": study.name,
        "dataset": str(dataset.resolve()),
        "split": study.split,
        "images": study.images,
        "minutes": study.minutes,
    }
    if (out / STUDY).is_file():
        try:
            there = parse_json((out / STUDY).read_text(encoding="utf-8"))
            if is_same_folder(there["dataset"], dataset):
                there["dataset"] = mine["dataset"]
            changed = next((key for key in mine if there[key] != mine[key]), None)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{out / STUDY} cannot be read ({error}); choose another --out.") from error
        if changed is not None:
            raise ConfigError(
                f"{out} holds another study: its {changed} is {there[changed]!r} and now is {mine[changed]!r}; choose "
                "another --out."
            )
    elif any(out.joinpath("runs").glob("*")):
        raise ConfigError(f"{out} holds runs that are not of a study; choose another --out.")
    for job in jobs:
        if (job.folder / CONFIG).is_file():
            require_same(job.folder, dataset, job.config)
    with atomic(out / STUDY) as part:
        part.write_text(json.dumps(mine, indent=2) + "\n", encoding="utf-8")


@dataclass
class _Worker:
    """Brings one run after another to its end.

    Attributes:
        records: of every run of the study, as they stand.
    """

    study: Study
    dataset: Path
    weights: Path | None
    cache: Path
    reporter: StudyReporter
    tracker: NoTracking
    allowed: Collection[str]
    records: dict[Job, Record]

    @property
    def weights_name(self) -> str | None:
        """As records name them."""
        return None if self.weights is None else str(self.weights)

    def is_through(self, job: Job) -> bool:
        """Whether a run need not be touched; what was refused is tried again, for its settings may be others now."""
        record = self.records[job]
        compared = {*self.study.metrics, *self.study.secondary}
        scored = record.scores is not None and compared <= record.scores.overall.keys()
        return record.state == "diverged" or (scored and record.weights == self.weights_name)

    def keep(self, job: Job, **changes: Any) -> Record:
        """Changes a run's record, here and on the disk."""
        record = self.records[job] = self.records[job].having(**changes)
        write_record(job.folder, record)
        return record

    def go(self, job: Job, stop: Callable[[], bool]) -> bool:
        """Trains and scores a run; False if it was stopped before its end."""
        # Where a folder lies is no setting, and what is kept of a run stays as it is.
        settings = {key: value for key, value in flat_settings(job.config).items() if key not in PLACES}
        with self.tracker.run(job.name, settings) as tracked:
            record = self._trained(job, stop)
            if record.state == "trained":
                record = self._scored(job)
            if record.scores is not None:
                tracked.log_metrics(record.scores.overall, record.step * job.variant.per_step)
                tracked.log_artifact(job.folder / MODEL)
            elif record.is_over:
                tracked.fail(record.reason)
            for sheet in sorted((job.folder / "samples").glob("*.png"))[-1:]:
                tracked.log_artifact(sheet, "samples")
        if record.is_over:
            self.reporter.ended(job.name, record)
        return record.is_over

    def _trained(self, job: Job, stop: Callable[[], bool]) -> Record:
        watch, peak, pace = _Watch(self, job), PeakMemory(), None
        ended: dict[str, Any]
        try:
            result = self._train(job, watch, stop)
        except TrainingDivergedError as error:
            ended = {"state": "diverged", "step": watch.at, "reason": str(error)}
        except (ConfigError, torch.OutOfMemoryError) as error:
            ended = {"state": "refused", "reason": _refusal(job, error)}
        else:
            ended = {"state": "trained" if result.finished else "training", "step": result.step, "reason": ""}
            if watch.first == 0 and result.cost is not None:
                pace = result.cost.seconds_per_image
        record = self.records[job].having(**ended, scores=None, verdict=first_warning(job.folder))
        if watch.stepped or record.seconds_per_image is None:
            record = record.having(seconds_per_image=pace or seconds_per_image(job.folder))
        if watch.stepped:
            record = record.having(memory=peak.bytes())
        if record.seconds_per_image is not None:
            record = record.having(train_seconds=record.seconds_per_image * record.step * job.variant.per_step)
        return self.keep(job, **dict(record))

    def _train(self, job: Job, watch: _Watch, stop: Callable[[], bool]) -> TrainResult:
        how: dict[str, Any] = {"reporter": watch, "should_stop": stop, "cache": self.cache, "allowed": self.allowed}
        if self.study.images is not None:
            images = math.ceil(self.study.images * job.variant.share)
            return train_to(job.folder, self.dataset, job.config, images=images, **how)
        assert self.study.minutes is not None
        return train_for(job.folder, self.dataset, job.config, minutes=self.study.minutes * job.variant.share, **how)

    def _scored(self, job: Job) -> Record:
        begun, device, split = time.monotonic(), job.config.device, self.study.split
        told = self.reporter.scoring
        try:
            how: dict[str, Any] = {"weights": self.weights, "device": device, "allowed": self.allowed}
            scores = score(job.folder, self.dataset, split, job.folder / SCORES, progress=told, **how)
            if job.seed == 0:
                keep_examples(job.folder, self.dataset, split, device, self.allowed)
        except torch.OutOfMemoryError as error:
            return self.keep(job, state="refused", reason=_refusal(job, error))
        seconds = time.monotonic() - begun
        record = self.keep(job, state="done", score_seconds=seconds, weights=self.weights_name, scores=scores)
        self.drop_checkpoint(job)
        return record

    def drop_checkpoint(self, job: Job) -> None:
        """Deletes what a run that is done would go on from; that of one that diverged stays, to find out why."""
        if self.records[job].state != "done":
            return
        try:
            (job.folder / CHECKPOINT).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"The checkpoint of {job.folder} cannot be deleted ({error.strerror}); make the folder writable."
            ) from error


def _refusal(job: Job, error: Exception) -> str:
    """Why a run cannot be made; without the base there is nothing to compare."""
    reason = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        said = ". ".join(" ".join(reason.split()).rstrip(".").split(". ")[:2])
        reason = f"{job.name} ran out of memory ({said}); lower batch_size or data.crop_size of the whole study."
    if job.variant.name == BASE:
        raise ConfigError(reason) from error
    return reason


class _Watch:
    """Passes a run's reports on, and keeps what its record needs.

    Attributes:
        first: steps done before; None before the start.
        at: the last step that was reported.
        stepped: whether a step was taken.
    """

    def __init__(self, worker: _Worker, job: Job) -> None:
        self._worker, self._job, self._reporter = worker, job, worker.reporter
        self.first: int | None = None
        self.at, self.stepped = 0, False

    def started(self, plan: Plan) -> None:
        self.first = self.at = plan.first_step
        self._worker.keep(self._job, state="training", parameters=plan.parameters)
        self._reporter.started(plan)

    def step(self, report: StepReport) -> None:
        self.at, self.stepped = report.step, True
        self._reporter.step(report)

    def validated(self, validation: Validation) -> None:
        self._reporter.validated(validation)

    def message(self, text: str) -> None:
        self._reporter.message(text)

    def decoding(self, done: int, total: int) -> None:
        self._reporter.decoding(done, total)


class _SilentStudy(Silent):
    """A reporter that says nothing."""

    def run(self, name: str, number: int, total: int) -> None:
        """Nothing."""

    def scoring(self, done: int, total: int) -> None:
        """Nothing."""

    def ended(self, name: str, record: Record) -> None:
        """Nothing."""
