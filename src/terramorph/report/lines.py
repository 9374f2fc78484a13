"""Points with intervals and curves as SVG that stands in a page: no scripts, nothing from outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#7f7f7f")
"""Of the series in order: colours that differ for the colour-blind too (Okabe and Ito, 2008)."""
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BASE = 340.0, 190.0, 48.0, 332.0, 12.0, 146.0


@dataclass(frozen=True)
class Series:
    """Points, joined by a line.

    Attributes:
        x, y: Where the points lie.
        low, high: Ends of their intervals; ``None`` where a point has none.
        titles: What a point says under the pointer; empty for nothing.
        marks: Whether the points are drawn, or the line alone.
    """

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    titles: Sequence[str] = ()
    marks: bool = True


def plot(
    series: Sequence[Series],
    *,
    x_name: str,
    y_name: str,
    write_y: Callable[[float], str],
    x_labels: Sequence[tuple[float, str]],
    from_zero: bool = False,
) -> str:
    """A chart of one or more series.

    Args:
        series: With at least one point together.
        x_name, y_name: What the axes are.
        write_y: A value on the upright axis as text.
        x_labels: (place, text) under the lower axis.
        from_zero: Whether the upright axis begins at 0.

    Returns:
        An SVG element.
    """
    low, high, ticks = _upright(series, from_zero)
    places = [x for one in series for x in one.x] + [x for x, _ in x_labels]
    first, last = min(places), max(places)
    margin = 0.04 * (last - first) or 0.5

    def across(x: float) -> float:
        return _LEFT + (x - first + margin) / (last - first + 2 * margin) * (_RIGHT - _LEFT)

    def up(y: float) -> float:
        return _BASE - (y - low) / (high - low) * (_BASE - _TOP)

    svg = [f'<svg class="chart" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(y_name)}">']
    for tick in ticks:
        svg.append(f'<path class="rule" d="M{_LEFT} {up(tick):.1f}H{_RIGHT}"/>')
        svg.append(f'<text x="{_LEFT - 5}" y="{up(tick) + 4:.1f}" text-anchor="end">{escape(write_y(tick))}</text>')
    svg.append(f'<path class="axis" d="M{_LEFT} {_BASE}H{_RIGHT}"/>')
    for x, text in x_labels:
        svg.append(f'<text x="{across(x):.1f}" y="{_BASE + 15}" text-anchor="middle">{escape(text)}</text>')
    svg.append(f'<text class="name" x="{_RIGHT}" y="{_HEIGHT - 10}" text-anchor="end">{escape(x_name)}</text>')
    svg.append(f'<text class="name" x="2" y="{_HEIGHT - 10}">{escape(y_name)}</text>')
    for number, one in enumerate(series):
        svg += _drawn(one, COLOURS[number % len(COLOURS)], across, up)
    return Markup("".join([*svg, "</svg>"]))


def _upright(series: Sequence[Series], from_zero: bool) -> tuple[float, float, list[float]]:
    """The ends of the upright axis and its ticks, a round step apart."""
    values = [v for one in series for v in (*one.y, *one.low, *one.high) if v is not None]
    low, high = min(values), max(values)
    if from_zero:
        low = min(0.0, low)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = (low, low + 1.0) if from_zero else (low - 0.5, high + 0.5)
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next(m * power for m in (1, 2, 2.5, 5, 10, 20) if (high - low) / (m * power) <= 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return first * step, last * step, [k * step for k in range(first, last + 1)]


def _drawn(one: Series, colour: str, across: Callable[[float], float], up: Callable[[float], float]) -> list[str]:
    """A series: its intervals, its line, its points."""
    svg = []
    for x, low, high in zip(one.x, one.low, one.high, strict=False):
        if low is not None and high is not None:
            svg.append(f'<path class="whisker" stroke="{colour}" d="M{across(x):.1f} {up(low):.1f}V{up(high):.1f}"/>')
    points = list(zip(one.x, one.y, strict=True))
    line = "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in points)
    svg.append(f'<path class="line" stroke="{colour}" d="M{line}"/>')
    for i, (x, y) in enumerate(points if one.marks else []):
        title = f"<title>{escape(one.titles[i])}</title>" if one.titles else ""
        svg.append(f'<circle fill="{colour}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.4">{title}</circle>')
    return svg
