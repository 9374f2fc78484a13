"""Histograms and scatter plots as SVG that stands in a page: no scripts, nothing from outside."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_BINS = 36
_MOST_POINTS = 2000
"""Points of a scatter plot; of more, evenly spaced ones are drawn."""


def histogram(
    values: NDArray[np.float64], kept: NDArray[np.bool_], write: Callable[[float], str], top: float | None = None
) -> str | None:
    """How a measure is spread, with its median over what was kept marked.

    Heights are square roots of counts, so that a few odd tiles show beside thousands of good ones.

    Args:
        values: float64 (N,), 0 or more, NaN where unknown.
        kept: bool (N,); what was not kept is stacked on top in grey.
        write: a value as text.
        top: the largest value that there can be; None if there is no such.

    Returns:
        An SVG element, or None if nothing is known or all values are equal.
    """
    known = np.isfinite(values)
    if not known.any() or np.ptp(values[known]) == 0:
        return None
    high = nice_ceiling(float(values[known].max()))
    high = high if top is None else min(high, top)
    edges = np.linspace(0, high, _BINS + 1)
    good, rest = (np.histogram(values[known & chosen].clip(0, high), edges)[0] for chosen in (kept, ~kept))
    width, height, left, base = 336.0, 158.0, 40.0, 132.0
    tall = base - 22
    scale = tall / math.sqrt(int((good + rest).max()))
    step = (width - left - 8) / _BINS
    svg = [f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img">']
    for count in _count_ticks(int((good + rest).max())):
        y = base - scale * math.sqrt(count)
        svg.append(f'<path class="rule" d="M{left} {y:.1f}H{width - 8:.0f}"/>')
        svg.append(f'<text x="{left - 5}" y="{y + 3.5:.1f}" text-anchor="end">{_counted(count)}</text>')
    for i, (a, b) in enumerate(zip(good.tolist(), rest.tolist(), strict=True)):
        if a + b == 0:
            continue
        x, whole, part = left + i * step, scale * math.sqrt(a + b), scale * math.sqrt(a)
        title = f"{write(float(edges[i]))} to {write(float(edges[i + 1]))}: {a:,} kept, {b:,} left out"
        svg.append(f"<g><title>{title}</title>")
        if b:
            svg.append(f'<rect class="left" x="{x:.1f}" y="{base - whole:.1f}" width="{step - 1:.1f}" '
                       f'height="{whole - part:.1f}"/>')  # fmt: skip
        if a:
            svg.append(f'<rect class="kept" x="{x:.1f}" y="{base - part:.1f}" width="{step - 1:.1f}" '
                       f'height="{part:.1f}"/>')  # fmt: skip
        svg.append("</g>")
    svg.append(f'<path class="axis" d="M{left} {base}H{width - 8:.0f}"/>')
    for tick in (0.0, high / 2, high):
        x = left + tick / high * (width - left - 8)
        anchor = "end" if tick == high else "middle" if tick else "start"
        svg.append(f'<text x="{x:.1f}" y="{base + 15:.0f}" text-anchor="{anchor}">{write(tick)}</text>')
    if (known & kept).any():
        median = float(np.median(values[known & kept]))
        x = left + median / high * (width - left - 8)
        side, gap = ("start", 4) if x < width / 2 else ("end", -4)
        svg.append(f'<path class="median" d="M{x:.1f} {base}V8"/>')
        svg.append(f'<text class="strong" x="{x + gap:.1f}" y="15" text-anchor="{side}">median {write(median)}</text>')
    return "".join([*svg, "</svg>"])


def scatter(
    dx: NDArray[np.float64],
    dy: NDArray[np.float64],
    common: tuple[float, float] | None = None,
    metres: float | None = None,
) -> tuple[str, list[str]]:
    """Where the targets lie off their sources: right is right and down is down, as in the pictures.

    Args:
        dx, dy: float64 (N,), N >= 1, pixels.
        common: the shift that most agree on, ringed at 1 px.
        metres: per pixel, for a second scale; None if not known or not one.

    Returns:
        An SVG element, and sentences about what is not drawn.
    """
    far = float(np.percentile(np.maximum(np.abs(dx), np.abs(dy)), 99))
    reach = max(2, math.ceil(max(far, *(abs(v) + 1 for v in common or (0.0, 0.0)))))
    side, edge = 420.0, 44.0
    scale = (side - 2 * edge) / (2 * reach)

    def at(value: float) -> float:
        return side / 2 + scale * value

    inside = (np.abs(dx) <= reach) & (np.abs(dy) <= reach)
    every = -(-int(inside.sum()) // _MOST_POINTS)
    drawn = np.flatnonzero(inside)[::every]
    notes = []
    if every > 1:
        notes.append(f"{len(drawn):,} of {int(inside.sum()):,} tiles are drawn, evenly chosen.")
    if not inside.all():
        notes.append(f"{int((~inside).sum()):,} tiles lie beyond {reach} px and outside the picture.")
    svg = _plane(side, edge, reach, scale, metres)
    opacity = 0.6 if len(drawn) < 400 else 0.3
    points = "".join(f"M{at(dx[i]):.1f} {at(dy[i]):.1f}h0" for i in drawn.tolist())
    svg.append(f'<path class="points" stroke-opacity="{opacity}" d="{points}"/>')
    if common is not None:
        x, y = at(common[0]), at(common[1])
        svg.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="{scale:.1f}"/>')
        svg.append(f'<path class="ring" d="M{x - 5:.1f} {y:.1f}h10M{x:.1f} {y - 5:.1f}v10"/>')
    return "".join([*svg, "</svg>"]), notes


def nice_ceiling(value: float) -> float:
    """The smallest of 1, 2, 2.5, 4, 5, 6, 8, 10 times a power of ten that is no smaller than a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return float(next(m * power for m in (1, 2, 2.5, 4, 5, 6, 8, 10, 20) if m * power >= value * (1 - 1e-9)))


