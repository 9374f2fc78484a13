"""Roads by their width: are narrow ones found as well as wide ones?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import ROADS
from terramorph.evaluation.discuss.section import Cell, Figure, Section, Sentence, between, percent, percent_tick
from terramorph.evaluation.statistics import Interval, ratio_intervals
from terramorph.report.lines import COLOURS, Series, plot

TOLERANCE = 2
"""Pixels: a road counts as found when one was drawn this near."""
BOUNDS = (2.5, 4.5, 6.5, 9.5)
"""Pixels: where one group of widths ends and the next begins."""
GROUPS = ("1–2", "3–4", "5–6", "7–9", "10+")
_LEAST = 200  # pixels of a group, for a sentence about it


@dataclass
class RoadCounts:
    """Road pixels of each image by width, and how many of them the other side has too.

    Attributes:
        true, found: A row an image of pixels of the truth's roads by their width, and of those near a drawn road.
        drawn, right: The same of the drawn roads, and of those near a true one.
    """

    true: list[NDArray[np.int64]] = field(default_factory=list)
    found: list[NDArray[np.int64]] = field(default_factory=list)
    drawn: list[NDArray[np.int64]] = field(default_factory=list)
    right: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, truth: NDArray[np.int64], prediction: NDArray[np.int64]) -> None:
        """Count one image: the `widths` of its true and of its drawn roads, int64 ``(H, W)``."""
        for roads, others, whole, part in (
            (truth, prediction, self.true, self.found),
            (prediction, truth, self.drawn, self.right),
        ):
            whole.append(np.bincount(roads[roads >= 0], minlength=len(GROUPS)))
            part.append(np.bincount(roads[(roads >= 0) & near(others >= 0)], minlength=len(GROUPS)))


def road_widths(classes: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The `widths` of roads: class indices uint8 ``(H, W)``, and where they count, bool ``(H, W)``."""
    return widths(np.isin(classes, ROADS) & mask)


