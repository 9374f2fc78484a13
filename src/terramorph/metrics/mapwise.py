"""Metrics of maps over a whole set: classes of pixels, position of borders, connectedness of roads.

A map comes as bool planes ``(N, K, H, W)``, one a class, of which one is True at each pixel; roads as one plane. What
counts of an image is a few numbers, which are summed over the set; the figures are read from the sums. Functions that
count take prediction and truth, and an optional bool mask ``(N, 1, H, W)`` that is True where a pixel counts; another
shape or dtype is an InputError. Where a pixel does not count, lines see the truth in place of the prediction, so that
the edge of a mask is no border.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terramorph.errors import InputError
from terramorph.metrics.pixelwise import check

_Plane = NDArray[np.uint8]
_Lines = Callable[[_Plane], _Plane]
_Reach = Callable[[_Plane, _Plane], _Plane]

TOLERANCE = 3
"""Pixels between borders that still agree. Csurka et al. take 0.75 % of the diagonal, 2.7 pixels of an image of 256."""


def confusions(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Count the pixels of each image by class: int64 ``(N, K, K)``, rows truth, columns prediction."""
    check(prediction, truth, mask, torch.bool)
    count, classes = truth.shape[:2]
    cells = _index(truth).long() * classes + _index(prediction)
    cells += torch.arange(count, device=cells.device)[:, None, None] * classes**2
    counted = cells.flatten() if mask is None else cells[mask[:, 0]]
    return torch.bincount(counted, minlength=count * classes**2).reshape(count, classes, classes)


def class_accuracy(confusion: Tensor) -> Tensor:
    """Return the share of pixels whose class was found, float64 ``(...)``, 0 to 1; ``nan`` for an empty matrix.

    Args:
        confusion: Counts ``(..., K, K)`` of `confusions`; a matrix that is not square is an InputError.
    """
    matrix = _matrix(confusion)
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1) / matrix.sum((-2, -1))


def class_iou(confusion: Tensor) -> Tensor:
    """Return intersection over union of each class, ``TP / (TP + FP + FN)``, float64 ``(..., K)``, 0 to 1.

    ``nan`` for a class that occurs neither in the truth nor in a prediction.
    """
    matrix = _matrix(confusion)
    hit = matrix.diagonal(dim1=-2, dim2=-1)
    return hit / (matrix.sum(-2) + matrix.sum(-1) - hit)


def mean_iou(confusion: Tensor) -> Tensor:
    """Return the mean IoU over classes that occur in the truth or in a prediction, float64 ``(...)``, 0 to 1.

    A class absent from both says nothing and is left out, ``nan`` if all are; a class that is only predicted, or only
    true, counts as 0. So one constant colour over a set in which all seven map classes occur scores its class accuracy
    divided by seven.
    """
    return class_iou(confusion).nanmean(-1)


def named_iou(confusion: Tensor, names: Sequence[str]) -> dict[str, float | None]:
    """Return `class_iou` of one matrix ``(K, K)`` by class name; ``None`` for a class that does not occur.

    Raises:
        InputError: The matrix is not square or does not have a row for each name.
    """
    values = class_iou(confusion).tolist()
    if len(names) != len(values):
        raise InputError(f"There are {len(names)} class names for a confusion matrix of {len(values)} classes.")
    return {name: None if value != value else value for name, value in zip(names, values, strict=True)}


def _index(planes: Tensor) -> Tensor:
    """Return the class of each pixel: uint8 ``(N, H, W)``. Some ten times as fast as `argmax` over planes."""
    index = torch.zeros_like(planes[:, 0], dtype=torch.uint8)
    for place in range(1, planes.shape[1]):
        index += planes[:, place].to(torch.uint8) * place
    return index


def _matrix(confusion: Tensor) -> Tensor:
    if confusion.ndim < 2 or confusion.shape[-1] != confusion.shape[-2]:
        raise InputError(f"A confusion matrix is square, but this one is {tuple(confusion.shape)}.")
    return confusion.to("cpu", torch.float64)


