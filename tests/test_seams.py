"""Seams that were planted are seen, and none where there are none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from terramorph.errors import InputError
from terramorph.town import make_town

from .seams import seam_ratio, tiling_agreement

LINES = (300, 419, 640, 730)


@pytest.fixture(scope="module")
def aerial() -> Tensor:
    return torch.from_numpy(make_town(1024, seed=1).aerial().pixels)


@pytest.fixture(scope="module")
def even() -> Tensor:
    """White noise of 4 levels over 1024 x 1024, without a place that differs from another."""
    return 128 + 4 * torch.randn(3, 1024, 1024, generator=torch.Generator().manual_seed(0))


def stepped(image: Tensor, levels: float, lines: tuple[int, ...] = LINES) -> Tensor:
    """Windows that are alternately lighter by some levels, between columns."""
    out = image.to(torch.float32)
    for left, right in zip(lines[::2], lines[1::2], strict=True):
        out[:, :, left:right] += levels
    return out


def test_no_seams(aerial: Tensor, even: Tensor) -> None:
    assert 0.99 < seam_ratio(even, LINES, LINES) < 1.01
    # On one image the ground scatters; over many places it does not pull to either side.
    places = range(272, 752, 8)
    ratios = [seam_ratio(aerial, [place], [place]) for place in places]
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("axis", ["columns", "rows"])
def test_a_step_of_two_levels_is_seen(aerial: Tensor, axis: str) -> None:
    def ratio(image: Tensor, lines: tuple[int, ...]) -> float:
        return seam_ratio(image, [], lines) if axis == "columns" else seam_ratio(image.transpose(1, 2), lines, [])

    planted = stepped(aerial, 2.0)
    assert ratio(planted, LINES) > ratio(aerial, LINES) + 0.02
    assert ratio(planted, LINES) > 1.02
    # A border that is not one of them, nor has one beside it, is as it was.
    elsewhere = tuple(line + 8 for line in LINES)
    assert ratio(planted, elsewhere) == ratio(aerial, elsewhere)


def test_the_figure_by_hand() -> None:
    flat = torch.full((1, 300, 300), 100.0)
    assert seam_ratio(flat, [150], [150]) == 1.0
    assert seam_ratio(stepped(flat, 2.0, (150, 300)), [], [150]) == math.inf
    ramp = torch.arange(300.0).expand(1, 300, 300).clone()  # a gradient of 1 everywhere
    ramp[:, :, 150:] += 1.0
    assert seam_ratio(ramp, [], [150]) == pytest.approx(4.0)
    ramp[:, :, 150:] += 50.0
    assert seam_ratio(ramp, [], [150]) == pytest.approx(16.0)  # 4 squared: more does not count
    # The energies of both axes are added, not the ratios.
    assert seam_ratio(ramp, [150], [150]) == pytest.approx(16.0)


def test_a_blend_is_smoother(even: Tensor) -> None:
    other = 128 + 4 * torch.randn(3, 1024, 1024, generator=torch.Generator().manual_seed(1))
    blended = even.clone()
    blended[:, :, 480:544] = (even[:, :, 480:544] + other[:, :, 480:544]) / 2
    assert seam_ratio(blended, [], [512]) < 0.9


def test_patterns_of_a_period_are_no_seams() -> None:
    image = torch.randn(1, 512, 512, generator=torch.Generator().manual_seed(2))
    image[:, :, ::64] += 3.0  # a line in every 64th column
    assert 0.9 < seam_ratio(image, [], [192, 320]) < 1.1


def test_what_lies_under_the_mask_has_no_influence(even: Tensor) -> None:
    mask = torch.ones(1024, 1024, dtype=torch.bool)
    mask[:, 380:390] = False
    mask[500:, :] = False
    expected = seam_ratio(even, [256], [160, 385], mask)
    painted = torch.where(mask, even, torch.rand(1024, 1024) * 255)
    assert seam_ratio(painted, [256], [160, 385], mask) == expected
    assert seam_ratio(even, [256], [160], mask) == expected  # the second border is not valid anywhere
    assert math.isnan(seam_ratio(even, [700], [385], mask))
    assert math.isnan(seam_ratio(even, [], []))
    assert math.isnan(seam_ratio(even[:, :, :200], [], [100]))  # nothing beside it


def test_other_borders_are_no_reference() -> None:
    flat = torch.randn(1, 64, 512, generator=torch.Generator().manual_seed(3))
    planted = stepped(flat, 20.0, (192, 320))
    both = seam_ratio(planted, [], [192, 320])
    one = seam_ratio(planted, [], [192])
    assert both > 2 * one


def test_agreement() -> None:
    a = torch.zeros(2, 10, 100, dtype=torch.uint8)
    b = a.clone()
    b[:, 0, :5] = 10
    assert tiling_agreement(a, b) == {"mean_abs": pytest.approx(0.05), "p99": 0.0, "max": 10.0}
    b[:, 1:3] = 200
    assert tiling_agreement(a, b)["p99"] == 200.0
    mask = torch.zeros(10, 100, dtype=torch.bool)
    mask[3:] = True
    assert tiling_agreement(a, b, mask) == {"mean_abs": 0.0, "p99": 0.0, "max": 0.0}
    assert all(math.isnan(value) for value in tiling_agreement(a, b, ~mask & mask).values())


def test_refusals() -> None:
    image = torch.zeros(3, 64, 64)
    with pytest.raises(InputError, match=r"\[64\] are not between the 64"):
        seam_ratio(image, [], [32, 64])
    with pytest.raises(InputError, match="reach of 64"):
        seam_ratio(image, [], [32], reach=64)
    with pytest.raises(InputError, match=r"\(C, H, W\)"):
        seam_ratio(image[0], [], [32])
    with pytest.raises(InputError, match="mask must be bool"):
        seam_ratio(image, [], [32], torch.ones(64, 64))
    with pytest.raises(InputError, match="one shape"):
        tiling_agreement(image, image[:, :32])
