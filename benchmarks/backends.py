"""How fast the backends are beside each other, on tiles and on one window of a raster, all in one run.

    python benchmarks/backends.py                          # U-Net 256 at full width
    python benchmarks/backends.py --width 8 --seconds 1    # to see that it runs

Weights are random, and the 8-bit network is calibrated on a procedural town: neither changes how long anything takes.
Read the ratios, not the tiles a second. Differences are to the plain network on tiles of the town, in grey
levels of 255.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from terramorph import processor
from terramorph.bundle import Bands, Bundle
from terramorph.data import Augmentation, TrainingBatches, decode
from terramorph.interop import export_int8, export_onnx
from terramorph.networks import build_network, initialize
from terramorph.pairs import open_pairs
from terramorph.pixels import BYTE
from terramorph.town import make_town, write_town_pairs
from terramorph.training.recalibrate import recalibrate_network
from terramorph.translate.bench import Way, measure, ways_of_bundle, ways_of_exported


def make_bundle(network: str, width: int, source: torch.Tensor) -> Bundle:
    """Random weights whose statistics fit them, as after training."""
    built = build_network(network, width=width)
    initialize(built, torch.Generator().manual_seed(0))
    recalibrate_network(built, [source])
    rgb = Bands(names=("red", "green", "blue"))
    return Bundle.of(built.requires_grad_(False), network, source=rgb, target=rgb, recalibrated=True)


def town_tiles(folder: Path) -> torch.Tensor:
    """float32 (4, 3, 256, 256) in [-1, 1], of the pairs that are written into the folder."""
    write_town_pairs(make_town(size_px=1024), folder, tile=256)
    pairs = decode(open_pairs(folder, "train"), size=256, cache=folder / "cache")
    batches = TrainingBatches(pairs, pairs.a, pairs.a, (BYTE, BYTE), Augmentation(256, mirror=False), seed=0)
    return batches.batch(0, 4).source.contiguous()


def report(bundle: Bundle, ways: list[Way], tiles: torch.Tensor, seconds: float) -> None:
    """Measures and prints the table."""
    with torch.no_grad():
        expected = bundle.network(tiles)
    table = Table(title=f"{bundle.header.architecture.name} on {processor.name()}, {processor.cores()} cores")
    for name in (
        "backend",
        "precision",
        "batch",
        "ms / tile",
        "ratio",
        "window, ms / tile",
        "ratio",
        "mean diff",
    ):
        table.add_column(name, justify="left" if name == "backend" else "right")
    first = None
    for way in ways:
        (speed,) = measure([way], bundle.header, seconds / len(ways))
        if speed.missing:
            table.add_row(speed.backend, speed.precision, speed.missing)
            continue
        first = first or speed
        assert speed.megapixels is not None
        assert first.megapixels is not None
        with torch.no_grad():
            levels = float((way.make()(tiles) - expected).abs().mean()) * 127.5
        table.add_row(
            speed.backend,
            speed.precision,
            str(speed.batch),
            f"{1000 / speed.tiles:.1f}",
            f"{speed.tiles / first.tiles:.2f}",
            f"{1000 * bundle.header.size**2 / 1e6 / speed.megapixels:.1f}",
            f"{speed.megapixels / first.megapixels:.2f}",
            f"{levels:.3f}",
        )
    Console(width=max(Console().width, 120)).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="unet256", help="a generator's name in the catalogue")
    parser.add_argument("--width", type=int, default=64, help="channels after the first convolution")
    parser.add_argument("--seconds", type=float, default=80.0, help="about how long all of it may take")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiles = town_tiles(folder / "pairs")
        bundle = make_bundle(arguments.network, arguments.width, tiles)
        plain = export_onnx(bundle, folder / "float32.onnx")
        small = export_int8(bundle, folder / "int8.onnx", folder / "pairs", images=4, cache=folder / "cache")
        exported = [*ways_of_exported(plain), *ways_of_exported(small, "int8")]
        report(bundle, [*ways_of_bundle(bundle), *exported], tiles, arguments.seconds)


if __name__ == "__main__":
    main()
