"""Which class is taken for which, and what that looks like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import CLASSES, MAP_CLASSES
from terramorph.evaluation.discuss.covariates import on_border
from terramorph.evaluation.discuss.section import Cell, Figure, Pictured, Section, Sentence, percent
from terramorph.evaluation.discuss.views import MADE_UP, Look, View, blended, crop_uri, css, legend
from terramorph.evaluation.pictures import viewable

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
    """The commonest confusions with crops.

    Args:
        counts: Of all images.
        look: Shows a pair again.
    """
    title = "Which class is taken for which"
    images = np.stack(counts.images)
    whole: NDArray[np.int64] = images.sum(axis=0)
    wrong = whole.copy()
    np.fill_diagonal(wrong, 0)
    total, missed = int(whole.sum()), int(wrong.sum())
    if not missed:
        text = f"All {total:,} pixels have the class of the truth."
        return Section("confusions", title, [Sentence(text, {"pixels": total, "wrong": 0})])
    near = int(counts.at_border.sum() - np.trace(counts.at_border))
    data: dict[str, Any] = {
        "pixels": total,
        "wrong": missed,
        "wrong_at_border": near,
        "border": counts.border,
        "matrix": {"classes": list(CLASSES), "rows_are_truth": whole.tolist()},
        "at_border": counts.at_border.tolist(),
    }
    text = (
        f"{percent(missed / total)} of {total:,} pixels have the wrong class. {percent(near / missed)} of these lie "
        f"on the border of two classes of the truth, as {percent(counts.border / total)} of all pixels do."
    )
    values: dict[str, Any] = {"wrong": missed / total, "at_border": near / missed, "border": counts.border / total}
    order = np.argsort(-wrong, axis=None, kind="stable")[:COMMONEST]
    commonest = [(int(i) // len(CLASSES), int(i) % len(CLASSES)) for i in order if wrong.flat[i] > 0]
    sentences = [Sentence(text, values, "confusions")]
    for a, b in commonest:
        share, at_border = int(whole[a, b]) / missed, int(counts.at_border[a, b]) / int(whole[a, b])
        text = (
            f"{CLASSES[a].capitalize()} drawn as {CLASSES[b]} is {percent(share)} of what is wrong, and "
            f"{percent(whole[a, b] / whole[a].sum())} of all {CLASSES[a]}; {percent(at_border)} of it lies on borders."
        )
        values = {
            "truth": CLASSES[a],
            "drawn": CLASSES[b],
            "pixels": int(whole[a, b]),
            "of_wrong": share,
            "of_truth": float(whole[a, b] / whole[a].sum()),
            "at_border": at_border,
        }
        sentences.append(Sentence(text, values, "confusion-crops"))
    return Section(
        "confusions", title, sentences, [_table(whole, counts.at_border), _crops(commonest, images, look)], data
    )


def _table(whole: NDArray[np.int64], at_border: NDArray[np.int64]) -> Figure:
    wrong = int(whole.sum() - np.trace(whole))
    body = []
    for a, b in zip(*np.nonzero(whole), strict=True):
        if a == b:
            continue
        pixels = int(whole[a, b])
        of_truth, on_borders = pixels / int(whole[a].sum()), int(at_border[a, b]) / pixels
        body.append(
            [
                Cell(CLASSES[a], CLASSES[a], css=css(MAP_CLASSES[a].rgb)),
                Cell(CLASSES[b], CLASSES[b], css=css(MAP_CLASSES[b].rgb)),
                Cell(f"{pixels:,}", pixels),
                Cell(percent(pixels / wrong), pixels),
                Cell(percent(of_truth), of_truth),
                Cell(percent(on_borders), on_borders),
            ]
        )
    body.sort(key=lambda row: -float(row[2].order or 0))
    caption = "All confusions. On a border: with another class among the eight neighbours in the truth."
    head = ["Truth", "Drawn as", "Pixels", "Of what is wrong", "Of this truth", "On a border"]
    return Figure("confusions", "table", caption, head=head, body=body)


def _crops(commonest: list[tuple[int, int]], images: NDArray[np.int64], look: Look) -> Figure:
    gallery = []
    for a, b in commonest:
        order = np.argsort(-images[:, a, b], kind="stable")[:_CROPS]
        for row in (int(i) for i in order if images[i, a, b] > 0):
            gallery.append(_crop(look(row), a, b))
    caption = f"The commonest confusions where there is most of each: crops of {_CROP} px at most."
    return Figure("confusion-crops", "gallery", caption, gallery=gallery, legend=legend(("confused so", MADE_UP)))


def _crop(view: View, a: int, b: int) -> Pictured:
    """The window of an image that holds most pixels of class ``a`` drawn as ``b``."""
    assert view.truth_classes is not None
    assert view.prediction_classes is not None
    confused = (view.truth_classes == a) & (view.prediction_classes == b) & view.mask
    side = min(_CROP, *confused.shape)
    sums = cv2.integral(confused.astype(np.uint8))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    y, x = (int(v) for v in np.unravel_index(int(inside.argmax()), inside.shape))
    window = (slice(None), slice(y, y + side), slice(x, x + side))
    where = blended(view.truth, [(confused, MADE_UP)])
    pictures = [
        ("source", viewable(view.source)),
        ("truth", view.truth),
        ("prediction", view.prediction),
        ("where", where),
    ]
    title = f"{CLASSES[a]} drawn as {CLASSES[b]}: {int(inside.max()):,} px of this crop of {view.id}"
    return Pictured(title, [(name, crop_uri(image[window])) for name, image in pictures])
