"""A whole mosaic to a georeferenced map: the usual script beside `translate_to`, in one run.

The usual script cuts the mosaic into tiles of 256 px, runs them one by one as the public script does (eager, float32,
the statistics of each tile), writes PNGs, and pastes them together; its seams are not counted against it.

python benchmarks/mosaic.py                                    a town's mosaic of 7424 px, random weights
python benchmarks/mosaic.py --image ortho.png --bundle model.safetensors
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from terramorph.bundle import Bands, Bundle, load_bundle
from terramorph.networks import build_network
from terramorph.sources import open_source
from terramorph.town import make_town
from terramorph.translate import Model
from terramorph.translate.engine import Stages

TILE_GFLOP = 12.1
"""Of a U-Net 256 of full width on 256 x 256 px, multiplications and additions counted apart."""
RGB = Bands(names=("red", "green", "blue"))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=7424, help="of the town's mosaic, px")
    parser.add_argument("--image", type=Path, help="a mosaic of your own")
    parser.add_argument("--bundle", type=Path, help="a U-Net 256; default: random weights")
    parser.add_argument("--width", type=int, default=64, help="of the network with random weights")
    parser.add_argument(
        "--plain-tiles", type=int, default=64, help="tiles the usual script is timed on; the rest is counted up"
    )
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(_row(options.row[0], Path(options.row[1]), Path(options.row[2]), options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        image = options.image or _mosaic(root, options.side)
        bundle = options.bundle or _random(root, options.width)
        with open_source(image) as source:
            assert source.grid is not None
            tiles = source.grid.height * source.grid.width / 256**2
        rows = {}
        for way in ("usual script", "translate_to"):
            words = [
                sys.executable,
                __file__,
                "--row",
                way,
                str(image),
                str(bundle),
                "--plain-tiles",
                str(options.plain_tiles),
            ]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            rows[way] = json.loads(done.stdout.splitlines()[-1])
        bound = tiles * TILE_GFLOP / _bf16_rate() if options.width == 64 else float("nan")
    table = Table(title=f"{tiles:.0f} tiles of 256 px, {torch.get_num_threads()} threads")
    for column in ("", "s", "ratio", "over the bound", "peak MB", "stages, s"):
        table.add_column(column, justify="left" if column in ("", "stages, s") else "right")
    for way, row in rows.items():
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in row["stages"].items())
        ratio, over = rows["usual script"]["seconds"] / row["seconds"], row["seconds"] / bound
        table.add_row(way, f"{row['seconds']:.1f}", f"{ratio:.2f}x", f"{over:.1f}x", f"{row['peak']:.0f}", stages)
    console = Console()
    console.print(table)
    console.print(f"The bound is {bound:.1f} s: the arithmetic of the tiles without overlap at the measured bf16 rate.")


def _mosaic(root: Path, side: int) -> Path:
    """A town's aerial image, repeated to the side, as a PNG export."""
    pixels = make_town(size_px=min(side, 2048), seed=0).aerial().pixels
    times = -(-side // pixels.shape[1])
    path = root / "mosaic.png"
    whole = np.tile(pixels, (1, times, times))[:, :side, :side]
    Image.fromarray(whole.transpose(1, 2, 0)).save(path, compress_level=1)
    path.with_suffix(".pgw").write_text("1\n0\n0\n-1\n392000.5\n5819999.5\n")
    return path


def _random(root: Path, width: int) -> Path:
    """A U-Net 256 with random weights."""
    network = build_network("unet256", width=width)
    return Bundle.of(network, "unet256", source=RGB, target=RGB, size=256).save(root / "model.safetensors")


def _bf16_rate() -> float:
    """GFLOP/s of a bfloat16 matrix product, the best of five."""
    a = torch.randn(2048, 2048, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(4):
            a @ a
        best = max(best, 4 * 2 * 2048**3 / (time.perf_counter() - begun) / 1e9)
    return best


def _row(way: str, image: Path, bundle: Path, options: argparse.Namespace) -> dict[str, object]:
    """One whole process."""
    begun = time.perf_counter()
    stages = _usual(image, bundle, options.plain_tiles) if way == "usual script" else _translate_to(image, bundle)
    seconds = sum(stages.values()) if way == "usual script" else time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "stages": stages, "peak": peak}


def _usual(image: Path, bundle: Path, limit: int) -> dict[str, float]:
    """Seconds a stage for all tiles, from those of the first few."""
    Image.MAX_IMAGE_PIXELS = None
    network = load_bundle(bundle).network.train()
    begun = time.perf_counter()
    pixels = np.asarray(Image.open(image).convert("RGB"))
    read = time.perf_counter() - begun
    places = [(y, x) for y in range(0, pixels.shape[0] - 255, 256) for x in range(0, pixels.shape[1] - 255, 256)]
    timed = places[:limit]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        begun = time.perf_counter()
        for y, x in timed:
            unit = torch.from_numpy(pixels[y : y + 256, x : x + 256].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            made = ((network(unit)[0].permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).byte().numpy()
            Image.fromarray(made).save(f"{folder}/{y}_{x}.png")
        compute = (time.perf_counter() - begun) * len(places) / len(timed)
        begun = time.perf_counter()
        whole = np.zeros_like(pixels)
        for y, x in timed:
            whole[y : y + 256, x : x + 256] = np.asarray(Image.open(f"{folder}/{y}_{x}.png"))
        paste = (time.perf_counter() - begun) * len(places) / len(timed)
        begun = time.perf_counter()
        Image.fromarray(whole).save(f"{folder}/map.png")
        write = time.perf_counter() - begun
    return {"read": read, "tiles": compute, "paste": paste, "write": write}


def _translate_to(image: Path, bundle: Path) -> dict[str, float]:
    """Seconds at work, by what was done; reading and writing parts run beside the computing."""
    begun = time.perf_counter()
    model = Model(load_bundle(bundle), any_resolution=True)
    load = time.perf_counter() - begun
    stages = Stages()
    with tempfile.TemporaryDirectory() as folder:
        model.translate_to(image, Path(folder) / "map.tif", stages=stages)
    return {"load": load, **{name.removesuffix("_s"): seconds for name, seconds in asdict(stages).items()}}


if __name__ == "__main__":
    main()
