"""How long a command takes to start, beside `python -c "import torch"`.

    python benchmarks/start.py                      U-Net 256 at full width, five rounds, about two minutes
    python benchmarks/start.py --width 4 --rounds 1 a quick look

Every line is a process of its own. The lines take turns, round after round, so that what else the machine does falls
on all of them; times are medians, and where others compute too, CPU seconds say more. `translate` reads a bundle,
translates one image of 200 x 260 px, and writes it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from affine import Affine
from odc.geo.crs import CRS
from rich.console import Console
from rich.table import Table

from terramorph.bundle import Bands, Bundle
from terramorph.geo import Grid
from terramorph.networks import build_network, initialize
from terramorph.raster import Raster, default_bands, write_image

REFERENCE = "import torch"
AIMS = {"info": 0.7, "translate PNG": 1.7, "translate GeoTIFF": 1.7}


def make_inputs(folder: Path, width: int) -> None:
    """model.safetensors, and photo.png and photo.tif of 200 x 260 px, in EPSG:32633."""
    network = build_network("unet256", width=width)
    initialize(network, torch.Generator().manual_seed(0))
    sides = Bands(names=default_bands(3))
    Bundle.of(network, "unet256", source=sides, target=sides, ground_resolution=1.0).save(folder / "model.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 200, 260), np.uint8)
    grid = Grid(200, 260, Affine(1.0, 0.0, 4e5, 0.0, -1.0, 5e6), CRS("EPSG:32633"))
    for name in ("photo.png", "photo.tif"):
        write_image(Raster(pixels, np.ones((200, 260), np.bool_), grid, default_bands(3)), folder / name)


def lines(folder: Path, number: int) -> dict[str, list[str]]:
    """What is timed: name -> words of a command line."""
    python = [sys.executable, "-c"]
    command = [sys.executable, "-c", "from terramorph.cli.app import main; main()"]
    model = str(folder / "model.safetensors")
    return {
        REFERENCE: [*python, "import torch"],
        "--help": [*command, "--help"],
        "info": [*command, "info", model],
        "translate PNG": [*command, "translate", model, str(folder / "photo.png"), str(folder / f"{number}.png")],
        "translate GeoTIFF": [*command, "translate", model, str(folder / "photo.tif"), str(folder / f"{number}.tif")],
        "import translate": [*python, "import terramorph.translate"],
        "import training": [*python, "import terramorph.training"],
    }


def computing() -> float:
    """CPU seconds of all processes so far that this one has started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64, help="of the U-Net 256")
    parser.add_argument("--rounds", type=int, default=5, help="after one that does not count")
    arguments = parser.parse_args()
    seconds: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, arguments.width)
        for number in range(arguments.rounds + 1):
            for label, words in lines(folder, number).items():
                begun, computed = time.perf_counter(), computing()
                subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
                if number:  # the first round fills the caches of files, and finds out what is fast here
                    took = time.perf_counter() - begun, computing() - computed
                    seconds.setdefault(label, []).append(took)
    table = Table(title=f"start of a command, medians of {arguments.rounds} rounds")
    for column in ("line", "seconds", f"x {REFERENCE}", "CPU seconds", f"x {REFERENCE}", "aim"):
        table.add_column(column, justify="left" if column == "line" else "right")
    for label, times in seconds.items():
        cells = []
        for mine, reference in zip(zip(*times, strict=True), zip(*seconds[REFERENCE], strict=True), strict=True):
            ratio = statistics.median(own / its for own, its in zip(mine, reference, strict=True))
            cells += [f"{statistics.median(mine):.2f}", f"{ratio:.2f}"]
        table.add_row(label, *cells, f"under {AIMS[label]}" if label in AIMS else "")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
