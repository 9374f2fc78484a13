"""Reports of a run: its plan, its steps, its result; and their display in a notebook."""

from __future__ import annotations

import io
import sys
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from terramorph.report import duration
from terramorph.training.config import TrainConfig
from terramorph.training.cost import Cost
from terramorph.training.validation import Validation

_EVERY = 0.5
"""Seconds between two updates of the progress in a notebook."""


@dataclass(frozen=True)
class Plan:
    """Plan of a run, reported before the first step.

    Attributes:
        config: Resolved configuration.
        dataset, out: Folders of the dataset and of the run.
        pairs: Number of training pairs.
        skipped: A sentence about each pair that is left out.
        first_step, total_steps: Optimizer steps done before, and in all.
        parameters: Number of trainable values of each network.
        device, precision: Resolved device and precision.
        bands: Bands of source and target.
        afresh: Tensors that the model the run starts from does not fill.
        processes: Number of processes that train together.
    """

    config: TrainConfig
    dataset: Path
    out: Path
    pairs: int
    skipped: tuple[str, ...]
    first_step: int
    total_steps: int
    parameters: dict[str, int]
    device: str
    precision: str
    bands: tuple[int, int]
    afresh: tuple[str, ...]
    processes: int


@dataclass(frozen=True)
class StepReport:
    """Report of a step; on an accelerator, of the last of several.

    Attributes:
        step, total: Optimizer steps done, and in all.
        losses: Losses by their names in logs.
        images_per_second: Speed over the last steps, all processes together.
        eta_seconds: Seconds to the end at that speed.
        wait_share: Share of the time spent on making batches, 0 to 1.
        verdict: Reason why the run has probably failed, as in `TrainResult`; None without one.
    """

    step: int
    total: int
    losses: dict[str, float]
    images_per_second: float
    eta_seconds: float
    wait_share: float
    verdict: str | None = None


@dataclass(frozen=True)
class TrainResult:
    """Result of a run: finished with a model, or stopped with a checkpoint.

    Attributes:
        finished: Whether all steps are done, or early stopping ended the run.
        model: The bundle of a finished run; None for a stopped one.
        checkpoint: The checkpoint to resume from.
        step, total: Optimizer steps done, and in all.
        verdict: The first warning of `Health`, the reason why the run has probably failed; it goes on all the same. To
            end such a run, read it from a `StepReport` and return True in `should_stop`. A run with values that are
            not finite has no result but raises TrainingDivergedError.
        cost: Cost of this call.
    """

    finished: bool
    model: Path | None
    checkpoint: Path
    step: int
    total: int
    verdict: str | None = None
    cost: Cost | None = None


class Reporter(Protocol):
    """Receives the reports of a run; methods that a subclass leaves out do nothing."""

    def started(self, plan: Plan) -> None:
        """Receive the plan, before the first step; the configuration is saved."""
        return

    def step(self, report: StepReport) -> None:
        """Receive the report of a step."""
        return

    def validated(self, validation: Validation) -> None:
        """Receive outputs and scores of held-out pairs."""
        return

    def message(self, text: str) -> None:
        """Receive a sentence: a warning, or the name of a written file."""
        return

    def decoding(self, done: int, total: int) -> None:
        """Receive the number of pairs decoded into the cache, and of all pairs."""
        return


class Silent(Reporter):
    """A reporter that shows nothing."""


def default_reporter() -> Reporter:
    """Return the reporter of callers that name none: the notebook's in a notebook, else a silent one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return NotebookReporter() if getattr(shell, "kernel", None) is not None else Silent()


class NotebookReporter(Reporter):
    """Shows a run in the output of a notebook's cell; progress and sheet are updated in place."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._sheet: Any = None
        self._scores = ""
        self._told = 0.0

    def started(self, plan: Plan) -> None:
        self._show(0.0, f"{plan.pairs} pairs, {plan.total_steps} steps on {plan.device}, {plan.out}")

    def step(self, report: StepReport) -> None:
        last = report.step == report.total
        if last or time.monotonic() - self._told >= _EVERY:
            losses = ", ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
            left = "done" if last else f"{duration(report.eta_seconds)} to go"
            pace = f"{report.images_per_second:.1f} images/s, {left}"
            self._show(
                report.step / report.total, f"step {report.step} of {report.total}, {pace}{self._scores}", losses
            )

    def validated(self, validation: Validation) -> None:
        from IPython.display import Image as Picture
        from IPython.display import display

        self._scores = f", held-out {validation.said}" if validation.said else ""
        if validation.sheet is None:
            return
        png = io.BytesIO()
        Image.fromarray(validation.sheet).save(png, "PNG")
        picture = Picture(data=png.getvalue(), format="png", alt="rows of input, output, truth")
        if self._sheet is None:
            self._sheet = display(picture, display_id=True)
        else:
            self._sheet.update(picture)

    def message(self, text: str) -> None:
        print(text)

    def decoding(self, done: int, total: int) -> None:
        if done == total or time.monotonic() - self._told >= _EVERY:
            self._show(done / max(total, 1), f"decoding pairs: {done} of {total}")

    def _show(self, share: float, *lines: str) -> None:
        from IPython.display import HTML, display

        self._told = time.monotonic()
        text = "<br>".join(escape(line) for line in lines)
        content = HTML(f'<progress max="1" value="{share:.4f}" style="width:20em"></progress><br>{text}')
        if self._progress is None:
            self._progress = display(content, display_id=True)
        else:
            self._progress.update(content)
