"""Roads by their width, and pieces of roads, buildings and water that are omitted or made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph.cartography import CLASSES, ROADS
from terramorph.evaluation.discuss.section import Section, cell, extremes
from terramorph.evaluation.pictures import KEPT, MADE_UP, MISSED, Look, Pictures, blended, rgb
from terramorph.evaluation.statistics import ratio_intervals
from terramorph.report.charts import SERIES, chart, chart_svg, css, errorbars
from terramorph.report.numbers import Interval, listed, percent
from terramorph.report.pages import Cell, Row, Table

TOLERANCE = 2
"""Distance in pixels within which a road counts as found."""
BOUNDS = (2.5, 4.5, 6.5, 9.5)
"""Bounds between groups of widths, pixels."""
GROUPS = ("1–2", "3–4", "5–6", "7–9", "10+")
_SAID = 200  # least number of pixels of a group for a sentence about it
LEAST = 12
"""Smallest size of a piece, pixels."""
MARGIN = 2
"""Distance in pixels from the same kind on the other side, within which pixels are no part of a piece."""
_EXAMPLES = 2
_COLUMNS = ("true_px", "omitted_px", "omitted_pieces", "drawn_px", "made_up_px", "made_up_pieces")


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
        known += [(names[k], share)] if share is not None and pixels[0] >= _SAID else []
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


@dataclass(frozen=True)
class Kind:
    """Kind of pieces.

    Attributes:
        name: Name in sentences.
        classes: Indices into `CLASSES`.
        areal: Whether lines of one or two pixels are ignored, as the blurred rim of a white road on land has the colour
            of buildings.
    """

    name: str
    classes: tuple[int, ...]
    areal: bool


KINDS: tuple[Kind, ...] = (
    Kind("roads", ROADS, areal=False),
    Kind("buildings", (CLASSES.index("building"),), areal=True),
    Kind("water", (CLASSES.index("water"),), areal=True),
)


@dataclass(frozen=True)
class Pieces:
    """Pieces of one kind in one image, each bool ``(H, W)``.

    Attributes:
        true, drawn: Pixels of the kind in truth and prediction.
        omitted, made_up: Pieces that only the truth has, and that only the prediction has.
        counts: Pixels and numbers of pieces, by `_COLUMNS`.
    """

    true: NDArray[np.bool_]
    drawn: NDArray[np.bool_]
    omitted: NDArray[np.bool_]
    made_up: NDArray[np.bool_]
    counts: NDArray[np.int64]


def pieces_of(kind: Kind, truth: NDArray[np.uint8], prediction: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Pieces:
    """Find the pieces of a kind that only one side has.

    A piece is a connected component (of eight neighbours) of at least `LEAST` pixels, all of them more than `MARGIN`
    from the kind on the other side.

    Args:
        kind: Roads, buildings or water.
        truth, prediction: Class indices, uint8 ``(H, W)``.
        mask: bool ``(H, W)``, True where pixels count.
    """
    true, drawn = (_solid(np.isin(side, kind.classes) & mask, kind.areal) for side in (truth, prediction))
    omitted, lost = _components(true & ~near(drawn, MARGIN))
    made_up, extra = _components(drawn & ~near(true, MARGIN))
    counts = np.array([true.sum(), omitted.sum(), lost, drawn.sum(), made_up.sum(), extra], np.int64)
    return Pieces(true, drawn, omitted, made_up, counts)


def _solid(mask: NDArray[np.bool_], areal: bool) -> NDArray[np.bool_]:
    if not areal:
        return mask
    solid: NDArray[np.bool_] = cv2.morphologyEx(
        mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE
    ).astype(np.bool_)
    return solid


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Return the components that are large enough, and their number."""
    _, label, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = facts[:, cv2.CC_STAT_AREA] >= LEAST
    large[0] = False
    return large[label], int(large.sum())


def pieces_section(counts: NDArray[np.int64], look: Look, generator: np.random.Generator) -> Section:
    """Make the section of omissions and hallucinations, from `Pieces.counts` of all `KINDS`, int64 ``(N, 3, 6)``."""
    body, data, left, extra = [], {}, [], []
    for number, kind in enumerate(KINDS):
        true, missing, _, shown, invented, _ = counts[:, number].T.astype(np.float64)[..., None]
        omitted = ratio_intervals(missing, true, generator)[0]
        made_up = ratio_intervals(invented, shown, generator)[0]
        whole = dict(zip(_COLUMNS, counts[:, number].sum(axis=0).tolist(), strict=True))
        data[kind.name] = {**whole, "omitted_share": omitted, "made_up_share": made_up}
        body.append(
            [
                kind.name,
                *(whole["true_px"], whole["omitted_pieces"], cell(omitted)),
                *(whole["drawn_px"], whole["made_up_pieces"], cell(made_up)),
            ]
        )
        left += [] if omitted is None else [f"{percent(omitted.mean)} of {kind.name}"]
        extra += [] if made_up is None else [f"{percent(made_up.mean)} of {kind.name}"]
    fact = f"Omitted are {listed(left)}" if left else "The truths hold no roads, buildings or water"
    fact += f"; made up are {listed(extra)} of what was drawn." if extra else "."
    caption = (
        f"A piece is a connected component of {LEAST} px or more, all of it more than {MARGIN} px from the same kind "
        "on the other side. Of buildings and water, what is under 3 px wide is left out: the blurred rims of roads "
        "have the colour of buildings. Brackets: 95 %, images resampled."
    )
    head = ["Kind", "True pixels", "Pieces omitted", "Omitted", "Drawn pixels", "Pieces made up", "Made up"]
    return Section(
        "pieces", "What is omitted and what is made up", [fact], data, Table(head, body, caption),
        gallery=_examples(counts, look),
        gallery_caption="The pairs with most pixels omitted and made up, each kind in turn.",
        legend=[("kept", rgb(KEPT)), ("omitted", rgb(MISSED)), ("made up", rgb(MADE_UP))],
    )  # fmt: skip


def _examples(counts: NDArray[np.int64], look: Look) -> list[tuple[str, Pictures]]:
    """Return, for each kind, the images with most of it wrong."""
    shown = []
    wrong = counts[:, :, _COLUMNS.index("omitted_px")] + counts[:, :, _COLUMNS.index("made_up_px")]
    for number, kind in enumerate(KINDS):
        order = np.argsort(-wrong[:, number], kind="stable")[:_EXAMPLES]
        for row in (int(i) for i in order if wrong[i, number]):
            view = look(row)
            pieces = pieces_of(kind, *view.classes, view.mask)
            layers = [(pieces.true & ~pieces.omitted, KEPT), (pieces.omitted, MISSED), (pieces.made_up, MADE_UP)]
            omitted, made_up = int(pieces.omitted.sum()), int(pieces.made_up.sum())
            title = f"{kind.name}, {view.id}: {omitted:,} px omitted, {made_up:,} px made up"
            shown.append((title, view.pictures("where", blended(view.source, layers))))
    return shown
