"""The draw page in Chromium, with a network that is a formula."""

from __future__ import annotations

import json
import mimetypes
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import terramorph
from terramorph.cartography import load_style
from terramorph.town import layout
from terramorph.town.layout import ARTERIAL_M, HIGHWAY_M, RAIL_M, RIVER_M, STREET_M

playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need the package playwright")
CHROMIUM = os.environ.get("TERRAMORPH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
STATIC = Path(terramorph.__file__).parent / "draw" / "static"
HOME = "http://localhost/draw/"

ENGINE = """
window.calls = [];
export async function openEngine(config, { onProgress = () => {}, direction = "map2sat" } = {}) {
  if (window.broken) throw new Error(window.broken);
  onProgress(1, 2); onProgress(2, 2);
  let latest = 0;
  return {
    describe: () => ({ backend: "wasm", threads: 1, isolated: false, model: direction, bytes: 2 }),
    async translate(image, { seed, origin, dirty, previous }) {
      const turn = ++latest;
      window.calls.push({ direction, seed, origin, dirty, previous: Boolean(previous), side: image.width });
      await new Promise((resolve) => setTimeout(resolve, 5));
      if (turn !== latest) throw new DOMException("A newer drawing came.", "AbortError");
      if (window.broken) throw new Error(window.broken);
      const data = image.data.map((value, i) => (i % 4 === 3 ? 255 : (255 - value + seed) % 256));
      return new ImageData(data, image.width, image.height);
    },
    close() {},
  };
}
"""


TOWN = {
    "widths": {"highway": HIGHWAY_M, "arterial": ARTERIAL_M, "road": STREET_M, "river": RIVER_M, "rail": RAIL_M},
    "river": layout._RIVER,
    "rail": layout._RAIL,
    "highways": [[(-0.06, 0.24), (0.5, 0.47), (1.06, 0.72)], [(0.3, 1.06), (0.47, 0.52), (0.74, -0.06)]],
    "wobble": [0.018, 0.01],
    "arterials": 560,
    "parks": [[(0.34, 0.12), (0.06, 0.42)], [(0.87, 0.13)], [(0.15, 0.86)], [(0.72, 0.92)]],
    "park_radius": [135, 0.085],
    "square_parks": 0.06,
    "blocks": layout._BLOCKS,
    "lots": {
        use: {"frontage": 20, "setback": 3, "length": [0.6, 0.8], "depth": [0.5, 0.7], "kept": 0.9}
        for use in ("downtown", "houses", "industry")
    },
}


def page_config(**changes: Any) -> dict[str, Any]:
    """What draw.json holds, of a model that is a formula."""
    model = {"name": "test", "bytes": 2_000_000, "sha256": "00", "metres_per_pixel": 1.0, "licence": "Free."}
    models = [{"direction": d, **model, "trained_on": "Eight towns, by hand"} for d in ("map2sat", "sat2map")]
    style = load_style("classic")
    rules = [{**asdict(r), "fill": _hex(r.fill), "casing": r.casing and _hex(r.casing)} for r in style.rules]
    config = {"version": 1, "models": models, "town": TOWN, "runtime": {"bytes": 1_000_000}, "embedded": True}
    return {**config, "style": {"background": _hex(style.background), "rules": rules}, **changes}


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


@pytest.fixture(scope="session")
def browser() -> Iterator[playwright.Browser]:
    """Chromium without a graphics card."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: playwright.Browser) -> Iterator[Callable[..., playwright.Page]]:
    """Opens the page, and sees that it says nothing on the console and asks for its own files only."""
    contexts, heard, asked = [], [], []

    def open_page(
        hash: str = "", width: int = 1280, height: int = 800, script: str = "", config: Any = None, **options: Any
    ) -> playwright.Page:
        def answer(route: playwright.Route) -> None:
            name = route.request.url.removeprefix(HOME).partition("#")[0].partition("?")[0] or "index.html"
            if name == "draw.json":
                route.fulfill(body=json.dumps(config or page_config()), content_type="application/json")
            elif name == "engine.js":
                route.fulfill(body=ENGINE, content_type="text/javascript")
            elif (STATIC / name).is_file():
                kind = mimetypes.guess_type(name)[0] or "text/javascript"
                route.fulfill(body=(STATIC / name).read_bytes(), content_type=kind)
            else:
                asked.append(name)
                route.abort()

        context = browser.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True, reduced_motion="reduce", **options
        )
        contexts.append(context)
        context.route("**/*", answer)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: heard.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: heard.append(str(error)))
        if script:
            page.add_init_script(script)
        page.goto(HOME + hash)
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == []
    assert asked == []
