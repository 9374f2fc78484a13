"""What a generator minimises: a sum of terms, each a name, a weight and a function of (batch, output, features)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from terramorph.errors import ConfigError
from terramorph.extensions import resolve
from terramorph.losses import PairChange, feature_matching_loss, generator_loss, l1_loss, l2_loss
from terramorph.metrics import Lpips
from terramorph.pixels import Batch
from terramorph.training.config import LossConfig, TrainConfig
from terramorph.training.discriminators import Discriminator
from terramorph.training.settings import parse_config


class Features:
    """What discriminators see in a batch and in its output; computed when a term first asks for it.

    Args:
        batch: source, target and mask.
        output: of the generator, float (N, C, H, W), 0 where the mask is.
        change: the differentiable augmentation that real and fake pairs are shown under.

    Attributes:
        mask: of the changed pairs, (N, 1, H, W), or None.
    """

    def __init__(self, batch: Batch, output: Tensor, change: PairChange) -> None:
        self._batch, self._output, self._change = batch, output, change
        self._fake: dict[str, list[list[Tensor]]] = {}
        self.mask = change.moved_mask(batch.mask)

    def fake(self, discriminator: Discriminator) -> list[list[Tensor]]:
        """Of the output: a list for each scale, of its activations and, last, its logits."""
        if discriminator.name not in self._fake:
            shown = discriminator.shown(self._batch, self._output, self._change)
            self._fake[discriminator.name] = discriminator.features(shown)
        return self._fake[discriminator.name]

    @torch.no_grad()
    def real(self, discriminator: Discriminator) -> list[list[Tensor]]:
        """The same of the target, without gradients."""
        return discriminator.features(discriminator.shown(self._batch, self._batch.target, self._change))


Value: TypeAlias = Callable[[Batch, Tensor, Features], Tensor]


@dataclass(frozen=True)
class Term:
    """One term of the generator's loss.

    Attributes:
        name: in logs.
        weight: the value counts this many times; the log shows it without.
        value: (batch, output, features) -> a 0-d tensor that the output can be learnt from. Images are float
            (N, C, H, W) in [-1, 1], output and target 0 where `batch.mask` (N, 1, H, W) is.
    """

    name: str
    weight: float
    value: Value


def with_terms(config: TrainConfig, terms: Sequence[Term]) -> TrainConfig:
    """A configuration that names further terms, as a run records them.

    Raises:
        ConfigError: if a weight is not a number.
    """
    if not terms:
        return config
    values = config.model_dump()
    for term in terms:
        function = f"{term.value.__module__}:{getattr(term.value, '__qualname__', type(term.value).__qualname__)}"
        values["loss"]["terms"][term.name] = {"function": function, "weight": term.weight}
    return parse_config(values)


def generator_terms(
    config: TrainConfig,
    target_bands: int,
    discriminators: Sequence[Discriminator],
    device: torch.device,
    given: Sequence[Term] = (),
    allowed: Collection[str] = (),
) -> list[Term]:
    """The terms that a configuration asks for.

    Args:
        config: the run's.
        target_bands: count.
        discriminators: what they say is a term.
        device: of the training.
        given: those of `loss.terms` that are at hand.
        allowed: modules that the others may be imported from.

    Raises:
        ConfigError: if a term is asked for a target that it cannot look at, has the name of another, or is from a
            module that is not allowed or cannot be imported.
        InputError: if the weights of one cannot be read.
    """
    terms = [*_adversarial(config.loss, discriminators), *_distances(config.loss, target_bands, device)]
    at_hand = {term.name: term.value for term in given}
    for name, setting in config.loss.terms.items():
        if any(term.name == name for term in terms):
            raise ConfigError(f"The name of loss.terms.{name} is that of a term of terramorph; choose another.")
        value = at_hand[name] if name in at_hand else resolve(setting.function, allowed)
        terms.append(Term(name, setting.weight, _checked(name, value)))
    return terms


def _checked(name: str, value: Value) -> Value:
    """A function from outside, whose value is known to be a number."""

    def checked(batch: Batch, output: Tensor, features: Features) -> Tensor:
        found: Any = value(batch, output, features)
        if not isinstance(found, Tensor) or found.ndim:
            given = (
                f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"{type(found).__name__}"
            )
            raise ConfigError(f"The loss term {name} returned {given}; return a tensor of one number, 0-d.")
        return found

    return checked


def _adversarial(loss: LossConfig, discriminators: Sequence[Discriminator]) -> Iterator[Term]:
    """How far each discriminator is from taking the output for real, and from seeing in it what it sees in the target.

    Goodfellow et al. 2014 (arXiv:1406.2661) and the losses of `terramorph.losses.adversarial`; Wang et al. 2018
    (arXiv:1711.11585), equation 4.
    """
    for one in discriminators:

        def fooled(_batch: Batch, _output: Tensor, features: Features, one: Discriminator = one) -> Tensor:
            return generator_loss(one.kind, [scale[-1] for scale in features.fake(one)], features.mask)

        def matched(_batch: Batch, _output: Tensor, features: Features, one: Discriminator = one) -> Tensor:
            fake = features.fake(one)
            return feature_matching_loss(features.real(one), fake, features.mask)

        yield Term("generator", 1.0, fooled)
        if loss.feature_matching:
            yield Term("features", loss.feature_matching, matched)


def _distances(loss: LossConfig, target_bands: int, device: torch.device) -> Iterator[Term]:
    """How far the output is from the target. L1 is logged at any weight."""
    yield Term("l1", loss.l1_weight, lambda batch, output, _: l1_loss(output, batch.target, batch.mask))
    if loss.l2_weight:
        yield Term("l2", loss.l2_weight, lambda batch, output, _: l2_loss(output, batch.target, batch.mask))
    if loss.perceptual:
        yield Term("perceptual", loss.perceptual, _lpips(loss.perceptual_weights, target_bands, device))


def _lpips(folder: str, bands: int, device: torch.device) -> Value:
    """LPIPS as a loss: the idea of Johnson et al. 2016 (arXiv:1603.08155), with the distance of Zhang et al. 2018
    (arXiv:1801.03924), equation 1, on SqueezeNet's features; the mean over pairs, float32."""
    if bands != 3:
        raise ConfigError(
            f"loss.perceptual looks at red, green and blue, and the target has {bands} band(s); set it to 0."
        )
    lpips = Lpips.from_folder(folder).to(device)

    def value(batch: Batch, output: Tensor, _: Features) -> Tensor:
        with torch.autocast(output.device.type, enabled=False):
            distance: Tensor = lpips(output.float(), batch.target.float()).mean()
        return distance

    return value
