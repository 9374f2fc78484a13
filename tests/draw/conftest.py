"""The draw page in Chromium, with a network that is a formula."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import terramorph
from terramorph.cartography import classic
from terramorph.draw.site import style_table, tag_table, town_rules

from ..chromium import playwright

STATIC = Path(terramorph.__file__).parent / "draw" / "static"
HOME = "http://localhost/draw/"

ENGINE = """
window.calls = [];
export const backendOf = async () => "wasm";
export async function openEngine(config, { onProgress = () => {}, direction = "map2sat" } = {}) {
  if (window.broken) throw new Error(window.broken);
  onProgress(1, 2); onProgress(2, 2);
  let latest = 0;
  return {
    describe: () => ({ backend: "wasm", threads: 1, isolated: false, model: direction, bytes: 2 }),
    async translate(image, { seed, origin }) {
      const turn = ++latest;
      window.calls.push({ direction, seed, origin });
      await new Promise((resolve) => setTimeout(resolve, direction === "map2sat" ? window.wait ?? 5 : 5));
      if (turn !== latest) throw new DOMException("A newer drawing came.", "AbortError");
      if (window.broken) throw new Error(window.broken);
      const data = image.data.map((value, i) => (i % 4 === 3 ? 255 : (255 - value + seed) % 256));
      return new ImageData(data, image.width, image.height);
    },
    close() {},
  };
}
"""


def page_config(**changes: Any) -> dict[str, Any]:
    """What draw.json holds, of a model that is a formula."""
    model = {"name": "test", "bytes": 2_000_000, "sha256": "00", "metres_per_pixel": 1.0, "licence": "Free."}
    models = [{"direction": d, **model, "trained_on": "Eight towns, by hand"} for d in ("map2sat", "sat2map")]
    config = {"version": 1, "models": models, "runtime": {"bytes": {"wasm": 1_000_000}}, "embedded": True}
    return {**config, "town": town_rules(), "table": tag_table(), "style": style_table(classic()), **changes}


@pytest.fixture(scope="module")
def browser(start_chromium: Callable[..., Any]) -> playwright.Browser:
    """For all tests of the page."""
    return start_chromium("--disable-gpu")


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
            viewport={"width": width, "height": height},
            accept_downloads=True,
            reduced_motion="reduce",
            service_workers="block",
            **options,
        )
        contexts.append(context)
        context.route("**/*", answer)
        page = context.new_page()
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
    assert [text for text in heard if "blocked by Playwright" not in text] == []
    assert asked == []


def drag(page: playwright.Page, *places: tuple[float, float], canvas: str = "#map") -> None:
    """Draws through places, in shares of the side of the square."""
    box = page.locator(canvas).bounding_box()
    assert box is not None
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=3)
    page.mouse.up()
