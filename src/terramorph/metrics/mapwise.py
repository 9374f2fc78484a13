"""Metrics of map classes over a whole set.

A map comes as bool planes ``(N, K, H, W)``, one a class, of which one is True at each pixel. What counts of an image is
a few numbers, which are summed over the set; the figures are read from the sums: counts ``(..., K, K)``, rows truth,
columns prediction. A matrix that is not square is an InputError.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from terramorph.errors import InputError
from terramorph.metrics.pixelwise import check


def confusions(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Count the pixels of each image by true and predicted class.

    Args:
        prediction: Bool planes ``(N, K, H, W)``.
        truth: Bool planes ``(N, K, H, W)``.
        mask: bool ``(N, 1, H, W)``, True where a pixel counts; ``None`` counts all.

    Returns:
        int64 ``(N, K, K)``, rows truth, columns prediction.

    Raises:
        InputError: A shape or dtype is not as above.
    """
    check(prediction, truth, mask, torch.bool)
    count, classes = truth.shape[:2]
    cells = _index(truth).long() * classes + _index(prediction)
    cells += torch.arange(count, device=cells.device)[:, None, None] * classes**2
    counted = cells.flatten() if mask is None else cells[mask[:, 0]]
    return torch.bincount(counted, minlength=count * classes**2).reshape(count, classes, classes)


def class_accuracy(confusion: Tensor) -> Tensor:
    """Return the share of pixels whose class was found, float64 ``(...)``, 0 to 1; ``nan`` for an empty matrix."""
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
