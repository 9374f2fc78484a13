"""Formats of numbers, the same on all pages and on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

DASH = "–"
"""Text of a missing value."""


def number(value: float | None) -> str:
    """Format integers and numbers from 1,000 with separators, others with three significant digits; None as a dash."""
    if value is None or math.isnan(value):
        return DASH
    if isinstance(value, int) or (abs(value) >= 999.5 and math.isfinite(value)):
        return minus(f"{value:,.0f}")
    return minus(f"{value:.3g}")


def percent(share: float | None) -> str:
    """Format a share of 0 to 1; near both ends with a decimal, so that only 0 and 1 read as nothing and all."""
    if share is None or not math.isfinite(share):
        return DASH
    value = 100 * share
    if 0 < value < 0.05:
        return "< 0.1 %"
    text = f"{round(min(value, 99.9), 1) + 0.0:.1f}" if abs(value) < 9.95 or 99.5 <= value < 100 else f"{value:.0f}"
    return minus(f"{text.removesuffix('.0')} %")


def signed(value: float) -> str:
    """Format a correlation or a difference with its sign: ``+0.31``, ``−0.31``."""
    return minus(f"{value:+.2f}")


def p_value(p: float) -> str:
    """Format a p-value: ``p = 0.012``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        mean: The value.
        low, high: Ends of the interval; ``None`` where there is none.
    """

    mean: float
    low: float | None
    high: float | None

    def said(self, write: Callable[[float], str] = number) -> str:
        """Format as ``0.31 [0.28, 0.34]``; the mean alone where there is no interval."""
        if self.low is None or self.high is None:
            return write(self.mean)
        return f"{write(self.mean)} [{write(self.low)}, {write(self.high)}]"

    def beyond_zero(self) -> bool:
        """Return whether the interval excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def distance(metres: float) -> str:
    """Format metres; under one as centimetres, from a thousand as kilometres."""
    if metres >= 999.5:
        return f"{number(metres / 1000)} km"
    return f"{metres:.3g} m" if metres >= 1 else f"{100 * metres:.0f} cm"


def duration(seconds: float) -> str:
    """Format seconds: ``48 s``, ``3 min 20 s``, ``5 h 02 min``."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(count: int, thing: str) -> str:
    """Format a count of things: ``1 image``, ``2,000 images``."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def listed(names: Sequence[str], most: int | None = None) -> str:
    """Join names: ``a``, ``a and b``, ``a, b and c``; more than ``most`` as ``a, b and 3 more``."""
    if most is not None and len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def minus(text: str) -> str:
    """Replace hyphens by minus signs."""
    return text.replace("-", "−")
