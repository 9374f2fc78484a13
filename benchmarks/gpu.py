"""How fast pix2pix trains on a CUDA device: our step with its input pipeline, launched one kernel at a time (eager), as
one CUDA graph, or compiled; ratios to eager fp32 at batch 1 in the same run.

    python benchmarks/gpu.py                 the paper's networks; `benchmarks/translate.py --device cuda` translates
    python benchmarks/gpu.py --seconds 0.2 --width 8 --rows graph   a quick look

Aims on one H200-class GPU: the paper's recipe at batch 1 at 150 iterations/s or more, and batch 16 in bf16 at 1,500
images/s or more. Without a CUDA device it refuses.
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

from terramorph.data import Augmentation, DecodedPairs, Side, TrainingBatches
from terramorph.pixels import BYTE
from terramorph.training import load_config
from terramorph.training.devices import make_fabric
from terramorph.training.graph import GraphedStep
from terramorph.training.pix2pix import Pix2Pix

# name: batch, precision, launch
ROWS = {
    "eager fp32, batch 1": (1, "fp32", "eager"),
    "eager bf16, batch 1": (1, "bf16", "eager"),
    "graph fp32, batch 1": (1, "fp32", "graph"),
    "graph bf16, batch 1": (1, "bf16", "graph"),
    "eager bf16, batch 16": (16, "bf16", "eager"),
    "graph bf16, batch 16": (16, "bf16", "graph"),
    "compile bf16, batch 16": (16, "bf16", "compile"),
}


def measure(batch: int, precision: str, launch: str, width: int, seconds: float) -> dict[str, float]:
    """Iterations and images a second, with batches cut and augmented on the device, and peak memory in GiB."""
    torch.cuda.reset_peak_memory_stats()
    settings = {"batch_size": batch, "device": "cuda", "precision": precision, "launch": launch}
    config = load_config("pix2pix", {**settings, "generator.width": width, "discriminator.width": width})
    recipe = Pix2Pix(config, 3, 3, make_fabric(config))
    random = np.random.default_rng(0)
    sides = [
        Side(
            [random.integers(0, 256, (286, 286, 3), dtype=np.uint8) for _ in range(64)],
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
    batches = TrainingBatches(pairs, *sides, (BYTE, BYTE), Augmentation(256), 0, torch.device("cuda"))
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
    parser.add_argument("--width", type=int, default=64, help="channels of both networks")
    parser.add_argument("--rows", choices=("eager", "graph", "compile"), nargs="+", help="only these ways to launch")
    parser.add_argument("--json", help="file to write the figures to")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("There is no CUDA device here; run this benchmark on a machine with one, with a CUDA build of torch.")
    chosen = {row: settings for row, settings in ROWS.items() if not options.rows or settings[2] in options.rows}
    found = {row: measure(*settings, options.width, options.seconds) for row, settings in chosen.items()}
    table = Table(title=f"pix2pix training at 256 px, {torch.cuda.get_device_name()}, torch {torch.__version__}")
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
        Path(options.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
