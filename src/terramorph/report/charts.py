"""Charts as SVG that stands in a page: matplotlib in one style, whose colours are those of the page, light or dark.

    figure, axes = chart(x="width, px", y="share")
    axes.plot(...)                      # whatever matplotlib can draw, in colours of this module
    chart_svg(figure, "share by width") # into the page

Texts that are added to axes stand in colours of the page when they are added within `style`.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from terramorph.report.numbers import Interval

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

INK, SOFT, LINE, CARD = "#1d2327", "#5f6b73", "#e2ded5", "#fefefe"
ACCENT, GOOD, BAD = "#1f6f5d", "#1f6f5c", "#b3402e"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#7f7f7f")
"""Of the series in order: colours that differ for the colour-blind too (Okabe and Ito, 2008)."""
_VARIABLES = {
    INK: "ink", SOFT: "soft", LINE: "line", CARD: "card", ACCENT: "accent", GOOD: "good", BAD: "bad",
    **{colour: f"series-{place}" for place, colour in enumerate(SERIES, start=1)},
}  # fmt: skip
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "terramorph",
    "text.parse_math": False,
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "text.color": SOFT,
    "axes.labelcolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "image.cmap": "magma",
}


def css(colour: str) -> str:
    """A colour of this module as a page writes it, for legends."""
    return f"var(--{_VARIABLES[colour]})"


def chart(width: float = 340, height: float = 200, *, x: str = "", y: str = "") -> tuple[Figure, Axes]:
    """An empty chart.

    Args:
        width, height: In CSS pixels; it shrinks where the page is narrower.
        x, y: Names of the axes.
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure((width / 72, height / 72), layout="constrained")
        axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.set_prop_cycle(color=SERIES, linewidth=[_STYLE["lines.linewidth"]] * len(SERIES))
    return figure, axes


def chart_svg(figure: Figure, name: str, tips: Sequence[str] = ()) -> Markup:
    """A figure as an SVG element without scripts, links or anything from outside.

    Args:
        figure: From `chart`.
        name: What it shows, for those who do not see it.
        tips: What parts say under the pointer: ``set_urls`` of a collection with ``tip:0``, ``tip:1`` and so on.
    """
    file = io.StringIO()
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the page's typefaces write it, not the one that measures
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for pattern in (
        r"<!--.*?-->",
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",
        r' id="[A-Za-z0-9.]+_\d{1,4}"',
        r"\n\s*",
    ):
        text = re.sub(pattern, " " if pattern.startswith(r"\n") else "", text, flags=re.DOTALL)
    width = re.search(r'viewBox="0 0 ([\d.]+)', text)
    assert width is not None
    text = re.sub(
        "<svg[^>]*?(viewBox=.[^\"']*.)[^>]*>",
        rf'<svg class="chart" \1 style="max-width: {float(width[1]):.0f}px" role="img" aria-label="{escape(name)}">',
        text,
        count=1,
    )
    text = re.sub(r"font: (?:[a-z]+ |\d+ )*([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    text = re.sub("#[0-9a-f]{6}", lambda found: _variable(found[0]), text)
    tip = re.compile('<a xlink:href="tip:([0-9]+)"[^>]*>')
    text = tip.sub(lambda found: f"<a><title>{escape(tips[int(found[1])])}</title>", text)
    return Markup(text)


def errorbars(axes: Axes, x: Sequence[float], intervals: Sequence[Interval], colour: str = SERIES[0]) -> None:
    """Points joined by a line, each with the bar of its interval, if it has one."""
    for place, one in zip(x, intervals, strict=True):
        if one.low is not None and one.high is not None:
            axes.plot([place, place], [one.low, one.high], color=colour, alpha=0.5)
    axes.plot(x, [one.mean for one in intervals], color=colour, marker="o", markersize=4.5)


def heat_map(values: NDArray[np.float64], name: str) -> Markup:
    """Numbers over the place within an image, with their scale.

    Args:
        values: ``(H, W)``; NaN is left empty.
        name: What they are, with the unit.
    """
    figure, axes = chart(300, 240)
    with style():
        figure.colorbar(axes.imshow(values, interpolation="nearest"), label=name).outline.set_visible(False)
    axes.axis("off")
    return chart_svg(figure, name)


def colours(values: NDArray[Any], name: str = "magma") -> NDArray[np.uint8]:
    """Numbers from 0 to 1 and more as colours; grey where NaN.

    Args:
        values: floating ``(H, W)``.
        name: Of matplotlib's colour map.

    Returns:
        uint8 ``(3, H, W)``.
    """
    import numpy as np
    from matplotlib import colormaps

    drawn: NDArray[np.uint8] = colormaps[name].with_extremes(bad="#808080")(np.ma.masked_invalid(values), bytes=True)
    return np.ascontiguousarray(drawn[..., :3].transpose(2, 0, 1))


def gradient(name: str = "magma") -> str:
    """The colours of `colours` from 0 to 1 as a CSS gradient."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return f"linear-gradient(to right, {', '.join(to_hex(colormaps[name](step / 8)) for step in range(9))})"


@contextmanager
def style() -> Iterator[None]:
    """A context in which what is drawn looks like the page, whatever style the user has chosen."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _variable(colour: str) -> str:
    return css(colour) if colour in _VARIABLES else colour
