"""The generator's loss: a sum of terms, each a name, a weight and a function of (batch, output, features)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from terramorph.errors import ConfigError
from terramorph.imports import resolve, running
from terramorph.losses import (
    PairChange,
    feature_distance,
    feature_matching_loss,
    generator_loss,
    l1_loss,
    l2_loss,
    palette_cross_entropy,
    palette_shares,
    palette_weights,
)
from terramorph.metrics import Lpips
from terramorph.networks import has_palette
from terramorph.pixels import Batch
from terramorph.training.config import LossConfig, TrainConfig
from terramorph.training.discriminators import Backbone, Discriminator, PatchDiscriminator, require_colours
from terramorph.training.settings import parse_config


class Features:
    """Features of a batch and its output in other networks, computed when a term first asks for them.

    Args:
        batch: Source, target and mask.
        output: Output of the generator, float (N, C, H, W), 0 where the mask is 0.
        change: The differentiable augmentation of the discriminators' real and fake pairs.

    Attributes:
        scores: The generator's class scores before the softmax, float (N, K, H, W); None if it has none.
        mask: Mask of the augmented pairs, (N, 1, H, W), or None.
    """

    def __init__(self, batch: Batch, output: Tensor, scores: Tensor | None, change: PairChange) -> None:
        self._batch, self._output, self._change = batch, output, change
        self.scores = scores
        self._fake: dict[str, list[list[Tensor]]] = {}
        self.mask = change.moved_mask(batch.mask)

    def fake(self, discriminator: Discriminator) -> list[list[Tensor]]:
        """Return a discriminator's features of the output: a list per scale, of activations and, last, logits."""
        if discriminator.name not in self._fake:
            shown = discriminator.shown(self._batch, self._output, self._change)
            self._fake[discriminator.name] = discriminator.features(*shown)
        return self._fake[discriminator.name]

    @torch.no_grad()
    def real(self, discriminator: Discriminator) -> list[list[Tensor]]:
        """Return a discriminator's features of the target, without gradients."""
        return discriminator.features(*discriminator.shown(self._batch, self._batch.target, self._change))


Value: TypeAlias = Callable[[Batch, Tensor, Features], Tensor]


@dataclass(frozen=True)
class Term:
    """One term of the generator's loss.

    Attributes:
        name: Name in logs.
        weight: Factor on the value; logs show the value without it.
        value: Function (batch, output, features) -> 0-d tensor, differentiable by the output. Images are float
            (N, C, H, W) in [-1, 1]; output and target are 0 where `batch.mask` (N, 1, H, W) is 0.
    """

    name: str
    weight: float
    value: Value


def with_terms(config: TrainConfig, terms: Sequence[Term]) -> TrainConfig:
    """Return a configuration that names further terms, as a run records them."""
    if not terms:
        return config
    values = config.model_dump()
    for term in terms:
        if not isinstance(term, Term) or not callable(term.value):
            raise ConfigError(f"A loss term must be a terramorph.training.Term(name, weight, function), got {term!r}.")
        function = f"{term.value.__module__}:{getattr(term.value, '__qualname__', type(term.value).__qualname__)}"
        values["loss"]["terms"][term.name] = {"function": function, "weight": term.weight}
    return parse_config(values)


def generator_terms(
    config: TrainConfig,
    target_bands: int,
    generator: nn.Module,
    discriminators: Sequence[Discriminator],
    backbone: Backbone | None,
    device: torch.device,
    given: Sequence[Term] = (),
    allowed: Collection[str] = (),
) -> list[Term]:
    """Make the terms that a configuration names.

    Raises:
        ConfigError: If a term cannot take the target's bands, has the name of another, or is from a module that is
            not allowed or cannot be imported.
        InputError: If the weights of a term cannot be read.
    """
    loss = config.loss
    terms = [*_adversarial(loss, discriminators), *_distances(loss, target_bands, device)]
    if loss.backbone_features and backbone is not None:
        require_colours("loss.backbone_features", target_bands, "target")

        def seen(batch: Batch, output: Tensor, _: Features) -> Tensor:
            return feature_distance(backbone(output), backbone(batch.target), batch.mask)

        terms.append(Term("backbone features", loss.backbone_features, seen))
    if loss.palette:
        terms.append(Term("palette", loss.palette, PaletteClasses(generator)))
    at_hand = {term.name: term.value for term in given}
    for name, setting in config.loss.terms.items():
        if any(term.name == name for term in terms):
            raise ConfigError(f"loss.terms.{name} has the name of a built-in term; choose another.")
        value = at_hand[name] if name in at_hand else resolve(setting.function, allowed)
        terms.append(Term(name, setting.weight, _checked(name, value)))
    return terms


