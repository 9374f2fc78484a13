"""How fast a configuration trains on this machine, measured before it is started."""

from __future__ import annotations

import time

import torch

from terramorph.pixels import Batch
from terramorph.training.config import TrainConfig
from terramorph.training.devices import make_fabric
from terramorph.training.pix2pix import Pix2Pix

_SECONDS = 1.5
"""How long steps are taken for, after one to warm up."""


def images_per_second(config: TrainConfig, bands: tuple[int, int] = (3, 3), threads: int | None = None) -> float:
    """Train on noise for a moment, without data, sheets and checkpoints.

    Args:
        config: what would be trained; launch=compile and launch=graph are measured as launch=eager.
        bands: of source and target.
        threads: of torch on the CPU, while this measures; None leaves them as they are.
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
    """Read a loss, which is there when the step is done."""
    for loss in losses.values():
        loss.item()
