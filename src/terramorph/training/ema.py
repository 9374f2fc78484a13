"""Exponential moving average (EMA) of weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class AveragedNetwork:
    """Exponential moving average of a network's weights (Polyak and Juditsky 1992); buffers are copied.

    The decay grows as (1 + step) / (10 + step) up to its value, so that the start is forgotten.

    Attributes:
        network: The average, in evaluation mode, without gradients.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Update the average after a step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1.0 - decay)
        for count in (False, True):  # tensors of one type are copied together
            kinds = [[b for b in side.buffers() if b.is_floating_point() != count] for side in (self.network, network)]
            if kinds[0]:
                torch._foreach_copy_(kinds[0], kinds[1])