def _checked(name: str, value: Value) -> Value:
    """Wrap a function from outside; raise ConfigError unless its value is a 0-d tensor."""

    def checked(batch: Batch, output: Tensor, features: Features) -> Tensor:
        with running(f"The loss term {name}"):
            found: Any = value(batch, output, features)
        if not isinstance(found, Tensor) or found.ndim:
            given = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(f"The loss term {name} must return a 0-d tensor, got {given}.")
        return found

    return checked


def _adversarial(loss: LossConfig, discriminators: Sequence[Discriminator]) -> Iterator[Term]:
    """Yield the adversarial and the feature matching term of each discriminator.

    Goodfellow et al. 2014 (arXiv:1406.2661), with the losses of `terramorph.losses.adversarial`; Wang et al. 2018
    (arXiv:1711.11585), equation 4.
    """
    for one in discriminators:

        def fooled(_batch: Batch, _output: Tensor, features: Features, one: Discriminator = one) -> Tensor:
            return generator_loss(one.kind, [scale[-1] for scale in features.fake(one)], features.mask)

        def matched(_batch: Batch, _output: Tensor, features: Features, one: Discriminator = one) -> Tensor:
            fake = features.fake(one)
            return feature_matching_loss(features.real(one), fake, features.mask)

        yield Term(one.term, one.counts, fooled)
        if loss.feature_matching and isinstance(one, PatchDiscriminator):
            yield Term("features", loss.feature_matching, matched)


def _distances(loss: LossConfig, target_bands: int, device: torch.device) -> Iterator[Term]:
    """Yield the terms of distance between output and target; L1 at any weight, for the log."""
    yield Term("l1", loss.l1_weight, lambda batch, output, _: l1_loss(output, batch.target, batch.mask))
    if loss.l2_weight:
        yield Term("l2", loss.l2_weight, lambda batch, output, _: l2_loss(output, batch.target, batch.mask))
    if loss.perceptual:
        yield Term("perceptual", loss.perceptual, _lpips(loss.perceptual_weights, target_bands, device))


class PaletteClasses:
    """Cross-entropy of class scores with the palette colours nearest to the target.

    Args:
        generator: A generator with a palette, a buffer (K, C).

    Raises:
        ConfigError: If the generator has none.
    """

    def __init__(self, generator: nn.Module) -> None:
        if not has_palette(generator):
            raise ConfigError(
                "loss.palette needs a generator with class scores; give generator.network=lite-unet with "
                "generator.colours, or set loss.palette=0."
            )
        self._generator = generator
        self._weights: Tensor | None = None

    def fit(self, targets: Iterable[Tensor]) -> None:
        """Weight classes by their shares in training targets."""
        self._weights = palette_weights(palette_shares(targets, self._palette))

    @property
    def _palette(self) -> Tensor:
        palette: Tensor = self._generator.palette  # type: ignore[assignment]
        return palette

    def __call__(self, batch: Batch, _output: Tensor, features: Features) -> Tensor:
        """Return the value of the term, 0-d."""
        assert features.scores is not None  # its generator has a palette
        weights = torch.ones_like(self._palette[:, 0]) if self._weights is None else self._weights
        return palette_cross_entropy(features.scores, batch.target, self._palette, weights, batch.mask)


def _lpips(folder: str, bands: int, device: torch.device) -> Value:
    """Return the LPIPS loss: after Johnson et al. 2016 (arXiv:1603.08155), with the distance of Zhang et al. 2018
    (arXiv:1801.03924), equation 1, on SqueezeNet's features; the mean over pairs, float32."""
    require_colours("loss.perceptual", bands, "target")
    lpips = Lpips.from_folder(folder).to(device)

    def value(batch: Batch, output: Tensor, _: Features) -> Tensor:
        with torch.autocast(output.device.type, enabled=False):
            distance: Tensor = lpips(output.float(), batch.target.float()).mean()
        return distance

    return value
