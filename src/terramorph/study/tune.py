"""Searching for better settings: trials climb rungs, the poor ones are left behind, the best becomes a preset.

STUDY/study.json        what the study is about (plan.py)
STUDY/tuning/           the pairs it looks at (splits.py)
STUDY/trials.db         its trials, unless a database was named (trials.py)
STUDY/trials/0007/      trial 7: run/ its training, scores/ its last evaluation
STUDY/best.toml         the best trial as a preset, best.safetensors its bundle (conclusion.py)
STUDY/confirm/          the best trial against the preset on pairs that tuning never saw (a comparison)
STUDY/report.html       all of it on one page (tune_page.py)

A trial is scored after 1/9, 1/3 and all of its images (for three rungs), and goes on from its checkpoint if it is among
the best third of those that have been there, by Optuna's SuccessiveHalvingPruner (ASHA; Li et al. 2020, "A System for
Massively Parallel Hyperparameter Tuning").
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from terramorph.atomic import locked
from terramorph.data import DEFAULT_CACHE
from terramorph.errors import ConfigError, TrainingDivergedError
from terramorph.metrics import METRICS
from terramorph.study import trials
from terramorph.study.conclusion import TuneResult, conclude
from terramorph.study.plan import (
    ETA,
    TUNING,
    SilentTuning,
    StudyOptions,
    StudyPlan,
    TuneReporter,
    keep_plan,
    make_plan,
)
from terramorph.study.run import flat_settings, score, train_to
from terramorph.study.space import Space
from terramorph.study.tracking import MlflowTracking, NoTracking, TrackedRun, Tracker
from terramorph.study.trials import (
    NUMBER,
    REASON,
    SCORES,
    SECONDS,
    VALUES,
    Trial,
    Trials,
    make_sampler,
    quiet,
    require_optuna,
)
from terramorph.training import Plan, StepReport, TrainConfig
from terramorph.training.loop import MODEL
from terramorph.training.reporter import Silent

if TYPE_CHECKING:
    import optuna

_PACE_KNOWN = 5.0  # seconds of steps after which the time that a rung takes can be told
_TELL_EVERY = 0.5


def tune(
    dataset: str | Path,
    out: str | Path,
    preset: TrainConfig | None = None,
    options: StudyOptions | None = None,
    *,
    reporter: TuneReporter | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache: str | Path = DEFAULT_CACHE,
) -> TuneResult:
    """Begins a study, or goes on with it; several processes and machines may do so at once.

    Args:
        dataset: folder of pairs with a train split, and val or test or both.
        out: the study's folder; machines that work together share it.
        preset: what is to be improved; the preset pix2pix if None.
        options: how.
        reporter: told how it goes.
        should_stop: asked after every step; if it says True a checkpoint is written and the call ends.
        cache: folder of the decoded pairs.

    Returns:
        The trials so far and the best of them.

    Raises:
        ConfigError: before anything is trained, if the space, an objective or an option cannot be used or the study is
            another one; and if the budget ends before the first rung of any trial.
        DatasetError: if there are no pairs to tune or to confirm on.
        StorageError: if something cannot be written; finished trials are kept.
        MissingPackageError: if Optuna is not installed, or MLflow is asked for and is not.
    """
    require_optuna()
    out, options = Path(out), options or StudyOptions()
    deadline = None if options.budget is None else time.time() + options.budget
    plan = make_plan(Path(dataset), out, preset or TrainConfig(), options)
    Trials(out, plan, options.storage)  # one that cannot be opened must not bind the folder
    keep_plan(out, plan)
    job = _Job(out, plan, options, deadline, Path(cache))
    asked, listener = should_stop or (lambda: False), reporter or SilentTuning()
    if options.jobs == 1:
        _Worker(job, listener, asked).go()
    else:
        _work_together(job, listener, asked)
    kept = Trials(out, plan, options.storage)
    begun = any(trial.scores or trial.state != "running" for trial in kept.all())
    if deadline is not None and time.time() >= deadline and not begun:
        raise _too_small(options.budget, plan, "")
    return conclude(out, plan, kept, options.trials)


@dataclass(frozen=True)
class _Job:
    """What a process needs to work on a study."""

    out: Path
    plan: StudyPlan
    options: StudyOptions
    deadline: float | None
    cache: Path


class _Interrupted(Exception):
    """A trial is to be gone on with by another call: asked to stop, or the time is over."""


class _Failed(Exception):
    """A trial came to nothing."""


class _Worker:
    """Works on a study in this process: Optuna hands out trials, and each climbs from rung to rung until it ends."""

    def __init__(self, job: _Job, listener: TuneReporter, asked: Callable[[], bool]) -> None:
        self.job, self.plan, self.listener, self._asked = job, job.plan, listener, asked
        self.trials = Trials(job.out, job.plan, job.options.storage)
        self.tracker: Tracker = MlflowTracking(job.out, "tune") if job.options.mlflow else NoTracking()
        self.known: list[Trial] = []

    def over(self) -> bool:
        """Whether to stop: asked to, or the time is over."""
        return self._asked() or (self.job.deadline is not None and time.time() >= self.job.deadline)

    def go(self) -> None:
        """Takes trials until there are no more. Those that others seem to work on are waited for until it is known
        that their processes live."""
        self.trials.study.sampler = make_sampler(self.plan, self.job.options.trials)
        alive_by = time.monotonic() + trials.SILENT + trials.HEARD
        while not self.over():
            if self.trials.fill(self.job.options.trials):
                self._one()
                alive_by = time.monotonic() + trials.SILENT + trials.HEARD
            elif time.monotonic() > alive_by or all(trial.state != "running" for trial in self.trials.all()):
                return
            else:
                time.sleep(0.2)

    def _one(self) -> None:
        """One trial of the queue."""
        from optuna.exceptions import UpdateFinishedTrialError

        given_up: list[int] = []

        def objective(trial: optuna.Trial) -> list[float]:
            try:
                return self._objective(trial)
            except UpdateFinishedTrialError:
                given_up.append(trial.user_attrs[NUMBER])
                raise

        with self.trials.storing(), quiet():
            try:
                self.trials.study.optimize(objective, n_trials=1, catch=(_Interrupted, _Failed))
            except (UpdateFinishedTrialError, ValueError):
                if not given_up:
                    raise
                self.listener.message(f"trial {given_up[0]} was given up by another machine, which heard nothing.")

    def _objective(self, trial: optuna.Trial) -> list[float]:
        if self.trials.is_taken(trial):
            raise _Failed
        self.known = self.trials.all()
        number, preset = trial.user_attrs[NUMBER], self.plan.preset
        space = self.plan.space
        if number == 0:  # it is itself also where the space does not reach it
            space = Space(tuple(p for p in space.parameters if p.key in space.values_of(preset)))
        values = space.suggest(trial, preset)
        trial.set_user_attr(VALUES, values if number else {})
        folder = self.job.out / "trials" / f"{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock", _Interrupted(), wait=trials.SILENT):
            climb = _Climb(self, trial, number, folder)
            try:
                config = self.plan.config_of(values if number else {})
            except ConfigError as error:  # values that are well alone and not together
                raise climb.failed(str(error)) from error
            with self.tracker.run(f"trial {number}", flat_settings(config)) as tracked:
                return climb.go(config, tracked)


class _Climb:
    """One trial in this process."""

    def __init__(self, worker: _Worker, trial: optuna.Trial, number: int, folder: Path) -> None:
        self.worker, self.plan, self.trial, self.number, self.folder = worker, worker.plan, trial, number, folder
        self.scores: dict[str, dict[str, float | None]] = dict(trial.user_attrs.get(SCORES, {}))
        self.config = worker.plan.preset

    def go(self, config: TrainConfig, tracked: TrackedRun) -> list[float]:
        """Climbs; the values of the objectives at the last rung."""
        self.config = config
        for place, images in enumerate(self.plan.rungs):
            if str(images) not in self.scores:
                self._rung(place, images, tracked)
            if images != self.plan.rungs[-1] and self.trial.should_prune():
                metric = METRICS[self.plan.objectives[0]]
                value = metric.said(self.scores[str(images)][metric.key])
                raise self._pruned(f"After {images} images {metric.name} {value} is not among the best third.")
        tracked.log_artifact(self.folder / "run" / MODEL)
        self._tell("complete")
        last = self.scores[str(self.plan.rungs[-1])]
        return [score for name in self.plan.objectives if (score := last[name]) is not None]

    def _rung(self, place: int, images: int, tracked: TrackedRun) -> None:
        """Trains to a rung and scores."""
        began, watch = time.perf_counter(), _Watch(self, images)
        run, data, cache = self.folder / "run", self.worker.job.out / TUNING, self.worker.job.cache
        scores = None
        try:
            result = train_to(
                run, data, self.config, images=images, reporter=watch, should_stop=watch.stop, cache=cache
            )
            if result.finished and not watch.dead:
                where = self.folder / "scores"
                scores = score(run, data, "val", where, weights=self.plan.weights, device=self.config.device).overall
        except TrainingDivergedError as error:
            watch.dead = str(error)
        except (ConfigError, torch.OutOfMemoryError) as error:
            raise self.failed(" ".join(str(error).split())[:400]) from error
        finally:
            spent = self.trial.user_attrs.get(SECONDS, 0.0) + time.perf_counter() - began
            self.trial.set_user_attr(SECONDS, spent)
        if watch.dead:
            raise self._pruned(watch.dead)
        if watch.too_slow:
            raise _too_small(self.worker.job.options.budget, self.plan, watch.too_slow)
        if scores is None:
            raise _Interrupted
        missing = next((name for name in self.plan.objectives if scores[name] is None), None)
        if missing is not None:
            raise self.failed(f"{missing} could not be computed after {images} images.")
        self.scores[str(images)] = scores
        value = scores[self.plan.objectives[0]]
        if len(self.plan.objectives) == 1 and value is not None:
            self.trial.report(value, ETA**place)
        self.trial.set_user_attr(SCORES, self.scores)
        tracked.log_metrics(scores, images)
        for sheet in sorted((run / "samples").glob("*.png"))[-1:]:
            tracked.log_artifact(sheet, "samples")

    def failed(self, reason: str) -> _Failed:
        """Keeps why the trial came to nothing."""
        self._tell("failed", reason)
        return _Failed()

    def _pruned(self, reason: str) -> Exception:
        from optuna import TrialPruned

        self._tell("pruned", reason)
        ended: Exception = TrialPruned()
        return ended

    def _tell(self, state: str, reason: str = "") -> None:
        if reason:
            self.trial.set_user_attr(REASON, reason)
        at = max(map(int, self.scores), default=0)
        found = self.scores.get(str(at), {})
        scored = "".join(f", {METRICS[n].name} {METRICS[n].said(found[n])}" for n in self.plan.objectives if at)
        ended = f"trial {self.number} is {state} after {at} images{scored}"
        self.worker.listener.message(f"{ended}: {reason}" if reason else f"{ended}.")


class _Watch(Silent):
    """Listens to a training run for what ends a trial: the health's verdict, or a rung that the budget cannot hold.

    Attributes:
        dead: the health's sentence, once there is one.
        too_slow: a sentence about the pace, if nothing was ever scored and nothing will be before the deadline.
    """

    def __init__(self, climb: _Climb, images: int) -> None:
        self.climb, self.worker, self.images = climb, climb.worker, images
        self.dead = self.too_slow = ""
        self._first = not climb.scores and not any(trial.scores for trial in climb.worker.known)
        self._begun = self._told = time.monotonic()

    def stop(self) -> bool:
        """Whether the run should write a checkpoint and end."""
        return bool(self.dead or self.too_slow) or self.worker.over()

    def started(self, plan: Plan) -> None:
        """The clock of the pace begins; a run that goes on is let go on."""
        self._begun = time.monotonic()
        self._first &= plan.first_step == 0

    def step(self, report: StepReport) -> None:
        """Tells now and then where the trial is."""
        now, deadline = time.monotonic(), self.worker.job.deadline
        if self._first and deadline is not None and now - self._begun > _PACE_KNOWN:
            self._first = False
            if time.time() + report.eta_seconds > deadline:
                self.too_slow = f"at {report.images_per_second:.1f} images/s "
        if now - self._told >= _TELL_EVERY:
            self._told = now
            worker, per_step = self.worker, self.climb.config.batch_size * self.climb.config.accumulate
            ended = sum(trial.state != "running" for trial in worker.known)
            detail = f"trial {self.climb.number}: {report.step * per_step} of {self.images} images"
            worker.listener.progress(ended, worker.job.options.trials, detail)

    def message(self, text: str) -> None:
        """The health's warnings: each of them says that the trial will come to nothing."""
        self.dead = self.dead or text


