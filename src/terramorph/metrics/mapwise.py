"""Figures for maps: how much of what kind of ground was recognised, over a whole set.

A map's pixels are first turned into class indices (the nearest palette colour; not done here), then counted
into one confusion matrix for the set. Everything else is read from that matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from terramorph.errors import InputError


def confusion_matrix(truth: Tensor, prediction: Tensor, classes: int, mask: Tensor | None = None) -> Tensor:
    """Count pixels by true and predicted class.

    Args:
        truth: Integer class indices of any shape, 0 to ``classes - 1`` where the mask is True.
        prediction: Integer class indices of the same shape.
        classes: Number of classes.
        mask: bool of the same shape, True where a pixel counts; ``None`` counts all.

    Returns:
        int64 ``(classes, classes)``, rows truth, columns prediction. Matrices of parts of a set may be added.

    Raises:
        InputError: Shapes differ, or an index is out of range.
    """
    if truth.shape != prediction.shape or (mask is not None and mask.shape != truth.shape):
        shapes = [tuple(t.shape) for t in (truth, prediction, mask) if t is not None]
        raise InputError(f"A confusion matrix needs tensors of one shape, but got {shapes}.")
    if mask is not None and mask.dtype != torch.bool:
        raise InputError(f"The mask must be bool, but it is {mask.dtype}.")
    t, p = truth.flatten().to(torch.int64), prediction.flatten().to(torch.int64)
    if mask is not None:
        t, p = t[mask.flatten()], p[mask.flatten()]
    if t.numel() and (min(t.min(), p.min()) < 0 or max(t.max(), p.max()) >= classes):
        raise InputError(f"A class index is outside 0..{classes - 1}.")
    return torch.bincount(t * classes + p, minlength=classes * classes).reshape(classes, classes)


def class_accuracy(confusion: Tensor) -> float:
    """Share of pixels whose class was found, 0 to 1; ``nan`` for an empty matrix.

    Args:
        confusion: int64 ``(K, K)`` from `confusion_matrix`.

    Raises:
        InputError: The matrix is not square.
    """
    matrix = _matrix(confusion)
    return float(matrix.trace() / matrix.sum())


def class_iou(confusion: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Intersection over union of each class, ``TP / (TP + FP + FN)`` over the whole set.

    Args:
        confusion: int64 ``(K, K)`` from `confusion_matrix`.
        names: K class names, in the order of the indices.

    Returns:
        Name to IoU, 0 to 1; ``nan`` for a class that occurs neither in the truth nor in a prediction.

    Raises:
        InputError: The matrix is not square or does not have a row for each name.
    """
    matrix = _matrix(confusion)
    if len(names) != len(matrix):
        raise InputError(f"There are {len(names)} class names for a confusion matrix of {len(matrix)} classes.")
    hit = matrix.diagonal()
    union = matrix.sum(dim=0) + matrix.sum(dim=1) - hit
    return {name: float(value) for name, value in zip(names, hit / union, strict=True)}


def mean_iou(confusion: Tensor) -> float:
    """Mean of the IoU over the classes that occur in the truth or in a prediction of the set.

    A class absent from both says nothing and is left out; a class that is only predicted, or only true,
    counts as 0. So one constant colour over a set in which all seven map classes occur scores its class
    accuracy divided by seven.

    Args:
        confusion: int64 ``(K, K)`` from `confusion_matrix`.

    Returns:
        0 to 1; ``nan`` for an empty matrix.

    Raises:
        InputError: The matrix is not square.
    """
    matrix = _matrix(confusion)
    values = class_iou(matrix, [str(k) for k in range(len(matrix))]).values()
    present = [value for value in values if not math.isnan(value)]
    return sum(present) / len(present) if present else math.nan


def _matrix(confusion: Tensor) -> Tensor:
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise InputError(f"A confusion matrix is square, but this one is {tuple(confusion.shape)}.")
    return confusion.to("cpu", torch.float64)
