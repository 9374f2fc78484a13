"""Who is told how a study goes."""

from __future__ import annotations

from typing import Protocol


class TuneReporter(Protocol):
    """Who is told how a study goes."""

    def progress(self, done: int, total: int, detail: str) -> None:
        """Trials (or runs of the confirmation) that have ended, of how many, and what is being done."""

    def message(self, text: str) -> None:
        """A sentence: how a trial ended."""


class SilentTuning:
    """A reporter that says nothing."""

    def progress(self, done: int, total: int, detail: str) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""
