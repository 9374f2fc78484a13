"""Comparison: every variant of a study is trained with several seeds and scored, for the effect of each change.

OUT/study.json           the study
OUT/runs/NAME-seedN/     a run: its training, record.json, scores/, and examples/ of the first seed
OUT/comparison.json      the figures (comparison.py), and comparison.html, the page (compare_page.py)
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from terramorph.atomic import locked, make_folder, write_text
from terramorph.data import DEFAULT_CACHE
from terramorph.documents import parse_json
from terramorph.errors import ConfigError, StorageError, TrainingDivergedError, raised_as
from terramorph.metrics import Lpips
from terramorph.pairs import has_split, open_pairs
from terramorph.study.compare_page import keep_examples, render_comparison
from terramorph.study.comparison import make_comparison
from terramorph.study.definition import BASE, Job, Study, load_study
from terramorph.study.reporter import NoTracking, SilentStudy, StudyReporter, Watch
from terramorph.study.run import (
    SCORES,
    PeakMemory,
    Record,
    first_warning,
    flat_settings,
    read_record,
    require_same,
    require_same_run,
    score,
    seconds_per_image,
    train_for,
    train_to,
    write_record,
)
from terramorph.training.config import PLACES
from terramorph.training.loop import MODEL
from terramorph.training.state import CHECKPOINT, CONFIG

STUDY = "study.json"
FIGURES = "comparison.json"
PAGE = "comparison.html"
_PAGE_EVERY = 30.0  # seconds between two writings of the page, which has dozens of charts


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
    """Run a study, or resume it.

    All variants are trained with the first seed, then all with the next, and the page is rewritten meanwhile, so that
    finished runs are comparable at any time. Runs of one seed see the same pairs in the same order. A run that diverges
    is a row with a reason, and the study continues.

    Changes and seeds may be added later; a study that would alter a finished run is refused. A scored run keeps its
    model, and its checkpoint, several times as large, is deleted: its budget cannot grow.

        >>> import terramorph
        >>> from pathlib import Path
        >>> from terramorph.study import load_study
        >>> change = "[[change]]\\nname = 'less-l1'\\nsettings.loss.l1_weight = 10.0\\n"
        >>> written = Path("less.toml").write_text("seeds = 1\\nbudget.images = 8\\n" + change)
        >>> small = {"generator.network": "unet64", "generator.width": 4, "discriminator.width": 4, "recalibrate": 2}
        >>> study = load_study("less.toml", settings={**small, "data.load_size": 64, "data.crop_size": 64})
        >>> comparison = terramorph.compare("town", study, "compared")
        >>> [variant["name"] for variant in comparison["variants"]], comparison["finished"]
        (['base', 'less-l1'], True)

    Args:
        dataset: Folder of pairs with a train split and the study's split, else val or test.
        study: A study, its name, or its file.
        out: Output folder.
        weights: Folder of feature weights for LPIPS, FD and FID.
        cache: Folder of the decoded pairs.
        reporter: Receives progress.
        should_stop: Called after every step; on True the run writes a checkpoint and the study ends unfinished.
        tracker: Logs the runs elsewhere too.
        allowed: Modules from outside whose code may run, where a setting names it.

    Returns:
        The content of comparison.json; `finished` is whether all runs are over.

    Raises:
        ConfigError: If the study or `out` cannot be used, or the base cannot be trained as configured.
        DatasetError: If a split is missing, or a pair cannot be read.
        InputError: If the feature weights are missing or damaged.
        StorageError: If something cannot be written.
    """
    dataset, out = Path(dataset), Path(out)
    study = study if isinstance(study, Study) else load_study(study, weights=weights)
    if weights is not None:
        weights = str(Path(weights).resolve())
        Lpips.from_folder(weights)  # refuses missing weights before the first run
    if not study.split:
        study = replace(study, split="val" if has_split(dataset, "val") or not has_split(dataset, "test") else "test")
    for split in ("train", study.split):
        open_pairs(dataset, split)
    jobs, stop = study.jobs(out), should_stop or (lambda: False)
    make_folder(out)
    busy = ConfigError(f"Another process uses {out}; wait for it, or choose another `out`.")
    with locked(out / ".lock", busy):
        _claim(out, study, dataset, jobs)
        records = {job: read_record(job.folder) for job in jobs}
        how = {"cache": Path(cache), "allowed": allowed}
        worker = _Worker(study, dataset, weights, how, reporter or SilentStudy(), tracker or NoTracking(), records)
        make_comparison(study, dataset, records)  # refuses scores of other pairs before anything is trained
        shown = time.monotonic()
        for number, job in enumerate(jobs, 1):
            if worker.is_through(job):
                worker.drop_checkpoint(job)
                continue
            if stop():
                break
            worker.reporter.message(f"run {number} of {len(jobs)}: {job.name}")
            if not worker.go(job, stop):
                break
            if time.monotonic() - shown > _PAGE_EVERY:
                _publish(worker, out)
                shown = time.monotonic()
        return _publish(worker, out)


def _publish(worker: _Worker, out: Path) -> dict[str, Any]:
    """Write comparison.json and comparison.html; return the content of the former."""
    document = make_comparison(worker.study, worker.dataset, worker.records)
    write_text(out / FIGURES, json.dumps(document, indent=2, allow_nan=False) + "\n")
    write_text(out / PAGE, render_comparison(document, out))
    return document


def _claim(out: Path, study: Study, dataset: Path, jobs: Sequence[Job]) -> None:
    """Write study.json, or check that `out` holds this study."""
    mine = {
        "study": study.name,
        "dataset": str(dataset.resolve()),
        "split": study.split,
        "images": study.images,
        "minutes": study.minutes,
    }
    if (out / STUDY).is_file():
        kinds = (OSError, ValueError, KeyError, TypeError)
        with raised_as(ConfigError, f"{out / STUDY} cannot be read", "choose another `out`", *kinds):
            require_same(out, "study", parse_json((out / STUDY).read_text(encoding="utf-8")), mine)
    elif any(out.joinpath("runs").glob("*")):
        raise ConfigError(f"{out} holds runs without a study; choose another `out`.")
    for job in jobs:
        if (job.folder / CONFIG).is_file():
            require_same_run(job.folder, dataset, job.config)
    write_text(out / STUDY, json.dumps(mine, indent=2) + "\n")


@dataclass
class _Worker:
    """Trains and scores one run after another."""

    study: Study
    dataset: Path
    weights: str | None
    how: dict[str, Any]
    reporter: StudyReporter
    tracker: NoTracking
    records: dict[Job, Record]

    def is_through(self, job: Job) -> bool:
        """Return whether a run is done and scored; a refused one is not, for its settings may have changed."""
        record = self.records[job]
        compared = {*self.study.metrics, *self.study.secondary}
        scored = record.scores is not None and compared <= record.scores.overall.keys()
        return record.state == "diverged" or (scored and record.weights == self.weights)

    def keep(self, job: Job, **changes: Any) -> Record:
        record = self.records[job] = self.records[job].model_copy(update=changes)
        write_record(job.folder, record)
        return record

    def go(self, job: Job, stop: Callable[[], bool]) -> bool:
        """Train and score a run; return False if it was stopped before its end."""
        # Left out: runs resume after a folder of weights was moved, but a tracker refuses a changed parameter.
        settings = {key: value for key, value in flat_settings(job.config).items() if key not in PLACES}
        with self.tracker.run(job.name, settings) as tracked:
            try:
                record = self._trained(job, stop)
                if record.state == "trained":
                    record = self._scored(job)
            except (ConfigError, torch.OutOfMemoryError) as error:
                record = self.keep(job, state="refused", reason=_refusal(job, error), scores=None)
            if record.scores is not None:
                tracked.log_metrics(record.scores.overall, record.step * job.config.per_step)
                tracked.log_artifact(job.folder / MODEL)
            elif record.is_over:
                tracked.fail(record.reason)
            tracked.log_sheet(job.folder)
        if record.reason:
            self.reporter.message(f"{job.name} {record.state}: {record.reason}")
        elif record.is_over and record.verdict:
            self.reporter.message(f"{job.name} is unhealthy: {record.verdict}")
        return record.is_over

    def _tell(self, job: Job, text: str) -> None:
        over = sum(record.is_over for record in self.records.values())
        self.reporter.progress(over, len(self.records), f"{job.name}: {text}")

    def _trained(self, job: Job, stop: Callable[[], bool]) -> Record:
        step = self.keep(job, state="training", scores=None, reason="").step
        watch, peak, reason = Watch(partial(self._tell, job)), PeakMemory(), ""
        how, study, share = self.how | {"reporter": watch, "should_stop": stop}, self.study, job.variant.share
        state = "training"
        try:
            if study.images is not None:
                result = train_to(job.folder, self.dataset, job.config, images=math.ceil(study.images * share), **how)
            else:
                assert study.minutes is not None
                result = train_for(job.folder, self.dataset, job.config, minutes=study.minutes * share, **how)
        except TrainingDivergedError as error:
            state, reason, step = "diverged", str(error), watch.step_now
        else:
            state, step = "trained" if result.finished else "training", result.step
        pace, found = seconds_per_image(job.folder), dict[str, Any]()
        if watch.plan is not None:
            found["parameters"] = watch.plan.parameters
        if watch.has_stepped:
            found["memory"] = peak.bytes()
        spent = None if pace is None else pace * step * job.config.per_step
        found |= {"seconds_per_image": pace, "train_seconds": spent, "verdict": first_warning(job.folder)}
        return self.keep(job, state=state, step=step, reason=reason, **found)

    def _scored(self, job: Job) -> Record:
        begun, split, allowed = time.monotonic(), self.study.split, self.how["allowed"]
        scores = score(
            job.folder,
            self.dataset,
            split,
            job.folder / SCORES,
            weights=self.weights,
            device=job.config.device,
            allowed=allowed,
            progress=lambda done, total: self._tell(job, f"scoring pair {done} of {total}"),
        )
        if job.seed == 0:
            keep_examples(job.folder, self.dataset, split, job.config.device, allowed)
        seconds = time.monotonic() - begun
        record = self.keep(job, state="done", score_seconds=seconds, weights=self.weights, scores=scores)
        self.drop_checkpoint(job)
        return record

    def drop_checkpoint(self, job: Job) -> None:
        """Delete the checkpoint of a run that is done; that of a diverged run is kept for diagnosis."""
        if self.records[job].state == "done":
            failed = f"The checkpoint of {job.folder} cannot be deleted"
            with raised_as(StorageError, failed, "make it writable", OSError):
                (job.folder / CHECKPOINT).unlink(missing_ok=True)


def _refusal(job: Job, error: Exception) -> str:
    """Return the reason why a run cannot be trained; for the base, without which nothing is compared, raise it."""
    reason = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        said = ". ".join(" ".join(reason.split()).rstrip(".").split(". ")[:2])
        reason = f"{job.name} ran out of memory ({said}); lower batch_size or data.crop_size of the whole study."
    if job.variant.name == BASE:
        raise ConfigError(reason) from error
    return reason
