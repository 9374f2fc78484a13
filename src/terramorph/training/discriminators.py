"""Discriminators in training: what each is shown, what it minimises and what is logged of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from terramorph.losses import (
    AdversarialLoss,
    Logits,
    PairChange,
    by_scale,
    r1_penalty,
    share_accepted,
)
from terramorph.networks import ProjectedDiscriminator, build_discriminator
from terramorph.pixels import Batch
from terramorph.training.backbone import Backbone, require_colours
from terramorph.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_STRIDES = 4
"""Strides of the backbone that projected discriminators look at: 2, 4, 8 and 16."""


class Discriminator(Protocol):
    """A discriminator in training.

    Attributes:
        name: of its network in checkpoints.
        network: what is trained.
        kind: of its loss.
        weight: of its own loss.
        counts: its weight in the generator's loss.
        term: the name of that term.
        features: of what it is shown: a list for each scale, of its activations, if it tells them, and, last, logits.
    """

    name: str
    network: nn.Module
    kind: AdversarialLoss
    weight: float
    counts: float
    term: str
    features: Callable[..., list[list[Tensor]]]

    def shown(self, batch: Batch, image: Tensor, change: PairChange) -> tuple[Any, ...]:
        """What its network is given of a source and an image of its target."""

    def figures(self, real: Logits, fake: Logits, loss: Tensor) -> dict[str, Tensor]:
        """What is logged."""

    def regularize(
        self, number: int, real: tuple[Any, ...], mask: Tensor | None, share: float, fabric: Fabric
    ) -> dict[str, Tensor]:
        """Adds the gradients of a penalty at the steps that have one, times the batch's share; what is logged of it."""


def make_discriminators(
    config: TrainConfig, source_bands: int, target_bands: int, backbone: Backbone | None
) -> list[Discriminator]:
    """Those that a configuration asks for; none with loss.adversarial=none."""
    made: list[Discriminator] = []
    if config.loss.adversarial != "none":
        made.append(PatchDiscriminator(config, source_bands, target_bands))
    if config.loss.projected and backbone is not None:
        require_colours("loss.projected", source_bands, "source")
        require_colours("loss.projected", target_bands, "target")
        made.append(Projected(config, backbone))
    return made


class PatchDiscriminator(Discriminator):
    """Patch discriminators on pairs, or on images alone if not conditional (Isola et al. 2017, section 4.2)."""

    name, term, counts = "discriminator", "generator", 1.0

    def __init__(self, config: TrainConfig, source_bands: int, target_bands: int) -> None:
        assert config.loss.adversarial != "none"
        self.kind: AdversarialLoss = config.loss.adversarial
        self.weight = config.loss.discriminator_scale
        self.conditional = config.discriminator.conditional
        bands = source_bands + target_bands if self.conditional else target_bands
        network = build_discriminator(config.discriminator.network, in_bands=bands, **config.discriminator.settings())
        self.network, self.features = network, network.features
        self._r1, self._every = config.loss.r1, config.loss.r1_every
        self._penalty: Tensor | None = None

    def shown(self, batch: Batch, image: Tensor, change: PairChange) -> tuple[Tensor]:
        """The pair, stacked."""
        sides = (batch.source, image) if self.conditional else (image,)
        return (torch.cat([change(side, batch.mask) for side in sides], dim=1),)

    def figures(self, real: Logits, fake: Logits, loss: Tensor) -> dict[str, Tensor]:
        """What is logged: the mean over scales and sides, so that a guess with bce is log 2, and what it accepts."""
        return {
            "discriminator": loss.detach() * (0.5 / len(by_scale(real))),
            "real accepted": share_accepted(self.kind, real),
            "fake accepted": share_accepted(self.kind, fake),
        }

    def regularize(
        self, number: int, real: tuple[Any, ...], mask: Tensor | None, share: float, fabric: Fabric
    ) -> dict[str, Tensor]:
        """The R1 penalty; between its steps the last one is logged."""
        if not self._r1:
            return {}
        if number % self._every == 0:
            (pair,) = real
            penalty = r1_penalty(self.network, pair, mask)
            _add_gradients(self.network, penalty * (self._r1 * self._every * share), fabric)
            self._penalty = penalty.detach()
        return {} if self._penalty is None else {"r1": self._penalty}


class Projected(Discriminator):
    """Discriminators on the frozen features of an image and of its source."""

    name, term = "projected", "projected"

    def __init__(self, config: TrainConfig, backbone: Backbone) -> None:
        assert config.loss.adversarial != "none"
        self.kind, self.counts = config.loss.adversarial, config.loss.projected
        self.weight = config.loss.discriminator_scale
        self._backbone = backbone
        self.network = ProjectedDiscriminator(backbone.channels[:_STRIDES])
        self.features = lambda *shown: [[logits] for logits in self.network(*shown)]

    def shown(self, batch: Batch, image: Tensor, change: PairChange) -> tuple[list[Tensor], list[Tensor]]:
        sides = (self._backbone(change(side, batch.mask))[:_STRIDES] for side in (image, batch.source))
        return next(sides), next(sides)

    def figures(self, real: Logits, fake: Logits, loss: Tensor) -> dict[str, Tensor]:
        """The mean over strides and sides."""
        return {"projected discriminator": loss.detach() * (0.5 / len(by_scale(real)))}

    def regularize(self, *_: Any) -> dict[str, Tensor]:
        return {}


def _add_gradients(network: nn.Module, loss: Tensor, fabric: Fabric) -> None:
    """Adds a loss's gradients, the mean of all processes: only the wrapped network's own backward shares them."""
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and parameter.grad is not None:
            shared = fabric.all_reduce(gradient, reduce_op="mean")
            assert isinstance(shared, Tensor)
            parameter.grad += shared
