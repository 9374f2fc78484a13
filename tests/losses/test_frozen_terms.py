"""Distance in features and cross-entropy of a palette, against numbers done by hand and with masks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from terramorph.losses import feature_distance, palette_cross_entropy, palette_shares, palette_weights

PALETTE = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]])


def field(*vectors: tuple[float, ...]) -> Tensor:
    """(1, C, 1, W): a vector a place."""
    return torch.tensor(vectors).T[None, :, None]


def test_directions_of_features_are_compared_and_not_their_lengths() -> None:
    """(3, 4) is (.6, .8) and (0, 7) is (0, 1): .6 + .2 apart; the other place is the same but for its length."""
    output, target = field((3.0, 4.0), (2.0, 0.0)), field((0.0, 7.0), (50.0, 0.0))
    distance = feature_distance([output], [target])
    assert distance.item() == pytest.approx(0.2 * (0.6 + 0.2) / 2, abs=1e-5)
    assert feature_distance([output] * 3, [target] * 3).item() == pytest.approx(3 * distance.item(), abs=1e-5)


def test_features_without_data_under_them_count_for_nothing() -> None:
    output, target = field((3.0, 4.0), (2.0, 0.0)), field((0.0, 7.0), (0.0, 1.0))
    mask = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    assert feature_distance([output], [target], mask).item() == pytest.approx(0.2 * 0.8, abs=1e-5)
    assert feature_distance([output], [target], 0.0 * mask).item() == 0.0


def test_pixels_near_a_colour_are_of_its_class() -> None:
    """The third pixel is between colours and does not count; the scores of the others give probability 1/2 and 1/4."""
    target = field((-1.0, -0.95), (1.0, 1.0), (0.0, 0.0))
    scores = field((0.0, 0.0, -1e4), (0.0, math.log(2.0) - math.log(2.0), math.log(2.0)), (9.0, 0.0, 0.0))
    weights = torch.tensor([1.0, 3.0, 5.0])
    expected = (1.0 * math.log(2.0) + 3.0 * math.log(4.0)) / 2
    assert palette_cross_entropy(scores, target, PALETTE, weights).item() == pytest.approx(expected, abs=1e-5)
    mask = torch.tensor([[[[1.0, 0.0, 1.0]]]])
    only_first = palette_cross_entropy(scores, target, PALETTE, weights, mask)
    assert only_first.item() == pytest.approx(math.log(2.0), abs=1e-5)
    assert palette_cross_entropy(scores, target, PALETTE, weights, 0.0 * mask).item() == 0.0


def test_rare_colours_weigh_more() -> None:
    images = [field((-1.0, -1.0), (-0.9, -1.0), (-0.2, -0.1), (1.0, 0.9))]
    shares = palette_shares(images, PALETTE)
    assert shares.tolist() == [0.75, 0.25, 0.0]
    weights = palette_weights(shares)
    raw = [(0.75 + 1e-4) ** -0.5, (0.25 + 1e-4) ** -0.5, 12.0]
    mean = 0.75 * raw[0] + 0.25 * raw[1]
    torch.testing.assert_close(weights, torch.tensor([value / mean for value in raw]))
    assert (weights * shares).sum().item() == pytest.approx(1.0)