def _too_small(budget: float | None, plan: StudyPlan, pace: str) -> ConfigError:
    return ConfigError(
        f"The budget of {budget:.0f} s {pace}ends before the first rung of {plan.rungs[0]} images; give a "
        "larger --budget or fewer --images. The checkpoint is kept, and the same command goes on from it."
    )


def _work_together(job: _Job, listener: TuneReporter, asked: Callable[[], bool]) -> None:
    """Works on a study with several processes, each with its share of the cores.

    They share no lock but those of the files, which the system lets go of: one that is killed holds up no other.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // job.options.jobs)
    workers, open_ends = [], []
    for _ in range(job.options.jobs):
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_worker, args=(job, threads, theirs))
        worker.start()
        theirs.close()  # so that its end is seen here when the worker ends
        workers.append(worker)
        open_ends.append(ours)
    failed: list[BaseException] = []
    stopped = False
    while open_ends:
        if not stopped and (failed or asked()):
            stopped = True
            for worker in workers:
                worker.terminate()  # which `_worker` takes as a wish to stop
        for end in wait(open_ends, _TELL_EVERY):
            assert isinstance(end, Connection)
            try:
                name, said = end.recv()
            except (EOFError, OSError):
                open_ends.remove(end)
                end.close()
                continue
            if name == "failed":
                failed.append(said)
            else:
                getattr(listener, name)(*said)
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]
    if not stopped and any(worker.exitcode for worker in workers):
        listener.message("A process of the study was killed; its trial is taken up by the next call.")


class _ToParent:
    """Implements `TuneReporter` in a worker."""

    def __init__(self, told: Connection) -> None:
        self._told = told

    def progress(self, done: int, total: int, detail: str) -> None:
        """Passed on."""
        self._told.send(("progress", (done, total, detail)))

    def message(self, text: str) -> None:
        """Passed on."""
        self._told.send(("message", (text,)))


def _worker(job: _Job, threads: int, told: Connection) -> None:
    """One process of `_work_together`. It ends with its parent, which alone listens to the terminal."""
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    try:
        _Worker(job, _ToParent(told), lambda: stop.is_set() or parent is None or not parent.is_alive()).go()
    except BrokenPipeError:
        pass  # the parent is gone; what was trained is in the checkpoint of the last rung
    except Exception as error:
        told.send(("failed", error))
