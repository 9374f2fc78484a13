"""Printed text, tables and progress, for a terminal and for a log file."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from terramorph.report import duration

PLAIN_SECONDS, MOST_SECONDS = 5.0, 600.0
"""Seconds between two progress lines without a terminal: at first, and at most. Each gap is twice the one before, so an
hour takes about ten lines."""
JSON_SECONDS = 0.2
"""Least seconds between two lines of progress for programs."""
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return a text in which nothing steers the terminal: it may be from a file of a stranger."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.splitlines()))


def console() -> Console:
    """Return a console on standard output, without escape codes if that is not a terminal or NO_COLOR is set."""
    return Console(highlight=False, markup=False, soft_wrap=True)


def say(text: str) -> None:
    console().print(text)


def warn(text: str) -> None:
    """Print one line of warning on standard error."""
    print(f"terramorph: warning: {text}", file=sys.stderr, flush=True)


def show_table(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    """Print names and values as a table of two columns."""
    show_columns(title, (), rows, "left")


def show_columns(
    title: str, names: Sequence[str], rows: Iterable[Sequence[Any]], side: Literal["left", "right"] = "right"
) -> None:
    """Print a table, with a heading per column if there are `names`; in a log file, as plain aligned lines.

    The first column is left-aligned, the others to `side`.
    """
    cells, target = [[_cell(value) for value in row] for row in rows], console()
    if target.is_terminal:
        table = Table(title=title, title_justify="left", show_header=bool(names), box=None)
        for index, name in enumerate(names or ("", "")):
            table.add_column(name, style=None if index else "cyan", justify=side if index else "left", overflow="fold")
        for row in cells:
            table.add_row(*row)
        target.print(table, soft_wrap=False)
        return
    lines = [*([list(names)] if names else []), *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(title)
    for first, *rest in lines:
        aligned = [c.rjust(w) if side == "right" else c for c, w in zip(rest, widths[1:], strict=True)]
        print(f"  {first.ljust(widths[0])}", *aligned, sep="  ")
    sys.stdout.flush()


class Meter:
    """Progress of one piece of work: a bar in a terminal, a line now and then elsewhere.

    A context manager. Every update may change the total, and shows a detail beside it.
    """

    def __init__(self, label: str, total: int | None = None) -> None:
        self.label = label
        self._total = total
        self._done = 0
        self._detail = ""
        self._bar: Progress | None = None
        self._started = self._told = time.monotonic()
        self._told_done = -1
        self._gap = PLAIN_SECONDS

    def __enter__(self) -> Self:
        self._started = self._told = time.monotonic()
        target = console()
        if target.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}"),
                console=target,
            )
            self._task = self._bar.add_task(self.label, total=self._total, detail="")
            self._bar.start()
        return self

    def update(self, done: int, total: int | None = None, detail: str = "") -> None:
        self._done, self._detail = done, detail
        self._total = total if total is not None else self._total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self._total, detail=detail)
        elif time.monotonic() - self._told >= self._gap:
            self._gap = min(2 * self._gap, MOST_SECONDS)
            self._line()

    def say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            print(text, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._done and self._done != self._told_done and time.monotonic() - self._started >= PLAIN_SECONDS:
            self._line()

    def _line(self) -> None:
        self._told, self._told_done = time.monotonic(), self._done
        share = (
            f"{self._done}/{self._total} ({100 * self._done / self._total:.0f} %)" if self._total else f"{self._done}"
        )
        detail = f", {self._detail}" if self._detail else ""
        print(f"{self.label}: {share}, {duration(self._told - self._started)}{detail}", flush=True)


class Steps:
    """A meter for each step in turn."""

    def __init__(self) -> None:
        self._meter: Meter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._meter is not None:
            self._meter.__exit__()
            self._meter = None

    def update(self, step: str, done: int, total: int, detail: str = "") -> None:
        """Show the progress of a step; a new name begins a new meter."""
        if self._meter is None or self._meter.label != step:
            self.__exit__()
            self._meter = Meter(step, total).__enter__()
        self._meter.update(done, total, detail)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        (self._meter.say if self._meter is not None else say)(text)


class JsonSteps(Steps):
    """The same for programs: one JSON object per line on standard output, with `step`, `done` and `total`.

    The first and the last line of a step are always printed, those between at most every `JSON_SECONDS`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: tuple[str, float] | None = None

    def update(self, step: str, done: int, total: int, detail: str = "") -> None:
        now = time.monotonic()
        if self._told is None or self._told[0] != step or done == total or now - self._told[1] >= JSON_SECONDS:
            self._told = step, now
            say_json(step=step, done=done, total=total)


def say_json(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{_cell(name)} {_cell(item)}" for name, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value) or "-"
    return printable(str(value))
