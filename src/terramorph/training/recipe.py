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
    """

    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Updates every network once from one or more batches; returns losses by readable names (0-d, detached)."""

    def set_rate(self, factor: float) -> None:
        """Sets every learning rate to its base times the factor."""
