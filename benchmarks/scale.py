"""The same raster on 1 and on 2 local workers of one thread each, in one run.

python benchmarks/scale.py                          a town of 3072 px, a U-Net 256 with random weights
python benchmarks/scale.py --workers 1 2 4 8
python benchmarks/scale.py --side 2048 --width 16   quicker
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from terramorph.bundle import Bands, Bundle
from terramorph.networks import build_network
from terramorph.raster import write_image
from terramorph.sources import open_source
from terramorph.town import make_town
from terramorph.translate import load
from terramorph.translate.cluster import Cluster, DaskEngine
from terramorph.translate.engine import Stages

WINDOW = 768
"""Small, so that there are enough of them to share out evenly."""
RGB = Bands(names=("red", "green", "blue"))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=3072, help="of the town, px")
    parser.add_argument("--width", type=int, default=64, help="of the network")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        image, bundle = root / "town.tif", root / "model.safetensors"
        write_image(make_town(size_px=options.side, seed=0).aerial(), image)
        network = build_network("unet256", width=options.width)
        Bundle.of(network, "unet256", source=RGB, target=RGB, size=256).save(bundle)
        rows = {count: _timed(image, bundle, root / f"{count}.tif", count) for count in options.workers}
        assert len({(root / f"{count}.tif").read_bytes() for count in options.workers}) == 1, "the bytes differ"
    table = Table(title=f"{options.side} x {options.side} px, one thread a worker, {os.cpu_count()} cores")
    for column in ("workers", "windows, s", "ratio", "processor, s", "assembly, s", "read", "compute", "write parts"):
        table.add_column(column, justify="right")
    for count, (seconds, cpu, stages) in rows.items():
        table.add_row(
            str(count),
            f"{seconds:.1f}",
            f"{next(iter(rows.values()))[0] / seconds:.2f}x",
            f"{cpu:.1f}",
            f"{stages.join_s + stages.finish_s:.1f}",
            *(f"{each:.1f}" for each in (stages.read_s, stages.compute_s, stages.write_s)),
        )
    Console().print(table)


def _timed(image: Path, bundle: Path, output: Path, count: int) -> tuple[float, float, Stages]:
    """Seconds from the first window to the last part, the workers being up; their processor seconds; the stages."""
    model, stages, seen = partial(load, bundle, any_resolution=True), Stages(), []

    def tell(step: str, done: int, total: int) -> None:
        if step == "translating":
            seen.append(time.perf_counter())

    threads = torch.get_num_threads()
    torch.set_num_threads(count)  # a worker gets its share: one thread
    try:
        with Cluster(workers=count) as cluster:
            cluster.client.wait_for_workers(count)
            engine = DaskEngine(cluster, model, partial(open_source, image))
            model().translate_to(image, output, window=WINDOW, engine=engine, progress=tell, stages=stages)
            cpu = sum(cluster.client.run(time.process_time).values())
    finally:
        torch.set_num_threads(threads)
    return seen[-1] - seen[0], cpu, stages


if __name__ == "__main__":
    main()
