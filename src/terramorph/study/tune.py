"""Searching for better settings: trials climb rungs, the poor ones are left behind, the best becomes a preset.

STUDY/study.json        what the study is about (plan.py)
STUDY/tuning/           the pairs it looks at (splits.py)
STUDY/trials.db         its trials, unless a database was named (trials.py)
STUDY/trials/0007/      trial 7: run/ its training, scores/ its last evaluation
STUDY/best.toml         the best trial as a preset, best.safetensors its bundle (conclusion.py)
STUDY/confirm/          the best trial against the preset on pairs that tuning never saw (confirm.py)
STUDY/report.html       all of it on one page (tune_report.py)
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

import torch

from terramorph.data import DEFAULT_CACHE
from terramorph.errors import ConfigError, TrainingDivergedError
from terramorph.metrics import METRICS
from terramorph.study.conclusion import conclude
from terramorph.study.plan import TUNING, StudyOptions, StudyPlan, keep_plan, make_plan
from terramorph.study.run import flat_settings, score, train_to
from terramorph.study.rungs import promoted
from terramorph.study.tracking import MlflowTracking, NoTracking, TrackedRun, Tracker
from terramorph.study.trials import GivenUp, Taken, Trials, require_optuna
from terramorph.study.tune_reporter import SilentTuning, TuneReporter
from terramorph.study.tune_result import TuneResult
from terramorph.training import Plan, StepReport, TrainConfig
from terramorph.training.reporter import Silent

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
        _work(job, listener, asked)
    else:
        _work_together(job, listener, asked)
    trials = Trials(out, plan, options.storage)
    known = trials.all()
    begun = any(trial.scores or trial.state != "running" for trial in known)
    if deadline is not None and time.time() >= deadline and not begun:
        raise _too_small(options.budget, plan, "")
    return conclude(out, plan, known, trials.front(), options.trials)


@dataclass(frozen=True)
class _Job:
    """What a process needs to work on a study."""

    out: Path
    plan: StudyPlan
    options: StudyOptions
    deadline: float | None
    cache: Path


def _work(job: _Job, listener: TuneReporter, asked: Callable[[], bool]) -> None:
    """Takes trials until there are no more, the budget is used up, or asked to stop."""

    def over() -> bool:
        return asked() or (job.deadline is not None and time.time() >= job.deadline)

    trials = Trials(job.out, job.plan, job.options.storage, job.options.trials)
    tracker: Tracker = MlflowTracking(job.out, "tune") if job.options.mlflow else NoTracking()
    while not over():
        with trials.take() as taken:
            if taken is None:
                return
            try:
                config = job.plan.config_of(taken.trial.values)
            except ConfigError as error:  # values that are well alone and not together
                trials.finish(taken, "failed", str(error))
                listener.message(f"trial {taken.trial.number} is failed: {error}")
                continue
            with tracker.run(f"trial {taken.trial.number}", flat_settings(config)) as tracked:
                try:
                    _Climb(job, trials, taken, config, tracked, listener, over).go()
                except GivenUp:
                    listener.message(
                        f"trial {taken.trial.number} was given up by another machine, which heard nothing."
                    )


class _Climb:
    """One trial in this process: from rung to rung until it ends or the time is over."""

    def __init__(
        self,
        job: _Job,
        trials: Trials,
        taken: Taken,
        config: TrainConfig,
        tracked: TrackedRun,
        listener: TuneReporter,
        over: Callable[[], bool],
    ) -> None:
        self.job, self.trials, self.taken, self.config = job, trials, taken, config
        self.tracked, self.listener, self.over = tracked, listener, over
        self.objective = job.plan.objectives[0]
        self.known = trials.all()

    def go(self) -> None:
        """Climbs."""
        if self.taken.trial.reason:
            return self._end("pruned", self.taken.trial.reason)
        while True:
            self.known = self.trials.all()
            at = max(self.taken.scores, default=0)
            if at == self.job.plan.rungs.last:
                return self._end("complete")
            verdict = self._verdict(at) if at else ""
            if verdict:
                return self._end("pruned", verdict)
            if not self._rung(self.job.plan.rungs.after(at)[0]):
                return None

    def _verdict(self, at: int) -> str:
        """Why the trial does not go on from a rung, or nothing."""
        value = self.taken.scores[at][self.objective]
        assert value is not None
        found = [t.score(self.objective, at) for t in self.known if t.number != self.taken.trial.number]
        rivals = [rival for rival in found if rival is not None]
        if promoted(value, rivals, METRICS[self.objective].higher_is_better):
            return ""
        return (
            f"After {at} images {self.objective} {value:.4g} is not among the best third of {len(rivals) + 1} trials."
        )

    def _rung(self, images: int) -> bool:
        """Trains to a rung and scores; False if the trial ended or has to wait for another call."""
        began, watch = time.perf_counter(), _Watch(self, images)
        scores, failed = None, ""
        try:
            scores = self._train_and_score(images, watch)
        except TrainingDivergedError as error:
            watch.dead = str(error)
        except (ConfigError, torch.OutOfMemoryError) as error:
            failed = " ".join(str(error).split())[:400]
        self.trials.spend(self.taken, time.perf_counter() - began)
        if watch.dead or failed:
            self._end("failed" if failed else "pruned", failed or watch.dead)
            return False
        if watch.too_slow:
            raise _too_small(self.job.options.budget, self.job.plan, watch.too_slow)
        if scores is None:
            return False
        missing = next((name for name in self.job.plan.objectives if scores[name] is None), None)
        if missing is not None:
            self._end("failed", f"{missing} could not be computed after {images} images.")
            return False
        self.trials.record(self.taken, images, scores)
        self.tracked.log_metrics(scores, images)
        for sheet in sorted((self.taken.folder / "run" / "samples").glob("*.png"))[-1:]:
            self.tracked.log_artifact(sheet, "samples")
        return True

    def _train_and_score(self, images: int, watch: _Watch) -> dict[str, float | None] | None:
        """The scores at a rung; None if the training stopped before, or is not worth scoring."""
        run, data = self.taken.folder / "run", self.job.out / TUNING
        result = train_to(
            run, data, self.config, images=images, reporter=watch, should_stop=watch.stop, cache=self.job.cache
        )
        if watch.dead or not result.finished:
            return None
        out, weights = self.taken.folder / "scores", self.job.plan.weights
        return score(run, data, "val", out, weights=weights, device=self.config.device).overall

    def _end(self, state: str, reason: str = "") -> None:
        self.trials.finish(self.taken, state, reason)
        if state == "complete":
            self.tracked.log_artifact(self.taken.folder / "run" / "model.safetensors")
        number, at = self.taken.trial.number, max(self.taken.scores, default=0)
        scored = "".join(f", {name} {self.taken.scores[at][name]:.4g}" for name in self.job.plan.objectives if at)
        ended = f"trial {number} is {state} after {at} images{scored}"
        self.listener.message(f"{ended}: {reason}" if reason else f"{ended}.")


class _Watch(Silent):
    """Listens to a training run for what ends a trial: the health's verdict, or a rung that the budget cannot hold.

    Attributes:
        dead: the health's sentence, once there is one.
        too_slow: a sentence about the pace, if nothing was ever scored and nothing will be before the deadline.
    """

    def __init__(self, climb: _Climb, images: int) -> None:
        self.climb, self.images = climb, images
        self.dead = self.too_slow = ""
        self._first = not any(trial.scores for trial in climb.known)
        self._begun = self._told = time.monotonic()

    def stop(self) -> bool:
        """Whether the run should write a checkpoint and end."""
        return bool(self.dead or self.too_slow) or self.climb.over()

    def started(self, plan: Plan) -> None:
        """The clock of the pace begins; a run that goes on is let go on."""
        self._begun = time.monotonic()
        self._first &= plan.first_step == 0

    def step(self, report: StepReport) -> None:
        """Tells now and then where the trial is."""
        now, deadline = time.monotonic(), self.climb.job.deadline
        if self._first and deadline is not None and now - self._begun > _PACE_KNOWN:
            self._first = False
            if time.time() + report.eta_seconds > deadline:
                self.too_slow = f"at {report.images_per_second:.1f} images/s "
        if now - self._told >= _TELL_EVERY:
            self._told = now
            climb, per_step = self.climb, self.climb.config.batch_size * self.climb.config.accumulate
            ended = sum(trial.state != "running" for trial in climb.known)
            detail = f"trial {climb.taken.trial.number}: {report.step * per_step} of {self.images} images"
            climb.listener.progress(ended, climb.job.options.trials, detail)

    def message(self, text: str) -> None:
        """The health's warnings: each of them says that the trial will come to nothing."""
        if not self.dead:
            self.dead = text
            self.climb.trials.doom(self.climb.taken, text)


def _too_small(budget: float | None, plan: StudyPlan, pace: str) -> ConfigError:
    return ConfigError(
        f"The budget of {budget:.0f} s {pace}ends before the first rung of {plan.rungs.images[0]} images; give a "
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
        _work(job, _ToParent(told), lambda: stop.is_set() or parent is None or not parent.is_alive())
    except BrokenPipeError:
        pass  # the parent is gone; what was trained is in the checkpoint of the last rung
    except Exception as error:
        told.send(("failed", error))