def nice_floor(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is no larger than a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return float(max(m * power for m in (0.5, 1, 2, 5, 10) if m * power <= value * (1 + 1e-9)))


def _count_ticks(most: int) -> list[int]:
    """The largest count and about a quarter of it, which on the scale of roots is halfway."""
    return sorted({most, max(1, round(most / 4))})


def _plane(side: float, edge: float, reach: int, scale: float, metres: float | None) -> list[str]:
    """The opening of a scatter plot: its field, its rules a pixel or more apart, and their numbers."""

    def at(value: float) -> float:
        return side / 2 + scale * value

    svg = [f'<svg class="chart" viewBox="0 0 {side:.0f} {side:.0f}" role="img">']
    low, high = at(-reach), at(reach)
    svg.append(f'<rect class="field" x="{low:.1f}" y="{low:.1f}" width="{high - low:.1f}" height="{high - low:.1f}"/>')
    step = max(1, int(nice_ceiling(reach / 2)) if reach > 2 else 1)
    for tick in range(-reach // step * step, reach + 1, step):
        if abs(tick) > reach:
            continue
        p = at(tick)
        kind = "axis" if tick == 0 else "rule"
        svg.append(f'<path class="{kind}" d="M{p:.1f} {low:.1f}V{high:.1f}M{low:.1f} {p:.1f}H{high:.1f}"/>')
        svg.append(f'<text x="{p:.1f}" y="{high + 15:.1f}" text-anchor="middle">{_signed(tick)}</text>')
        svg.append(f'<text x="{low - 6:.1f}" y="{p + 4:.1f}" text-anchor="end">{_signed(tick)}</text>')
        if metres is not None:
            text = _signed(round(tick * metres, 2))
            svg.append(f'<text x="{p:.1f}" y="{low - 7:.1f}" text-anchor="middle">{text}</text>')
            svg.append(f'<text x="{high + 6:.1f}" y="{p + 4:.1f}">{text}</text>')
    svg.append(f'<text x="{side / 2:.0f}" y="{side - 8:.0f}" text-anchor="middle">px to the right →</text>')
    middle = side / 2
    svg.append(f'<text transform="translate(11 {middle:.0f}) rotate(90)" text-anchor="middle">px down →</text>')
    if metres is not None:
        svg.append(f'<text x="{side / 2:.0f}" y="14" text-anchor="middle">m to the right →</text>')
    return svg


def _counted(count: int) -> str:
    return f"{count:,}" if count < 10_000 else f"{count / 1000:,.0f}k"


def _signed(value: float) -> str:
    return f"{value:g}".replace("-", "−")