def widths(mask: NDArray[np.bool_], bounds: Sequence[float] = BOUNDS) -> NDArray[np.int64]:
    """The width of what a pixel belongs to: the largest disc inside the mask that covers it (local thickness,
    Hildebrand and Rüegsegger, "A new method for the model-independent assessment of thickness", 1997).

    The distance transform gives each pixel the disc around it. It is taken at twice the size, where the middle of a
    stroke of any whole width is a pixel; a straight stroke of w px is then w wide to the pixel.

    Args:
        mask: bool ``(H, W)``.
        bounds: Widths in pixels, rising.

    Returns:
        int64 ``(H, W)``: how many of the bounds the width exceeds; -1 outside the mask.
    """
    fine = mask.repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8)
    radius = cv2.distanceTransform(fine, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    found = np.where(mask, 0, -1)
    for bound in bounds:
        centres = radius > bound
        if not centres.any():
            break
        away = cv2.distanceTransform((~centres).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        rows = np.minimum(away[::2], away[1::2])
        found[(np.minimum(rows[:, ::2], rows[:, 1::2]) <= bound) & mask] += 1
    return found


def near(mask: NDArray[np.bool_], reach: int = TOLERANCE) -> NDArray[np.bool_]:
    """Pixels at most ``reach`` from one of the mask: bool ``(H, W)``."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    wide: NDArray[np.bool_] = cv2.dilate(mask.astype(np.uint8), disc).astype(np.bool_)
    return wide


def roads_section(counts: RoadCounts, metres: float | None, generator: np.random.Generator) -> Section:
    """Recall and precision of roads by width.

    Args:
        counts: Of all images.
        metres: Per pixel, or ``None`` where it is not known.
        generator: Draws the resamplings.
    """
    title = "Roads by width"
    true, found, drawn, right = (
        np.stack(side).astype(np.float64) for side in (counts.true, counts.found, counts.drawn, counts.right)
    )
    if not true.sum():
        text = (
            f"The truths hold no road: 0 of their pixels are of a road class; {int(drawn.sum()):,} were drawn as one."
        )
        return Section("roads", title, [Sentence(text, {"true": 0, "drawn": int(drawn.sum())})])
    recall, precision = ratio_intervals(found, true, generator), ratio_intervals(right, drawn, generator)
    pixels = true.sum(axis=0)
    data = {
        "tolerance_px": TOLERANCE,
        "metres_per_px": metres,
        "groups": [
            {
                "width_px": GROUPS[k],
                "true_px": int(pixels[k]),
                "drawn_px": int(drawn[:, k].sum()),
                "recall": None if (one := recall[k]) is None else asdict(one),
                "precision": None if (one := precision[k]) is None else asdict(one),
            }
            for k in range(len(GROUPS))
        ],
    }
    figures = [_chart(recall, precision, metres), _table(recall, precision, true, drawn, metres)]
    said = _said(recall, precision, pixels, drawn.sum(axis=0), float(found.sum() / true.sum()), metres)
    return Section("roads", title, said, figures, data)


def _said(
    recall: list[Interval | None],
    precision: list[Interval | None],
    pixels: NDArray[np.float64],
    drawn: NDArray[np.float64],
    found: float,
    metres: float | None,
) -> list[Sentence]:
    text = (
        f"Of {int(pixels.sum()):,} road pixels of the truths, {percent(found)} have a drawn road within {TOLERANCE} px."
    )
    said = [Sentence(text, {"road_px": int(pixels.sum()), "recall": found}, "roads-by-width")]
    known = [(k, one) for k, one in enumerate(recall) if one is not None and pixels[k] >= _LEAST]
    if len(known) > 1:
        (least, low), (most, high) = (choose(known, key=lambda item: item[1].mean) for choose in (min, max))
        verdict = "the intervals do not overlap" if _apart(low, high) else "the intervals overlap"
        text = (
            f"Roads {_named(most, metres)} wide are found best, to {between(high, percent)}, and those "
            f"{_named(least, metres)} wide worst, to {between(low, percent)}: {verdict}."
        )
        values = {"best": GROUPS[most], "recall": high.mean, "worst": GROUPS[least], "least": low.mean}
        said.append(Sentence(text, values, "roads-by-width"))
    made = [(k, one) for k, one in enumerate(precision) if one is not None and drawn[k] >= _LEAST]
    if made:
        k, worst = min(made, key=lambda item: item[1].mean)
        text = (
            f"Of what was drawn as a road, the {_named(k, metres)} wide is wrong most often: "
            f"{between(worst, percent)} of it lies within {TOLERANCE} px of a true road."
        )
        said.append(Sentence(text, {"width_px": GROUPS[k], "precision": worst.mean}, "roads-by-width"))
    return said


def _chart(recall: list[Interval | None], precision: list[Interval | None], metres: float | None) -> Figure:
    series = []
    for name, side in (("found", recall), ("right", precision)):
        known = [(k, one) for k, one in enumerate(side) if one is not None]
        series.append(
            Series(
                x=[k + (0.05 if name == "right" else -0.05) for k, _ in known],
                y=[one.mean for _, one in known],
                low=[one.low for _, one in known],
                high=[one.high for _, one in known],
                titles=[f"{GROUPS[k]} px, {name}: {between(one, percent)}" for k, one in known],
            )
        )
    svg = plot(
        [one for one in series if one.x],
        x_name="width, px" if metres is None else f"width, px of {metres:.3g} m",
        y_name="share",
        write_y=percent_tick,
        x_labels=list(enumerate(GROUPS)),
        from_zero=True,
    )
    caption = (
        "Recall: true road pixels with a drawn road near; precision: drawn road pixels with a true one near; near is "
        f"within {TOLERANCE} px. Bars: 95 %, images resampled. Width: the largest disc within the road that covers "
        "the pixel, so crossings count as a little wider than their streets."
    )
    names = list(zip(("recall", "precision"), COLOURS, strict=False))
    return Figure("roads-by-width", "charts", caption, charts=[("", svg)], legend=names)


def _table(
    recall: list[Interval | None],
    precision: list[Interval | None],
    true: NDArray[np.float64],
    drawn: NDArray[np.float64],
    metres: float | None,
) -> Figure:
    body = []
    for k in range(len(GROUPS)):
        sides = [(recall[k], true), (precision[k], drawn)]
        cells = [Cell(_named(k, metres), k)]
        for interval, pixels in sides:
            count = int(pixels[:, k].sum())
            cells += [
                Cell(f"{count:,}", count),
                Cell("–", None) if interval is None else Cell(between(interval, percent), interval.mean),
            ]
        body.append(cells)
    head = ["Width", "True pixels", "Recall", "Drawn pixels", "Precision"]
    return Figure("roads-table", "table", "The same as numbers.", head=head, body=body)


def _named(group: int, metres: float | None) -> str:
    """``3–4 px``, with metres where they are known."""
    if metres is None:
        return f"{GROUPS[group]} px"
    ends = [f"{float(end.rstrip('+')) * metres:.3g}" for end in GROUPS[group].split("–")]
    return f"{GROUPS[group]} px ({'–'.join(ends)}{'+' * GROUPS[group].endswith('+')} m)"


def _apart(a: Interval, b: Interval) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.high < b.low or b.high < a.low