def boundary_hits(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Count border pixels of each class, and those with a border of the other side at most `TOLERANCE` away.

    Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013, section 2.3. They average
    over images; here counts are summed, so that an image without a class needs no convention. A border pixel is one of
    a class with a neighbour above, below, left or right of another; the edge of the image is no border.

    Returns:
        int64 ``(N, K, 4)``: predicted border pixels that are right, all predicted ones, true ones that were found, all
        true ones.
    """
    return _counted(prediction, truth, mask, _border, _near)


def centre_line_hits(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Count pixels of the centre lines of roads, and those that lie on a road of the other side.

    The counts behind clDice (Shit et al., "clDice", CVPR 2021, arXiv:2003.07311, eq. 1): a road that is broken or
    missing costs its length, whatever its width, and one that is drawn too wide costs nothing.

    Returns:
        int64 ``(N, 4)``: pixels of predicted centre lines on true roads, all predicted ones, true ones on predicted
        roads, all true ones.
    """
    return _counted(prediction, truth, mask, thinned, lambda roads, lines: roads)[:, 0]


def boundary_f1(hits: Tensor) -> Tensor:
    """Return the mean over classes of the F1 of their borders.

    Args:
        hits: Counts ``(..., K, 4)`` of `boundary_hits`.

    Returns:
        float64 ``(...)``, 0 to 1; a class without a border on both sides is left out, ``nan`` if all are.
    """
    return line_f1(hits).nanmean(-1)


def line_f1(hits: Tensor) -> Tensor:
    """Return the harmonic mean of precision and recall, ``2 P R / (P + R)``; of `centre_line_hits` this is clDice.

    Args:
        hits: Counts ``(..., 4)``: right, all predicted, found, all true.

    Returns:
        float64 ``(...)``, 0 to 1; 0 where one side has nothing, ``nan`` where both have nothing.
    """
    right, predicted, found, true = hits.to("cpu", torch.float64).unbind(-1)
    precision, recall = right / predicted.clamp(min=1.0), found / true.clamp(min=1.0)
    score = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where(predicted + true > 0, score, torch.nan)


def thinned(plane: _Plane) -> _Plane:
    """Thin what is 1 to connected lines a pixel wide.

    Guo and Hall, "Parallel thinning with two-subiteration algorithms", CACM 1989, algorithm A1. Whether a pixel may go
    depends on its eight neighbours alone, so it is looked up in a table of 256.

    Args:
        plane: uint8 ``(H, W)``, 0 or 1.

    Returns:
        uint8 ``(H, W)``, 0 or 1.
    """
    import cv2

    # A neighbour is a bit: north, north-east, east and so on, clockwise.
    bits = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)
    lines = plane.copy()
    while True:
        before = int(lines.sum())
        for table in _removable():
            neighbours = cv2.filter2D(lines, cv2.CV_8U, bits, borderType=cv2.BORDER_CONSTANT)
            lines &= cv2.LUT(neighbours, table)
        if int(lines.sum()) == before:
            return lines


@cache
def _removable() -> tuple[_Plane, _Plane]:
    """Return, for both subiterations, 0 for neighbourhoods whose pixel goes and 1 for others, uint8 ``(256,)``."""
    n, ne, e, se, s, sw, w, nw = (np.arange(256) >> bit & 1 for bit in range(8))
    crossings = (1 - n & (ne | e)) + (1 - e & (se | s)) + (1 - s & (sw | w)) + (1 - w & (nw | n))
    pairs = np.minimum((nw | n) + (ne | e) + (se | s) + (sw | w), (n | ne) + (e | se) + (s | sw) + (w | nw))
    goes = (crossings == 1) & (pairs >= 2) & (pairs <= 3)
    first, second = goes & (((s | sw | 1 - nw) & w) == 0), goes & (((n | ne | 1 - se) & e) == 0)
    return (~first).astype(np.uint8), (~second).astype(np.uint8)


def _border(plane: _Plane) -> _Plane:
    import cv2

    border: _Plane = plane - cv2.erode(plane, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return border


def _near(plane: _Plane, border: _Plane) -> _Plane:
    import cv2

    y, x = np.mgrid[-TOLERANCE : TOLERANCE + 1, -TOLERANCE : TOLERANCE + 1]
    wide: _Plane = cv2.dilate(border, (y**2 + x**2 <= TOLERANCE**2).astype(np.uint8))
    return wide


def _counted(prediction: Tensor, truth: Tensor, mask: Tensor | None, lines_of: _Lines, reached_by: _Reach) -> Tensor:
    """Count, in each plane, lines of the prediction that the truth reaches, and all of them; and the same reversed.

    Args:
        lines_of: uint8 plane ``(H, W)`` -> its lines.
        reached_by: A plane and its lines -> where lines of the other side agree with it.
    """
    check(prediction, truth, mask, torch.bool)
    sides = [prediction if mask is None else torch.where(mask, prediction, truth), truth]
    valid = None if mask is None else mask[:, 0].cpu().numpy().astype(np.uint8)
    planes = [side.cpu().numpy().astype(np.uint8) for side in sides]
    hits = np.zeros((*truth.shape[:2], 4), np.int64)
    for n, k in np.ndindex(hits.shape[:2]):
        pair = [side[n, k] for side in planes]
        if not (pair[0].any() or pair[1].any()):
            continue
        lines = [lines_of(plane) for plane in pair]
        reached = [reached_by(plane, own) for plane, own in zip(pair, lines, strict=True)]
        counted = lines if valid is None else [own & valid[n] for own in lines]
        hits[n, k] = [
            (counted[0] & reached[1]).sum(), counted[0].sum(), (counted[1] & reached[0]).sum(), counted[1].sum()
        ]  # fmt: skip
    return torch.from_numpy(hits)
