"""Numbers as people read them, the same on all pages and on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

DASH = "–"
"""Stands for a value that there is not."""


def number(value: float | None) -> str:
    """A count with separators, another number with three significant digits; a dash for none."""
    if value is None or math.isnan(value):
        return DASH
    if isinstance(value, int) or (abs(value) >= 1000 and math.isfinite(value)):
        return minus(f"{value:,.0f}")
    return minus(f"{value:.3g}")


def percent(share: float | None) -> str:
    """A share 0 to 1, with a decimal at both ends: what is nearly nothing or all does not read so."""
    if share is None or not math.isfinite(share):
        return DASH
    value = 100 * share
    if 0 < value < 0.05:
        return "< 0.1 %"
    text = f"{min(value, 99.9):.1f}" if abs(value) < 9.95 or 99.5 <= value < 100 else f"{value:.0f}"
    return minus(f"{text.removesuffix('.0')} %")


def signed(value: float) -> str:
    """A correlation or a difference with its sign, as ``+0.31`` and ``−0.31``."""
    return minus(f"{value:+.2f}")


def p_value(p: float) -> str:
    """``p = 0.012``, or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


@dataclass(frozen=True)
class Interval:
    """A figure and what is left open by chance.

    Attributes:
        mean: The figure.
        low, high: The ends of its interval; ``None`` where there is none.
    """

    mean: float
    low: float | None
    high: float | None

    def said(self, write: Callable[[float], str] = number) -> str:
        """``0.31 [0.28, 0.34]``; the mean alone where there is no interval."""
        if self.low is None or self.high is None:
            return write(self.mean)
        return f"{write(self.mean)} [{write(self.low)}, {write(self.high)}]"

    def beyond_zero(self) -> bool:
        """Whether it excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def distance(metres: float) -> str:
    """Metres: centimetres under one, kilometres from a thousand."""
    if metres >= 1000:
        return f"{metres / 1000:.3g} km"
    return f"{metres:.3g} m" if metres >= 1 else f"{100 * metres:.0f} cm"


def duration(seconds: float) -> str:
    """Seconds as people say them: 48 s, 3 min 20 s, 5 h 02 min."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(count: int, thing: str) -> str:
    """``1 image``, ``2,000 images``."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def listed(names: Sequence[str], most: int | None = None) -> str:
    """``a``, ``a and b``, ``a, b and c``; of more than so many, ``a, b and 3 more``."""
    if most is not None and len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def minus(text: str) -> str:
    """The sign of a negative number as printers set it."""
    return text.replace("-", "−")
