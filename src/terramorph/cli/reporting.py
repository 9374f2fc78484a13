"""Progress of training and of studies in the terminal; implements `terramorph.training.Reporter`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from terramorph.cli.console import Meter, Steps, show_table, warn
from terramorph.cli.interrupt import StopFlag, StoppedBefore
from terramorph.documents import flat
from terramorph.imports import is_outside
from terramorph.report import duration

if TYPE_CHECKING:
    from terramorph.training import Plan, StepReport, TrainConfig, Validation

AFRESH = 4
"""Most newly initialized tensors that are named."""
MEASURED_STEPS = 500
"""Steps of a run from which its duration is estimated before it starts."""
LONG, SHORTER = 3600.0, ("medium", "small")
"""Seconds of a run from which shorter presets are suggested, and those presets; their schedules are in steps."""


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
