"""Confusions of classes: table, and crops of the commonest."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import CLASSES, MAP_CLASSES
from terramorph.evaluation.discuss.covariates import on_border
from terramorph.evaluation.discuss.section import Columns, Section
from terramorph.evaluation.pictures import MADE_UP, Look, Pictures, blended, css
from terramorph.report.numbers import percent
from terramorph.report.tables import Cell, Row, Table

COMMONEST = 5
"""Number of confusions with crops."""
_CROPS, _CROP = 2, 96  # crops of each, side in pixels


def count_confusions(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> dict[str, NDArray[np.int64]]:
    """Count pixels of an image by true and predicted class, int64 ``(7, 7)`` each, rows truth: all pixels, and those on
    borders of the truth.

    Args:
        truth, prediction: Class indices, uint8 ``(H, W)``.
        mask: bool ``(H, W)``, True where pixels count.
    """
    cells = truth.astype(np.int64) * len(CLASSES) + prediction
    shape = (len(CLASSES), len(CLASSES))
    where = {"confusion": mask, "confusion_at_border": mask & on_border(truth)}
    return {key: np.bincount(cells[one], minlength=shape[0] ** 2).reshape(shape) for key, one in where.items()}


def confusions_section(columns: Columns, look: Look) -> Section:
    """Make the section of confusions, from `count_confusions` of each image."""
    title, images = "Which class is taken for which", columns["confusion"]
    whole, at_border = images.sum(axis=0), columns["confusion_at_border"].sum(axis=0)
    wrong = whole.copy()
    np.fill_diagonal(wrong, 0)
    total, missed, border = int(whole.sum()), int(wrong.sum()), int(at_border.sum())
    if not missed:
        return Section("confusions", title, [f"All {total:,} pixels have the class of the truth."])
    near = border - int(np.trace(at_border))
    pairs = [divmod(int(i), len(CLASSES)) for i in np.argsort(-wrong, axis=None, kind="stable") if wrong.flat[i]]
    (a, b), body = pairs[0], []
    fact = (
        f"{percent(missed / total)} of the pixels have the wrong class, {percent(near / missed)} of these on "
        f"the border of two classes (as {percent(border / total)} of all); most often {CLASSES[a]} is drawn "
        f"as {CLASSES[b]}, {percent(wrong[a, b] / missed)} of what is wrong."
    )
    for a, b in pairs:
        pixels = int(wrong[a, b])
        shares = [pixels / missed, pixels / int(whole[a].sum()), int(at_border[a, b]) / pixels]
        kinds = [Cell(MAP_CLASSES[k].name, MAP_CLASSES[k].name, colour=css(MAP_CLASSES[k].rgb)) for k in (a, b)]
        row: Row = [*kinds, pixels, *(Cell(percent(share), share) for share in shares)]
        body.append(row)
    gallery = []
    for a, b in pairs[:COMMONEST]:
        most = np.argsort(-images[:, a, b], kind="stable")[:_CROPS]
        gallery += [_crop(look, row, a, b) for row in most.tolist() if images[row, a, b]]
    data = {
        "pixels": total,
        "wrong": missed,
        "wrong_at_border": near,
        "border": border,
        "matrix": {"classes": list(CLASSES), "rows_are_truth": whole.tolist()},
        "at_border": at_border.tolist(),
    }
    head = ["Truth", "Drawn as", "Pixels", "Of what is wrong", "Of this truth", "On a border"]
    caption = "All confusions. On a border: with another class among the eight neighbours in the truth."
    return Section(
        "confusions", title, [fact], data, Table(head, body, caption), gallery=gallery,
        gallery_caption=f"The commonest confusions where there is most of each: crops of {_CROP} px at most.",
        legend=[("confused so", css(MADE_UP))],
    )  # fmt: skip


def _crop(look: Look, row: int, a: int, b: int) -> tuple[str, Pictures]:
    """Return the window of an image with most pixels of class ``a`` predicted as ``b``."""
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
