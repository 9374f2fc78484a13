"""Recall and precision of roads by their width."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph.cartography import ROADS
from terramorph.evaluation.discuss.section import Section, cell, extremes
from terramorph.evaluation.statistics import ratio_intervals
from terramorph.report.charts import SERIES, chart, chart_svg, css, errorbars
from terramorph.report.numbers import Interval, percent
from terramorph.report.tables import Cell, Row, Table

TOLERANCE = 2
"""Distance in pixels within which a road counts as found."""
BOUNDS = (2.5, 4.5, 6.5, 9.5)
"""Bounds between groups of widths, pixels."""
GROUPS = ("1–2", "3–4", "5–6", "7–9", "10+")
_LEAST = 200  # least number of pixels of a group for a sentence about it


def count_roads(truth: NDArray[np.int64], prediction: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count road pixels of an image by width, and those with a road of the other side near.

    Args:
        truth, prediction: `road_widths` of each side, int64 ``(H, W)``.

    Returns:
        int64 ``(4, 5)``: true, true and found, predicted, predicted and right; by `GROUPS`.
    """
    rows = []
    for roads, others in ((truth, prediction), (prediction, truth)):
        for where in (roads >= 0, (roads >= 0) & near(others >= 0)):
            rows.append(np.bincount(roads[where], minlength=len(GROUPS)))
    return np.stack(rows)


def road_widths(classes: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return `widths` of roads, from class indices, uint8 ``(H, W)``, and a mask, bool ``(H, W)``."""
    return widths(np.isin(classes, ROADS) & mask)


def widths(mask: NDArray[np.bool_], bounds: Sequence[float] = BOUNDS) -> NDArray[np.int64]:
    """Compute the local thickness of a mask: at each pixel, the diameter of the largest disc in the mask that covers it
    (Hildebrand and Rüegsegger, "A new method for the model-independent assessment of thickness", 1997).

    The distance transform gives the disc around each pixel. It is taken at twice the size, where the middle of a
    stroke of any whole width is a pixel; a straight stroke of w px then has exactly width w.

    Args:
        mask: bool ``(H, W)``.
        bounds: Widths in pixels, rising.

    Returns:
        int64 ``(H, W)``: number of bounds that the width exceeds; -1 outside the mask.
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
    """Return the pixels at most ``reach`` from the mask, bool ``(H, W)``."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    wide: NDArray[np.bool_] = cv2.dilate(mask.astype(np.uint8), disc).astype(np.bool_)
    return wide


def roads_section(counts: NDArray[np.int64], metres: float | None, generator: np.random.Generator) -> Section:
    """Make the section of roads, from `count_roads` of each image, int64 ``(N, 4, 5)``, and metres per pixel."""
    title = "Roads by width"
    true, found, drawn, right = counts.astype(np.float64).transpose(1, 0, 2)
    if not true.sum():
        return Section("roads", title, [f"The truths hold no road; {int(drawn.sum()):,} pixels were drawn as one."])
    recall, precision = ratio_intervals(found, true, generator), ratio_intervals(right, drawn, generator)
    names, groups = [_named(group, metres) for group in GROUPS], []
    body: list[Row] = []
    known: list[tuple[str, Interval]] = []
    for k, (group, share) in enumerate(zip(GROUPS, recall, strict=True)):
        pixels = int(true[:, k].sum()), int(drawn[:, k].sum())
        body.append([Cell(names[k], k), pixels[0], cell(share), pixels[1], cell(precision[k])])
        groups.append({"width_px": group, "true_px": pixels[0], "drawn_px": pixels[1],
                       "recall": share, "precision": precision[k]})  # fmt: skip
        known += [(names[k], share)] if share is not None and pixels[0] >= _LEAST else []
    what = f"The share of true road pixels with a drawn road within {TOLERANCE} px"
    caption = (
        "Recall: true road pixels with a drawn road near; precision: drawn road pixels with a true one near; near is "
        f"within {TOLERANCE} px. Brackets and bars: 95 %, images resampled. Width: the largest disc within the "
        "road that covers the pixel, so crossings count as a little wider than their streets."
    )
    return Section(
        "roads", title, [extremes(what, float(found.sum() / true.sum()), known)],
        {"tolerance_px": TOLERANCE, "metres_per_px": metres, "groups": groups},
        Table(["Width", "True pixels", "Recall", "Drawn pixels", "Precision"], body, caption),
        charts=[("", _chart(recall, precision))], legend=[("recall", css(SERIES[0])), ("precision", css(SERIES[1]))],
    )  # fmt: skip


def _chart(recall: list[Interval | None], precision: list[Interval | None]) -> Markup:
    figure, axes = chart(340, 190, x="width, px")
    for side, colour, beside in ((recall, SERIES[0], -0.05), (precision, SERIES[1], 0.05)):
        known = [(k + beside, one) for k, one in enumerate(side) if one is not None]
        errorbars(axes, [k for k, _ in known], [one for _, one in known], colour)
    axes.set_xticks(range(len(GROUPS)), GROUPS)
    axes.yaxis.set_major_formatter(lambda value, _: percent(value))
    return chart_svg(figure, "Recall and precision of roads by width")


def _named(group: str, metres: float | None) -> str:
    """Format a group as ``3–4 px``, with metres where they are known."""
    if metres is None:
        return f"{group} px"
    ends = [f"{float(end.rstrip('+')) * metres:.3g}" for end in group.split("–")]
    return f"{group} px ({'–'.join(ends)}{'+' * group.endswith('+')} m)"
