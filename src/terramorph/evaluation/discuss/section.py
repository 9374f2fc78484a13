"""Sections of a discussion, and tests that are corrected together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from numpy.typing import NDArray

from terramorph.evaluation.pictures import Pictures
from terramorph.evaluation.statistics import ALPHA, holm
from terramorph.report.numbers import Interval, p_value, percent
from terramorph.report.pages import Cell, Table

Columns = dict[str, NDArray[Any]]
"""Values of each image by key, ``(N, ...)``."""


@dataclass
class Finding:
    """Result of a test.

    Attributes:
        section: Key of the section.
        subject: What was tested, such as the keys of a covariate and a score.
        effect: Effect size, -1 to 1: rho, or ``2 P - 1`` of the probability P that one group exceeds the other.
        p: Two-sided p value.
        text: The sentence if it is significant, without a full stop.
        data: Further values for ``discussion.json``.
        corrected: P value after Holm's correction for all tests of the discussion.
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
        """CSS class of the cell in a table."""
        return "strong" if self.shown else ""

    @property
    def sentence(self) -> str:
        """Text with the corrected p value."""
        return f"{self.text} ({p_value(self.corrected)})."


def correct(tests: Sequence[Finding]) -> None:
    """Correct all tests together (Holm)."""
    for test, p in zip(tests, holm([test.p for test in tests]), strict=True):
        test.corrected = p


@dataclass(frozen=True)
class Section:
    """A section of a discussion, about one subject.

    Attributes:
        key: Key in ``discussion.json``.
        title: Heading.
        facts: Sentences with numbers, the most important first.
        data: Plain data and intervals for ``discussion.json``.
        table, charts, gallery: Contents; charts are (title, SVG), rows of the gallery (title, pictures).
        legend: (name, CSS colour) of each entry.
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
    """Format a mean and its interval for a table."""
    return None if interval is None else Cell(interval.said(write), interval.mean)


def extremes(
    what: str, whole: float, known: Sequence[tuple[str, Interval]], write: Callable[[float], str] = percent
) -> str:
    """Return a sentence on a value of the set, and on the groups where it is largest and smallest."""
    text = f"{what} is {write(whole)}"
    if len({one.mean for _, one in known}) > 1:
        (most, high), (least, low) = (choose(known, key=lambda item: item[1].mean) for choose in (max, min))
        text += f": largest on {most}, {high.said(write)}, and smallest on {least}, {low.said(write)}"
    return f"{text}."
