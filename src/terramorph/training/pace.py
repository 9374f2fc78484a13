"""Speed of training on this machine, measured before a run starts."""

from __future__ import annotations

import time

import torch

from terramorph.pixels import Batch
from terramorph.training.config import TrainConfig
from terramorph.training.devices import make_fabric
from terramorph.training.pix2pix import Pix2Pix

_SECONDS = 1.5
"""Seconds of measured steps, after one warm-up step."""


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
