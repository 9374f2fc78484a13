"""pix2pix: Isola, Zhu, Zhou, Efros 2017, Image-to-Image Translation with Conditional Adversarial Networks,
arXiv:1611.07004.

    G* = arg min_G max_D  E[log D(x, y)] + E[log(1 - D(x, G(x, z)))] + lambda E[|y - G(x, z)|]      (equations 1 to 4)

with the noise z given by dropout, and D updated first, then G against the updated D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from terramorph.losses import UNDECIDED, discriminator_loss, generator_loss, l1_loss
from terramorph.networks import build_network, initialize
from terramorph.pixels import Batch
from terramorph.training.config import TrainConfig


class Pix2Pix:
    """Generator, discriminator, their optimizers, and the update. Implements `Recipe`.

    Args:
        config: the run's.
        source_bands, target_bands: counts.
        fabric: device, precision and processes.
    """

    def __init__(self, config: TrainConfig, source_bands: int, target_bands: int, fabric: Fabric) -> None:
        self.loss = config.loss
        self.undecided = UNDECIDED[config.loss.adversarial]
        self.fabric = fabric
        generator = build_network(
            config.generator.network,
            in_bands=source_bands,
            out_bands=target_bands,
            **config.generator.model_dump(exclude={"network"}),
        )
        discriminator = build_network(
            config.discriminator.network,
            in_bands=source_bands + target_bands,
            **config.discriminator.model_dump(exclude={"network"}),
        )
        random = torch.Generator().manual_seed(config.seed)
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._wrapped: dict[str, nn.Module] = {}
        self._rates = {
            "generator": config.optimizer.learning_rate,
            "discriminator": config.optimizer.discriminator_learning_rate or config.optimizer.learning_rate,
        }
        on_gpu = fabric.device.type == "cuda"
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            initialize(network, random)
            network.to(fabric.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
            rate = self._rates[name]
            optimizer = torch.optim.Adam(
                network.parameters(),
                # A CUDA graph reads the rate from memory at each replay, so it must be a tensor there.
                lr=torch.tensor(rate, device=fabric.device) if on_gpu else rate,
                betas=config.optimizer.betas,
                fused=True,
                capturable=on_gpu,
            )
            self.networks[name] = network
            self._wrapped[name], self.optimizers[name] = fabric.setup(network, optimizer, move_to_device=False)
        if config.launch == "compile":
            self._wrapped = {name: torch.compile(wrapped) for name, wrapped in self._wrapped.items()}  # type: ignore[misc]

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """One update of each network; see `Recipe.step`.

        Several batches are accumulated: gradients are averaged, and the translations are made again for the
        generator's turn rather than kept, so that memory stays that of one batch.
        """
        generate, discriminate = self._wrapped["generator"], self._wrapped["discriminator"]
        share = 1.0 / len(batches)
        totals: dict[str, Tensor] = {}
        one = len(batches) == 1
        translated: Tensor | None = None

        self._turn("discriminator")
        for batch in batches:
            with torch.set_grad_enabled(one):
                translated = generate(batch.source)
            real = discriminate(torch.cat([batch.source, batch.target], dim=1))
            fake = discriminate(torch.cat([batch.source, _shown(translated.detach(), batch)], dim=1))
            judged = discriminator_loss(self.loss.adversarial, real, fake, batch.mask)
            self.fabric.backward(judged * (self.loss.discriminator_scale * share))
            _add(totals, "discriminator", judged.detach() * (0.5 * share))
            _add(totals, "real accepted", (real.detach() > self.undecided).float().mean() * share)
            _add(totals, "fake accepted", (fake.detach() > self.undecided).float().mean() * share)
        self.optimizers["discriminator"].step()

        self._turn("generator")
        # Straight to the module: its own gradients are not wanted here, so there is nothing to share with others.
        judge = self.networks["discriminator"]
        for batch in batches:
            if not one:
                translated = generate(batch.source)
            assert translated is not None
            with self.fabric.autocast():
                fake = judge(torch.cat([batch.source, _shown(translated, batch)], dim=1))
            fooled = generator_loss(self.loss.adversarial, fake, batch.mask)
            distance = l1_loss(translated, batch.target, batch.mask)
            self.fabric.backward((fooled + self.loss.l1_weight * distance) * share)
            _add(totals, "generator", fooled.detach() * share)
            _add(totals, "l1", distance.detach() * share)
        self.optimizers["generator"].step()
        return totals

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
        self.networks["discriminator"].requires_grad_(name == "discriminator")
        self.optimizers[name].zero_grad(set_to_none=True)


def _shown(translated: Tensor, batch: Batch) -> Tensor:
    """What the discriminator is shown: under the mask the same nothing that it sees on real pairs."""
    return translated if batch.mask is None else translated * batch.mask


def _add(totals: dict[str, Tensor], name: str, value: Tensor) -> None:
    totals[name] = totals[name] + value if name in totals else value
