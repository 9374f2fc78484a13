"""The viewer, in Chromium."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import rasterio
from PIL import Image

from terramorph.serve import Settings

from ..chromium import AXE, needs_chromium, playwright, rest
from .conftest import Client, serving

pytestmark = [pytest.mark.browser, needs_chromium]

WIDTH, HEIGHT = 960, 480
"""Of the page, in pixels: both maps are drawn without a graphics card, pixel by pixel."""


@pytest.fixture(scope="module")
def browser(start_chromium: Callable[..., Any]) -> playwright.Browser:
    """For all tests of the viewer, with a graphics card in software: its maps need one."""
    return start_chromium("--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@pytest.fixture
def opened(browser: playwright.Browser, client: Client) -> Iterator[Callable[..., playwright.Page]]:
    """Opens the page, and sees that it says nothing on the console and asks no other host."""
    contexts, heard, hosts = [], [], set()

    def open_page(hash: str = "", width: int = WIDTH, height: int = HEIGHT, **options: str) -> playwright.Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True, reduced_motion="reduce", **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc) if "://" in request.url else None)
        page.goto(client.server.address + hash)
        page.wait_for_selector("body[data-ready]")
        settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in heard if "GPU stall" not in line and "GL Driver" not in line] == []
    assert hosts - {""} == {urlsplit(client.server.address).netloc}


def settle(page: playwright.Page) -> None:
    """Waits until all tiles are there and drawn."""
    rest(page, 300)
    for side in ("left", "right"):
        page.wait_for_selector(f"#{side}[data-idle=yes]", state="attached")
    page.wait_for_selector("#work:empty", state="attached")
    rest(page, 400)


def shot(page: playwright.Page) -> np.ndarray:
    """What is seen, (H, W, 3), without the panel."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return np.asarray(image).astype(int)[80 : HEIGHT - 100, 360:]


def test_the_swipe_shows_input_on_the_left_and_output_on_the_right(opened: Callable[..., playwright.Page]) -> None:
    both, inputs = opened("#l=input&r=output&s=60"), opened("#l=input&r=input&s=60")
    handle = both.locator("#handle")
    assert handle.get_attribute("aria-valuenow") == "60"
    seen, plain = shot(both), shot(inputs)
    edge = round(WIDTH * 0.6) - 360
    assert np.abs(seen[:, : edge - 30] - plain[:, : edge - 30]).mean() < 1
    assert np.abs(seen[:, edge + 30 :] - plain[:, edge + 30 :]).mean() > 5
    handle.focus()
    both.keyboard.press("ArrowLeft")
    assert handle.get_attribute("aria-valuenow") == "59"
    both.keyboard.press("Shift+ArrowLeft")
    assert handle.get_attribute("aria-valuenow") == "49"
    box = handle.bounding_box()
    assert box is not None
    both.mouse.move(box["x"] + 22, 200)
    both.mouse.down()
    both.mouse.move(WIDTH * 0.8, 200, steps=4)
    both.mouse.up()
    assert handle.get_attribute("aria-valuenow") == "80"
    both.keyboard.press("[")
    assert handle.get_attribute("aria-valuenow") == "79"
    both.keyboard.press("Home")
    assert "s=0" in both.url


def test_space_blinks_and_numbers_choose(opened: Callable[..., playwright.Page]) -> None:
    page = opened("#l=input&r=output&mode=blink")
    right = shot(page)
    page.keyboard.press(" ")
    left = shot(page)
    assert np.abs(right - left).mean() > 5
    page.keyboard.press(" ")
    assert np.abs(shot(page) - right).mean() < 1
    page.keyboard.press("3")
    assert page.locator("#right-view").input_value() == "truth"
    assert page.locator("#right-name").inner_text() == "Truth"


def test_the_address_brings_the_view_back(opened: Callable[..., playwright.Page]) -> None:
    page = opened("#l=truth&r=output&s=40&mode=swipe")
    page.keyboard.press("]")
    where = page.url.partition("#")[2]
    assert {"l=truth", "r=output", "s=41", "layer=town", "mode=swipe"} <= set(where.split("&"))
    again = opened("#" + where)
    assert again.url == page.url
    assert np.abs(shot(again) - shot(page)).mean() < 1


def test_the_picture_and_the_geotiff_of_a_view(opened: Callable[..., playwright.Page], tmp_path: Path) -> None:
    page = opened("#l=input&r=output&s=50")
    with page.expect_download() as download:
        page.keyboard.press("e")
    download.value.save_as(tmp_path / "view.png")
    picture = np.asarray(Image.open(tmp_path / "view.png").convert("RGB")).astype(int)
    seen, picture, edge = shot(page), picture[80 : HEIGHT - 100, 360:], WIDTH // 2 - 360
    for part in (slice(edge - 30), slice(edge + 30, -80)):
        assert np.abs(picture[:, part] - seen[:, part]).mean() < 1
    with page.expect_download() as download:
        page.locator("#tif").click()
    download.value.save_as(tmp_path / "view.tif")
    with rasterio.open(tmp_path / "view.tif") as dataset:
        assert dataset.crs.to_epsg() == 32633
        assert dataset.tags()["TERRAMORPH_SYNTHETIC"] == "yes"
        assert dataset.tags()["TERRAMORPH_BUNDLE_DIGEST"]


