"""How fast pix2pix trains here: a table of ratios to plain eager fp32 training at batch 1, in the same run.

    python benchmarks/train.py                       the paper's networks at 256 px
    python benchmarks/train.py --width 8 --steps 3   a quick look

The baseline is what a script does: networks in fp32 and the default memory layout, Adam without fusion, batch 1.
Each row runs in a process of its own, so that its peak memory is its own. Rows are measured in turn, `--rounds`
times, and medians are shown: the speed of a shared machine drifts.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

ROWS = {
    "plain eager fp32, batch 1": ("plain", 1),
    "terramorph, batch 1": ("ours", 1),
    "terramorph, batch 4": ("ours", 4),
    "terramorph, batch 8": ("ours", 8),
}


def plain(batch: int, width: int, steps: int) -> float:
    """Seconds per image of a straightforward training loop."""
    from terramorph.networks import build_discriminator, build_network, initialize

    generator, discriminator = build_network("unet256", width=width), build_discriminator("patchgan", width=width)
    for module in generator.modules():  # torch's own convolutions, not ours
        for kind in (torch.nn.Conv2d, torch.nn.ConvTranspose2d):
            if isinstance(module, kind):
                module.__class__ = kind
    for network in (generator, discriminator):
        initialize(network, torch.Generator().manual_seed(0))
        network.train()
    adam_g, adam_d = (torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n in (generator, discriminator))
    source, target = torch.rand(2, batch, 3, 256, 256) * 2 - 1

    def step() -> None:
        fake = generator(source)
        discriminator.requires_grad_(True)
        adam_d.zero_grad()
        real_logits = discriminator(torch.cat([source, target], 1))
        fake_logits = discriminator(torch.cat([source, fake.detach()], 1))
        ones, zeros = torch.ones_like(real_logits), torch.zeros_like(real_logits)
        cross_entropy = functional.binary_cross_entropy_with_logits
        ((cross_entropy(real_logits, ones) + cross_entropy(fake_logits, zeros)) * 0.5).backward()
        adam_d.step()
        discriminator.requires_grad_(False)
        adam_g.zero_grad()
        fake_logits = discriminator(torch.cat([source, fake], 1))
        (cross_entropy(fake_logits, ones) + 100 * functional.l1_loss(fake, target)).backward()
        adam_g.step()

    return _time(step, steps) / batch


def ours(batch: int, width: int, steps: int) -> tuple[float, float]:
    """Seconds per image of our step with its input pipeline, and the share of it spent waiting for batches."""
    import numpy as np
    from PIL import Image

    from terramorph.data import Augmentation, TrainingBatches, decode
    from terramorph.pairs import open_pairs
    from terramorph.pixels import BYTE
    from terramorph.training import load_config
    from terramorph.training.devices import make_fabric
    from terramorph.training.pix2pix import Pix2Pix

    config = load_config(
        "pix2pix",
        {"batch_size": batch, "device": "cpu", "generator.width": width, "discriminator.width": width},
    )
    recipe = Pix2Pix(config, 3, 3, make_fabric(config))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "train").mkdir()
        random = np.random.default_rng(0)
        for number in range(16):
            pixels = random.integers(0, 256, (512, 1024, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(folder) / "train" / f"{number}.png", compress_level=1)
        pairs = decode(open_pairs(folder, "train"), size=286, cache=Path(folder) / "cache")
        batches = TrainingBatches(pairs, pairs.a, pairs.b, (BYTE, BYTE), Augmentation(256), seed=0)
        waited: list[float] = []
        first = 0

        def step() -> None:
            nonlocal first
            begun = time.perf_counter()
            made = batches.batch(first, batch)
            waited.append(time.perf_counter() - begun)
            first += batch
            recipe.step([made])

        seconds = _time(step, steps)
        wait = median(waited) / seconds
    return seconds / batch, wait


def _time(step, steps: int) -> float:
    for _ in range(3):  # until memory and oneDNN's plans are there
        step()
    times = []
    for _ in range(steps):
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    return median(times)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64, help="channels of both networks")
    parser.add_argument("--steps", type=int, default=5, help="timed steps a row and round")
    parser.add_argument("--rounds", type=int, default=2, help="times the rows are gone through")
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        kind, batch = ROWS[options.row]
        wait = None
        if kind == "plain":
            seconds = plain(batch, options.width, options.steps)
        else:
            seconds, wait = ours(batch, options.width, options.steps)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "wait": wait, "peak": peak}))
        return
    found: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS}
    for _ in range(options.rounds):
        for row in ROWS:
            command = [
                sys.executable,
                __file__,
                "--row",
                row,
                "--width",
                str(options.width),
                "--steps",
                str(options.steps),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[row].append(json.loads(done.stdout.splitlines()[-1]))
    table = Table(
        title=f"training, U-Net 256 and PatchGAN of width {options.width}, {torch.get_num_threads()} threads, medians"
    )
    for column in ("", "s / image", "ratio", "waiting for data", "peak memory, GiB"):
        table.add_column(column, justify="left" if not column else "right")
    base = median(r["seconds"] for r in found["plain eager fp32, batch 1"])
    for row, results in found.items():
        seconds = median(r["seconds"] for r in results)
        wait = results[0]["wait"]
        table.add_row(
            row,
            f"{seconds:.3f}",
            f"{base / seconds:.2f}x",
            "-" if wait is None else f"{100 * wait:.2f} %",
            f"{max(r['peak'] for r in results):.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
