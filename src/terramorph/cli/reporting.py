"""How training is shown: implements `terramorph.training.Reporter`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from terramorph.cli.console import Meter, duration, say, show_table, warn
from terramorph.cli.info import flatten
from terramorph.cli.interrupt import StopFlag, StoppedBefore

if TYPE_CHECKING:
    from terramorph.training import Plan, StepReport


class TrainingReporter:
    """Prints the plan, then progress. A context manager: leaving it puts the terminal right.

    Args:
        quiet: say nothing at all; for the other processes of a group.
        compact: leave the table of the configuration out.
        stop: asked while the run is made ready; the loop asks it after each step.

    Raises:
        StoppedBefore: from `decoding` and `started`, if asked to stop before there is a step.
    """

    def __init__(self, *, quiet: bool = False, compact: bool = False, stop: StopFlag | None = None) -> None:
        self._stop = stop or StopFlag()
        self._quiet = quiet
        self._compact = compact
        self._meter: Meter | None = None
        self._phase = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def started(self, plan: Plan) -> None:
        """Prints what is about to be done."""
        self._stop_before(f"; the checkpoint of step {plan.first_step} is as it was." if plan.first_step else ".")
        self._stop.stepping = True
        self._end()
        if self._quiet:
            return
        if not self._compact:
            show_plan(plan)
        for sentence in plan.skipped:
            warn(f"skipped: {sentence}")
        if plan.skipped:
            count = len(plan.skipped)
            warn(f"{count} pair{'s are' if count > 1 else ' is'} skipped and {plan.pairs} are used.")

    def step(self, report: StepReport) -> None:
        """Moves the bar."""
        if self._quiet:
            return
        losses = "  ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
        pace = f"{report.images_per_second:.1f} images/s  {duration(report.eta_seconds)} to go"
        self._at("training").update(report.step, report.total, f"{pace}  {losses}")

    def message(self, text: str) -> None:
        """Prints a sentence above the bar."""
        if self._quiet:
            return
        if self._meter is not None:
            self._meter.say(text)
        else:
            say(text)

    def decoding(self, done: int, total: int) -> None:
        """Moves the bar of the pairs that are decoded."""
        self._stop_before("; a run that was there before is as it was.")
        if not self._quiet:
            self._at("decoding pairs").update(done, total)

    def _stop_before(self, rest: str) -> None:
        if self._stop():
            raise StoppedBefore(
                f"Stopped before the first step: nothing was trained{rest}", self._stop.exit_code, self._quiet
            )

    def _at(self, phase: str) -> Meter:
        if self._meter is None or self._phase != phase:
            self._end()
            self._meter, self._phase = Meter(phase).__enter__(), phase
        return self._meter

    def _end(self) -> None:
        if self._meter is not None:
            self._meter.__exit__(None, None, None)
            self._meter = None


def show_plan(plan: Plan) -> None:
    """Prints a training plan: counts first, then the resolved configuration."""
    steps = f"{plan.total_steps}" + (f", {plan.first_step} of them done" if plan.first_step else "")
    networks = ", ".join(f"{name} {count / 1e6:.3f} million" for name, count in plan.parameters.items())
    together = f", {plan.processes} processes" if plan.processes > 1 else ""
    show_table(
        "plan",
        [
            ("pairs", f"{plan.pairs} from {plan.dataset}"),
            ("run", str(plan.out)),
            ("steps", steps),
            ("parameters", networks),
            ("computed", f"on {plan.device}, {plan.precision}{together}"),
        ],
    )
    show_table("configuration", flatten(plan.config.model_dump()))
