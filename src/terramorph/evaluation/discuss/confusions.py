"""Confusions: which class is taken for which, and what that looks like."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import CLASSES, MAP_CLASSES
from terramorph.evaluation.discuss.covariates import on_border
from terramorph.evaluation.discuss.section import Section
from terramorph.evaluation.pictures import MADE_UP, Look, Pictures, blended, css
from terramorph.report.numbers import percent
from terramorph.report.tables import Cell, Row, Table

COMMONEST = 5
"""Confusions that are shown."""
_CROPS, _CROP = 2, 96  # crops of each, pixels a side


@dataclass
class ConfusionCounts:
    """Pixels by true and drawn class.

    Attributes:
        images: int64 ``(7, 7)`` an image, rows truth, columns prediction.
        at_border: The same over the set, where the truth has another class among the eight neighbours.
        border: Valid pixels there, over the set.
    """

    images: list[NDArray[np.int64]] = field(default_factory=list)
    at_border: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(CLASSES), len(CLASSES)), np.int64))
    border: int = 0

    def add(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
        """Count one image: class indices uint8 ``(H, W)``, and where they count, bool ``(H, W)``."""
        self.images.append(_counted(truth, prediction, mask))
        border = on_border(truth) & mask
        self.at_border += _counted(truth, prediction, border)
        self.border += int(border.sum())


def _counted(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.int64]:
    count = len(CLASSES)
    pairs = truth[where].astype(np.int64) * count + prediction[where]
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def confusions_section(counts: ConfusionCounts, look: Look) -> Section:
    """All confusions, and crops of the commonest."""
    title, images = "Which class is taken for which", np.stack(counts.images)
    whole: NDArray[np.int64] = images.sum(axis=0)
    wrong = whole.copy()
    np.fill_diagonal(wrong, 0)
    total, missed = int(whole.sum()), int(wrong.sum())
    if not missed:
        return Section("confusions", title, [f"All {total:,} pixels have the class of the truth."])
    near = int(counts.at_border.sum() - np.trace(counts.at_border))
    order = np.argsort(-wrong, axis=None, kind="stable")[:COMMONEST]
    commonest = [(int(i) // len(CLASSES), int(i) % len(CLASSES)) for i in order if wrong.flat[i] > 0]
    a, b = commonest[0]
    fact = (
        f"{percent(missed / total)} of the pixels have the wrong class, {percent(near / missed)} of these on "
        f"the border of two classes (as {percent(counts.border / total)} of all); most often {CLASSES[a]} is drawn "
        f"as {CLASSES[b]}, {percent(wrong[a, b] / missed)} of what is wrong."
    )
    gallery = []
    for a, b in commonest:
        most = np.argsort(-images[:, a, b], kind="stable")[:_CROPS]
        gallery += [_crop(look, row, a, b) for row in most.tolist() if images[row, a, b] > 0]
    data = {
        "pixels": total,
        "wrong": missed,
        "wrong_at_border": near,
        "border": counts.border,
        "matrix": {"classes": list(CLASSES), "rows_are_truth": whole.tolist()},
        "at_border": counts.at_border.tolist(),
    }
    return Section(
        "confusions", title, [fact], data, _table(whole, wrong, counts.at_border), gallery=gallery,
        gallery_caption=f"The commonest confusions where there is most of each: crops of {_CROP} px at most.",
        legend=[("confused so", css(MADE_UP))],
    )  # fmt: skip


def _table(whole: NDArray[np.int64], wrong: NDArray[np.int64], at_border: NDArray[np.int64]) -> Table:
    body: list[Row] = []
    pairs = list(zip(*(side.tolist() for side in np.nonzero(wrong)), strict=True))
    for a, b in sorted(pairs, key=lambda pair: -int(wrong[pair])):
        pixels = int(wrong[a, b])
        shares = [pixels / int(wrong.sum()), pixels / int(whole[a].sum()), int(at_border[a, b]) / pixels]
        kinds = [Cell(MAP_CLASSES[k].name, MAP_CLASSES[k].name, colour=css(MAP_CLASSES[k].rgb)) for k in (a, b)]
        body.append([*kinds, pixels, *(Cell(percent(share), share) for share in shares)])
    caption = "All confusions. On a border: with another class among the eight neighbours in the truth."
    return Table(["Truth", "Drawn as", "Pixels", "Of what is wrong", "Of this truth", "On a border"], body, caption)


def _crop(look: Look, row: int, a: int, b: int) -> tuple[str, Pictures]:
    """The window of an image that holds most pixels of class ``a`` drawn as ``b``."""
    view = look(row)
    truth, drawn = view.classes
    confused = (truth == a) & (drawn == b) & view.mask
    side = min(_CROP, *confused.shape)
    sums = cv2.integral(confused.astype(np.uint8))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    y, x = (int(v) for v in np.unravel_index(int(inside.argmax()), inside.shape))
    window = (slice(None), slice(y, y + side), slice(x, x + side))
    title = f"{CLASSES[a]} drawn as {CLASSES[b]}: {int(inside.max()):,} px of this crop of {view.id}"
    return title, view.pictures("where", blended(view.truth, [(confused, MADE_UP)]), window)
