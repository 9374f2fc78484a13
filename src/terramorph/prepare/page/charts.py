"""How the measures of a prepared dataset are spread, and where its targets lie off its sources."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph.report.charts import ACCENT, BAD, INK, LINE, SOFT, chart, chart_svg, style

_BINS = 36
_MOST_POINTS = 2000
"""Points of a scatter plot; of more, evenly spaced ones are drawn."""


def histogram(values: NDArray[np.float64], kept: NDArray[np.bool_], write: Callable[[float], str]) -> Markup | None:
    """How a measure is spread: what was kept, on top what was left out, and the median of what was kept.

    Heights are square roots of counts, so that a few odd tiles show beside thousands of good ones.

    Args:
        values: float64 (N,), 0 or more, NaN where unknown.
        kept: bool (N,).
        write: a value as text.

    Returns:
        An SVG element, or None if nothing is known or all values are equal.
    """
    known = np.isfinite(values)
    if not known.any() or np.ptp(values[known]) == 0:
        return None
    figure, axes = chart(336, 150)
    edges = np.linspace(0, float(values[known].max()), _BINS + 1)
    good, rest = (np.histogram(values[known & chosen], edges)[0] for chosen in (kept, ~kept))
    for count, below, colour in ((good, np.zeros_like(good), ACCENT), (rest, good, SOFT)):
        some = count > 0
        axes.bar(edges[:-1][some], count[some], 0.9 * edges[1], below[some], align="edge", color=colour)
    axes.set_yscale("function", functions=(np.sqrt, np.square))
    most = int((good + rest).max())
    axes.set_yticks(sorted({max(1, round(most / 4)), most}))
    axes.set_ylim(0, most)
    axes.xaxis.set_major_formatter(lambda value, _: write(value))
    axes.locator_params(axis="x", nbins=5)
    if (known & kept).any():
        median = float(np.median(values[known & kept]))
        with style():
            axes.axvline(median, color=INK, linestyle=":")
            axes.set_title(f"median {write(median)}", fontsize=10.5, color=INK)
    return chart_svg(figure, "Tiles by this measure")


def scatter(
    dx: NDArray[np.float64], dy: NDArray[np.float64], common: tuple[float, float] | None, metres: float | None
) -> tuple[Markup, list[str]]:
    """Where the targets lie off their sources: right is right and down is down, as in the pictures.

    Args:
        dx, dy: float64 (N,), N >= 1, pixels.
        common: the shift that most agree on, ringed at 1 px.
        metres: per pixel, for a second scale; None if not known or not one.

    Returns:
        An SVG element, and sentences about what is not drawn.
    """
    far = float(np.percentile(np.maximum(np.abs(dx), np.abs(dy)), 99))
    reach = max(2, int(np.ceil(max(far, *(abs(v) + 1 for v in common or (0.0, 0.0))))))
    inside = (np.abs(dx) <= reach) & (np.abs(dy) <= reach)
    drawn = np.flatnonzero(inside)[:: -(-int(inside.sum()) // _MOST_POINTS)]
    notes = []
    if len(drawn) < inside.sum():
        notes.append(f"{len(drawn):,} of {int(inside.sum()):,} tiles are drawn, evenly chosen.")
    if not inside.all():
        notes.append(f"{int((~inside).sum()):,} tiles lie beyond {reach} px and outside the picture.")
    figure, axes = chart(420, 420, x="px to the right", y="px down")
    axes.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal")
    axes.grid(axis="both", color=LINE)
    axes.scatter(dx[drawn], dy[drawn], s=14, color=ACCENT, alpha=0.6 if len(drawn) < 400 else 0.3, linewidths=0)
    if common is not None:
        from matplotlib.patches import Circle

        axes.add_patch(Circle(common, 1, fill=False, color=BAD, linewidth=1.6))
        axes.plot(*common, "+", color=BAD)
    if metres is not None:
        with style():
            scale = (lambda px: px * metres, lambda m: m / metres)
            axes.secondary_xaxis("top", functions=scale).set_xlabel("m")
    return chart_svg(figure, "Shifts of tiles"), notes
