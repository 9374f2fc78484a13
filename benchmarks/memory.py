"""Peak memory of whole-raster translation by size: it must not grow with the raster.

    python benchmarks/memory.py                          # squares of 4k and 16k px full of data, and 50k nearly empty
    python benchmarks/memory.py --sides 4096 --width 8   # to see that it runs

A U-Net 256 with random weights, mode raster; sides over 20,000 px are sparse: three squares of 1024 px hold data. Each
row is a process of its own, of which the largest resident size is shown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window
from rich.console import Console
from rich.table import Table

from terramorph.bundle import Bands, Bundle
from terramorph.networks import build_network
from terramorph.town import make_town

SPARSE_FROM = 20_000
TILE = 1024
_RUN = "import sys; import terramorph; terramorph.load(sys.argv[1]).translate_to(sys.argv[2], sys.argv[3])"


def make_raster(path: Path, side: int) -> None:
    """A town of 1024 px, again and again, in UTM; where it is sparse, in three places."""
    town = make_town(size_px=TILE, seed=0).aerial()
    profile = {
        "driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32633",
        "transform": rasterio.Affine(1.0, 0.0, 4e5, 0.0, -1.0, 5.8e6), "tiled": True, "blockxsize": 512,
        "blockysize": 512, "compress": "deflate", "sparse_ok": True, "bigtiff": "if_safer", "nodata": 0,
    }  # fmt: skip
    starts = range(0, side, TILE)
    places = [(y, x) for y in starts for x in starts]
    if side >= SPARSE_FROM:
        places = [places[0], places[len(places) // 2], places[-1 - len(starts)]]
    with rasterio.open(path, "w", **profile) as file:
        for y, x in places:
            high, wide = min(TILE, side - y), min(TILE, side - x)
            file.write(np.maximum(town.pixels[:, :high, :wide], 1), window=Window(x, y, wide, high))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[4096, 16_384, 50_000], help="px")
    parser.add_argument("--width", type=int, default=64, help="of the network")
    options = parser.parse_args()
    table = Table(title=f"U-Net 256, width {options.width}")
    for column in ("side, px", "data", "s", "peak MB"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rgb = Bands(names=("red", "green", "blue"))
        network = build_network("unet256", width=options.width)
        Bundle.of(network, "unet256", source=rgb, target=rgb, size=256).save(root / "model.safetensors")
        for side in options.sides:
            make_raster(root / "in.tif", side)
            begun = time.perf_counter()
            words = [
                sys.executable,
                "-c",
                _RUN,
                *(str(root / name) for name in ("model.safetensors", "in.tif", "out.tif")),
            ]
            process = subprocess.Popen(words)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"The translation of {side} px failed.")
            seconds = time.perf_counter() - begun
            table.add_row(
                f"{side:,}",
                "sparse" if side >= SPARSE_FROM else "full",
                f"{seconds:.0f}",
                f"{usage.ru_maxrss / 1024:,.0f}",
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
