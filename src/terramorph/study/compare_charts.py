"""Effects with their intervals, and training curves, as SVG that stands in a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from terramorph.study.compare_sentences import anchor, signed

_ROW = 24.0
Curve = Sequence[tuple[float, float]]


def effect_plot(rows: Sequence[Mapping[str, Any]], higher_is_better: bool) -> str:
    """Differences from the base on one metric, a row each, with their 95 % intervals.

    Args:
        rows: effects of one metric, from `make_comparison`.
        higher_is_better: of the metric; better is always on the right.
    """
    width, left, top = 560.0, 172.0, 24.0
    right = width - 74
    height = top + _ROW * len(rows) + 26
    reach = max(max(abs(row["low"]), abs(row["high"]), abs(row["difference"])) for row in rows) * 1.04 or 1.0
    sign = 1 if higher_is_better else -1

    def at(value: float) -> float:
        return (left + right) / 2 + sign * value / reach * (right - left) / 2

    bottom = top + _ROW * len(rows)
    svg = [f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img">']
    for tick in _ticks(reach):
        x = at(tick)
        svg.append(f'<path class="{"axis" if tick == 0 else "rule"}" d="M{x:.1f} {top - 4:.0f}V{bottom:.0f}"/>')
        svg.append(f'<text x="{x:.1f}" y="{bottom + 15:.0f}" text-anchor="middle">{signed(tick) if tick else 0}</text>')
    svg.append(f'<text x="{right:.0f}" y="12" text-anchor="end">better →</text>')
    svg.append(f'<text x="{left:.0f}" y="12">← worse</text>')
    for number, row in enumerate(rows):
        y = top + _ROW * (number + 0.5)
        kind = row["verdict"] if row["verdict"] in ("better", "worse") else "none"
        low, high, middle = at(row["low"]), at(row["high"]), at(row["difference"])
        interval = f"{signed(row['low'])} to {signed(row['high'])}"
        title = f"{row['variant']}: {signed(row['difference'])} ({interval}), {row['verdict']}"
        svg.append(f'<a href="#{anchor(row["variant"], row["metric"])}"><title>{escape(title)}</title>')
        svg.append(
            f'<text class="name" x="{left - 10:.0f}" y="{y + 4:.1f}" text-anchor="end">{_cut(row["variant"])}</text>'
        )
        svg.append(f'<path class="bar {kind}" d="M{low:.1f} {y:.1f}H{high:.1f}"/>')
        svg.append(f'<circle class="{kind}" cx="{middle:.1f}" cy="{y:.1f}" r="4.6"/>')
        svg.append(f'<text class="{kind}" x="{right + 8:.0f}" y="{y + 4:.1f}">{signed(row["difference"])}</text></a>')
    return "".join([*svg, "</svg>"])


def curves_plot(own: Sequence[Curve], base: Sequence[Curve], diverged: bool = False) -> str:
    """Training curves of a variant over those of the base, one line a seed.

    Args:
        own, base: (images seen, loss) in order, for each seed; on a common scale only within the plot.
        diverged: mark the ends of the variant's lines.
    """
    width, height, left, top, base_line = 300.0, 160.0, 44.0, 10.0, 132.0
    every = [point for curve in (*own, *base) for point in curve]
    far = max(x for x, _ in every)
    values = sorted(y for _, y in every)
    low, high = values[0], values[min(len(values) - 1, int(0.97 * len(values)))]
    spread = (high - low) or 1.0

    def at(x: float, y: float) -> str:
        place = min(max((y - low) / spread, 0.0), 1.0)
        return f"{left + x / far * (width - left - 10):.1f} {base_line - place * (base_line - top):.1f}"

    svg = [f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img">']
    for value in (low, high):
        y = at(0, value).split()[1]
        svg.append(f'<path class="rule" d="M{left:.0f} {y}H{width - 10:.0f}"/>')
        svg.append(f'<text x="{left - 5:.0f}" y="{float(y) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for kind, curves in (("behind", base), ("line", own)):
        for curve in curves:
            svg.append(f'<path class="{kind}" d="M{"L".join(at(x, y) for x, y in curve)}"/>')
    if diverged:
        svg += [
            f'<path class="cross" transform="translate({at(*curve[-1])})" d="M-4-4L4 4M-4 4L4-4"/>' for curve in own
        ]
    svg.append(f'<text x="{width - 10:.0f}" y="{base_line + 16:.0f}" text-anchor="end">{far:,.0f} images</text>')
    svg.append(f'<text x="{left:.0f}" y="{base_line + 16:.0f}">0</text>')
    return "".join([*svg, "</svg>"])


def _ticks(reach: float) -> list[float]:
    """Zero and one or two round numbers on either side."""
    power = 10.0 ** math.floor(math.log10(reach))
    step = next(m * power for m in (5, 2, 1, 0.5) if m * power <= reach / 1.2)
    count = int(reach / step)
    return [number * step for number in range(-count, count + 1)]


def _cut(name: str) -> str:
    return escape(name if len(name) <= 26 else name[:25] + "…")
