"""How many augmented 256 px pairs a second come out of the cache, beside decoding and resizing the files each time.

python benchmarks/pipeline.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from terramorph.data import Augmentation, TrainingBatches, decode
from terramorph.pairs import open_pairs
from terramorph.pixels import BYTE


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64, help="pairs of 600 px that are made up, as JPEG")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each row is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "train").mkdir()
        random = np.random.default_rng(0)
        for number in range(options.pairs):
            small = Image.fromarray(random.integers(0, 256, (40, 80, 3), dtype=np.uint8))
            small.resize((1200, 600)).save(Path(folder) / "train" / f"{number}.jpg", quality=90)
        found = open_pairs(folder, "train")
        rates: dict[str, float] = {}
        with ThreadPoolExecutor(2) as pool:

            def decoded(number: int) -> None:
                half = Image.open(found.files[number % len(found)][0]).convert("RGB")
                for box in ((0, 0, 600, 600), (600, 0, 1200, 600)):
                    image = half.crop(box).resize((286, 286), Image.Resampling.BICUBIC).crop((10, 10, 266, 266))
                    torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float().div_(127.5).sub_(1.0)

            rates["decode and resize each time, 2 threads"] = _rate(
                lambda n: list(pool.map(decoded, range(8 * n, 8 * n + 8))), 8, options.seconds
            )
            pairs = decode(found, size=286, cache=Path(folder) / "cache")
            for name, changes in (
                ("crop, mirror", {}),
                ("crop, eight-fold", {"eightfold": True}),
                ("crop, mirror, jitter", {"jitter": 0.2}),
            ):
                batches = TrainingBatches(pairs, pairs.a, pairs.b, (BYTE, BYTE), Augmentation(256, **changes), seed=0)
                rates[f"cache, {name}, one thread"] = _rate(lambda n, b=batches: b.batch(8 * n, 8), 8, options.seconds)

                def two(n: int, batches: TrainingBatches = batches) -> None:
                    list(pool.map(lambda k: batches.batch(8 * k, 8), (2 * n, 2 * n + 1)))

                rates[f"cache, {name}, 2 threads"] = _rate(two, 16, options.seconds)
    table = Table(title="augmented 256 px pairs, float32 in [-1, 1]")
    for column in ("", "pairs / s", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    base = next(iter(rates.values()))
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}", f"{rate / base:.1f}x")
    Console().print(table)


def _rate(make, count: int, seconds: float) -> float:
    torch.set_num_threads(1)
    make(0)
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        done += 1
        make(done)
    return done * count / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
