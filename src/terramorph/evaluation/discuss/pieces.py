"""Omissions and hallucinations: pieces of roads, buildings and water on one side only."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import CLASSES, ROADS
from terramorph.evaluation.discuss.roads import near
from terramorph.evaluation.discuss.section import Section, cell
from terramorph.evaluation.pictures import KEPT, MADE_UP, MISSED, Look, Pictures, blended, css
from terramorph.evaluation.statistics import ratio_intervals
from terramorph.report.numbers import listed, percent
from terramorph.report.tables import Table

LEAST = 12
"""Smallest size of a piece, pixels."""
MARGIN = 2
"""Distance in pixels from the same kind on the other side, within which pixels are no part of a piece."""
_EXAMPLES = 2


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
_COLUMNS = ("true_px", "omitted_px", "omitted_pieces", "drawn_px", "made_up_px", "made_up_pieces")


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
        legend=[("kept", css(KEPT)), ("omitted", css(MISSED)), ("made up", css(MADE_UP))],
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
