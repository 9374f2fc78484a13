"""Cost of training: time per image, memory, parameters; and its speed on this machine, before a run starts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from terramorph.networks import parameter_count
from terramorph.pixels import Batch
from terramorph.training.config import TrainConfig
from terramorph.training.devices import make_fabric
from terramorph.training.pix2pix import Pix2Pix

_SECONDS = 1.5
"""Seconds of measured steps, after one warm-up step."""


@dataclass(frozen=True)
class Cost:
    """Cost of a run, or of the part that one call trained.

    Attributes:
        seconds_per_image: Seconds of steps and their batches, without sheets, checkpoints and the first step (warm-up);
            all processes together. None if there was no second step.
        peak_memory: Bytes; on CUDA the peak of tensors during the call, on a CPU that of this process since its start
            (0 on Windows).
        parameters: Number of trainable values of each network.
    """

    seconds_per_image: float | None
    peak_memory: int
    parameters: dict[str, int]


class Clock:
    """Measures the speed of the last steps, and the `Cost` of all.

    Args:
        device: Device of the training.
        networks: Trained networks, by name.
        images: Images of a step, all processes together.
    """

    def __init__(self, device: torch.device, networks: Mapping[str, nn.Module], images: int) -> None:
        self._device, self._images, self._steps, self._seconds = device, images, -1, 0.0
        self._parameters = {name: parameter_count(network) for name, network in networks.items()}
        self.restart(0)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def restart(self, step: int) -> None:
        """Forget the speed of the steps up to this one."""
        self._since, self._start, self._waited = step, time.perf_counter(), 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure a step, which the block runs; the first one warms up and does not count."""
        begun = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - begun if self._steps >= 0 else 0.0
        self._steps += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as spent on making batches."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    def speed(self, step: int) -> tuple[float, float]:
        """Return images per second since the restart, and the share of the time that was spent on making batches."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        return (step - self._since) * self._images / elapsed, self._waited / elapsed

    def cost(self) -> Cost:
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        elif sys.platform == "win32":
            peak = 0
        else:  # macOS counts bytes, Linux KiB
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        pace = self._seconds / (self._steps * self._images) if self._steps > 0 else None
        return Cost(pace, peak, self._parameters)


def images_per_second(config: TrainConfig, bands: tuple[int, int] = (3, 3), threads: int | None = None) -> float:
    """Measure images per second by training on noise, without data, sheets and checkpoints.

    Args:
        config: Configuration; launch=compile and launch=graph are measured as launch=eager.
        bands: Bands of source and target.
        threads: torch's CPU threads while measuring; None keeps their number.
    """
    config = config.model_copy(update={"launch": "eager", "accumulate": 1})
    fabric = make_fabric(config)
    recipe = Pix2Pix(config, *bands, fabric)
    side = config.data.crop_size
    noise = torch.Generator().manual_seed(0)
    source, target = (torch.rand(config.batch_size, n, side, side, generator=noise) * 2 - 1 for n in bands)
    batch = Batch(source.to(fabric.device), target.to(fabric.device))
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        _wait(recipe.step([batch]))
        begun, steps = time.perf_counter(), 0
        while time.perf_counter() - begun < _SECONDS:
            _wait(recipe.step([batch]))
            steps += 1
        return steps * config.batch_size / (time.perf_counter() - begun)
    finally:
        torch.set_num_threads(before)


def _wait(losses: dict[str, torch.Tensor]) -> None:
    """Wait for the end of a step by reading a loss."""
    for loss in losses.values():
        loss.item()
