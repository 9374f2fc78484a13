"""How fast pix2pix, sat2map and map2sat train on a CUDA device: our step with its input pipeline, launched one kernel
at a time (eager), as one CUDA graph, or compiled; ratios to eager fp32 at batch 1 in the same run.

    python benchmarks/gpu.py                 the paper's networks; `benchmarks/translate.py --device cuda` translates
    python benchmarks/gpu.py --seconds 0.2 --width 8 --rows graph   a quick look

Aims on one H200-class GPU: the paper's recipe at batch 1 at 250 iterations/s or more, and batch 16 in bf16 at 1,500
images/s or more; sat2map and map2sat at batch 16 at 600 images/s or more. Their encoders and backbones have random
weights here. Without a CUDA device it refuses.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from terramorph.data import Augmentation, DecodedPairs, TrainingBatches
from terramorph.data.cache import Side
from terramorph.pixels import BYTE
from terramorph.training import load_config
from terramorph.training.devices import make_fabric
from terramorph.training.graph import GraphedStep
from terramorph.training.optimizer import AveragedNetwork
from terramorph.training.pix2pix import Pix2Pix

# preset, batch, precision, launch
ROWS = (
    ("pix2pix", 1, "fp32", "eager"),
    ("pix2pix", 1, "bf16", "eager"),
    ("pix2pix", 1, "fp32", "graph"),
    ("pix2pix", 1, "bf16", "graph"),
    ("pix2pix", 16, "bf16", "eager"),
    ("pix2pix", 16, "bf16", "graph"),
    ("pix2pix", 16, "bf16", "compile"),
    ("sat2map", 16, "bf16", "eager"),
    ("sat2map", 16, "bf16", "graph"),
    ("map2sat", 16, "bf16", "eager"),
    ("map2sat", 16, "bf16", "graph"),
)


def measure(preset: str, batch: int, precision: str, launch: str, width: int, seconds: float) -> dict[str, float]:
    """Iterations and images a second, with batches cut and augmented on the device, and peak memory in GiB."""
    torch.cuda.reset_peak_memory_stats()
    settings = {"batch_size": batch, "device": "cuda", "precision": precision, "launch": launch}
    random_weights = {"generator.encoder": "none", "loss.backbone": "none"}
    settings |= {"generator.width": width, "discriminator.width": width} if preset == "pix2pix" else random_weights
    config = load_config(preset, settings)
    data = config.data
    augmentation = Augmentation(data.crop_size, data.mirror, data.eightfold, data.jitter, data.cast, data.shrink)
    recipe = Pix2Pix(config, 3, 3, make_fabric(config))
    random = np.random.default_rng(0)
    sides = [
        Side(
            [random.integers(0, 256, (data.load_size, data.load_size, 3), dtype=np.uint8) for _ in range(64)],
            ("r", "g", "b"),
            "uint8",
            0,
            255,
            0,
            255,
        )
        for _ in range(2)
    ]
    pairs = DecodedPairs(tuple(str(n) for n in range(64)), sides[0], sides[1], None, "", (), None)
    batches = TrainingBatches(pairs, *sides, (BYTE, BYTE), augmentation, 0, torch.device("cuda"))
    recipe.fit(lambda: [batches.batch(0, batch).target])
    average = AveragedNetwork(recipe.networks["generator"], config.ema) if config.ema else None
    step = GraphedStep(recipe) if launch == "graph" else recipe.step
    done = 0

    def run(limit: float) -> float:
        nonlocal done
        torch.cuda.synchronize()
        begun, before = time.perf_counter(), done
        while time.perf_counter() - begun < limit:
            for _ in range(10):
                recipe.noise.manual_seed(done)
                losses = step([batches.batch(done * batch, batch)])
                if average is not None:
                    average.update(recipe.networks["generator"], done)
                done += 1
            torch.cuda.synchronize()
        assert all(torch.isfinite(value) for value in losses.values()), losses
        return (done - before) / (time.perf_counter() - begun)

    run(min(2.0, seconds))
    rate = run(seconds)
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {"iterations": rate, "images": rate * batch, "peak": peak}


def main() -> None:
    """Prints the table, or refuses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each row is measured")
    parser.add_argument("--width", type=int, default=64, help="channels of both networks of pix2pix")
    parser.add_argument("--rows", choices=("eager", "graph", "compile"), nargs="+", help="only these ways to launch")
    parser.add_argument("--json", help="file to write the figures to")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("There is no CUDA device here; run this benchmark on a machine with one, with a CUDA build of torch.")
    chosen = [row for row in ROWS if not options.rows or row[3] in options.rows]
    found = {
        f"{preset}, {launch} {precision}, batch {batch}": measure(
            preset, batch, precision, launch, options.width, options.seconds
        )
        for preset, batch, precision, launch in chosen
    }
    table = Table(title=f"training at 256 px, {torch.cuda.get_device_name()}, torch {torch.__version__}")
    for column in ("", "iterations / s", "images / s", "ratio", "peak memory, GiB"):
        table.add_column(column, justify="left" if not column else "right")
    base = next(iter(found.values()))["images"]
    for row, figures in found.items():
        table.add_row(
            row,
            f"{figures['iterations']:.1f}",
            f"{figures['images']:.0f}",
            f"{figures['images'] / base:.2f}x",
            f"{figures['peak']:.2f}",
        )
    Console().print(table)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
