"""Discriminators in training: their inputs, losses and logged values; and the frozen network that some of them, and
losses of features, look through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from terramorph.errors import ConfigError
from terramorph.losses import AdversarialLoss, Logits, PairChange, by_scale, r1_penalty, share_accepted
from terramorph.networks import EfficientNetLite, ProjectedDiscriminator, build_discriminator, load_imagenet
from terramorph.pixels import Batch
from terramorph.training.config import LossConfig, TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_STRIDES = 4
"""Number of strides of the backbone with a projected discriminator: 2, 4, 8 and 16."""


class Backbone:
    """Features of images in a frozen EfficientNet-Lite0, at strides 2, 4, 8, 16 and 32, computed once per step.

    No metric uses this network.

    Args:
        loss: Whether the weights are those of ImageNet or random.
        fabric: The device and precision.

    Attributes:
        channels: Channels of the features at each stride.

    Raises:
        MissingPackageError: If the package with the weights is not installed.
    """

    def __init__(self, loss: LossConfig, fabric: Fabric) -> None:
        self._fabric = fabric
        network = EfficientNetLite("lite0")
        if loss.backbone == "imagenet":
            load_imagenet(network, "loss.backbone=none")
        else:
            random = torch.Generator().manual_seed(0)
            for module in network.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, generator=random)
        self.channels = network.channels
        self.network = network.eval().requires_grad_(False)
        self.network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._seen: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Return the features of float (N, 3, H, W) in [-1, 1], finest first; differentiable where the images are."""
        if id(image) not in self._seen:
            with self._fabric.autocast():
                self._seen[id(image)] = image, self.network(image.contiguous(memory_format=torch.channels_last))
        return self._seen[id(image)][1]

    def forget(self) -> None:
        self._seen.clear()


def require_colours(setting: str, bands: int, side: str) -> None:
    """Raise ConfigError, naming the setting, unless a side has three bands."""
    if bands != 3:
        raise ConfigError(f"{setting} needs a {side} of red, green and blue, got {bands} band(s); set it to 0.")


def make_discriminators(
    config: TrainConfig, source_bands: int, target_bands: int, backbone: Backbone | None
) -> list[Discriminator]:
    """Make the discriminators of a configuration; none with loss.adversarial=none."""
    made: list[Discriminator] = []
    if config.loss.adversarial != "none":
        made.append(PatchDiscriminator(config, source_bands, target_bands))
    if config.loss.projected and backbone is not None:
        require_colours("loss.projected", source_bands, "source")
        require_colours("loss.projected", target_bands, "target")
        made.append(Projected(config, backbone))
    return made


class PatchDiscriminator:
    """Patch discriminators on pairs, or on images alone if not conditional (Isola et al. 2017, section 4.2).

    Attributes:
        name: Name of the network in checkpoints.
        network: The trained network.
        kind: The adversarial loss.
        weight: Weight of the discriminator's loss.
        counts: Weight of the term in the generator's loss.
        term: Name of that term.
        features: Function of the input that returns a list per scale: activations, if any, and logits last.
    """

    name, term, counts = "discriminator", "generator", 1.0

    def __init__(self, config: TrainConfig, source_bands: int, target_bands: int) -> None:
        assert config.loss.adversarial != "none"
        self.kind: AdversarialLoss = config.loss.adversarial
        self.weight = config.loss.discriminator_scale
        self.conditional = config.discriminator.conditional
        bands = source_bands + target_bands if self.conditional else target_bands
        settings = config.discriminator.model_dump(exclude={"network", "conditional"})
        network = build_discriminator(config.discriminator.network, in_bands=bands, **settings)
        self.network, self.features = network, network.features
        self._r1, self._every = config.loss.r1, config.loss.r1_every
        self._penalty: Tensor | None = None

    def shown(self, batch: Batch, image: Tensor, change: PairChange) -> tuple[Tensor]:
        """Return the network's input for a batch's source and a real or fake image: both, or the image alone."""
        sides = (batch.source, image) if self.conditional else (image,)
        return (torch.cat([change(side, batch.mask) for side in sides], dim=1),)

    def figures(self, real: Logits, fake: Logits, loss: Tensor) -> dict[str, Tensor]:
        """Return what is logged: the mean loss over scales and sides (log 2 for a guess with bce), and the shares taken
        for real."""
        return {
            "discriminator": loss.detach() * (0.5 / len(by_scale(real))),
            "real accepted": share_accepted(self.kind, real),
            "fake accepted": share_accepted(self.kind, fake),
        }

    def regularize(
        self, number: int, real: tuple[Any, ...], mask: Tensor | None, share: float, fabric: Fabric
    ) -> dict[str, Tensor]:
        """Add the gradients of the R1 penalty, times the batch's share, at steps that have one; return what is logged,
        between these steps the last value."""
        if not self._r1:
            return {}
        if number % self._every == 0:
            (pair,) = real
            penalty = r1_penalty(self.network, pair, mask)
            _add_gradients(self.network, penalty * (self._r1 * self._every * share), fabric)
            self._penalty = penalty.detach()
        return {} if self._penalty is None else {"r1": self._penalty}


class Projected:
    """Discriminators on the frozen features of an image and of its source; see `PatchDiscriminator`."""

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
        """Return the mean loss over strides and sides."""
        return {"projected discriminator": loss.detach() * (0.5 / len(by_scale(real)))}

    def regularize(self, *_: Any) -> dict[str, Tensor]:
        return {}


Discriminator: TypeAlias = PatchDiscriminator | Projected


def _add_gradients(network: nn.Module, loss: Tensor, fabric: Fabric) -> None:
    """Add a loss's gradients, averaged over processes: DDP does so only in the wrapped network's own backward."""
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and parameter.grad is not None:
            shared = fabric.all_reduce(gradient, reduce_op="mean")
            assert isinstance(shared, Tensor)
            parameter.grad += shared
