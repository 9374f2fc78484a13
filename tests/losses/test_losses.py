"""Losses against their equations, and with masks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from terramorph.losses import (
    discriminator_loss,
    feature_distance,
    feature_matching_loss,
    generator_loss,
    l1_loss,
    l2_loss,
    palette_cross_entropy,
    palette_shares,
    palette_weights,
    r1_penalty,
    share_accepted,
)

PALETTE = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]])


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, 6, 6, generator=generator), torch.randn(2, 1, 6, 6, generator=generator)


def test_bce_is_the_cross_entropy_of_the_paper(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    real, fake = logits
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    cross_entropy = functional.binary_cross_entropy_with_logits
    expected = cross_entropy(real, ones) + cross_entropy(fake, zeros)
    torch.testing.assert_close(discriminator_loss("bce", real, fake), expected)
    torch.testing.assert_close(generator_loss("bce", fake), cross_entropy(fake, ones))


def test_lsgan_and_hinge(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    real, fake = logits
    torch.testing.assert_close(
        discriminator_loss("lsgan", real, fake),
        functional.mse_loss(real, torch.ones_like(real)) + fake.square().mean(),
    )
    torch.testing.assert_close(generator_loss("lsgan", fake), (fake - 1).square().mean())
    torch.testing.assert_close(
        discriminator_loss("hinge", real, fake),
        (1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean(),
    )
    torch.testing.assert_close(generator_loss("hinge", fake), -fake.mean())


def test_an_undecided_discriminator_loses_two_bits() -> None:
    zeros = torch.zeros(1, 1, 4, 4)
    assert discriminator_loss("bce", zeros, zeros).item() == pytest.approx(2 * math.log(2))


def test_large_logits_stay_finite_in_half_precision() -> None:
    huge = torch.full((1, 1, 2, 2), 3e4, dtype=torch.bfloat16)
    assert torch.isfinite(discriminator_loss("bce", -huge, huge))


def test_l1_counts_only_the_mask() -> None:
    a, b = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    b[..., :2] = 1.0
    b[..., 2:] = 100.0
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1.0
    assert l1_loss(a, b, mask).item() == pytest.approx(1.0)
    assert l1_loss(a, b, torch.zeros_like(mask)).item() == 0.0
    assert l1_loss(a, b).item() == pytest.approx(50.5)


def test_masked_patches_do_not_judge() -> None:
    real, fake = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    fake[..., 1] = 50.0  # very wrong, and masked out
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1.0
    assert discriminator_loss("bce", real, fake, mask).item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize(("logits", "real"), [((1, 1), 12), ((30, 30), 3)])
def test_few_real_pixels_do_not_make_a_loss_smaller(logits: tuple[int, int], real: int) -> None:
    mask = torch.zeros(1, 1, 24, 24)
    mask[..., :real, :real] = 1.0
    guess = torch.zeros(1, 1, *logits)
    assert discriminator_loss("bce", guess, guess, mask).item() == pytest.approx(2 * math.log(2))
    features = [[torch.ones(1, 8, 4, 4), guess]], [[torch.zeros(1, 8, 4, 4), guess]]
    assert feature_matching_loss(*features, mask).item() == pytest.approx(1.0)
    assert feature_matching_loss(*features, 0.0 * mask).item() == 0.0


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_lie_in_memory_as_the_images_do(masked: bool) -> None:
    made, truth = (torch.rand(2, 3, 4, 6).contiguous(memory_format=torch.channels_last) for _ in range(2))
    made.requires_grad_()
    l1_loss(made, truth, torch.ones(2, 1, 4, 6) if masked else None).backward()
    assert made.grad is not None
    assert made.grad.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made.grad, torch.sign(made.detach() - truth) / made.numel())


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
