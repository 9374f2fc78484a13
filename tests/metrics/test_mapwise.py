from __future__ import annotations

import math

import pytest
import torch

from terramorph.errors import InputError
from terramorph.metrics import class_accuracy, class_iou, confusion_matrix, mean_iou

NAMES = ("land", "road", "water", "park")


def test_a_small_map_by_hand() -> None:
    truth = torch.tensor([[0, 0, 0], [1, 1, 2]])
    prediction = torch.tensor([[0, 0, 1], [1, 0, 2]])
    matrix = confusion_matrix(truth, prediction, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert class_accuracy(matrix) == pytest.approx(4 / 6)
    iou = class_iou(matrix, NAMES)
    assert iou["land"] == pytest.approx(2 / 4)
    assert iou["road"] == pytest.approx(1 / 3)
    assert iou["water"] == 1.0
    assert math.isnan(iou["park"])
    assert mean_iou(matrix) == pytest.approx((0.5 + 1 / 3 + 1) / 3)  # park, absent from both, is left out


def test_one_constant_class_scores_its_share_over_all_classes() -> None:
    truth = torch.tensor([0] * 51 + [1] * 29 + [2] * 10 + [3] * 10)
    matrix = confusion_matrix(truth, torch.zeros_like(truth), 4)
    assert class_accuracy(matrix) == pytest.approx(0.51)
    assert mean_iou(matrix) == pytest.approx(0.51 / 4)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    matrix = confusion_matrix(torch.tensor([0, 0]), torch.tensor([0, 3]), 4)
    assert mean_iou(matrix) == pytest.approx((0.5 + 0) / 2)


def test_masked_pixels_and_parts_of_a_set() -> None:
    truth, prediction = torch.tensor([0, 1, 9]), torch.tensor([0, 2, -4])
    mask = torch.tensor([True, True, False])
    matrix = confusion_matrix(truth, prediction, 4, mask)
    assert int(matrix.sum()) == 2
    parts = confusion_matrix(truth[:1], prediction[:1], 4) + confusion_matrix(truth[1:2], prediction[1:2], 4)
    assert torch.equal(matrix, parts)


def test_an_empty_matrix_is_nan() -> None:
    empty = torch.zeros(4, 4, dtype=torch.int64)
    assert math.isnan(class_accuracy(empty))
    assert math.isnan(mean_iou(empty))


def test_wrong_inputs_are_named() -> None:
    index = torch.tensor([0, 1])
    with pytest.raises(InputError, match="one shape"):
        confusion_matrix(index, index[:1], 4)
    with pytest.raises(InputError, match=r"outside 0\.\.3"):
        confusion_matrix(index, index + 3, 4)
    with pytest.raises(InputError, match="bool"):
        confusion_matrix(index, index, 4, torch.ones(2))
    with pytest.raises(InputError, match="class names"):
        class_iou(torch.zeros(4, 4), NAMES[:2])
    with pytest.raises(InputError, match="square"):
        mean_iou(torch.zeros(4, 3))
