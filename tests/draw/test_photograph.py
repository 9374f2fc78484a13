"""The page with its own network, as one file from the disk, beside what `terramorph translate` makes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

import terramorph
from terramorph.bundle import load_bundle
from terramorph.draw import WebModel, write_one_file
from terramorph.interop import export_web
from terramorph.models import named

from ..chromium import needs_chromium, playwright, rest
from .conftest import drag

pytestmark = [pytest.mark.browser, needs_chromium]


def test_the_photograph_is_the_one_that_translate_makes(browser: playwright.Browser, tmp_path: Path) -> None:
    bundle = load_bundle(named("town-map2sat"))
    network = export_web(bundle, tmp_path / "web.onnx", store="int8")
    page_file = write_one_file([WebModel.of(bundle, network, "town-map2sat")], tmp_path / "draw.html")
    assert page_file.stat().st_size <= 12e6
    assert not re.findall(rb"https?://(?!www\.w3\.org)[^\s\"']+\.(?:js|css|wasm)", page_file.read_bytes()[:200_000])
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True, offline=True)
    page, heard, asked = context.new_page(), [], []
    page.on("console", lambda message: heard.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-ready]")
    page.locator("#clear").click()
    for key, places in (
        ("a", [(0.0, 0.6), (0.5, 0.5), (1.0, 0.55)]),
        ("p", [(0.2, 0.2), (0.35, 0.15), (0.4, 0.3), (0.25, 0.4), (0.2, 0.2)]),
        ("v", [(0.7, 0.0), (0.8, 0.4), (0.7, 1.0)]),
    ):
        page.keyboard.press(key)
        drag(page, *places)
    assert page.locator("#words").inner_text().startswith("1 arterial, 1 park, 1 river on 256 × 256 m")
    rest(page, 300)
    page.wait_for_selector("body[data-answer=done]")
    taken = {}
    for name in ("map", "photo", "geojson"):
        page.locator("#take summary").click()
        with page.expect_download() as download:
            page.locator(f"[data-take={name}]").click()
        taken[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(taken[name])
    context.close()
    assert heard == []
    assert [url for url in asked if not url.startswith("blob:")] == [page_file.as_uri()]
    photo = np.asarray(Image.open(taken["photo"]).convert("RGB")).astype(int)
    assert photo.std() > 10

    def apart(model: str | Path, name: str, **how: str) -> np.ndarray:
        terramorph.load(model, **how).translate_to(taken[name], tmp_path / "out.tif", overwrite=True)
        with rasterio.open(tmp_path / "out.tif") as dataset:
            return np.abs(dataset.read().transpose(1, 2, 0) - photo)

    assert apart(network, "map").max() <= 1
    for name, most in (("map", 1.0), ("geojson", 2.0)):
        assert apart(named("town-map2sat"), name, precision="fp32").mean() <= most
