"""What a discussion is made of: sections of sentences with figures, and what their numbers look like in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from terramorph.evaluation.statistics import Interval


@dataclass(frozen=True)
class Sentence:
    """Something said, and the numbers that it rests on.

    Attributes:
        text: One or two sentences, without the figure's number.
        values: The numbers in it, by name.
        figure: Key of the figure that shows it; empty where there is none to show.
    """

    text: str
    values: dict[str, Any]
    figure: str = ""


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        text: As read.
        order: What the column is sorted by; ``None`` for unknown, which goes last.
        strong: Whether it stands out, as a finding does.
        css: A colour shown before the text, as the page writes it.
    """

    text: str
    order: float | str | None
    strong: bool = False
    css: str = ""


@dataclass(frozen=True)
class Pictured:
    """A row of a gallery: a title and its pictures, (caption, data URI)."""

    title: str
    pictures: list[tuple[str, str]]


@dataclass(frozen=True)
class Figure:
    """A chart, a table, or rows of pictures.

    Attributes:
        key: Unique on the page.
        kind: Which of the attributes below it has.
        caption: What is shown and how it was measured.
        charts: (title, SVG) pairs.
        head: Names of the columns.
        body: Rows of cells.
        gallery: Rows of pictures.
        legend: (name, CSS colour) of the colours in charts or pictures.
    """

    key: str
    kind: Literal["charts", "table", "gallery"]
    caption: str
    charts: Sequence[tuple[str, str]] = ()
    head: Sequence[str] = ()
    body: Sequence[Sequence[Cell]] = ()
    gallery: Sequence[Pictured] = ()
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Section:
    """One subject.

    Attributes:
        key: Names it in ``discussion.json``.
        title: Its heading.
        sentences: What is said.
        figures: What is shown.
        data: Plain data behind it, for ``discussion.json``.
    """

    key: str
    title: str
    sentences: list[Sentence]
    figures: list[Figure] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


def percent(share: float) -> str:
    """A share 0 to 1 in percent, with a decimal under 10; what is more than nothing never reads as nothing."""
    value = 100 * share
    if 0 < value < 0.05:
        return "< 0.1 %"
    return f"{value:.1f} %" if abs(value) < 9.95 else f"{value:.0f} %"


def percent_tick(share: float) -> str:
    """A share on an axis, without needless decimals."""
    return f"{100 * share:.3g} %"


def p_value(p: float) -> str:
    """``p = 0.012``, or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def signed(value: float) -> str:
    """A correlation or a difference with its sign, as ``+0.31`` and ``−0.31``."""
    return f"{value:+.2f}".replace("-", "−")


def between(interval: Interval, write: Callable[[float], str]) -> str:
    """``0.31 [0.28, 0.34]``; the mean alone where there is no interval."""
    if interval.low is None or interval.high is None:
        return write(interval.mean)
    return f"{write(interval.mean)} [{write(interval.low)}, {write(interval.high)}]"


def counted(count: int, thing: str) -> str:
    """``1 image``, ``2,000 images``."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
