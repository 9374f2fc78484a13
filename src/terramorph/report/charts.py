"""SVG charts for pages: matplotlib in one style, with the page's colours, light or dark.

    figure, axes = chart(x="width, px", y="share")
    axes.plot(...)                      # anything that matplotlib draws, in colours of this module
    chart_svg(figure, "share by width") # Markup for a template

Texts take the page's colours where they are added within `style`.
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
_MAP = "magma"
"""Matplotlib's colour map of values in pictures."""
SERIES = ("#0072b2", "#d55e00", "#009e73", "#7f7f7f")
"""Colours of series, in order; colour-blind people can tell them apart (Okabe and Ito, 2008)."""
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
    """Return the CSS variable of a colour of this module, for legends."""
    return f"var(--{_VARIABLES[colour]})"


def chart(width: float = 340, height: float = 200, *, x: str = "", y: str = "") -> tuple[Figure, Axes]:
    """Make an empty chart.

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
    """Convert a figure to an SVG element without scripts, links or external resources.

    Args:
        figure: From `chart`.
        name: Text for screen readers.
        tips: Tooltips of parts; a collection refers to them by ``set_urls`` with ``tip:0``, ``tip:1`` and so on.
    """
    file = io.StringIO()
    with style(), warnings.catch_warnings():
        # The page's typefaces have the character, the one that measures has not.
        warnings.filterwarnings("ignore", message="Glyph")
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
    text = re.sub("#[0-9a-f]{6}", lambda found: css(found[0]) if found[0] in _VARIABLES else found[0], text)
    tip = re.compile('<a xlink:href="tip:([0-9]+)"[^>]*>')
    text = tip.sub(lambda found: f"<a><title>{escape(tips[int(found[1])])}</title>", text)
    return Markup(text)


def errorbars(axes: Axes, x: Sequence[float], intervals: Sequence[Interval], colour: str = SERIES[0]) -> None:
    """Plot means joined by a line, with error bars where an interval has ends."""
    for place, one in zip(x, intervals, strict=True):
        if one.low is not None and one.high is not None:
            axes.plot([place, place], [one.low, one.high], color=colour, alpha=0.5)
    axes.plot(x, [one.mean for one in intervals], color=colour, marker="o", markersize=4.5)


def heat_map(values: NDArray[np.float64], name: str) -> Markup:
    """Draw an array as an image with a colour bar.

    Args:
        values: ``(H, W)``; NaN is left empty.
        name: Quantity and unit, for the colour bar and screen readers.
    """
    figure, axes = chart(300, 240)
    with style():
        figure.colorbar(axes.imshow(values, interpolation="nearest"), label=name).outline.set_visible(False)
    axes.axis("off")
    return chart_svg(figure, name)


def colours(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map values to colours, clipped to 0 to 1; grey where NaN.

    Args:
        values: Floating ``(H, W)``.

    Returns:
        uint8 ``(3, H, W)``.
    """
    import numpy as np
    from matplotlib import colormaps

    drawn: NDArray[np.uint8] = colormaps[_MAP].with_extremes(bad="#808080")(np.ma.masked_invalid(values), bytes=True)
    return np.ascontiguousarray(drawn[..., :3].transpose(2, 0, 1))


def gradient() -> str:
    """Return the colour map of `colours`, from 0 to 1, as a CSS gradient."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return f"linear-gradient(to right, {', '.join(to_hex(colormaps[_MAP](step / 8)) for step in range(9))})"


@contextmanager
def style() -> Iterator[None]:
    """Draw in the page's style while the block runs, whatever style the user has set."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield
