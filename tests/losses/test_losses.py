"""Losses against their equations, and with masks."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from terramorph.losses import discriminator_loss, feature_matching_loss, generator_loss, l1_loss


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
