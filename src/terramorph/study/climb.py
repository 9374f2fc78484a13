"""A process at work on a study: Optuna hands out trials, and each climbs from rung to rung until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from terramorph.atomic import locked
from terramorph.errors import ConfigError, TrainingDivergedError
from terramorph.metrics import METRICS
from terramorph.study import trials
from terramorph.study.plan import ETA, TUNING, StudyOptions, StudyPlan, TuneReporter
from terramorph.study.run import flat_settings, score, train_to
from terramorph.study.space import Space
from terramorph.study.tracking import MlflowTracking, NoTracking
from terramorph.study.trials import NUMBER, REASON, SCORES, SECONDS, VALUES, Trial, Trials
from terramorph.training import Plan, StepReport
from terramorph.training.loop import MODEL
from terramorph.training.reporter import Silent

if TYPE_CHECKING:
    import optuna

_PACE_KNOWN = 5.0  # seconds of steps after which the time that a rung takes can be told
_TELL_EVERY = 0.5


@dataclass(frozen=True)
class Job:
    """What a process needs to work on a study."""

    out: Path
    plan: StudyPlan
    options: StudyOptions
    deadline: float | None
    cache: Path
    allowed: Collection[str] = ()


class _Interrupted(Exception):
    """A trial is to be gone on with by another call: asked to stop, or the time is over."""


class _Failed(Exception):
    """A trial came to nothing."""


class Worker:
    """Works on a study in this process: Optuna hands out trials, and each climbs from rung to rung until it ends."""

    def __init__(self, job: Job, listener: TuneReporter, asked: Callable[[], bool]) -> None:
        self.job, self.plan, self.listener, self._asked = job, job.plan, listener, asked
        self.trials = Trials(job.out, job.plan, job.options.storage)
        self.tracker = MlflowTracking(job.out, "tune") if job.options.mlflow else NoTracking()
        self.known: list[Trial] = []

    def over(self) -> bool:
        """Whether to stop: asked to, or the time is over."""
        return self._asked() or (self.job.deadline is not None and time.time() >= self.job.deadline)

    def go(self) -> None:
        """Takes trials until there are no more. Those that others seem to work on are waited for until it is known
        that their processes live."""
        self.trials.study.sampler = trials.make_sampler(self.plan, self.job.options.trials)
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

        with self.trials.storing(), trials.quiet():
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
                climb.config = self.plan.config_of(values if number else {})
            except ConfigError as error:  # values that are well alone and not together
                raise climb.failed(str(error)) from error
            with self.tracker.run(f"trial {number}", flat_settings(climb.config)) as climb.tracked:
                ended = climb.go()
        if isinstance(ended, Exception):
            raise ended
        return ended


class _Climb:
    """One trial in this process."""

    def __init__(self, worker: Worker, trial: optuna.Trial, number: int, folder: Path) -> None:
        self.worker, self.plan, self.trial, self.number, self.folder = worker, worker.plan, trial, number, folder
        self.scores: dict[str, dict[str, float | None]] = dict(trial.user_attrs.get(SCORES, {}))
        self.config, self.tracked = worker.plan.preset, NoTracking()

    def go(self) -> list[float] | Exception:
        """Climbs; the values of the objectives at the last rung, or what Optuna is to be told by."""
        for place, images in enumerate(self.plan.rungs):
            ended = self._rung(place, images) if str(images) not in self.scores else None
            if ended is not None:
                return ended
            if images != self.plan.rungs[-1] and self.trial.should_prune():
                metric = METRICS[self.plan.objectives[0]]
                value = metric.said(self.scores[str(images)][metric.key])
                return self._pruned(f"After {images} images {metric.name} {value} is not among the best third.")
        self.tracked.log_artifact(self.folder / "run" / MODEL)
        self._tell("complete")
        last = self.scores[str(self.plan.rungs[-1])]
        return [score for name in self.plan.objectives if (score := last[name]) is not None]

    def _rung(self, place: int, images: int) -> Exception | None:
        """Trains to a rung and scores; why the trial ends there, if it does."""
        began, watch = time.perf_counter(), _Watch(self, images)
        job, run, allowed = self.worker.job, self.folder / "run", self.worker.job.allowed
        data = job.out / TUNING
        scores = None
        try:
            how: dict[str, Any] = {"reporter": watch, "should_stop": watch.stop, "cache": job.cache, "allowed": allowed}
            result = train_to(run, data, self.config, images=images, **how)
            if result.finished and not watch.dead:
                how = {"weights": self.plan.weights, "device": self.config.device, "allowed": allowed}
                scores = score(run, data, "val", self.folder / "scores", **how).overall
        except TrainingDivergedError as error:
            watch.dead = str(error)
        except (ConfigError, torch.OutOfMemoryError) as error:
            return self.failed(" ".join(str(error).split())[:400])
        finally:
            spent = self.trial.user_attrs.get(SECONDS, 0.0) + time.perf_counter() - began
            self.trial.set_user_attr(SECONDS, spent)
        if watch.dead:
            return self._pruned(watch.dead)
        if watch.too_slow:
            raise too_small(job.options.budget, self.plan, watch.too_slow)
        if scores is None:
            return _Interrupted()
        missing = next((name for name in self.plan.objectives if scores[name] is None), None)
        if missing is not None:
            return self.failed(f"{missing} could not be computed after {images} images.")
        self.scores[str(images)] = scores
        value = scores[self.plan.objectives[0]]
        if len(self.plan.objectives) == 1 and value is not None:
            self.trial.report(value, ETA**place)
        self.trial.set_user_attr(SCORES, self.scores)
        self.tracked.log_metrics(scores, images)
        for sheet in sorted((run / "samples").glob("*.png"))[-1:]:
            self.tracked.log_artifact(sheet, "samples")
        return None

    def failed(self, reason: str) -> _Failed:
        """Keeps why the trial came to nothing."""
        self._tell("failed", reason)
        self.tracked.fail(reason)
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


def too_small(budget: float | None, plan: StudyPlan, pace: str) -> ConfigError:
    return ConfigError(
        f"The budget of {budget:.0f} s {pace}ends before the first rung of {plan.rungs[0]} images; give a "
        "larger --budget or fewer --images. The checkpoint is kept, and the same command goes on from it."
    )
