"""Feature matching, the R1 penalty, and losses over several scales, against their equations and with masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from terramorph.losses import (
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    l2_loss,
    r1_penalty,
    share_accepted,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


@pytest.mark.parametrize("kind", ["bce", "lsgan", "hinge"])
def test_scales_are_added_up(kind: str) -> None:
    real, fake = ([numbers(2, 1, n, n, seed=seed + n) for n in (6, 3)] for seed in (0, 50))
    each = [discriminator_loss(kind, r, f) for r, f in zip(real, fake, strict=True)]
    torch.testing.assert_close(discriminator_loss(kind, real, fake), each[0] + each[1])
    torch.testing.assert_close(
        generator_loss(kind, fake), generator_loss(kind, fake[0]) + generator_loss(kind, fake[1])
    )
    shares = [float(share_accepted(kind, one)) for one in real]
    assert float(share_accepted(kind, real)) == pytest.approx(sum(shares) / 2)


def test_l2_is_the_mean_square_of_what_counts() -> None:
    a, b, mask = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 2.0), torch.zeros(1, 1, 4, 4)
    b[..., :2] = 50.0
    mask[..., 2:] = 1.0
    assert l2_loss(a, b, mask).item() == pytest.approx(4.0)
    assert l2_loss(a, b).item() == pytest.approx((4.0 + 2500.0) / 2)


def test_features_are_compared_layer_by_layer_but_for_the_logits() -> None:
    real = [[numbers(2, 4, 8, 8), numbers(2, 8, 4, 4), numbers(2, 1, 3, 3)]]
    made = [[real[0][0] + 1.0, real[0][1] - 0.5, real[0][2] + 100.0]]
    assert feature_matching_loss(real, made).item() == pytest.approx(1.5)
    assert feature_matching_loss(real * 2, made * 2).item() == pytest.approx(3.0)


def test_features_teach_the_made_side_alone_and_only_where_there_is_data() -> None:
    real, made = ([[numbers(1, 2, 4, 4, seed=n).requires_grad_(), numbers(1, 1, 2, 2)]] for n in (0, 1))
    mask = torch.ones(1, 1, 16, 16)
    mask[..., :8] = 0.0
    feature_matching_loss(real, made, mask).backward()
    assert real[0][0].grad is None
    slope = made[0][0].grad
    assert slope is not None
    assert not slope[..., :2].any()
    assert slope[..., 2:].abs().min() == pytest.approx(1 / (8 * 2))


class Slope(nn.Module):
    """Logits that rise by known amounts: the sum over bands of weight times pixel."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, pair: Tensor) -> Tensor:
        return (pair * self.weights[:, None, None]).sum(1, keepdim=True)


def test_r1_is_half_the_squared_slope() -> None:
    """D is the mean logit, so each of the 16 pixels of a band has the slope weight / 16."""
    judge = Slope(3.0, 4.0)
    penalty = r1_penalty(judge, numbers(5, 2, 4, 4))
    assert penalty.item() == pytest.approx(0.5 * 16 * (3.0**2 + 4.0**2) / 16**2)
    penalty.backward()
    assert judge.weights.grad is not None
    torch.testing.assert_close(judge.weights.grad, torch.tensor([3.0, 4.0]) / 16)


def test_r1_looks_where_there_is_data() -> None:
    mask = torch.zeros(5, 1, 4, 4)
    mask[..., :1] = 1.0
    assert r1_penalty(Slope(3.0, 4.0), numbers(5, 2, 4, 4), mask).item() == pytest.approx(0.5 * 25 / 4)
    assert r1_penalty(Slope(3.0), numbers(5, 1, 4, 4), torch.zeros(5, 1, 4, 4)).item() == 0.0


def test_r1_adds_scales_up_and_is_float32_in_mixed_precision() -> None:
    judge, pair = Slope(3.0, 4.0), numbers(5, 2, 4, 4)
    one = r1_penalty(judge, pair).item()
    assert r1_penalty(lambda x: [judge(x), judge(x)], pair).item() == pytest.approx(4 * one)
    conv = nn.Sequential(nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3))
    exact = r1_penalty(conv, numbers(2, 2, 16, 16))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(r1_penalty(conv, numbers(2, 2, 16, 16)), exact)
