from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from terramorph.errors import InputError
from terramorph.metrics import class_accuracy, confusions, mean_iou, named_iou
from terramorph.metrics.mapwise import (
    TOLERANCE,
    boundary_f1,
    boundary_hits,
    centre_line_hits,
    line_f1,
    thinned,
)

NAMES = ("land", "road", "water", "park")
SIDE = 40


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


def halves(at: int) -> Tensor:
    """A map of two classes that meet before a column, planes (1, 2, SIDE, SIDE)."""
    left = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    left[..., :at] = True
    return torch.cat([left, ~left], dim=1)


def road(top: int = 20, width: int = 5, gap: range = range(0)) -> Tensor:
    """A road from left to right, planes (1, 1, SIDE, SIDE)."""
    plane = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    plane[..., top : top + width, :] = True
    plane[..., list(gap)] = False
    return plane


def cldice(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    return float(line_f1(centre_line_hits(prediction, truth, mask)[0]))


def test_borders_by_hand() -> None:
    # Two columns of border pixels, one a class; the edge of the image is none.
    assert boundary_hits(halves(20), halves(20))[0].tolist() == [[SIDE] * 4, [SIDE] * 4]
    # A border that ends half way is found half way, and what is there is right.
    half = halves(20)
    half[..., 21:, :] = torch.tensor([True, False])[None, :, None, None]
    hits = boundary_hits(half, halves(20))[0]
    right, predicted, found, true = hits[0].tolist()
    assert (predicted, right) == (21 + 20, 21 + TOLERANCE)  # one in each of 21 rows, then one in each of 20 columns
    assert (true, found) == (SIDE, 21 + TOLERANCE)


@pytest.mark.parametrize(("shift", "agrees"), [(0, 1.0), (TOLERANCE, 1.0), (TOLERANCE + 1, 0.0)])
def test_a_border_agrees_up_to_the_tolerance(shift: int, agrees: float) -> None:
    assert float(boundary_f1(boundary_hits(halves(20 + shift), halves(20)).sum(0))) == agrees


def test_precision_and_recall_are_of_the_set_and_absent_classes_are_left_out() -> None:
    hits = torch.tensor([[[8, 10, 2, 4], [0, 0, 0, 0]], [[2, 10, 2, 4], [0, 0, 0, 5]]])
    # Class 0 over both images: precision 10/20, recall 4/8; class 1: nothing was predicted of five.
    assert float(boundary_f1(hits.sum(0))) == pytest.approx((0.5 + 0.0) / 2)
    assert float(boundary_f1(hits[0])) == pytest.approx(2 * 0.8 * 0.5 / 1.3)
    assert math.isnan(boundary_f1(torch.zeros(2, 4)))


def test_the_edge_of_a_mask_is_no_border() -> None:
    mask = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    mask[..., :10] = True
    noise = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) > 0.5
    prediction = torch.where(mask, halves(20), torch.cat([noise, ~noise], dim=1))
    assert boundary_hits(prediction, halves(20), mask).sum() == 0
    wide = mask.clone()
    wide[..., :30] = True
    assert boundary_hits(halves(20), halves(20), wide)[0].tolist() == [[SIDE] * 4, [SIDE] * 4]


def test_a_road_broken_in_two_costs_its_length_and_one_too_wide_nothing() -> None:
    truth = road()
    length = int(thinned(truth[0, 0].numpy().astype(np.uint8)).sum())
    assert length >= SIDE - 4  # the ends of a thinned line stay a little inside
    gap = range(16, 22)
    # The centre line of the truth leaves the broken road for the gap; that of the broken one is all on a road.
    recall = (length - len(gap)) / length
    assert cldice(road(gap=gap), truth) == pytest.approx(2 * recall / (1 + recall))
    assert cldice(road(top=18, width=9), truth) == 1.0
    assert cldice(road(top=4), truth) == 0.0
    assert cldice(truth & False, truth) == 0.0
    assert math.isnan(cldice(truth & False, truth & False))
    # By pixels it is the other way round: the break is smaller than what the wide road has too much.
    assert (truth & ~road(gap=gap)).sum() < (road(top=18, width=9) & ~truth).sum()


def test_a_side_road_counts_as_much_as_a_wide_one_of_its_length() -> None:
    both = road(top=4, width=11) | road(top=30, width=1)
    only_wide, only_narrow = cldice(road(top=4, width=11), both), cldice(road(top=30, width=1), both)
    assert abs(only_wide - only_narrow) < 0.2
    assert min(only_wide, only_narrow) > 0.5


def test_a_break_under_a_mask_does_not_count() -> None:
    mask = torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
    mask[..., 15:23] = False
    assert cldice(road(gap=range(16, 22)), road(), mask) == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_thin_lines_are_connected_as_what_they_are_made_of(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32)
    plane = (cv2.GaussianBlur(noise, (0, 0), 2.5) > 0).astype(np.uint8)
    lines = thinned(plane)
    assert (lines <= plane).all()
    assert 0 < lines.sum() < plane.sum() / 2
    assert cv2.connectedComponents(lines, connectivity=8)[0] == cv2.connectedComponents(plane, connectivity=8)[0]
    holes = [
        cv2.connectedComponents(np.pad(1 - one, 1, constant_values=1), connectivity=4)[0] for one in (plane, lines)
    ]
    assert holes[0] == holes[1]
    blocks = lines[:-1, :-1] + lines[1:, :-1] + lines[:-1, 1:] + lines[1:, 1:]
    assert (blocks == 4).sum() <= 0.02 * lines.sum()  # a pixel wide, but for crossings
    assert np.array_equal(thinned(lines), lines)
