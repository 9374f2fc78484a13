"""Cost of training: time per image, memory, parameters."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from terramorph.networks import parameter_count


@dataclass(frozen=True)
class Cost:
    """Cost of a run, or of the part that one call trained.

    Attributes:
        seconds_per_image: seconds of steps and their batches, without sheets, checkpoints and the first step (warm-up);
            all processes together. None if there was no second step.
        peak_memory: bytes; on CUDA the peak of tensors during the call, on a CPU that of this process since its start
            (0 on Windows).
        parameters: number of trainable values of each network.
    """

    seconds_per_image: float | None
    peak_memory: int
    parameters: dict[str, int]


class Meter:
    """Measures a `Cost` while steps are taken."""

    def __init__(self, device: torch.device, networks: Mapping[str, nn.Module]) -> None:
        self._device = device
        self._parameters = {name: parameter_count(network) for name, network in networks.items()}
        self._begun: float | None = None
        self._seconds, self._images = 0.0, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def step(self, images: int) -> Iterator[None]:
        """Measure a step, which the block runs."""
        first = self._begun is None
        begun = self._begun = time.perf_counter()
        yield
        if not first:
            self._seconds += time.perf_counter() - begun
            self._images += images

    def cost(self) -> Cost:
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        elif sys.platform == "win32":
            peak = 0
        else:  # macOS counts bytes, Linux KiB
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Cost(self._seconds / self._images if self._images else None, peak, self._parameters)
