"""What a training method is to the loop: networks, optimizers and one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from terramorph.pixels import Batch


class Recipe(Protocol):
    """A training method. The loop knows no more of it than this.

    Attributes:
        networks: every network by name; `generator` is the one that is bundled.
        optimizers: by name.
        noise: what everything random in a step is drawn from; the loop seeds it before each.
        afresh: names of the tensors that do not come from the model that the run starts from; empty without one.
    """

    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    noise: torch.Generator
    afresh: tuple[str, ...]

    def step(self, batches: Sequence[Batch], number: int = 0) -> dict[str, Tensor]:
        """Updates every network once.

        Args:
            batches: one or more, whose gradients are averaged.
            number: of the step, counted from 0, for what is not done at every one.

        Returns:
            Losses by readable names, 0-d and detached.
        """

    def set_rate(self, factor: float) -> None:
        """Sets every learning rate to its base times the factor."""
