"""What the page computes: the same as Python, from a folder."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from graphlib import CycleError
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS

from terramorph.bundle import load_bundle
from terramorph.draw import WebModel, write_site
from terramorph.draw.onefile import _ordered
from terramorph.draw.site import STATIC
from terramorph.errors import ConfigError, InputError, StorageError
from terramorph.geo import Cover, Grid
from terramorph.interop import export_web
from terramorph.raster import Raster
from terramorph.town import Town
from terramorph.translate import Model, load
from terramorph.translate.noise import ground_noise

from ..chromium import needs_chromium, playwright

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="scripts are run by node")
BACKEND = """async () => {
  const { backendOf } = await import("./engine.js"), config = await (await fetch("./all.json")).json();
  return backendOf(config);
}"""
BOTH = """async ([text, width, height, how]) => {
  const bytes = Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
  const image = new ImageData(bytes, width, height), made = await window.engine.translate(image, how);
  let letters = "";
  for (const byte of made.data) letters += String.fromCharCode(byte);
  return [btoa(letters), window.engine.describe()];
}"""


def node(code: str, *given: Any) -> Any:
    """What a module says on its last line, as JSON; `given` is an array of its arguments."""
    assert NODE is not None
    text = f"const given = {json.dumps(given)};\n{code.replace('./', (STATIC.as_uri() + '/'))}"
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", text], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_noise_is_that_of_python() -> None:
    places = [(0, 0, 0), (-3, 7, 1), (500_000 - 128, -5_818_877, 12), (2**31 + 5, -(2**33), 2**40 + 3)]
    code = """
        import { groundNoise } from "./noise.js";
        console.log(JSON.stringify(given[0].map(([x, y, seed]) => [...groundNoise(5, 3, 6, { x, y, seed })])));
    """
    for (x, y, seed), values in zip(places, node(code, places), strict=True):
        expected = ground_noise(_placed(x, y, 5, 3), 6, seed)
        assert np.abs(np.array(values, np.float32).reshape(6, 3, 5) - expected).max() < 1e-6


@needs_node
def test_windows_are_those_of_python() -> None:
    plans = [
        (700, {"window": 256, "halo": None, "overlap": 64, "stride": 32}),
        (512, {"window": 256, "halo": None, "overlap": 128, "stride": 32}),
        (1024, {"window": 512, "halo": None, "overlap": 128, "stride": 256}),
        (1000, {"window": 128, "halo": 60, "overlap": 64, "stride": 4}),
        (90, {"window": 256, "halo": 60, "overlap": 64, "stride": 4}),
    ]
    code = """
        import { spansOf } from "./windows.js";
        const plain = (one) => ({ ...one, weights: [...one.weights] });
        console.log(JSON.stringify(given[0].map(([length, how]) => spansOf(length, how).map(plain))));
    """
    for (length, how), spans in zip(plans, node(code, plans), strict=True):
        side = max(how["window"], 4 * (how["halo"] or 0))
        cover = Cover(length, length, side, halo=how["halo"], overlap=how["overlap"], align=how["stride"])
        assert len(spans) == len(cover.rows)
        for span, expected in zip(spans, cover.rows, strict=True):
            names = ("start", "stop", "first", "last")
            assert [span[name] for name in names] == [getattr(expected, name) for name in names]
            assert np.allclose(span["weights"], expected.weights, atol=1e-6)


def test_modules_stand_behind_what_they_import() -> None:
    texts = {path.name: path.read_text() for path in STATIC.glob("*.js")}
    order = _ordered(texts)
    assert sorted(order) == sorted(texts)
    assert order.index("noise.js") < order.index("worker.js")
    assert order.index("engine.js") < order.index("app.js")
    with pytest.raises(CycleError):
        _ordered({"a.js": 'import "./b.js";', "b.js": 'import "./a.js";'})


@pytest.fixture(scope="session")
def town_model(tmp_path_factory: pytest.TempPathFactory) -> WebModel:
    """The published model of the town in 8 bits."""
    bundle = load_bundle("town-map2sat")
    network = export_web(bundle, tmp_path_factory.mktemp("web") / "town.onnx", store="int8")
    return WebModel.of(bundle, network, "town-map2sat")


@pytest.fixture(scope="session")
def folder(town_model: WebModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page as a folder."""
    return write_site([town_model], tmp_path_factory.mktemp("page") / "site")


@pytest.fixture(scope="session")
def quick(town_model: WebModel, tmp_path_factory: pytest.TempPathFactory) -> WebModel:
    """One convolution that sees 24 px far, described as the town's model: soon run, and windows show."""
    weight = np.random.default_rng(0).normal(0, 0.1, (3, 7, 3, 3)).astype(np.float32)
    inputs, outputs = (
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, count, "h", "w"]) for name, count in side]
        for side in ((("source", 3), ("noise", 4)), (("target", 3),))
    )
    model = onnx.load(str(town_model.network))
    model.graph.CopyFrom(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("Concat", ["source", "noise"], ["both"], axis=1),
                onnx.helper.make_node("Conv", ["both", "weight"], ["made"], pads=[24] * 4, dilations=[24, 24]),
                onnx.helper.make_node("Tanh", ["made"], ["target"]),
            ],
            "quick",
            inputs,
            outputs,
            [onnx.numpy_helper.from_array(weight, "weight")],
        )
    )
    network = tmp_path_factory.mktemp("quick") / "quick.onnx"
    onnx.save(model, str(network))
    return WebModel(network, "quick")


