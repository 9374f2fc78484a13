"""A training step as one CUDA graph, without launch overhead, which is most of the time at batch 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from terramorph.pixels import Batch
from terramorph.training.pix2pix import Pix2Pix


class GraphedStep:
    """A step that is captured on the first batches and replayed on all others, which must have the same shapes.

    Capture needs a few warm-up steps on a side stream; what they change is restored, so that a graphed run takes
    exactly the steps of an eager one.
    """

    _WARM_UP = 3

    def __init__(self, recipe: Pix2Pix) -> None:
        self.recipe = recipe
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Batch] = []
        self._losses: dict[str, Tensor] = {}

    def __call__(self, batches: Sequence[Batch], number: int = 0) -> dict[str, Tensor]:
        """Take a step and return its losses, which the next step overwrites; the number is ignored."""
        if self._graph is None:
            self._capture(batches)
        for held, new in zip(self._inputs, batches, strict=True):
            for ours, theirs in zip(_tensors(held), _tensors(new), strict=True):
                ours.copy_(theirs, non_blocking=True)
        assert self._graph is not None
        self._graph.replay()
        return self._losses

    def _capture(self, batches: Sequence[Batch]) -> None:
        self._inputs = [
            Batch(b.source.clone(), b.target.clone(), None if b.mask is None else b.mask.clone()) for b in batches
        ]
        before = {key: value.clone() for key, value in self._state()}
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(self._WARM_UP):
                self.recipe.step(self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.recipe.noise)
        with torch.cuda.graph(graph):
            self._losses = self.recipe.step(self._inputs)
        # Moments that did not exist before the warm-up start from zero, as Adam's do.
        for key, value in self._state():
            value.copy_(before[key]) if key in before else value.zero_()
        noise = self.recipe.noise
        noise.manual_seed(noise.initial_seed())  # the step about to be replayed draws from its start
        self._graph = graph

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for name, network in self.recipe.networks.items():
            for key, value in network.state_dict().items():
                yield f"network.{name}.{key}", value
        for name, optimizer in self.recipe.optimizers.items():
            for index, slots in enumerate(optimizer.state.values()):
                for slot, value in slots.items():
                    yield f"optimizer.{name}.{index}.{slot}", value


def _tensors(batch: Batch) -> list[Tensor]:
    return [t for t in (batch.source, batch.target, batch.mask) if t is not None]