def test_values_at_a_point_and_the_card(opened: Callable[..., playwright.Page]) -> None:
    page = opened("#l=input&r=output")
    page.mouse.click(660, 240)
    page.wait_for_selector("#point dl")
    said = page.locator("#point").inner_text()
    for word in ("Place", "EPSG:32633", "Input", "Output", "Truth", "Class"):
        assert word in said
    page.locator("#chip").click()
    card = page.locator("#card").inner_text()
    assert "2.00 m a pixel" in card
    assert "Of a test." in card
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()


def test_on_a_phone_values_at_a_point_come_into_sight(opened: Callable[..., playwright.Page]) -> None:
    page = opened("#l=input&r=output", width=390, height=700)
    assert not page.locator("#point").is_visible()
    page.mouse.click(280, 240)
    page.wait_for_selector("#point dl")
    for seen in ("#point dt", "#point dd >> nth=-1", "#fold"):
        playwright.expect(page.locator(seen).first).to_be_in_viewport(ratio=0.9)


def test_far_out_it_says_to_zoom_in(opened: Callable[..., playwright.Page], client: Client) -> None:
    layer = client.json("/layers")["layers"][0]
    west, south, east, north = layer["bounds"]
    page = opened(f"#map={layer['native'] - 6}/{(south + north) / 2}/{(west + east) / 2}")
    assert page.locator("#notice").inner_text() == "Zoom in to translate."


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_people_with_disabilities_can_use_it(opened: Callable[..., playwright.Page], width: int, scheme: str) -> None:
    page = opened("#l=input&r=output", width=width, height=800, color_scheme=scheme)
    if width == 390:
        page.locator("#fold").click()
    page.evaluate(AXE.read_text())
    rules = "{runOnly: ['wcag2a', 'wcag2aa']}"
    found = page.evaluate(
        f"axe.run(document, {rules}).then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))"
    )
    assert found == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def test_a_geotiff_that_is_dropped_becomes_a_layer(
    browser: playwright.Browser, settings: Callable[..., Settings], sides: tuple[Path, Path]
) -> None:
    good = base64.b64encode(sides[0].read_bytes()).decode()
    with serving(settings(uploads=True, upload_mb=2, window=192)) as client:
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce")
        page.goto(client.server.address)
        page.wait_for_selector("body[data-ready]")
        said = page.locator("#upload-said")
        assert "Not sent anywhere else; deleted in an hour." in page.locator("#upload").inner_text()
        page.evaluate(DROP, ["page.tif", base64.b64encode(b"<html>").decode()])
        playwright.expect(said).to_have_text("The upload is not a TIFF; send a GeoTIFF.")
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.method))
        page.evaluate(DROP, ["large.tif", base64.b64encode(bytes(2_100_000)).decode()])
        playwright.expect(said).to_contain_text("over the limit of 2 MB")
        assert "PUT" not in sent
        page.route("**/uploads?*", lambda route: None)  # it never answers
        page.evaluate(DROP, ["mine.tif", good])
        page.locator("#upload-cancel").click()
        playwright.expect(said).to_have_text("Cancelled.")
        page.unroute("**/uploads?*")
        for count in (2, 3):
            page.evaluate(DROP, ["mine.tif", good])
            playwright.expect(page.locator("#layer option")).to_have_count(count)
        assert "layer=upload-" in page.url
        playwright.expect(page.locator("#layer")).to_have_value(page.url.partition("layer=")[2].partition("&")[0])
        assert page.locator("#layer option").all_inner_texts()[1:] == ["mine.tif", "mine.tif"]
        settle(page)
        assert shot(page).std() > 10
        page.evaluate(AXE.read_text())
        found = page.evaluate(
            "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa']}).then(r => r.violations.map(v => v.id))"
        )
        assert found == []
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert page.locator("#layer").input_value().startswith("upload-")
        page.close()


def test_without_uploads_there_is_no_place_to_drop(opened: Callable[..., playwright.Page]) -> None:
    assert not opened().locator("#upload").is_visible()


@pytest.mark.parametrize("width", [1366, 390])
def test_without_webgl_two_pictures_stand_side_by_side(browser: playwright.Browser, client: Client, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(client.server.address)
    pictures = page.locator("#stage img")
    playwright.expect(pictures).to_have_count(2)
    for picture in pictures.all():
        playwright.expect(picture).not_to_have_js_property("naturalWidth", 0)
    left, right = (picture.bounding_box() for picture in pictures.all())
    assert left is not None
    assert right is not None
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    seen = page.evaluate(
        """() => [...document.querySelectorAll("#stage img")].map((image) => {
          const { left, top, width, height } = image.getBoundingClientRect();
          return document.elementFromPoint(left + width / 2, top + height / 2) === image;
        })"""
    )
    assert seen == [True, True], "the panel leaves them in sight"
    page.close()


def test_what_cannot_be_read_is_said_before_the_panel(browser: playwright.Browser, client: Client) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.route("**/layers*", lambda route: route.fulfill(status=500, body="no layers"))
    page.goto(client.server.address)
    playwright.expect(page.locator("#notice")).to_contain_text("The layers cannot be read")
    seen = page.evaluate(
        """() => {
          const { left, top, width, height } = document.getElementById("notice").getBoundingClientRect();
          return document.elementFromPoint(left + width / 2, top + height / 2).id;
        }"""
    )
    assert seen == "notice"
    page.close()
