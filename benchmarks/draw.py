"""What the draw page costs: its size, how long a first and a later picture take, and WebAssembly beside native code.

    python benchmarks/draw.py                    the model of the town, about two minutes on two cores
    python benchmarks/draw.py --model map2sat
    python benchmarks/draw.py --webgpu       a U-Net 256 of width 16 on a graphics card in software, minutes; alone

Native ONNX Runtime and the page take turns in one run, so that their ratio holds on a busy machine too.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import torch
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

from terramorph.bundle import Bands, Bundle, load_bundle
from terramorph.draw import WebModel, write_one_file, write_site
from terramorph.geo import Grid
from terramorph.interop import export_web
from terramorph.networks import build_network, initialize
from terramorph.town import make_town
from terramorph.translate.noise import ground_noise

CHROMIUM = os.environ.get("TERRAMORPH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SIDE = 256
OPEN = """async () => {
  const { openEngine } = await import("./engine.js"), config = await (await fetch("./draw.json")).json();
  window.engine = await openEngine(config);
  return window.engine.describe();
}"""
ONE = """async (seed) => {
  const image = new ImageData(256, 256).data.map((_, at) => (at * 7919 + seed * 31) % 256), begun = performance.now();
  await window.engine.translate(new ImageData(image, 256, 256), { seed });
  return (performance.now() - begun) / 1000;
}"""


TILE = """async (seed) => {
  const image = new ImageData(256, 256).data.map((_, at) => (at * 7919 + seed * 31) % 256), begun = performance.now();
  const { data } = await window.engine.translate(new ImageData(image, 256, 256), { seed });
  const seconds = (performance.now() - begun) / 1000;
  return { seconds, backend: window.engine.describe().backend, values: [...data].filter((_, at) => at % 4 < 3) };
}"""


@contextmanager
def served(folder: Path, *, isolated: bool) -> Iterator[str]:
    """Address of a folder, whose pages may use threads where they are isolated."""

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            if isolated:
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def native(network: Path, threads: int) -> Callable[[], float]:
    """Times one picture in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
    inputs = {"source": make_town(512, 0).map().pixels[None, :, :SIDE, :SIDE].astype("float32") / 127.5 - 1}
    for one in session.get_inputs():
        if one.name == "noise":
            inputs["noise"] = ground_noise(Grid.pixels(SIDE, SIDE), one.shape[1])[None]

    def run() -> float:
        begun = time.perf_counter()
        session.run(["target"], inputs)
        return time.perf_counter() - begun

    return run


