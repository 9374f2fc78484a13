"""pix2pix: Isola, Zhu, Zhou, Efros 2017, Image-to-Image Translation with Conditional Adversarial Networks,
arXiv:1611.07004.

    G* = arg min_G max_D  E[log D(x, y)] + E[log(1 - D(x, G(x, z)))] + lambda E[|y - G(x, z)|]      (equations 1 to 4)

The noise z is dropout. D is updated first, then G against the updated D. The loss of D is in `discriminators.py`, the
loss of G is the sum of the terms in `terms.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from terramorph.losses import PairChange, discriminator_loss, draw_change
from terramorph.networks import build_generator, has_palette, initialize, set_noise
from terramorph.networks.generator import draw_noise
from terramorph.pixels import Batch
from terramorph.training.config import TrainConfig
from terramorph.training.discriminators import Backbone, make_discriminators
from terramorph.training.finetune import load_start
from terramorph.training.optimizer import make_optimizer
from terramorph.training.terms import Features, Term, generator_terms

if TYPE_CHECKING:
    from lightning_fabric import Fabric
_SEARCHED = 64
"""Number of convolutions from which cuDNN's search for the fastest algorithms (half a minute) costs more than it
saves."""


class Pix2Pix:
    """Generator, discriminators, their optimizers, and the update of one step.

    Args:
        restored: Whether a checkpoint fills the networks, so that no weights are read to start from.

    Attributes:
        networks: Networks by name; `generator` is the one in the bundle.
        optimizers: Optimizers by the same names.
        terms: Terms of the generator's loss.
        noise: Random generator of a step, seeded before each.
        afresh: Names of the tensors that the model the run starts from does not fill; empty without one.

    Raises:
        ConfigError: If a term cannot take the target's bands, or is from a module that is not allowed.
        InputError: If the weights of a term cannot be read.
    """

    def __init__(
        self,
        config: TrainConfig,
        source_bands: int,
        target_bands: int,
        fabric: Fabric,
        terms: Sequence[Term] = (),
        allowed: Collection[str] = (),
        restored: bool = False,
    ) -> None:
        self.fabric = fabric
        self.noise = torch.Generator(fabric.device)
        loss = config.loss
        self._backbone = Backbone(loss, fabric) if loss.backbone_features or loss.projected else None
        self.discriminators = make_discriminators(config, source_bands, target_bands, self._backbone)
        self.networks: dict[str, nn.Module] = {
            "generator": build_generator(config.generator, source_bands, target_bands, allowed),
            **{one.name: one.network for one in self.discriminators},
        }
        generator = self.networks["generator"]
        self.terms = generator_terms(
            config, target_bands, generator, self.discriminators, self._backbone, fabric.device, terms, allowed
        )
        set_noise(generator, self.noise)
        random = torch.Generator().manual_seed(config.seed)
        start = config.start.model_copy(update={"model": ""}) if restored else config.start
        config.generator.start(generator, random, published=not (restored or start.model))
        for one in self.discriminators:
            initialize(one.network, random)
        self.afresh = load_start(self.networks, start, source_bands, allowed)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._wrapped: dict[str, nn.Module] = {}
        # All batches of a run have one shape, so the search pays off, unless there are many convolutions.
        layers = sum(isinstance(m, nn.Conv2d) for network in self.networks.values() for m in network.modules())
        torch.backends.cudnn.benchmark = layers < _SEARCHED
        for name, network in self.networks.items():
            network.to(fabric.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
            optimizer = make_optimizer(name, network, config, fabric.device)
            run = Scored(network) if name == "generator" else network
            self._wrapped[name], self.optimizers[name] = fabric.setup(run, optimizer, move_to_device=False)
        if config.launch == "compile":
            self._wrapped = {name: torch.compile(wrapped) for name, wrapped in self._wrapped.items()}  # type: ignore[misc]
            for one in self.discriminators:
                one.features = torch.compile(one.features)
        self._augmented = config.data.diffaugments

    def fit(self, targets: Callable[[], Iterable[Tensor]]) -> None:
        """Fit generator and terms to training targets, such as the colours of a palette."""
        part: Any
        for part in (self.networks["generator"], *(term.value for term in self.terms)):
            if hasattr(part, "fit"):
                part.fit(targets())

    def step(self, batches: Sequence[Batch], number: int = 0) -> dict[str, Tensor]:
        """Update each network once.

        Args:
            batches: One or more, whose gradients are averaged; outputs of several are computed again for the
                generator's update, so that memory stays that of one batch.
            number: Number of the step, counted from 0, for penalties that not every step has.

        Returns:
            Losses and shares by their names in logs, 0-d and detached, averaged over batches.
        """
        figures: dict[str, Tensor] = {}
        output = self._discriminator_step(batches, number, figures) if self.discriminators else None
        self._generator_step(batches, output, figures)
        return figures

    def _discriminator_step(self, batches: Sequence[Batch], number: int, figures: dict[str, Tensor]) -> Output | None:
        """Update D to tell real pairs from fake ones (max_D). Return the output if there is one batch, else None."""
        share, one_batch = 1.0 / len(batches), len(batches) == 1
        self._turn([one.name for one in self.discriminators])
        for batch in batches:
            with torch.set_grad_enabled(one_batch):
                output = self._generate(batch)
            change = self._change(batch)
            image, mask = output.image.detach(), change.moved_mask(batch.mask)
            for one in self.discriminators:
                truth = one.shown(batch, batch.target, change)
                real = self._wrapped[one.name](*truth)
                fake = self._wrapped[one.name](*one.shown(batch, image, change))
                loss = discriminator_loss(one.kind, real, fake, mask)
                self.fabric.backward(loss * (one.weight * share))
                _add(figures, one.figures(real, fake, loss), share)
                _add(figures, one.regularize(number, truth, mask, share, self.fabric), share)
            if not one_batch:
                self._forget()
        for one in self.discriminators:
            self.optimizers[one.name].step()
        return output if one_batch else None

    def _generator_step(self, batches: Sequence[Batch], output: Output | None, figures: dict[str, Tensor]) -> None:
        """Update G to fool D and to be near the truth (min_G)."""
        share = 1.0 / len(batches)
        self._turn(["generator"])
        for batch in batches:
            made = self._generate(batch) if output is None else output
            features = Features(batch, made.image, made.scores, self._change(batch))
            with self.fabric.autocast():
                values = {term.name: term.value(batch, made.image, features) for term in self.terms}
            self.fabric.backward(reduce(add, (term.weight * values[term.name] for term in self.terms)) * share)
            _add(figures, values, share)
            self._forget()
        self.optimizers["generator"].step()

    def _forget(self) -> None:
        """Let go of the features of a batch's images."""
        if self._backbone is not None:
            self._backbone.forget()

    def _generate(self, batch: Batch) -> Output:
        """Compute G(x, z), masked to 0 as the target is."""
        noise = draw_noise(self.networks["generator"], batch.source, self.noise)
        image, scores = self._wrapped["generator"](batch.source, noise)
        return Output(image if batch.mask is None else image * batch.mask, scores)

    def _change(self, batch: Batch) -> PairChange:
        """Draw the differentiable augmentation of data.diffaugment for an update; the identity without one."""
        drawn = self._augmented and self.discriminators
        return draw_change(self._augmented, batch.target, self.noise) if drawn else PairChange()

    def _turn(self, names: Sequence[str]) -> None:
        """Let only these networks learn: discriminators are frozen during the generator's update."""
        for one in self.discriminators:
            one.network.requires_grad_(one.name in names)
        for name in names:
            self.optimizers[name].zero_grad(set_to_none=True)

    def set_rate(self, factor: float) -> None:
        """Set every learning rate to its initial value times the factor."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(group["initial_lr"] * factor)
                else:
                    group["lr"] = group["initial_lr"] * factor


class Output(NamedTuple):
    """An output image, float (N, C, H, W), and its class scores (N, K, H, W), if the generator has some."""

    image: Tensor
    scores: Tensor | None


class Scored(nn.Module):
    """A generator that returns image and class scores, if it has some, in one pass."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, source: Tensor, noise: Tensor | None) -> Output:
        """Translate float (N, in_bands, H, W) in [-1, 1]; ``noise`` is the noise image of generators that take one."""
        arguments = (source,) if noise is None else (source, noise)
        if has_palette(self.generator):
            return Output(*self.generator.with_scores(*arguments))  # type: ignore[operator]
        return Output(self.generator(*arguments), None)


def _add(figures: dict[str, Tensor], values: Mapping[str, Tensor], share: float) -> None:
    """Add a batch's share to a step's means."""
    for name, value in values.items():
        part = value.detach() * share
        figures[name] = figures[name] + part if name in figures else part
