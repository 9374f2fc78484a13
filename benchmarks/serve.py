"""What tiles cost that a server computes where somebody looks, and that they have no seams.

    python benchmarks/serve.py                            sat2map on a town of 3072 px, about six minutes on two cores
    python benchmarks/serve.py --size 1536 --seconds 5    a quick look
    python benchmarks/serve.py --window 2048 --only pan   larger windows: a later first tile, and less for each tile
    python benchmarks/serve.py --only soak                5,000 mixed requests in five minutes

Served over a real socket from a process of its own. A pass is what a plain pass of 256 px costs in the same run, in the
same precision and as many threads; what a pan costs is counted in processor time. On a busy machine set
OMP_NUM_THREADS=1: threads that wait for each other spin, and that is counted too.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import urllib3
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image
from rich.console import Console
from rich.table import Table

import terramorph
from terramorph.geo import Grid
from terramorph.geo.mercator import TileBox, pixel_grid
from terramorph.raster import Raster, Source, write_image
from terramorph.raster.tiles.write import native_zoom
from terramorph.raster.warp import footprint
from terramorph.town import make_town
from terramorph.translate.plan import plan

NEW_YORK = CRS("EPSG:32618"), (583_000.0, 4_512_000.0)
"""Where the town is laid: a tile shows less ground the farther from the equator it is, and `sat2map` knows New York."""
SERVER = "from terramorph.cli.app import main; main()"


@contextmanager
def server(*words: str) -> Iterator[tuple[str, int]]:
    """Address and process id of a server that runs for the block."""
    line = [sys.executable, "-c", SERVER, "serve", *words, "--port", "0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        try:
            yield address, process.pid
        finally:
            process.terminate()
            process.wait(20)


def resident(pid: int) -> float:
    """MB in memory."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def processor(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Client:
    """Asks one server.

    Attributes:
        layer: what it says of its layer.
        tiles: numbers of the tiles of the native zoom that the layer covers, row by row.
        hasty: how many answers said Busy and not when to ask again.
    """

    def __init__(self, address: str) -> None:
        self._address, self._http = address, urllib3.PoolManager(maxsize=80, retries=False)
        self.hasty = 0
        self.layer = json.loads(self._http.request("GET", f"{address}layers").data)["layers"][0]
        west, south, east, north = self.layer["bounds"]
        zoom = self.layer["native"]

        def column(degrees: float) -> int:
            return int((degrees + 180) / 360 * 2**zoom)

        def row(degrees: float) -> int:
            return int((1 - np.arcsinh(np.tan(np.radians(degrees))) / np.pi) / 2 * 2**zoom)

        columns, rows = range(column(west) + 1, column(east)), range(row(north) + 1, row(south))
        self.tiles = [(zoom, x, y) for y in rows for x in columns]

    def tile(self, z: int, x: int, y: int, view: str = "output") -> tuple[int, bytes, float]:
        """Status, body and seconds."""
        begun = time.perf_counter()
        path = f"t/{self.layer['name']}/{view}/{z}/{x}/{y}.png"
        answer = self._http.request("GET", f"{self._address}{path}", timeout=300)
        self.hasty += answer.status == 503 and not answer.headers.get("Retry-After", "").isdecimal()
        return answer.status, answer.data, time.perf_counter() - begun


def plain_passes(model: terramorph.Model) -> list[float]:
    """Seconds of processor time of passes of 256 px."""
    pixels = Raster.from_pixels(np.random.default_rng(0).integers(0, 256, (3, 256, 256), np.uint8))
    times = []
    for _ in range(9):
        begun = time.process_time()
        model.translate(pixels)
        times.append(time.process_time() - begun)
    return times[2:]


def seam_ratio(image: np.ndarray) -> float:
    """Steps across the lines between tiles of 256 px over steps elsewhere, (H, W, 3)."""
    ratios = []
    for values in (image.astype(float), image.astype(float).transpose(1, 0, 2)):
        steps = np.abs(np.diff(values, axis=0)).mean(axis=(1, 2))
        at = np.arange(255, len(steps), 256)
        ratios.append(steps[at].mean() / np.delete(steps, at).mean())
    return float(np.mean(ratios))


def joined(tiles: list[tuple[int, int, int]], tile: Callable[[tuple[int, int, int]], np.ndarray]) -> np.ndarray:
    """Square tiles as one image (H, W, 3)."""
    rows = sorted({y for _, _, y in tiles})
    columns = sorted({x for _, x, _ in tiles})
    zoom = tiles[0][0]
    return np.concatenate([np.concatenate([tile((zoom, x, y)) for x in columns], axis=1) for y in rows])


