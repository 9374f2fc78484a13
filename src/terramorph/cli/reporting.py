"""Progress of training and of studies in the terminal, and the signals that end them.

`TrainingReporter` implements `terramorph.training.Reporter`. SIGINT and SIGTERM end short work at once, and training
after the current step.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from terramorph.cli.console import Meter, Steps, show_table, warn
from terramorph.documents import flat
from terramorph.imports import is_outside
from terramorph.report import duration

if TYPE_CHECKING:
    from terramorph.training import Plan, StepReport, TrainConfig, Validation

NOTICE = "Stopping after this step; press again to stop at once."
AFRESH = 4
"""Most newly initialized tensors that are named."""
MEASURED_STEPS = 500
"""Steps of a run from which its duration is estimated before it starts."""
LONG, SHORTER = 3600.0, ("medium", "small")
"""Seconds of a run from which shorter presets are suggested, and those presets; their schedules are in steps."""


class Terminated(BaseException):
    """Arrival of SIGTERM. Like KeyboardInterrupt it is not an Exception, so that no handler but cleaning up sees it."""


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Make SIGINT raise KeyboardInterrupt and SIGTERM `Terminated`, so that half-written files are removed.

    While a module is imported they end the process: compiled modules import others as they are loaded, and an exception
    there is an abort with a core dump.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                os.write(2, b"terramorph: Stopped.\n")
                os._exit(128 + number)
            frame = frame.f_back
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    heard = (one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN)
    with _handlers(dict.fromkeys(heard, stop)):  # a shell's background job is told to ignore SIGINT
        yield


class StoppedBefore(BaseException):
    """Arrival of a signal while a run was prepared; not an Exception, for the same reason.

    Attributes:
        exit_code: 128 + the signal's number.
        already_told: Whether another process prints the sentence.
    """

    def __init__(self, sentence: str, exit_code: int, already_told: bool = False) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
        self.already_told = already_told


class StopFlag:
    """The first signal, which a long run polls after each step; while not `stepping`, the run stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.stepping = True

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """Exit code of the signal by the shell's convention, 128 + its number."""
        return 128 + (self.signal or 0)


@contextmanager
def stop_after_step(notice: str = NOTICE) -> Iterator[StopFlag]:
    """Turn the first SIGINT or SIGTERM into a flag, with a notice; the second has its usual effect at once."""
    flag = StopFlag()

    def note(number: int, frame: FrameType | None) -> None:
        flag.signal = number
        for each, handler in previous.items():
            signal.signal(each, handler)
        # Not print: the signal may interrupt one, and buffered files are not reentrant.
        os.write(2, f"{notice}\n".encode() if notice and flag.stepping else b"")

    with _handlers({signal.SIGINT: note, signal.SIGTERM: note}) as previous:
        yield flag