def cpu_seconds() -> float:
    """What the browser has worked so far, all its processes, which other work on the machine hardly changes."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            times = process.cpu_times()
            total += times.user + times.system
    return total


def opened(page: Page, address: str) -> dict[str, Any]:
    """Opens the engine on a page without the rest of it; what it says of itself."""
    page.goto(address + "draw.json")
    made: dict[str, Any] = page.evaluate(OPEN)
    return made


def webgpu() -> None:
    """Prints what one tile is on WebGPU beside WebAssembly, and how long it takes where a processor is the card."""
    rgb = Bands(names=("red", "green", "blue"))
    network = build_network("unet256", width=16)
    initialize(network, torch.Generator().manual_seed(0), gain=0.04)
    bundle = Bundle.of(network.requires_grad_(False), "unet256", source=rgb, target=rgb, size=256, direction="BtoA")
    table = Table("backend", "to open", "one tile", "mean", title="U-Net 256 of width 16, 256 px")
    flags = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
    values = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        web = export_web(bundle, Path(folder) / "web.onnx", store="fp16")
        site = write_site([WebModel(web, "U-Net 256")], Path(folder) / "site")
        engine = (site / "engine.js").read_text()
        (site / "engine.js").write_text(engine.replace("PATIENCE = 30_000", "PATIENCE = 900_000"))
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *flags])
        with served(site, isolated=False) as address:
            for backend in ("wasm", "webgpu"):
                page = browser.new_page()
                page.set_default_timeout(0)
                if backend == "webgpu":
                    page.add_init_script(
                        "Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', {value: false})"
                    )
                begun = time.perf_counter()
                opened(page, address)
                begun, made = time.perf_counter() - begun, page.evaluate(TILE, 0)
                values[backend] = np.array(made["values"]) / 127.5 - 1
                mean = f"{values[backend].mean():.6f}"
                table.add_row(made["backend"], f"{begun:.1f} s", f"{made['seconds']:.1f} s", mean)
                page.close()
        browser.close()
    apart = np.abs(values["webgpu"] - values["wasm"])
    Console().print(table, f"largest difference {127.5 * apart.max():.0f} grey levels, mean {127.5 * apart.mean():.1e}")


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="town-map2sat", help="a model that makes photographs of maps")
    parser.add_argument("--store", default="int8", choices=("int8", "fp16"))
    parser.add_argument("--rounds", type=int, default=8, help="pictures of each way; the fastest counts")
    parser.add_argument("--webgpu", action="store_true", help="only compare WebGPU with WebAssembly")
    asked = parser.parse_args()
    if asked.webgpu:
        webgpu()
        return
    table = Table("what", "figure", title=f"{asked.model}, {asked.store}, {SIDE} px")
    bundle = load_bundle(asked.model)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        plain = export_web(bundle, Path(folder) / "plain.onnx", store="fp32")
        network = export_web(bundle, Path(folder) / "web.onnx", store=asked.store)
        models = [WebModel.of(bundle, network, asked.model)]
        site, page_file = write_site(models, Path(folder) / "site"), write_one_file(models, Path(folder) / "draw.html")
        size, whole = network.stat().st_size, plain.stat().st_size
        table.add_row("network, of float32", f"{size / 1e6:.1f} MB, {size / whole:.3f}")
        table.add_row("one file", f"{page_file.stat().st_size / 1e6:.1f} MB")
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])

        page = browser.new_context(offline=True).new_page()
        begun, worked = time.perf_counter(), cpu_seconds()
        page.goto(page_file.as_uri())
        page.wait_for_selector("body[data-answer=done]", timeout=120_000)
        first = f"{time.perf_counter() - begun:.1f} s, {cpu_seconds() - worked:.1f} s of CPU"
        table.add_row("first picture from file://", first)
        times, work = [], []
        for _ in range(asked.rounds):
            begun, worked = time.perf_counter(), cpu_seconds()
            page.keyboard.press("n")  # another sample
            page.wait_for_selector("body[data-answer=working]", timeout=5_000)
            page.wait_for_selector("body[data-answer=done]", timeout=120_000)
            times.append(time.perf_counter() - begun)
            work.append(cpu_seconds() - worked)
        later = f"{min(times):.2f} to {max(times):.2f} s, {min(work):.2f} to {max(work):.2f} s of CPU"
        table.add_row("later ones, page and all, one thread", later)
        page.context.close()

        with served(site, isolated=False) as alone, served(site, isolated=True) as isolated:
            single, several = browser.new_page(), browser.new_page()
            assert opened(single, alone)["threads"] == 1
            about = opened(several, isolated)
            seeds = itertools.count()  # a picture that was asked for before comes from a cache
            runs: dict[str, Callable[[], float]] = {
                "native, 1 thread": native(network, 1),
                "wasm, 1 thread": lambda: float(single.evaluate(ONE, next(seeds))),
                f"wasm, {about['threads']} threads": lambda: float(several.evaluate(ONE, next(seeds))),
            }
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(asked.rounds + 1):
                for name, run in runs.items():
                    seconds[name].append(run())
            best = {name: min(times[1:]) for name, times in seconds.items()}
            for name, value in best.items():
                table.add_row(name, f"{1000 * value:.0f} ms, {value / best['native, 1 thread']:.1f} of native")
            table.add_row("isolated", str(about["isolated"]))
            table.add_row("load of the machine, over 1 and 15 minutes", "{:.1f}, {:.1f}".format(*os.getloadavg()[::2]))
        browser.close()
    Console().print(table)


if __name__ == "__main__":
    main()