def rgb(data: bytes) -> np.ndarray:
    """Pixels of an encoded tile."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sat2map")
    parser.add_argument("--size", type=int, default=3072, help="side of the town, pixels")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--window", type=int, help="side of the windows, pixels; default: as the server chooses")
    parser.add_argument("--only", choices=["pan", "load", "overload", "seams", "soak"], nargs="+")
    asked = parser.parse_args()
    model = terramorph.load(asked.model, any_resolution=True)
    table = Table("what", "figure", "aim")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "town.tif"
        (crs, (west, north)), metres = NEW_YORK, model.header.ground_resolution or 1.0
        town = make_town(asked.size, seed=5, resolution=metres)
        grid = Grid(asked.size, asked.size, Affine(metres, 0, west, 0, -metres, north), crs)
        write_image(replace(town.aerial(), grid=grid), path)
        source = terramorph.open_source(path)
        line = [asked.model, str(path), *(["--window", str(asked.window)] if asked.window else [])]

        def wanted(name: str) -> bool:
            return name in (asked.only or ("pan", "load", "overload", "seams"))

        if wanted("pan") or wanted("load") or wanted("soak"):
            with server(*line) as (address, pid):
                client = Client(address)
                assert client.layer["native"] == native_zoom(model.lazy(source))
                if wanted("pan"):
                    pan(client, pid, model, arithmetic(client, model, source, asked.window), table)
                if wanted("load"):
                    for _ in range(2):  # cold, and warm
                        alone = [client.tile(*number)[2] for number in client.tiles[:100]]
                    for pause in (0.0, 0.2):
                        load(client, asked.seconds, pid, pause, statistics.median(alone), table)
                if wanted("soak"):
                    soak(client, pid, table)
        if wanted("overload"):
            with server(*line, "--max-wait", "5") as (address, _):
                overload(Client(address), asked.seconds, table)
        if wanted("seams"):
            with server(*line) as (address, _):
                seams(Client(address), model, source, table)
    Console(width=100).print(table)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


def arithmetic(client: Client, model: terramorph.Model, source: Source, window: int | None) -> tuple[float, float]:
    """Passes of 256 px behind a tile of the native zoom: of the ground that it shows, and of all windows shared out."""
    tiled = plan(model, source, window=window)
    windows = sum(window.height * window.width for window in tiled.cover.windows()) / 256**2
    zoom, x, y = client.tiles[len(client.tiles) // 2]
    place = footprint(tiled.grid, pixel_grid(zoom, TileBox(x, y, x + 1, y + 1), 256))
    assert place is not None
    return place.step_x * place.step_y, windows / len(client.tiles)


def pan(client: Client, pid: int, model: terramorph.Model, behind: tuple[float, float], table: Table) -> None:
    """One user who looks at one tile after another, none of which was computed."""
    passes = plain_passes(model)
    tiles, before = client.tiles[:100], processor(pid)
    first = client.tile(*tiles[0])[2]
    alone = processor(pid) - before
    times = [first, *(client.tile(*number)[2] for number in tiles[1:])]
    spent = (processor(pid) - before) / len(tiles)
    warm = [client.tile(*number)[2] for number in tiles]
    mean, once = statistics.mean(times), statistics.median(passes + plain_passes(model))
    table.add_row("plain pass of 256 px, processor time", f"{1000 * once:.0f} ms", "")
    table.add_row("first tile, cold", f"{first:.2f} s, {alone / once:.0f} passes", "")
    ground, windows = behind
    tile = f"{1000 * mean:.0f} ms, {spent / once:.2f} passes"
    table.add_row(f"pan over {len(times)} tiles, cold, a tile", tile, "<= 3")
    table.add_row("  for a pass of ground", f"{spent / once / ground:.2f} passes", "<= 3")
    table.add_row("  passes of a tile's ground, and of the windows", f"{ground:.2f}, {windows:.2f}", "")
    ratio = np.percentile(warm, 95) / mean
    table.add_row("warm tile, 95 % within", f"{1000 * np.percentile(warm, 95):.1f} ms, {ratio:.3f} of cold", "<= 0.1")


def load(client: Client, seconds: float, pid: int, pause: float, alone: float, table: Table) -> None:
    """32 clients on warm tiles, with pauses between their requests: alone, and while another computes cold ones of the
    next zoom. Without a pause each waits for the 31 others, on n cores for 32 / n times one client's median at best.
    """
    before = resident(pid)

    def cold(stop: float) -> None:
        zoom, x, y = client.tiles[len(client.tiles) // 2]
        for i in range(10_000):
            if time.monotonic() > stop:
                return
            client.tile(zoom + 1, 2 * x + i % 16, 2 * y + i // 16)

    def warm(stop: float, number: int, answers: list[tuple[int, float]]) -> None:
        while time.monotonic() < stop:
            status, _, spent = client.tile(*client.tiles[number % len(client.tiles)])
            answers.append((status, spent))
            number += 7
            time.sleep(pause)

    def asked(computing: bool) -> list[tuple[int, float]]:
        answers: list[tuple[int, float]] = []
        stop = time.monotonic() + seconds
        with ThreadPoolExecutor(33) as pool:
            jobs = [pool.submit(warm, stop, number, answers) for number in range(32)]
            jobs += [pool.submit(cold, stop)] if computing else []
        for job in jobs:
            job.result()
        return answers

    idle, busy = asked(False), asked(True)
    failed = sum(status != 200 for status, _ in idle + busy)
    how = f"load of 32 clients, pauses of {pause:g} s, {len(busy) / seconds:.0f} answers/s"
    table.add_row(how, f"{failed} failed", "0")
    median = statistics.median(spent for _, spent in idle)
    most = np.percentile([spent for _, spent in busy], 95)
    within = f"{1000 * most:.1f} ms: {most / median:.1f} x, {most / alone:.0f} x"
    table.add_row("  95 %, by the median without cold tiles, and by one client's", within, "<= 5 x, -")
    table.add_row("  memory", f"{before:.0f} -> {resident(pid):.0f} MB", "<= 1.2 x")


def overload(client: Client, seconds: float, table: Table) -> None:
    """64 clients on cold tiles of the finest zoom."""
    stop, answers = time.monotonic() + seconds, []
    zoom, x, y = client.tiles[0]
    lock, number = threading.Lock(), [0]

    def ask() -> None:
        while time.monotonic() < stop:
            with lock:
                i = number[0] = number[0] + 1
            answers.append(client.tile(zoom + 1, 2 * x + i % 40, 2 * y + i // 40)[::2])

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(lambda _: ask(), range(64)))
    kinds = {status: sum(1 for one, _ in answers if one == status) for status in {one for one, _ in answers}}
    table.add_row("overload of 64 clients", ", ".join(f"{n} x {s}" for s, n in sorted(kinds.items())), "200, 204, 503")
    table.add_row("  slowest answer", f"{max(spent for _, spent in answers):.1f} s", "<= 8 s")
    table.add_row("  busy, without when to ask again", f"{client.hasty}", "0")


def soak(client: Client, pid: int, table: Table, requests: int = 5000, seconds: float = 300.0) -> None:
    """Eight users, whose requests come evenly over five minutes: each looks at tiles beside each other, now and then at
    another place, zoom or view, and mostly at what somebody has seen before."""
    begun, memory, statuses = time.monotonic(), [], []
    views = [view["name"] for view in client.layer["views"]]
    zoom, inside = client.tiles[0][0], set(client.tiles)

    def look(user: int) -> None:
        chance = random.Random(user)
        for number in range(user, requests, 8):
            time.sleep(max(0.0, begun + number * seconds / requests - time.monotonic()))
            if number < 8 or chance.random() < 0.02:
                (_, *place), up = chance.choice(client.tiles), chance.choice((-2, -1, 0, 0, 0, 1))
                view = chance.choice(["output", "output", *views])
            beside = [at + chance.choice((-1, 0, 1)) for at in place]
            place = beside if (zoom, *beside) in inside else place
            x, y = (at >> -up if up < 0 else at << up for at in place)
            statuses.append(client.tile(zoom + up, x, y, view)[0])
            memory.append((time.monotonic() - begun, resident(pid)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(look, range(8)))
    end = memory[-1][0]
    second = [held for at, held in memory if 60 <= at < 120]
    last = [held for at, held in memory if at >= end - 60]
    kinds = {status: statuses.count(status) for status in set(statuses)}
    table.add_row(
        f"soak of {requests} requests, {end:.0f} s", ", ".join(f"{n} x {s}" for s, n in sorted(kinds.items())), ""
    )
    ratio = max(last) / max(second)
    table.add_row("  memory, second and last minute", f"{max(second):.0f}, {max(last):.0f} MB: {ratio:.3f}", "<= 1.05")


def seams(client: Client, model: terramorph.Model, source: terramorph.raster.Source, table: Table) -> None:
    """Joined tiles of 1024 px as served, and as the network makes them of each tile alone; of one pass on the model's
    own grid, read on the same tiles, the ratio is 1."""
    zoom = client.tiles[0][0]
    columns, rows = (sorted({number[axis] for number in client.tiles}) for axis in (1, 2))
    left, top = (max(len(one) // 2 - 2, 0) for one in (columns, rows))
    block = [(zoom, x, y) for y in rows[top : top + 4] for x in columns[left : left + 4]]

    def alone(number: tuple[int, int, int]) -> np.ndarray:
        z, x, y = number
        raster = source.read(pixel_grid(z, TileBox(x, y, x + 1, y + 1), 256))
        return model.translate(Raster.from_pixels(raster.pixels)).pixels.transpose(1, 2, 0)

    def served(number: tuple[int, int, int]) -> np.ndarray:
        for _ in range(120):
            status, data, _ = client.tile(*number)
            if status == 200:
                return rgb(data)
            time.sleep(1)
        raise RuntimeError(f"tile {number} never came")

    grid = plan(model, source).grid
    once = terramorph.open_source(model.translate(source, window=max(grid.shape)))

    def whole(number: tuple[int, int, int]) -> np.ndarray:
        z, x, y = number
        return once.read(pixel_grid(z, TileBox(x, y, x + 1, y + 1), 256)).pixels.transpose(1, 2, 0)

    ground = seam_ratio(joined(block, whole))
    table.add_row("seam ratio of served tiles, of one pass 1", f"{seam_ratio(joined(block, served)) / ground:.3f}", "1")
    table.add_row("  of tiles made alone", f"{seam_ratio(joined(block, alone)) / ground:.3f}", "> 1.1")


if __name__ == "__main__":
    main()