@contextmanager
def _handlers(wanted: dict[int, Any]) -> Iterator[dict[int, Any]]:
    """Install signal handlers for the block, in the main thread only; yield the ones they replace."""
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    previous = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield previous
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class TrainingReporter(Steps):
    """Prints the plan, then progress; a context manager that restores the terminal.

    Args:
        quiet: Print nothing, for the other processes of a group.
        compact: Leave out the plan.
        nowhere: Leave out the run's folder, which is not kept.
        verbose: Print the whole configuration, every loss, and every validation.
        stop: Polled while the run is prepared; the loop polls it after each step.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        compact: bool = False,
        nowhere: bool = False,
        verbose: bool = False,
        stop: StopFlag | None = None,
    ) -> None:
        super().__init__()
        self._quiet, self._compact, self._nowhere, self._verbose = quiet, compact, nowhere, verbose
        self._stop = stop or StopFlag()
        self._stop.stepping = False
        self._scores = ""

    def started(self, plan: Plan) -> None:
        self._stop_before(f"; the checkpoint of step {plan.first_step} is unchanged." if plan.first_step else ".")
        self._stop.stepping = True
        self.__exit__()
        if self._quiet:
            return
        if not self._compact:
            show_plan(plan, self._verbose, self._nowhere)
        for sentence in plan.skipped:
            warn(f"skipped: {sentence}")
        if plan.skipped:
            count = len(plan.skipped)
            warn(f"{count} pair{'s' * (count > 1)} skipped, {plan.pairs} used.")

    def step(self, report: StepReport) -> None:
        if self._quiet:
            return
        shown = report.losses if self._verbose else {k: v for k, v in report.losses.items() if k == "l1"}
        losses = "".join(f"  {name} {value:.3f}" for name, value in shown.items())
        pace = f"{report.images_per_second:.1f} images/s  {duration(report.eta_seconds)} to go"
        self.update("training", report.step, report.total, f"{pace}{losses}{self._scores}")

    def validated(self, validation: Validation) -> None:
        self._scores = f"  held-out {validation.said}" if validation.said else ""
        if self._verbose:
            self.message(f"step {validation.step}:{self._scores}")

    def message(self, text: str) -> None:
        if not self._quiet:
            self.say(text)

    def decoding(self, done: int, total: int) -> None:
        self._stop_before("; an earlier run is unchanged.")
        if not self._quiet:
            self.update("decoding pairs", done, total)

    def _stop_before(self, rest: str) -> None:
        if self._stop():
            raise StoppedBefore(
                f"Stopped before the first step: nothing was trained{rest}", self._stop.exit_code, self._quiet
            )


class StudyProgress(Meter):
    """Progress of a study: a `terramorph.study.reporter.StudyReporter`."""

    progress, message = Meter.update, Meter.say


def show_plan(plan: Plan, verbose: bool = False, nowhere: bool = False) -> None:
    """Print a training plan: counts, paths, estimated time; with `verbose` the resolved configuration."""
    steps = f"{plan.total_steps}" + (f", {plan.first_step} of them done" if plan.first_step else "")
    networks = ", ".join(f"{name} {count / 1e6:.3f} million" for name, count in plan.parameters.items())
    together = f", {plan.processes} processes" if plan.processes > 1 else ""
    rows = [
        ("pairs", f"{plan.pairs} from {plan.dataset}"),
        *([] if nowhere else [("run", str(plan.out))]),
        ("steps", steps),
        ("parameters", networks),
        ("device", f"{plan.device}, {plan.precision}{together}"),
        *([] if nowhere else [("report", str(plan.out / "run.html"))]),
    ]
    if plan.config.start.model:
        rows.append(("starts from", plan.config.start.model))
    if plan.afresh:
        more = f" and {len(plan.afresh) - AFRESH} more" if len(plan.afresh) > AFRESH else ""
        rows.append(("initialized", ", ".join(plan.afresh[:AFRESH]) + more))
    time_needed = _time_needed(plan)
    show_table("plan", [*rows, *([("time", time_needed)] if time_needed else [])])
    if verbose:
        show_table("configuration", flat(plan.config.model_dump()).items())


def _time_needed(plan: Plan) -> str:
    """Return the estimated time of a run, and shorter presets where it is long; "" for a short run."""
    from terramorph.training import PRESETS, load_config
    from terramorph.training.cost import images_per_second

    outside = plan.config.loss.terms or is_outside(plan.config.generator.network)  # whose code may not be allowed here
    if plan.total_steps < MEASURED_STEPS or plan.first_step or plan.processes > 1 or outside:
        return ""

    def seconds(config: TrainConfig, steps: int) -> float:
        return steps * config.per_step / images_per_second(config, plan.bands)

    needed = seconds(plan.config, plan.total_steps)
    told = f"about {duration(needed)} on this machine"
    for name in (name for name in SHORTER if name in PRESETS and needed > LONG):
        other = load_config(name, {"direction": plan.config.direction, "device": plan.config.device})
        shorter = seconds(other, other.schedule.constant + other.schedule.decay)
        if shorter < needed / 2:
            told += f"; --preset {name}: about {duration(shorter)}"
    return told
