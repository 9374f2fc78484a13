from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from terramorph.errors import InputError
from terramorph.metrics import class_accuracy, confusions, mean_iou, named_iou

NAMES = ("land", "road", "water", "park")


def planes(rows: list[list[int]]) -> Tensor:
    """Class indices of one map (H, W) -> its planes (1, 4, H, W)."""
    return torch.tensor(rows)[None, None] == torch.arange(4)[:, None, None]


def confusion(truth: list[list[int]], prediction: list[list[int]]) -> Tensor:
    return confusions(planes(prediction), planes(truth))[0]


def test_a_small_map_by_hand() -> None:
    matrix = confusion([[0, 0, 0], [1, 1, 2]], [[0, 0, 1], [1, 0, 2]])
    assert matrix.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert class_accuracy(matrix) == pytest.approx(4 / 6)
    iou = named_iou(matrix, NAMES)
    assert iou["land"] == pytest.approx(2 / 4)
    assert iou["road"] == pytest.approx(1 / 3)
    assert iou["water"] == 1.0
    assert iou["park"] is None
    assert mean_iou(matrix) == pytest.approx((0.5 + 1 / 3 + 1) / 3)  # park, absent from both, is left out


def test_one_constant_class_scores_its_share_over_all_classes() -> None:
    matrix = confusion([[0] * 51 + [1] * 29 + [2] * 10 + [3] * 10], [[0] * 100])
    assert class_accuracy(matrix) == pytest.approx(0.51)
    assert mean_iou(matrix) == pytest.approx(0.51 / 4)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    assert mean_iou(confusion([[0, 0]], [[0, 3]])) == pytest.approx((0.5 + 0) / 2)


def test_figures_of_several_matrices_are_those_of_each() -> None:
    both = torch.stack([confusion([[0, 1, 1]], [[0, 1, 0]]), confusion([[0, 2, 2]], [[0, 2, 2]])])
    assert mean_iou(both).tolist() == [pytest.approx((0.5 + 0.5) / 2), 1.0]
    assert class_accuracy(both).tolist() == [pytest.approx(2 / 3), 1.0]


def test_masked_pixels_do_not_count() -> None:
    truth, prediction = planes([[0, 1, 2]]), planes([[0, 2, 3]])
    mask = torch.tensor([[[[True, True, False]]]])
    assert confusions(prediction, truth, mask).sum() == 2
    assert confusions(prediction, truth, mask)[0, 2].sum() == 0


def test_an_empty_matrix_is_nan() -> None:
    empty = torch.zeros(4, 4, dtype=torch.int64)
    assert math.isnan(class_accuracy(empty))
    assert math.isnan(mean_iou(empty))


def test_wrong_inputs_are_named() -> None:
    one = planes([[0, 1]])
    with pytest.raises(InputError, match="one shape"):
        confusions(one, one[..., :1])
    with pytest.raises(InputError, match="bool"):
        confusions(one, one.float())
    with pytest.raises(InputError, match="mask must be bool"):
        confusions(one, one, torch.ones(1, 1, 1, 2))
    with pytest.raises(InputError, match="class names"):
        named_iou(torch.zeros(4, 4), NAMES[:2])
    with pytest.raises(InputError, match="square"):
        mean_iou(torch.zeros(4, 3))
