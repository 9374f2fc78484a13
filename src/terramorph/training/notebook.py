"""Display of a run in a notebook: progress, held-out scores, and the newest sample sheet."""

from __future__ import annotations

import io
import sys
import time
from html import escape
from typing import Any

from PIL import Image

from terramorph.report import duration
from terramorph.training.reporter import Plan, Reporter, Silent, StepReport
from terramorph.training.validation import Validation

_EVERY = 0.5
"""Seconds between two updates of the progress."""


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