@pytest.fixture
def isolated(folder: Path, quick: WebModel) -> Iterator[str]:
    """Address of a server of the folder that isolates its pages; empty.html is one more, all.json has `quick` too."""

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    model = quick.network.read_bytes()
    config = json.loads((folder / "draw.json").read_text())
    config["models"].append({**quick.described(model), "url": "./quick.onnx", "direction": "quick"})
    (folder / "quick.onnx").write_bytes(model)
    (folder / "all.json").write_text(json.dumps(config))
    (folder / "empty.html").write_text("<title>empty</title>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()
    for name in ("empty.html", "all.json", "quick.onnx"):
        (folder / name).unlink()


def test_a_page_that_cannot_be_replaced_stays(
    town_model: WebModel, quick: WebModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = {path.name for path in write_site([town_model], tmp_path / "page").iterdir()}
    monkeypatch.setattr("terramorph.draw.site.atomic", Mock(side_effect=StorageError("full")))
    with pytest.raises(StorageError, match="full"):
        write_site([quick], tmp_path / "page")
    assert {path.name for path in (tmp_path / "page").iterdir()} == earlier
    with pytest.raises(StorageError, match="full"):
        write_site([quick], tmp_path / "new")
    monkeypatch.undo()
    assert write_site([quick], tmp_path / "new").is_dir()  # over what was begun


def test_a_folder_is_a_page_and_nothing_else(town_model: WebModel, folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "draw.json").read_text())
    (model,) = config["models"]
    network = (folder / model["url"]).read_bytes()
    assert model["direction"] == "map2sat"
    assert model["bytes"] == len(network)
    assert model["metres_per_pixel"] == 1.0
    assert "procedural towns" in model["trained_on"]
    assert "Free to use" in model["licence"]
    assert (folder / "vendor/onnxruntime-web/LICENSE").is_file()
    for backend, size in config["runtime"]["bytes"].items():  # what a visitor loads
        assert model["bytes"] + size < (9.2e6 if backend == "wasm" else 9.7e6)
    written = write_site([town_model], folder)  # again, over the earlier one
    assert len(list(written.glob("*.onnx.gz"))) == 1
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not an earlier page"):
        write_site([town_model], tmp_path)
    with pytest.raises(ConfigError, match="one model of each direction"):
        write_site([town_model, town_model], tmp_path / "two")
    (tmp_path / "x.onnx").write_bytes(b"no network")
    with pytest.raises(ConfigError, match="not an ONNX file"):
        WebModel.of_file(tmp_path / "x.onnx")


@pytest.mark.browser
@needs_chromium
def test_pictures_are_those_of_translate(
    browser: playwright.Browser, isolated: str, town_model: WebModel, quick: WebModel, small_town: Town
) -> None:
    context = browser.new_context()
    page = context.new_page()
    opened(page, isolated, "map2sat")
    progress = page.evaluate("window.progress")
    assert progress[-1][0] == progress[-1][1] > 7e6
    drawn = small_town.map().pixels
    exact, whole = load(town_model.network, seed=3), load("town-map2sat", seed=3, precision="fp32")
    found, about = translated(page, drawn[:, :256, :200], seed=3, origin=[0, 0])
    assert about["isolated"]
    assert (about["backend"], about["windows"]) == ("wasm", [1, 1])
    pixels = np.ascontiguousarray(drawn[:, :256, :200])
    assert apart(found, exact.translate(pixels)) <= 1
    assert np.abs(found - whole.translate(pixels)).mean() <= 2  # of 8 bits, and of the noise that they share
    page.evaluate("window.engine.close()")

    opened(page, isolated, "quick")
    drawn, exact = np.ascontiguousarray(drawn[:, :512, :512]), load(quick.network, seed=3)
    place = _placed(499_872, -5_818_877, 512, 512)
    found, about = translated(page, drawn, seed=3, origin=[499_872, -5_818_877])
    assert about["windows"] == [9, 9]
    assert apart(found, tiled(exact, Raster.from_pixels(drawn, place))) <= 1

    changed = drawn.copy()
    changed[:, 20:40, 20:40] = 255
    again, about = translated(page, changed, seed=3, origin=[499_872, -5_818_877])
    assert about["windows"] == [1, 9]
    assert apart(again, tiled(exact, Raster.from_pixels(changed, place))) <= 1
    assert not np.array_equal(again[:, :128, :128], found[:, :128, :128])
    assert np.array_equal(again[:, 256:, 256:], found[:, 256:, 256:])

    aborted = page.evaluate("""async () => {
      const image = new ImageData(64, 64), calls = [0, 1, 2].map((seed) => window.engine.translate(image, { seed }));
      return (await Promise.allSettled(calls)).map((one) => one.reason?.name ?? "made");
    }""")
    assert aborted == ["made", "AbortError", "made"]
    page.evaluate("window.engine.close()")
    with pytest.raises(playwright.Error, match="The engine is closed"):
        page.evaluate("window.engine.translate(new ImageData(8, 8))")
    context.close()


@pytest.mark.browser
@needs_chromium
def test_without_webassembly_one_sentence_says_so(browser: playwright.Browser, isolated: str) -> None:
    page = browser.new_page()
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto(isolated)
    page.locator("#load").click()
    sentence = "This browser has no WebAssembly, on which the network runs; use another one. Your drawing is kept."
    playwright.expect(page.locator("#card-text")).to_have_text(sentence)
    page.close()


@pytest.mark.browser
@needs_chromium
def test_too_little_memory_is_one_sentence(start_chromium: Callable[..., Any], isolated: str) -> None:
    browser = start_chromium("--disable-gpu", "--js-flags=--wasm-max-mem-pages=800")  # 50 MiB
    page = browser.new_page()
    page.goto(isolated)
    page.locator("#load").click()
    sentence = (
        "There is not enough memory for this picture; choose a smaller one, or close other tabs. Your drawing is kept."
    )
    playwright.expect(page.locator("#card-text")).to_have_text(sentence)
    page.close()


@pytest.mark.browser
@needs_chromium
def test_webgpu_is_tried_before_it_is_trusted(start_chromium: Callable[..., Any], isolated: str) -> None:
    """On a graphics card in software, which takes long for a network and not for one convolution."""
    browser = start_chromium("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
    pixels, made = np.random.default_rng(1).integers(0, 256, (3, 64, 64), np.uint8), {}
    for trusted, backend in (("0.02", "webgpu"), ("-1", "wasm")):
        page = browser.new_page()
        page.goto(isolated + "empty.html")
        assert page.evaluate(BACKEND) == "wasm"  # a card in software is not worth it
        page.add_init_script("Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', {value: false})")
        changed(page, "engine.js", "PATIENCE = 30_000", "PATIENCE = 300_000")  # of a busy machine
        changed(page, "worker.js", "TRUSTED = 0.02", f"TRUSTED = {trusted}")
        opened(page, isolated, "quick")
        made[backend], about = translated(page, pixels, seed=1, origin=[0, 0])
        assert about["backend"] == backend
        page.close()
    assert np.abs(made["webgpu"] - made["wasm"]).max() <= 1
    assert made["webgpu"].std() > 5


def changed(page: playwright.Page, name: str, old: str, new: str) -> None:
    """Has a script of the page say something else."""
    text = (STATIC / name).read_text()
    assert old in text
    body, headers = text.replace(old, new), {"Cross-Origin-Embedder-Policy": "require-corp"}
    content = {"body": body, "headers": headers, "content_type": "text/javascript"}
    page.route(f"**/{name}", lambda route: route.fulfill(**content))


def opened(page: playwright.Page, address: str, direction: str) -> None:
    """Opens the engine on a page without the rest of it."""
    page.goto(address + "empty.html")
    page.evaluate(
        """async (direction) => {
      const { openEngine } = await import("./engine.js"), config = await (await fetch("./all.json")).json();
      window.progress = [];
      const onProgress = (...so_far) => window.progress.push(so_far);
      window.engine = await openEngine(config, { onProgress, direction });
    }""",
        direction,
    )


def translated(
    page: playwright.Page, pixels: NDArray[np.uint8], **how: Any
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Pixels (3, H, W) of the page's engine, and what that says of itself."""
    alpha = np.full((1, *pixels.shape[1:]), 255, np.uint8)
    image = np.ascontiguousarray(np.concatenate([pixels, alpha]).transpose(1, 2, 0))
    text = base64.b64encode(image.tobytes()).decode()
    made, about = page.evaluate(BOTH, [text, image.shape[1], image.shape[0], how])
    values = np.frombuffer(base64.b64decode(made), np.uint8).reshape(image.shape)
    return values.transpose(2, 0, 1)[:3].astype(int), about


def tiled(model: Model, raster: Raster) -> NDArray[np.uint8]:
    """As `terramorph translate --window 256 --overlap 64`."""
    return model.translate(raster, window=256, overlap=64).pixels


def apart(found: NDArray[np.int64], expected: NDArray[np.uint8]) -> int:
    """The largest difference in grey levels."""
    return int(np.abs(found - expected).max())


def _placed(x: int, y: int, width: int, height: int) -> Grid:
    """A grid in metres whose first pixel is a cell of the lattice."""
    return Grid(height, width, Affine(1.0, 0.0, x, 0.0, -1.0, -y), CRS("EPSG:32633"))
