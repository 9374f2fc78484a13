"""One process of a tuning study: it takes trials from Optuna and trains each from rung to rung until it ends."""

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
from terramorph.study.plan import ETA, TUNING, StudyOptions, StudyPlan
from terramorph.study.reporter import MlflowTracking, NoTracking, StudyReporter, Watch
from terramorph.study.run import flat_settings, score, train_to
from terramorph.study.space import Space
from terramorph.study.trials import GIVEN_BACK, REASON, SCORES, SECONDS, VALUES, Trials
from terramorph.training.loop import MODEL

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Work:
    """The arguments of a process of a study; `deadline` is a time as of `time.time`."""

    out: Path
    plan: StudyPlan
    options: StudyOptions
    deadline: float | None
    cache: Path
    allowed: Collection[str] = ()

    @property
    def is_late(self) -> bool:
        return self.deadline is not None and time.time() >= self.deadline


class _Interrupted(Exception):
    """Interruption of a trial, for another call to resume: stopped, or out of time."""


class _Failed(Exception):
    """Failure of a trial."""


class Worker:
    """This process's work on a study."""

    def __init__(self, work: Work, listener: StudyReporter, asked: Callable[[], bool]) -> None:
        self.work, self.plan, self.listener, self._asked = work, work.plan, listener, asked
        self.trials = Trials(work.out, work.plan, work.options.storage)
        self.tracker = MlflowTracking(work.out, "tune") if work.options.mlflow else NoTracking()

    def over(self) -> bool:
        """Return whether to stop: asked to, or out of time."""
        return self._asked() or self.work.is_late

    def go(self) -> None:
        """Take trials until none is left, and wait for those of other processes to end or be given up."""
        wanted, patience = self.work.options.trials, trials.SILENT + trials.HEARD
        self.trials.study.sampler = trials.make_sampler(self.plan, wanted)
        alive_by = time.monotonic() + patience
        while not self.over():
            if self.trials.is_open(wanted):
                self._one()
                alive_by = time.monotonic() + patience
            elif time.monotonic() > alive_by or all(trial.state != "running" for trial in self.trials.all()):
                return
            else:
                time.sleep(0.2)

    def _one(self) -> None:
        """Take one trial from Optuna and run it to its end."""
        from optuna.exceptions import UpdateFinishedTrialError

        lost: list[int] = []

        def objective(trial: optuna.Trial) -> list[float]:
            number = self.trials.number_of(trial, self.work.options.trials)
            if number is None:
                trial.set_user_attr(GIVEN_BACK, True)
                raise _Failed
            try:
                return self._climb(trial, number)
            except UpdateFinishedTrialError:
                lost.append(number)
                raise

        with self.trials.storing():
            try:
                self.trials.study.optimize(objective, n_trials=1, catch=(_Interrupted, _Failed))
            except (UpdateFinishedTrialError, ValueError):
                if not lost:
                    raise
                self.listener.message(f"trial {lost[0]} was given up by another machine, which heard nothing.")

    def _climb(self, trial: optuna.Trial, number: int) -> list[float]:
        preset, space = self.plan.preset, self.plan.space
        if number == 0:  # the preset itself, even where its values lie outside the space
            own = space.values_of(preset)
            space = Space({key: one for key, one in space.parameters.items() if key in own})
        values = space.suggest(trial, preset)
        trial.set_user_attr(VALUES, values if number else {})
        folder = self.work.out / "trials" / f"{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock", _Interrupted(), wait=trials.SILENT):
            climb = _Climb(self, trial, number, folder)
            try:
                climb.config = self.plan.config_of(values if number else {})
            except ConfigError as error:  # values that are valid alone but not together
                raise climb.failed(str(error)) from error
            with self.tracker.run(f"trial {number}", flat_settings(climb.config)) as climb.tracked:
                ended = climb.go()
        if isinstance(ended, Exception):  # raised outside the tracker's block, for which it is no failure
            raise ended
        return ended


class _Climb:
    """One trial in this process."""

    def __init__(self, worker: Worker, trial: optuna.Trial, number: int, folder: Path) -> None:
        self.worker, self.plan, self.trial, self.number, self.folder = worker, worker.plan, trial, number, folder
        self.scores: dict[str, dict[str, float | None]] = dict(trial.user_attrs.get(SCORES, {}))
        self.config, self.tracked = worker.plan.preset, NoTracking()
        self.ended = sum(one.state != "running" for one in worker.trials.all())

    def go(self) -> list[float] | Exception:
        """Return the objectives at the last rung, or the exception by which Optuna ends the trial."""
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
        """Train to a rung and score; return the exception that ends the trial there, or None."""
        began, work, run, scores = time.perf_counter(), self.worker.work, self.folder / "run", None
        data, allowed, total = work.out / TUNING, work.allowed, work.options.trials
        watch = Watch(
            lambda at: self.worker.listener.progress(self.ended, total, f"trial {self.number} of {images} images: {at}")
        )

        def stop() -> bool:  # any warning of the health checks means that the trial will fail
            return bool(watch.warning) or self.worker.over()

        how: dict[str, Any] = {"reporter": watch, "should_stop": stop, "cache": work.cache, "allowed": allowed}
        try:
            result = train_to(run, data, self.config, images=images, **how)
            if result.finished and not watch.warning:
                how = {"weights": self.plan.weights, "device": self.config.device, "allowed": allowed}
                scores = score(run, data, "val", self.folder / "scores", **how).overall
        except TrainingDivergedError as error:
            return self._pruned(str(error))
        except (ConfigError, torch.OutOfMemoryError) as error:
            return self.failed(" ".join(str(error).split())[:400])
        finally:
            spent = self.trial.user_attrs.get(SECONDS, 0.0) + time.perf_counter() - began
            self.trial.set_user_attr(SECONDS, spent)
        if watch.warning:
            return self._pruned(watch.warning)
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
        self.tracked.log_sheet(run)
        return None

    def failed(self, reason: str) -> _Failed:
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
