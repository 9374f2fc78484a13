"""The watch over training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from terramorph.errors import TrainingDivergedError
from terramorph.training.health import Health, require_finite


def test_a_discriminator_that_has_won_is_told_once() -> None:
    health = Health()
    told = [health.check_losses(s, {"discriminator": 0.001}, 1, {}) for s in range(1200)]
    warnings = [w for step in told for w in step]
    assert len(warnings) == 1
    assert "discriminator_learning_rate" in warnings[0]


def test_the_first_warning_is_the_verdict_and_is_remembered() -> None:
    health = Health()
    assert health.verdict is None
    told = [w for step in range(600) for w in health.check_losses(step, {"discriminator": 0.001}, 1, {})]
    assert health.verdict == told[0]
    truth = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert health.check_outputs(700, truth[:1].expand(4, -1, -1, -1), truth)
    assert health.verdict == told[0]
    again = Health()
    again.restore(health.state())
    assert again.verdict == told[0]
    again.restore({"steps_won": 3, "warned": ["won"]})
    assert again.verdict is None, "a checkpoint from before there were verdicts"


def test_without_a_discriminator_none_has_won() -> None:
    health = Health()
    assert [w for step in range(600) for w in health.check_losses(step, {"l1": 0.0}, 1, {})] == []


def test_one_good_step_starts_the_count_again() -> None:
    health = Health()
    for step in range(2000):
        assert health.check_losses(step, {"discriminator": 0.5 if step % 400 == 399 else 0.001}, 1, {}) == []


def test_what_it_remembers_survives_an_interruption() -> None:
    first, second = Health(), Health()
    for step in range(400):
        first.check_losses(step, {"discriminator": 0.0}, 1, {})
    second.restore(first.state())
    assert [w for s in range(150) for w in second.check_losses(s, {"discriminator": 0.0}, 1, {})]


def test_one_picture_for_every_input() -> None:
    truth = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    same = truth[:1].expand(4, -1, -1, -1)
    assert "nearly one picture" in Health().check_outputs(500, same, truth)[0]
    assert Health().check_outputs(500, truth * 0.5, truth) == []
    assert Health().check_outputs(5, same, truth) == [], "a young generator has not learnt to differ yet"


def test_a_loss_that_is_no_number_names_the_tensor() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1))
    with torch.no_grad():
        network[0].weight.fill_(float("nan"))
    with pytest.raises(
        TrainingDivergedError,
        match=r"step 9 the loss 'l1' became nan \(the weight generator\.0\.weight is not finite",
    ):
        Health().check_losses(9, {"l1": float("nan")}, 1, {"generator": network})
    with pytest.raises(TrainingDivergedError, match=r"generator\.0\.weight"):
        require_finite(9, {"generator": network})


def test_a_gradient_is_blamed_before_the_weights_it_has_not_reached() -> None:
    network = nn.Conv2d(1, 1, 1)
    network.weight.grad = torch.full_like(network.weight, float("inf"))
    with pytest.raises(TrainingDivergedError, match=r"the gradient of generator\.weight"):
        Health().check_losses(1, {"l1": float("inf")}, 1, {"generator": network})
