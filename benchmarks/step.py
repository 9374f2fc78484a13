"""What a training step costs on a CPU beside its arithmetic: seconds of the processor for a step at 256 px, over its
floating-point operations at the speed that a 3x3 convolution of 128 channels reaches here, forward and backward.

    python benchmarks/step.py                       sat2map and map2sat, batch 2, one thread
    python benchmarks/step.py --presets pix2pix --batch 1

Encoders and backbones have random weights. Times are of the process, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from terramorph.pixels import Batch
from terramorph.training import load_config
from terramorph.training.devices import make_fabric
from terramorph.training.pix2pix import Pix2Pix

CHANNELS, SIDE = 128, 64


def step_seconds(preset: str, precision: str, batch: int, rounds: int) -> tuple[float, int]:
    """Seconds of the fastest step, and its floating-point operations."""
    random = {"generator.encoder": "none", "loss.backbone": "none"} if preset in ("sat2map", "map2sat") else {}
    config = load_config(preset, {**random, "batch_size": batch, "device": "cpu", "precision": precision})
    recipe = Pix2Pix(config, 3, 3, make_fabric(config))
    side = config.data.crop_size
    noise = torch.Generator().manual_seed(0)
    source, target = (
        (torch.rand(batch, 3, side, side, generator=noise) * 2 - 1).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    recipe.fit(lambda: [target])
    with FlopCounterMode(display=False) as counter:
        recipe.step([Batch(source, target)])
    return _fastest(lambda: recipe.step([Batch(source, target)]), rounds), counter.get_total_flops()


def convolution_speed(precision: str, batch: int, rounds: int) -> float:
    """Floating-point operations a second of one convolution, forward and backward."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, weight = (
        torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        for shape in ((batch, CHANNELS, SIDE, SIDE), (CHANNELS, CHANNELS, 3, 3))
    )
    seconds = _fastest(lambda: functional.conv2d(x, weight, padding=1).sum().backward(), rounds)
    return 3 * 2 * CHANNELS**2 * 9 * SIDE**2 * batch / seconds


def _fastest(work, rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times[1:])


def main() -> None:
    """Prints a line a preset and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["sat2map", "map2sat"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for precision in ("bf16", "fp32"):
        speed = convolution_speed(precision, options.batch, 4 * options.rounds)
        for preset in options.presets:
            seconds, operations = step_seconds(preset, precision, options.batch, options.rounds)
            print(
                f"{preset}, {precision}, batch {options.batch}: {seconds:.2f} s for {operations / 1e9:.0f} GFLOP, "
                f"{seconds * speed / operations:.2f} times its arithmetic at {speed / 1e9:.0f} GFLOP/s"
            )


if __name__ == "__main__":
    main()
