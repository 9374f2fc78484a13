"""pix2pix: Isola, Zhu, Zhou, Efros 2017, Image-to-Image Translation with Conditional Adversarial Networks,
arXiv:1611.07004.

    G* = arg min_G max_D  E[log D(x, y)] + E[log(1 - D(x, G(x, z)))] + lambda E[|y - G(x, z)|]      (equations 1 to 4)

with the noise z given by dropout, and D updated first, then G against the updated D. The settings of `LossConfig`
change what is in either sum; each is a function of `terramorph.losses` with its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from terramorph.losses import (
    AdversarialLoss,
    PairChange,
    by_scale,
    discriminator_loss,
    draw_change,
    feature_matching_loss,
    generator_loss,
    l1_loss,
    l2_loss,
    r1_penalty,
    share_accepted,
)
from terramorph.networks import MultiScale, PatchGAN, build_discriminator, build_network, initialize, set_noise
from terramorph.pixels import Batch
from terramorph.training.config import TrainConfig
from terramorph.training.finetune import load_start
from terramorph.training.optimizer import Adam
from terramorph.training.perceptual import PerceptualLoss

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Pix2Pix:
    """Generator, discriminator if any, their optimizers, and the update. Implements `Recipe`.

    Args:
        config: the run's.
        source_bands, target_bands: counts.
        fabric: device, precision and processes.

    Raises:
        ConfigError: if a perceptual loss is asked for a target that is not of three bands.
        InputError: if the feature weights of a perceptual loss cannot be read.
    """

    def __init__(self, config: TrainConfig, source_bands: int, target_bands: int, fabric: Fabric) -> None:
        self.loss = config.loss
        self.conditional = config.discriminator.conditional
        self.augmented = config.data.diffaugments
        self.fabric = fabric
        self.noise = torch.Generator(fabric.device)
        self.perceptual = PerceptualLoss.of(config.loss, target_bands, fabric.device)
        self.networks: dict[str, nn.Module] = {
            "generator": build_network(
                config.generator.network,
                in_bands=source_bands,
                out_bands=target_bands,
                **config.generator.settings(),
            )
        }
        self.judge: PatchGAN | MultiScale | None = None
        self._penalty: Tensor | None = None
        if config.loss.adversarial != "none":
            self.kind: AdversarialLoss = config.loss.adversarial
            bands = source_bands + target_bands if self.conditional else target_bands
            self.judge = build_discriminator(
                config.discriminator.network, in_bands=bands, **config.discriminator.settings()
            )
            self.networks["discriminator"] = self.judge
        set_noise(self.networks["generator"], self.noise)
        random = torch.Generator().manual_seed(config.seed)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._wrapped: dict[str, nn.Module] = {}
        self._rates = {
            "generator": config.optimizer.learning_rate,
            "discriminator": config.optimizer.discriminator_learning_rate or config.optimizer.learning_rate,
        }
        on_gpu = fabric.device.type == "cuda"
        for network in self.networks.values():
            initialize(network, random)
        self.afresh = load_start(self.networks, config.start, source_bands)
        for name, network in self.networks.items():
            network.to(fabric.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
            rate = self._rates[name]
            optimizer = Adam(
                [weight for weight in network.parameters() if weight.requires_grad],
                # A CUDA graph reads the rate from memory at each replay, so it must be a tensor there.
                lr=torch.tensor(rate, device=fabric.device) if on_gpu else rate,
                betas=config.optimizer.betas,
                fused=True,
                capturable=on_gpu,
            )
            self._wrapped[name], self.optimizers[name] = fabric.setup(network, optimizer, move_to_device=False)
        # Its own gradients are not wanted in the generator's turn, so there is nothing to share with other processes.
        self._frozen_judge: nn.Module | None = self.judge
        if config.launch == "compile":
            self._wrapped = {name: torch.compile(wrapped) for name, wrapped in self._wrapped.items()}  # type: ignore[misc]
            self._frozen_judge = None if self.judge is None else torch.compile(self.judge)  # type: ignore[assignment]

    def step(self, batches: Sequence[Batch], number: int = 0) -> dict[str, Tensor]:
        """One update of each network; see `Recipe.step`.

        Several batches are accumulated: gradients are averaged, and the translations are made again for the
        generator's turn rather than kept, so that memory stays that of one batch.
        """
        totals: dict[str, Tensor] = {}
        translated = None if self.judge is None else self._update_discriminator(self.judge, batches, number, totals)
        self._update_generator(batches, translated, totals)
        return totals

    def _update_discriminator(
        self, judge: PatchGAN | MultiScale, batches: Sequence[Batch], number: int, totals: dict[str, Tensor]
    ) -> Tensor | None:
        """D learns to tell real pairs from made ones. Returns the translations if they are all of one batch."""
        generate, discriminate = self._wrapped["generator"], self._wrapped["discriminator"]
        share, one = 1.0 / len(batches), len(batches) == 1
        penalized = self.loss.r1 > 0.0 and number % self.loss.r1_every == 0
        self._turn("discriminator")
        for batch in batches:
            with torch.set_grad_enabled(one):
                translated = generate(batch.source)
            change = self._change(batch)
            mask = change.moved_mask(batch.mask)
            truth = self._pair(batch, batch.target, change)
            real = discriminate(truth)
            fake = discriminate(self._pair(batch, _shown(translated.detach(), batch), change))
            judged = discriminator_loss(self.kind, real, fake, mask)
            self.fabric.backward(judged * (self.loss.discriminator_scale * share))
            _add(totals, "discriminator", judged.detach() * (0.5 * share / len(by_scale(real))))
            _add(totals, "real accepted", share_accepted(self.kind, real) * share)
            _add(totals, "fake accepted", share_accepted(self.kind, fake) * share)
            if penalized:
                penalty = r1_penalty(judge, truth, mask)
                self._add_gradients(judge, penalty * (self.loss.r1 * self.loss.r1_every * share))
                _add(totals, "r1", penalty.detach() * share)
        if "r1" not in totals and self._penalty is not None:
            totals["r1"] = self._penalty  # the last one, so that whoever looks now and then sees it
        self._penalty = totals.get("r1")
        self.optimizers["discriminator"].step()
        return translated if one else None

    def _update_generator(self, batches: Sequence[Batch], translated: Tensor | None, totals: dict[str, Tensor]) -> None:
        """G learns to fool D and to be near the truth."""
        share = 1.0 / len(batches)
        self._turn("generator")
        for batch in batches:
            made = self._wrapped["generator"](batch.source) if translated is None else translated
            terms = {**self._adversarial_terms(batch, made), **self._distances(batch, made)}
            total = reduce(add, (weight * value for weight, value in terms.values()))
            self.fabric.backward(total * share)
            for name, (_, value) in terms.items():
                _add(totals, name, value.detach() * share)
        self.optimizers["generator"].step()

    def _adversarial_terms(self, batch: Batch, made: Tensor) -> dict[str, tuple[float, Tensor]]:
        """What D says of the translations: weights and values by name."""
        judge = self.judge
        if judge is None or self._frozen_judge is None:
            return {}
        change = self._change(batch)
        mask = change.moved_mask(batch.mask)
        with self.fabric.autocast():
            pair = self._pair(batch, _shown(made, batch), change)
            if not self.loss.feature_matching:
                return {"generator": (1.0, generator_loss(self.kind, self._frozen_judge(pair), mask))}
            seen = judge.features(pair)
            with torch.no_grad():
                wanted = judge.features(self._pair(batch, batch.target, change))
        return {
            "generator": (1.0, generator_loss(self.kind, [scale[-1] for scale in seen], mask)),
            "features": (self.loss.feature_matching, feature_matching_loss(wanted, seen, mask)),
        }

    def _distances(self, batch: Batch, made: Tensor) -> dict[str, tuple[float, Tensor]]:
        """How far the translations are from the truth: weights and values by name. L1 is always told."""
        terms = {"l1": (self.loss.l1_weight, l1_loss(made, batch.target, batch.mask))}
        if self.loss.l2_weight:
            terms["l2"] = (self.loss.l2_weight, l2_loss(made, batch.target, batch.mask))
        if self.perceptual is not None:
            terms["perceptual"] = (self.loss.perceptual, self.perceptual(_shown(made, batch), batch.target))
        return terms

    def set_rate(self, factor: float) -> None:
        """See `Recipe.set_rate`."""
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(self._rates[name] * factor)
                else:
                    group["lr"] = self._rates[name] * factor

    def _turn(self, name: str) -> None:
        """It is this network's turn to learn: the discriminator is frozen while the generator does."""
        if self.judge is not None:
            self.judge.requires_grad_(name == "discriminator")
        self.optimizers[name].zero_grad(set_to_none=True)

    def _change(self, batch: Batch) -> PairChange:
        """The differentiable augmentation of a turn; none unless data.diffaugment says so."""
        return draw_change(self.augmented, batch.target, self.noise) if self.augmented else PairChange()

    def _pair(self, batch: Batch, image: Tensor, change: PairChange) -> Tensor:
        """What D is shown of a source and an image of its target."""
        sides = (batch.source, image) if self.conditional else (image,)
        return torch.cat([change(side, batch.mask) for side in sides], dim=1)

    def _add_gradients(self, network: nn.Module, loss: Tensor) -> None:
        """Adds a loss's gradients, the mean of all processes: only the wrapped network's own backward shares them."""
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None and parameter.grad is not None:
                shared = self.fabric.all_reduce(gradient, reduce_op="mean")
                assert isinstance(shared, Tensor)
                parameter.grad += shared


def _shown(translated: Tensor, batch: Batch) -> Tensor:
    """What the discriminator is shown: under the mask the same nothing that it sees on real pairs."""
    return translated if batch.mask is None else translated * batch.mask


def _add(totals: dict[str, Tensor], name: str, value: Tensor) -> None:
    totals[name] = totals[name] + value if name in totals else value
