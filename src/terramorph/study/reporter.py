"""Reporters of studies, and the reporter of one training of a study."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from terramorph.training import Plan, StepReport
from terramorph.training.reporter import Silent

_TELL_EVERY = 0.5  # seconds


class StudyReporter(Protocol):
    """Receiver of a study's progress; methods that a subclass leaves out do nothing."""

    def progress(self, done: int, total: int, detail: str) -> None:
        """Report the runs or trials that are over, their total, and what is in progress."""
        return

    def message(self, text: str) -> None:
        """Report a sentence: which run begins, or how one ended."""
        return


class SilentStudy(StudyReporter):
    """A reporter that reports nothing."""


class Watch(Silent):
    """Reporter of one training that tells its progress every half second; `warning` is the first of a health check."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._told = tell, time.monotonic()
        self.plan: Plan | None = None
        self.step_now = 0
        self.warning = ""

    @property
    def has_stepped(self) -> bool:
        """Whether the training has taken a step."""
        return self.plan is not None and self.step_now > self.plan.first_step

    def started(self, plan: Plan) -> None:
        self.plan, self.step_now = plan, plan.first_step

    def step(self, report: StepReport) -> None:
        self.step_now = report.step
        seen = 0 if self.plan is None else report.step * self.plan.config.per_step
        self._say(f"{seen} images, {report.images_per_second:.1f} images/s")

    def decoding(self, done: int, total: int) -> None:
        self._say(f"decoding pair {done} of {total}")

    def message(self, text: str) -> None:
        self.warning = self.warning or text

    def _say(self, text: str) -> None:
        if time.monotonic() - self._told >= _TELL_EVERY:
            self._told = time.monotonic()
            self._tell(text)
