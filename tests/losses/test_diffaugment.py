"""Differentiable augmentation: one change for both sides of a pair, drawn from the generator alone."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from terramorph.losses import DIFFAUGMENTS, PairChange, draw_change


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 6, bands: int = 3, height: int = 24, width: int = 40) -> Tensor:
    return torch.rand(count, bands, height, width, generator=seeded(9)) * 2 - 1


def test_no_change_is_none() -> None:
    x = images()
    assert PairChange()(x) is x
    assert draw_change((), x, seeded())(x) is x


@pytest.mark.parametrize("kinds", [names for n in (1, 2, 3) for names in combinations(DIFFAUGMENTS, n)])
def test_the_generator_decides(kinds: tuple[str, ...]) -> None:
    x = images()
    once, again, other = (draw_change(kinds, x, seeded(seed))(x) for seed in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert not torch.equal(once, x)
    assert once.shape == x.shape


def test_both_sides_move_and_are_hidden_alike() -> None:
    """Sides of another number of bands go where the other goes, pixel by pixel."""
    x = images(bands=1) + 3.0
    change = draw_change(("translation", "cutout"), x, seeded())
    source, target = change(x), change(x.expand(-1, 4, -1, -1))
    assert torch.equal(target, source.expand(-1, 4, -1, -1))


def test_translation_moves_whole_pixels_and_lets_zero_in() -> None:
    x = images(count=1)
    moved = PairChange(shift=(torch.tensor([2]), torch.tensor([-3])))(x)
    assert torch.equal(moved[..., 2:, :-3], x[..., :-2, 3:])
    assert not moved[..., :2, :].any()
    assert not moved[..., -3:].any()
    far = [draw_change(("translation",), x, seeded(seed)).shift for seed in range(200)]
    assert {int(down) for down, _ in far} == set(range(-3, 4)), "an eighth of the height, both ways"
    assert {int(right) for _, right in far} == set(range(-5, 6))


def test_cutout_hides_half_of_each_side_at_most() -> None:
    x = images(count=200)
    visible = draw_change(("cutout",), x, seeded()).visible
    assert visible is not None
    hidden = 1.0 - visible
    assert float(hidden.amax(3).sum((1, 2)).max()) == 12
    assert float(hidden.amax(2).sum((1, 2)).max()) == 20
    assert float(hidden.sum((1, 2, 3)).min()) > 0


def test_colour_is_brightness_saturation_contrast() -> None:
    x = images(count=1)
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    torch.testing.assert_close(PairChange(colour=(one * 0.3, one, one))(x), x + 0.3)
    grey = PairChange(colour=(zero, zero, one))(x)
    torch.testing.assert_close(grey, x.mean(1, keepdim=True).expand_as(x))
    flat = PairChange(colour=(zero, one, zero))(x)
    torch.testing.assert_close(flat, x.mean().expand_as(x))


def test_what_is_no_data_stays_nothing_and_moves_along() -> None:
    x, mask = images(), torch.ones(6, 1, 24, 40)
    mask[..., :10] = 0.0
    change = draw_change(DIFFAUGMENTS, x, seeded())
    moved = change.moved_mask(mask)
    assert moved is not None
    assert not (change(x * mask, mask) * (1.0 - moved)).any()
    assert change.moved_mask(None) is None
    assert draw_change(("color",), x, seeded()).moved_mask(mask) is mask


def test_gradients_go_through_to_what_is_shown() -> None:
    x = images(count=1).requires_grad_()
    change = draw_change(("translation", "cutout"), x, seeded(3))
    change(x).sum().backward()
    assert x.grad is not None
    shown = change(torch.ones_like(x))
    assert float(x.grad.sum()) == float(shown.sum()) < x.numel()
