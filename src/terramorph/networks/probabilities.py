"""Probabilities of map classes, in place of colours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class ClassProbabilities(nn.Module):
    """A generator with class scores, made to output the probability of each map class.

    The softmax of the scores gives a share to each colour of the generator's palette; the probability of a class is the
    sum of the shares of its colours.

    Args:
        generator: Has `scores` and `palette` (see `generator.py`).
        classes: int64 (colours,), the class of each colour of the palette, from 0.
        count: Number of classes.
    """

    def __init__(self, generator: nn.Module, classes: Tensor, count: int) -> None:
        super().__init__()
        self.generator = generator
        self.register_buffer("members", nn.functional.one_hot(classes, count).T.float())
        for name in ("stride", "halo", "overlap", "noise", "takes_core", "channels_last"):
            if hasattr(generator, name):
                setattr(self, name, getattr(generator, name))

    def forward(self, source: Tensor, noise: Tensor | None = None, **core: Any) -> Tensor:
        """Return probabilities p as 2 p - 1.

        Args:
            source: float (N, in_bands, H, W) in [-1, 1], any H and W.

        Returns:
            float32 (N, classes, h, w) in [-1, 1], of the core.
        """
        scores: Any = self.generator.scores  # of whatever class the generator is
        shares = scores(source, noise, **core).float().softmax(dim=1)
        members = self.get_buffer("members").float()
        return torch.einsum("nkhw,ck->nchw", shares, members).clamp(0.0, 1.0) * 2.0 - 1.0

    def norms(self) -> Iterator[tuple[str, str]]:
        """Yield the generator's norms."""
        pairs: Any = getattr(self.generator, "norms", tuple)
        return ((f"generator.{before}", f"generator.{after}") for before, after in pairs())
