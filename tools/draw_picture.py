"""Make docs/images/draw.webp: the draw page while somebody draws a village, with the model town-map2sat.

python tools/draw_picture.py [docs/images/draw.webp]
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from terramorph.bundle import load_bundle
from terramorph.draw import WebModel, write_one_file
from terramorph.interop import export_web
from terramorph.models import named

MODEL = "town-map2sat"
SIZE = (1270, 770)
DRAWN: list[tuple[str, list[tuple[float, float]]]] = [
    ("v", [(0.005, 0.28), (0.16, 0.34), (0.3, 0.3), (0.46, 0.2), (0.62, 0.18), (0.8, 0.1), (0.86, 0.005)]),
    ("a", [(0.005, 0.62), (0.25, 0.56), (0.5, 0.55), (0.75, 0.6), (0.995, 0.56)]),
    ("r", [(0.36, 0.555), (0.37, 0.4), (0.345, 0.2), (0.35, 0.005)]),
    ("r", [(0.62, 0.565), (0.64, 0.76), (0.6, 0.995)]),
    ("r", [(0.005, 0.84), (0.3, 0.82), (0.62, 0.8)]),
    ("r", [(0.36, 0.42), (0.7, 0.38), (0.995, 0.36)]),
    (
        "p",
        [(0.78, 0.7), (0.88, 0.66), (0.95, 0.74), (0.94, 0.86), (0.84, 0.92), (0.74, 0.86), (0.73, 0.76), (0.78, 0.7)],
    ),
    ("w", [(0.82, 0.77), (0.88, 0.76), (0.89, 0.82), (0.84, 0.85), (0.8, 0.81), (0.82, 0.77)]),
]
HOUSES = [
    (0.08, 0.54), (0.18, 0.515), (0.1, 0.7), (0.2, 0.67), (0.3, 0.64), (0.42, 0.635), (0.52, 0.63), (0.1, 0.77),
    (0.22, 0.755), (0.34, 0.745), (0.46, 0.735), (0.46, 0.49), (0.57, 0.485), (0.7, 0.49), (0.82, 0.5), (0.94, 0.485),
    (0.48, 0.33), (0.6, 0.315), (0.74, 0.3), (0.88, 0.295), (0.1, 0.91), (0.22, 0.9), (0.34, 0.89), (0.46, 0.885),
]  # fmt: skip


class Film:
    """Frames of a page, with how long each is shown."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Any] = []
        self.durations: list[int] = []

    def take(self, milliseconds: int) -> None:
        """One frame."""
        self.frames.append(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))
        self.durations.append(milliseconds)

    def answered(self, milliseconds: int) -> None:
        """One frame, once the photograph is there."""
        self.page.wait_for_timeout(250)
        self.page.wait_for_selector("body[data-answer=done]", timeout=120_000)
        self.page.wait_for_timeout(300)
        self.take(milliseconds)


def main(out: Path) -> None:
    """Record the page, and write the animated picture."""
    chromium = os.environ.get("TERRAMORPH_CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        bundle = load_bundle(named(MODEL))
        network = export_web(bundle, Path(folder) / "web.onnx")
        html = write_one_file([WebModel.of(bundle, network, MODEL)], Path(folder) / "draw.html")
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="light")
        page.goto(html.as_uri())
        page.wait_for_selector("body[data-answer=done]", timeout=120_000)
        page.locator("#clear").click()
        film = Film(page)
        film.answered(700)
        draw(film)
        browser.close()
    film.frames[0].save(
        out, save_all=True, append_images=film.frames[1:], duration=film.durations, loop=0, quality=72, method=6
    )


def draw(film: Film) -> None:
    """Draw the village, look at another sample, and swipe."""
    page = film.page
    box = page.locator("#map").bounding_box()
    assert box is not None
    left, top, side = box["x"], box["y"], box["width"]
    for key, places in DRAWN:
        page.keyboard.press(key)
        points = [(left + x * side, top + y * side) for x, y in places]
        page.mouse.move(*points[0])
        page.mouse.down()
        for number, point in enumerate(points[1:]):
            page.mouse.move(*point, steps=6)
            if number % 2 == 0:
                film.take(130)
        page.mouse.up()
        film.answered(420)
    page.keyboard.press("b")
    for number, (x, y) in enumerate(HOUSES):
        page.mouse.click(left + x * side, top + y * side)
        if number % 4 == 3:
            film.take(160)
    page.mouse.move(left + 0.5 * side, top + side + 60)
    film.answered(1600)
    page.keyboard.press("s")
    film.take(300)
    handle = page.locator("#handle i").bounding_box()
    assert handle is not None
    x, y = handle["x"] + 22, handle["y"] + 22
    page.mouse.move(x, y)
    page.mouse.down()
    for share in (-0.12, -0.24, -0.36, -0.24, -0.12, 0.0, 0.12, 0.24, 0.36, 0.24, 0.12, 0.0):
        page.mouse.move(x + share * side, y)
        film.take(110)
    page.mouse.up()
    film.take(1500)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/draw.webp"))
