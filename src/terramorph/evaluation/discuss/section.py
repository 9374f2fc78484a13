"""Sections of a discussion, one subject each, and tests that are corrected together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from numpy.typing import NDArray

from terramorph.evaluation.pictures import Pictures
from terramorph.evaluation.statistics import ALPHA, holm
from terramorph.report.numbers import Interval, p_value, percent
from terramorph.report.tables import Cell, Table

Columns = dict[str, NDArray[Any]]
"""What is known of each image: ``(N,)`` or ``(N, ...)``."""


@dataclass
class Finding:
    """Result of one test.

    Attributes:
        section: Key of the subject.
        subject: What was tested, such as the keys of a covariate and a score.
        effect: From -1 to 1, 0 for none: rho, or how far the chance of exceeding lies from a half, doubled.
        p: Two-sided.
        text: The sentence if it holds, without a full stop.
        data: More of it, for ``discussion.json``.
        corrected: p by Holm for all tests of the discussion.
    """

    section: str
    subject: tuple[str, ...]
    effect: float
    p: float
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    corrected: float = 1.0

    @property
    def shown(self) -> bool:
        return self.corrected < ALPHA

    @property
    def kind(self) -> str:
        """CSS class of its cell in a table."""
        return "strong" if self.shown else ""

    @property
    def sentence(self) -> str:
        """The text with its corrected p."""
        return f"{self.text} ({p_value(self.corrected)})."


def correct(tests: Sequence[Finding]) -> None:
    """Correct all tests together (Holm)."""
    for test, p in zip(tests, holm([test.p for test in tests]), strict=True):
        test.corrected = p


@dataclass(frozen=True)
class Section:
    """A subject of a discussion.

    Attributes:
        key: In ``discussion.json``.
        title: Its heading.
        facts: Sentences with figures, the most important first.
        data: Plain data and intervals behind it, for ``discussion.json``.
        table, charts, gallery: Charts are (title, SVG), rows of the gallery (title, pictures).
        legend: (name, CSS colour).
        chart_caption, gallery_caption: What is shown and how it was measured.
    """

    key: str
    title: str
    facts: list[str]
    data: dict[str, Any] = field(default_factory=dict)
    table: Table | None = None
    charts: Sequence[tuple[str, Markup]] = ()
    gallery: Sequence[tuple[str, Pictures]] = ()
    legend: Sequence[tuple[str, str]] = ()
    chart_caption: str = ""
    gallery_caption: str = ""


def cell(interval: Interval | None, write: Callable[[float], str] = percent) -> Cell | None:
    """A mean with its interval in a table."""
    return None if interval is None else Cell(interval.said(write), interval.mean)


def extremes(
    what: str, whole: float, known: Sequence[tuple[str, Interval]], write: Callable[[float], str] = percent
) -> str:
    """Sentence on a figure of the set, and on the groups where it is largest and smallest."""
    text = f"{what} is {write(whole)}"
    if len({one.mean for _, one in known}) > 1:
        (most, high), (least, low) = (choose(known, key=lambda item: item[1].mean) for choose in (max, min))
        text += f": largest on {most}, {high.said(write)}, and smallest on {least}, {low.said(write)}"
    return f"{text}."
