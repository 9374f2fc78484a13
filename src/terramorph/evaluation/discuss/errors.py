"""Places of the errors: classes taken for each other, the error by class, and within the image."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.cartography import CLASSES, MAP_CLASSES
from terramorph.evaluation.discuss.content import on_border
from terramorph.evaluation.discuss.section import Columns, Section, cell, extremes
from terramorph.evaluation.pictures import MADE_UP, Look, Pictures, blended, rgb
from terramorph.evaluation.statistics import FEW, mean_interval, ratio_intervals
from terramorph.report.charts import heat_map
from terramorph.report.numbers import counted, percent, signed
from terramorph.report.pages import Cell, Row, Table

COMMONEST = 5
"""Number of confusions with crops."""
_CROPS, _CROP = 2, 96  # crops of each, side in pixels
BLOCKS = 32
"""Largest number of cells per side of error maps."""
_LEAST = 0.001  # least share of pixels of a class for a sentence about it


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
        kinds = [Cell(MAP_CLASSES[k].name, MAP_CLASSES[k].name, colour=rgb(MAP_CLASSES[k].rgb)) for k in (a, b)]
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
        legend=[("confused so", rgb(MADE_UP))],
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


def errors_by_place(
    error: NDArray[np.float32], mask: NDArray[np.bool_], classes: NDArray[np.uint8] | None
) -> dict[str, Any]:
    """Sum up the absolute error of an image (mean over bands, grey levels).

    Args:
        error: float32 ``(S, S)``.
        mask: bool ``(S, S)``, True where valid.
        classes: Class indices of the map side, uint8 ``(S, S)``.

    Returns:
        ``rim``, the mean in the outer ring minus the mean inside it, NaN where one has no pixels; with classes
        ``class_error`` and ``class_pixels``, float64 ``(7,)``: sum over the pixels of each class, and their number.
    """
    ring, inside = ring_of(len(error)), np.zeros_like(mask)
    inside[ring:-ring, ring:-ring] = True
    outer, inner = error[mask & ~inside], error[mask & inside]
    found: dict[str, Any] = {"rim": float(outer.mean() - inner.mean()) if len(outer) and len(inner) else np.nan}
    if classes is not None:
        found["class_error"] = np.bincount(classes[mask], error[mask], minlength=len(CLASSES)).astype(np.float64)
        found["class_pixels"] = np.bincount(classes[mask], minlength=len(CLASSES)).astype(np.float64)
    return found


def ring_of(size: int) -> int:
    """Return the width in pixels of an image's outer ring, a sixteenth of its side."""
    return max(1, size // 16)


def places_section(
    columns: Columns, blocks: NDArray[np.float64], size: int, side: str | None, generator: np.random.Generator
) -> Section:
    """Make the section of places: error by class of the map side, from `errors_by_place`; and error within the image,
    from sums of errors and pixels over its cells, float64 ``(2, cells, cells)``."""
    rims = columns["rim"][np.isfinite(columns["rim"])]
    data: dict[str, Any] = {"ring_px": ring_of(size), "n": len(rims)}
    ring, facts, table = f"the outer ring of {ring_of(size)} px", [], None
    if len(rims) < FEW:
        rim = f"Whether {ring} is worse than the middle is not tested with {counted(len(rims), 'image')}."
    else:
        data["ring_less_inside"] = found = mean_interval(rims, generator)
        verdict = "differs" if found.beyond_zero() else "is not shown to differ"
        rim = f"In {ring} the error {verdict} from the middle, by {found.said(signed)} grey levels."
    if side is not None:
        fact, table, data["by_class"] = _by_class(columns["class_error"], columns["class_pixels"], side, generator)
        facts.append(fact)
    mean = np.divide(blocks[0], blocks[1], out=np.full(blocks[0].shape, np.nan), where=blocks[1] > 0)
    charts = [("Mean absolute error within the image", heat_map(mean, "grey levels"))]
    return Section("places", "Where the error lies", [*facts, rim], data, table, charts)


def _by_class(
    error: NDArray[np.float64], pixels: NDArray[np.float64], side: str, generator: np.random.Generator
) -> tuple[str, Table, dict[str, Any]]:
    found = ratio_intervals(error, pixels, generator)
    shares = (pixels.sum(axis=0) / pixels.sum()).tolist()
    whole, data = float(error.sum() / pixels.sum()), {}
    body: list[Row] = []
    for kind, interval, share in zip(MAP_CLASSES, found, shares, strict=True):
        if interval is not None:
            part = interval.mean / whole * share if whole else None
            swatch = Cell(kind.name, kind.name, colour=rgb(kind.rgb))
            body.append(
                [swatch, Cell(percent(share), share), cell(interval, "{:.1f}".format), Cell(percent(part), part)]
            )
            data[kind.name] = {"share": share, "error": interval}
    known = [(name, one["error"]) for name, one in data.items() if one["share"] >= _LEAST]
    fact = extremes(f"The mean absolute error by class of the {side}, in grey levels,", whole, known, "{:.1f}".format)
    caption = (
        f"Mean absolute error (mean over bands, grey levels) on the pixels of each class of the {side}, and its share "
        "of all error. Brackets: 95 %, images resampled."
    )
    return fact, Table([f"Class of the {side}", "Share of pixels", "Mean error", "Share of error"], body, caption), data


def in_blocks(values: NDArray[Any], blocks: int) -> NDArray[np.float64]:
    """Sum over a grid of at most ``blocks`` cells per side: ``(S, S)`` -> float64 ``(cells, cells)``."""
    starts = range(0, len(values), -(-len(values) // blocks))
    rows = np.add.reduceat(values.astype(np.float64), starts, axis=0)
    summed: NDArray[np.float64] = np.add.reduceat(rows, starts, axis=1)
    return summed
