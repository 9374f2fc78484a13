"""How many threads train fastest here: all of them on an idle machine, one where others compete for the cores."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from terramorph.cli.console import Meter

if TYPE_CHECKING:
    from terramorph.training import TrainConfig

SECONDS = 1.5
"""How long each number of threads is tried for, after a step to warm up."""


def use_fastest_threads(config: TrainConfig) -> dict[int, float]:
    """Tries one thread and all threads for a few training steps each, and leaves torch with the faster.

    Threads that wait for each other at every layer are slower than one when another program holds a core.

    Returns:
        Images per second by number of threads; empty where there is nothing to choose.
    """
    import torch

    from terramorph.pixels import Batch
    from terramorph.training.devices import make_fabric
    from terramorph.training.pix2pix import Pix2Pix

    every = torch.get_num_threads()
    fabric = make_fabric(config)
    if fabric.device.type != "cpu" or every == 1:
        return {}
    recipe = Pix2Pix(config, 3, 3, fabric)
    side = config.data.crop_size
    noise = torch.rand(config.batch_size, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = Batch(noise, noise.flip(0))
    paces: dict[int, float] = {}
    with Meter("measuring the pace", 2) as meter:
        for threads in (1, every):
            torch.set_num_threads(threads)
            recipe.step([batch])
            begun, steps = time.perf_counter(), 0
            while time.perf_counter() - begun < SECONDS:
                recipe.step([batch])
                steps += 1
            paces[threads] = steps * config.batch_size / (time.perf_counter() - begun)
            meter.update(len(paces))
    torch.set_num_threads(max(paces, key=lambda threads: paces[threads]))
    return paces
