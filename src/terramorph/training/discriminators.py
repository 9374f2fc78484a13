"""Discriminators in training: what each is shown, what it minimises and what is logged of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from terramorph.losses import (
    AdversarialLoss,
    Logits,
    PairChange,
    by_scale,
    discriminator_loss,
    r1_penalty,
    share_accepted,
)
from terramorph.networks import MultiScale, PatchGAN, build_discriminator
from terramorph.pixels import Batch
from terramorph.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Discriminator:
    """Patch discriminators on pairs, or on images alone if not conditional (Isola et al. 2017, section 4.2).

    Attributes:
        name: of its network in checkpoints.
        network: gives logits; `features` also its activations.
        kind: of its loss.
        weight: of its loss.
    """

    name = "discriminator"

    def __init__(self, config: TrainConfig, source_bands: int, target_bands: int) -> None:
        assert config.loss.adversarial != "none"
        self.kind: AdversarialLoss = config.loss.adversarial
        self.weight = config.loss.discriminator_scale
        self.conditional = config.discriminator.conditional
        bands = source_bands + target_bands if self.conditional else target_bands
        self.network: PatchGAN | MultiScale = build_discriminator(
            config.discriminator.network, in_bands=bands, **config.discriminator.settings()
        )
        self.features = self.network.features
        self._r1, self._every = config.loss.r1, config.loss.r1_every
        self._penalty: Tensor | None = None

    def shown(self, batch: Batch, image: Tensor, change: PairChange) -> Tensor:
        """What it sees of a source and an image of its target."""
        sides = (batch.source, image) if self.conditional else (image,)
        return torch.cat([change(side, batch.mask) for side in sides], dim=1)

    def loss(self, real: Logits, fake: Logits, mask: Tensor | None) -> Tensor:
        """What it minimises, without its weight."""
        return discriminator_loss(self.kind, real, fake, mask)

    def figures(self, real: Logits, fake: Logits, loss: Tensor) -> dict[str, Tensor]:
        """What is logged: the mean over scales and sides, so that a guess with bce is log 2, and what it accepts."""
        return {
            "discriminator": loss.detach() * (0.5 / len(by_scale(real))),
            "real accepted": share_accepted(self.kind, real),
            "fake accepted": share_accepted(self.kind, fake),
        }

    def regularize(
        self, number: int, real: Tensor, mask: Tensor | None, share: float, fabric: Fabric
    ) -> dict[str, Tensor]:
        """Adds the gradients of the R1 penalty at the steps that have it; what is logged, at others the last one.

        Args:
            number: of the step.
            real: what it is shown of real pairs.
            mask: of that.
            share: of this batch in the step.
            fabric: the processes whose mean it is.
        """
        if not self._r1:
            return {}
        if number % self._every == 0:
            penalty = r1_penalty(self.network, real, mask)
            _add_gradients(self.network, penalty * (self._r1 * self._every * share), fabric)
            self._penalty = penalty.detach()
        return {} if self._penalty is None else {"r1": self._penalty}


def _add_gradients(network: nn.Module, loss: Tensor, fabric: Fabric) -> None:
    """Adds a loss's gradients, the mean of all processes: only the wrapped network's own backward shares them."""
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and parameter.grad is not None:
            shared = fabric.all_reduce(gradient, reduce_op="mean")
            assert isinstance(shared, Tensor)
            parameter.grad += shared
