"""How fast pairs are made: two mosaics beside the usual script, a cache of tiles, and vectors that are drawn.

python benchmarks/prepare.py                      two mosaics of 7424 x 7424 px, 10,000 tiles, 2,000 features
python benchmarks/prepare.py --mosaic 7424 --satellite S.png --map M.png        mosaics of your own
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import shapely
from PIL import Image
from rich.console import Console
from rich.table import Table

from terramorph.cartography import Feature, load_style, render
from terramorph.cartography.source import VectorSource
from terramorph.geo import Grid
from terramorph.prepare import Inputs, Options, prepare
from terramorph.raster.image import probe_image
from terramorph.sources import open_source
from terramorph.town import make_town


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mosaic", type=int, default=7424, help="side of the mosaics, px")
    parser.add_argument("--satellite", type=Path, help="a mosaic of your own in place of a town's")
    parser.add_argument("--map", type=Path, help="its other side")
    parser.add_argument("--tiles", type=int, default=10_000, help="tiles in the cache")
    parser.add_argument("--features", type=int, default=2_000, help="features in view")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        _row(*options.row)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        given = options.satellite and options.map
        sides = (options.satellite, options.map) if given else _mosaics(root, options.mosaic)
        height, width, *_ = probe_image(sides[0])
        _show("mosaics to pairs", _mosaic_rows(root, sides, options.rounds), (height // 256) * (width // 256))
        _show_rates("a cache of tiles", _tile_rows(root, options.tiles))
        _show_rates(f"{options.features} features in view of 256 px", _vector_rows(root, options.features))


def _mosaics(root: Path, side: int) -> tuple[Path, Path]:
    """A town's aerial image and map, repeated to the side, as PNG exports with world files."""
    town = make_town(size_px=min(side, 2048), seed=0)
    files = []
    for name, raster in (("satellite", town.aerial()), ("map", town.map())):
        times = -(-side // town.grid.height)
        pixels = np.tile(raster.pixels, (1, times, times))[:, :side, :side]
        if name == "satellite":  # or the pairs would be each other's duplicates
            pixels = np.clip(pixels + np.random.default_rng(0).normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)
        files.append(root / f"{name}.png")
        Image.fromarray(pixels.transpose(1, 2, 0)).save(files[-1], compress_level=1)
        files[-1].with_suffix(".pgw").write_text("1\n0\n0\n-1\n392000.5\n5819999.5\n")
    return files[0], files[1]


def _mosaic_rows(root: Path, sides: tuple[Path, Path], rounds: int) -> list[tuple[str, float, float]]:
    """(way, seconds, peak MB): medians of whole processes."""
    rows = []
    for way in ("usual script: crop and save, nothing measured", "terramorph prepare"):
        seen = []
        for number in range(rounds):
            out = root / f"{way.split()[0]}-{number}"
            command = [sys.executable, __file__, "--row", str(out), *map(str, sides)]
            begun = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seen.append((time.perf_counter() - begun, json.loads(done.stdout)["peak"]))
        rows.append((way, *(float(v) for v in np.median(seen, axis=0))))
    return rows


def _row(out: str, satellite: str, drawn: str) -> None:
    """One whole process: cuts the mosaics in one of two ways."""
    if Path(out).name.startswith("usual"):
        Path(out).mkdir()
        Image.MAX_IMAGE_PIXELS = None
        a, b = (np.asarray(Image.open(side).convert("RGB")) for side in (satellite, drawn))
        for y in range(0, a.shape[0] - 255, 256):
            for x in range(0, a.shape[1] - 255, 256):
                pair = np.concatenate([side[y : y + 256, x : x + 256] for side in (a, b)], axis=1)
                Image.fromarray(pair).save(f"{out}/{y}_{x}.png")
    else:
        prepare(out, [Inputs(satellite, drawn)], Options())
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def _tile_rows(root: Path, count: int) -> list[tuple[str, float]]:
    """(way, tiles a second): a folder of z/x/y tiles read through the source in windows of 8 x 8."""
    town = make_town(size_px=1024, seed=1)
    side = int(np.ceil(np.sqrt(count)))
    rows = []
    for kind, raster, suffix in (("aerial JPEG", town.aerial(), "jpg"), ("map PNG", town.map(), "png")):
        cache = root / f"tiles-{suffix}"
        pixels = raster.pixels.transpose(1, 2, 0)
        for n in range(count):
            x, y = 70_000 + n // side, 43_000 + n % side
            folder = cache / "17" / str(x)
            folder.mkdir(parents=True, exist_ok=True)
            top, left = (n * 37) % 768, (n * 91) % 768
            Image.fromarray(pixels[top : top + 256, left : left + 256]).save(folder / f"{y}.{suffix}")
        begun = time.perf_counter()
        with open_source(cache) as source:
            grid = source.grid
            assert grid is not None
            for y in range(0, grid.height, 2048):
                for x in range(0, grid.width, 2048):
                    source.read(grid.crop(y, x, min(2048, grid.height - y), min(2048, grid.width - x)))
        rows.append((f"{kind}, {count:,} tiles, opening included", count / (time.perf_counter() - begun)))
    return rows


def _vector_rows(root: Path, count: int) -> list[tuple[str, float]]:
    """(way, tiles a second on one core): buildings, streets and parks in one tile's view."""
    random = np.random.default_rng(0)
    grid = Grid(256, 256, make_town(size_px=64).grid.affine, make_town(size_px=64).grid.crs)
    places = random.uniform(0, 256, (count, 2)) * (1, -1) + (grid.affine.c, grid.affine.f)
    features = []
    for number, (x, y) in enumerate(places.tolist()):
        if number % 4 == 0:
            line = shapely.LineString([(x, y), (x + random.normal(0, 30), y + random.normal(0, 30))])
            features.append(Feature(line, ("road", "arterial", "highway")[number % 3]))
        else:
            box = shapely.box(x, y, x + random.uniform(4, 14), y + random.uniform(4, 14))
            features.append(Feature(box, "building"))
    style = load_style("classic")
    rows = [("render(features), from Python objects", _rate(lambda: render(features, grid, style)))]
    import geopandas

    file = root / "features.gpkg"
    geopandas.GeoDataFrame(
        {"kind": [f.kind for f in features]}, geometry=[f.geometry for f in features], crs="EPSG:32633"
    ).to_file(file)
    for name in ("classic", "osm", "classes"):
        with VectorSource(file, load_style(name)) as source:
            rows.append((f"VectorSource, style {name}, file read once", _rate(lambda s=source: s.read(grid))))
    return rows


def _rate(work, seconds: float = 3.0) -> float:
    """Times a second, by this thread's own time."""
    work()
    done, begun = 0, time.thread_time()
    while time.thread_time() - begun < seconds:
        work()
        done += 1
    return done / (time.thread_time() - begun)


def _show(title: str, rows: list[tuple[str, float, float]], pairs: int) -> None:
    table = Table(title=f"{title}: {pairs} pairs, {os.cpu_count()} cores")
    for column in ("", "s", "pairs / s", "ratio", "peak MB"):
        table.add_column(column, justify="left" if not column else "right")
    for way, seconds, peak in rows:
        table.add_row(way, f"{seconds:.1f}", f"{pairs / seconds:.0f}", f"{rows[0][1] / seconds:.2f}x", f"{peak:.0f}")
    Console().print(table)


def _show_rates(title: str, rows: list[tuple[str, float]]) -> None:
    table = Table(title=title)
    for column in ("", "tiles / s"):
        table.add_column(column, justify="left" if not column else "right")
    for way, rate in rows:
        table.add_row(way, f"{rate:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
