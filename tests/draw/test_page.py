"""What people do on the draw page."""

from __future__ import annotations

import base64
import io
import json
import shutil
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from odc.geo.crs import CRS
from PIL import Image

from terramorph.cartography import CLASSES, VectorSource, classify, load_style
from terramorph.geo import Grid, grid_at
from terramorph.raster import read_image

from ..chromium import AXE, needs_chromium, playwright, rest
from .conftest import ENGINE, STATIC, drag, page_config

pytestmark = [pytest.mark.browser, needs_chromium]
Opened = Callable[..., Any]

DROP = """([name, data, type]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""

SAYS = """(text) => document.querySelector("#words").textContent.replaceAll("\u00a0", " ") === text"""


def answered(page: playwright.Page) -> None:
    """Waits until the photograph is that of the drawing."""
    rest(page, 200)
    page.wait_for_selector("body[data-answer=done]")
    rest(page, 0)


def words(page: playwright.Page) -> str:
    """What the page says is drawn."""
    return str(page.locator("#words").inner_text()).replace("\xa0", " ")


def taken(page: playwright.Page, name: str, folder: Path) -> Path:
    """The file that an entry of the menu saves."""
    page.locator("#take summary").click()
    with page.expect_download() as download:
        page.locator(f"[data-take={name}]").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def rgb(path: Path) -> np.ndarray:
    """Pixels (H, W, 3)."""
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_pointers_draw_and_steps_are_taken_back(opened: Opened) -> None:
    page = opened()
    page.locator("#clear").click()
    assert words(page).startswith("Nothing on 256 × 256 m: 100 % land")
    drag(page, (0.01, 0.5), (0.5, 0.5), (0.99, 0.5))
    assert words(page).startswith("1 road on")
    for key, place in (("p", 0.2), ("w", 0.8)):
        page.keyboard.press(key)
        drag(page, *((place + 0.08 * np.cos(t), 0.25 + 0.08 * np.sin(t)) for t in np.linspace(0, 6, 7)))
    page.keyboard.press("v")
    drag(page, (0.3, 0.01), (0.45, 0.4), (0.3, 0.99))
    page.keyboard.press("b")
    drag(page, (0.7, 0.6), (0.76, 0.66))
    assert words(page).startswith("1 road, 1 park, 1 water area, 1 river, 1 building on")
    page.keyboard.press("e")
    drag(page, (0.73, 0.63), (0.74, 0.64))
    assert "building" not in words(page)
    for _ in range(2):
        page.keyboard.press("Control+z")
    assert words(page).startswith("1 road, 1 park, 1 water area, 1 river on")
    page.keyboard.press("Control+Shift+z")
    assert "1 building" in words(page)
    for _ in range(6):
        page.locator("#undo").click()
    assert page.locator("#undo").is_disabled()
    assert page.locator("#redo").is_enabled()


def test_a_line_is_as_wide_as_the_style_says_and_runs_over_the_border(opened: Opened, tmp_path: Path) -> None:
    page = opened()
    page.locator("#clear").click()
    page.keyboard.press("h")
    drag(page, (0.005, 0.5), (0.995, 0.5))
    drawn = rgb(taken(page, "map", tmp_path))
    orange = (np.abs(drawn - (252, 164, 44)) < 2).all(2)
    assert set(orange.sum(0).tolist()) <= {29, 30, 31}  # 30 m at 1 m a pixel, to the very border
    page.locator("label:has([value='512'])").click()
    assert rgb(taken(page, "map", tmp_path)).shape == (512, 512, 3)


def test_the_photograph_follows_the_pen(opened: Opened, tmp_path: Path) -> None:
    page = opened(script="performance.now = () => 0;")  # an answer is quick enough to draw by
    answered(page)
    page.evaluate("window.calls.length = 0")
    drag(page, (0.3, 0.3), (0.4, 0.4))
    answered(page)
    calls = page.evaluate("window.calls")
    assert len(calls) > 1  # while the pen was still drawing
    assert calls[-1]["origin"] == [500_000 - 128, -5_818_877 - 128]
    photo = rgb(taken(page, "photo", tmp_path))
    assert np.array_equal(photo, 255 - rgb(taken(page, "map", tmp_path)))
    page.keyboard.press("n")
    answered(page)
    again = page.evaluate("window.calls.at(-1)")
    assert again["seed"] > 0
    assert not np.array_equal(rgb(taken(page, "photo", tmp_path)), photo)
    assert "on your device, wasm, 1 thread" in page.locator("#age").inner_text()
    assert page.locator("#line").inner_text() == "Invented by a network trained on eight towns. Not a real place."


def test_keys_alone_draw(opened: Opened) -> None:
    page = opened()
    page.keyboard.press("x")
    page.locator("#map").focus()
    for key in ("w", "f", *["ArrowLeft"] * 4, "Space", *["ArrowRight"] * 9, *["ArrowDown"] * 6, "Space"):
        page.keyboard.press(key)
    assert words(page).startswith("1 water area on")
    for key in (
        "r",
        "Shift+ArrowUp",
        "Space",
        "Shift+ArrowLeft",
        "Space",
        "Shift+ArrowLeft",
        "Space",
        "Backspace",
        "Enter",
    ):
        page.keyboard.press(key)
    assert words(page).startswith("1 water area, 1 road on")
    assert page.locator("#live").text_content() == "Added: 1 road."
    page.locator("#form-kind").select_option("arterial")
    page.locator("#form-from").fill("north-west")
    page.locator("#form-to").fill("30, 75")
    page.locator("#form-to").press("Enter")
    assert words(page).startswith("1 water area, 1 road, 1 arterial on")
    page.locator("#form-to").fill("nowhere")
    page.locator("#form-to").press("Enter")
    assert page.locator("#notice").inner_text().startswith('"nowhere" is no place; write north-east')
    page.locator("#tools [aria-checked=true]").focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.tool") == "arterial"


def test_touch_one_finger_draws_and_two_move(opened: Opened) -> None:
    page = opened(width=390, height=844, has_touch=True, is_mobile=True)
    page.evaluate("document.querySelector('#clear').click()")
    box = page.locator("#map").bounding_box()
    touch = page.context.new_cdp_session(page)

    def send(kind: str, *fingers: tuple[float, float]) -> None:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in fingers]
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", (0.2, 0.5))
    for x in np.linspace(0.2, 0.8, 8):
        send("touchMove", (float(x), 0.5))
    send("touchEnd")
    assert words(page).startswith("1 road on")
    before = page.locator("#map").screenshot()
    send("touchStart", (0.4, 0.5))
    send("touchStart", (0.4, 0.5), (0.6, 0.5))
    for spread in np.linspace(0.1, 0.3, 6):
        send("touchMove", (0.5 - float(spread), 0.5), (0.5 + float(spread), 0.5))
    send("touchEnd")
    rest(page, 100)
    assert words(page).startswith("1 road on")
    assert page.locator("#map").screenshot() != before


def test_the_drawing_survives(opened: Opened) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.keyboard.press("x")
    page.keyboard.press("b")
    drag(page, (0.4, 0.4), (0.5, 0.5))
    page.locator("label:has([value='512'])").click()
    said = words(page)
    assert said.startswith("1 building on 512 × 512 m")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert words(page) == said
    page.locator("#take summary").click()
    page.locator("[data-take=link]").click()
    page.wait_for_selector("#notice", state="visible")
    assert page.locator("#notice").inner_text() == "The link is copied."
    link = page.evaluate("navigator.clipboard.readText()")
    other = opened(hash=link[link.index("#") :])
    assert words(other) == said
    assert other.locator("#undo").is_disabled()
    page.keyboard.press("x")
    page.keyboard.press("p")
    drag(page, *((0.3 + 0.08 * np.cos(t), 0.25 + 0.08 * np.sin(t)) for t in np.linspace(0, 6, 7)))
    own = words(page)
    assert own.startswith("1 park on")
    page.evaluate("(hash) => { location.hash = hash; }", link[link.index("#") :])
    page.wait_for_function(SAYS, arg=said)
    page.keyboard.press("Control+z")
    assert words(page) == own
    page.keyboard.press("Control+y")
    assert words(page) == said
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert words(page) == own  # the link's was only looked at
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector("body[data-ready]")
    assert words(page) == said
    page.keyboard.press("Control+z")
    assert words(page) == own
    broken = opened(hash="#d=AAAA")
    assert broken.locator("#notice").inner_text().startswith("The link is damaged")
    assert "arterial" in words(broken)


def test_what_goes_wrong_is_said_and_the_drawing_kept(opened: Opened) -> None:
    sentence = "The browser has no WebAssembly; use a newer one."
    page = opened(script=f"window.broken = {sentence!r};")
    page.wait_for_selector("#card[data-bad]")
    assert page.locator("#card-text").inner_text() == f"{sentence} Your drawing is kept."
    said = words(page)
    page.evaluate("window.broken = ''")
    page.locator("#load").click()
    answered(page)
    assert page.locator("#card").is_hidden()
    page.evaluate("window.broken = 'The memory of the browser is too small; take fewer pixels.'")
    drag(page, (0.2, 0.2), (0.3, 0.3))
    page.wait_for_selector("#card[data-bad]")
    assert "too small" in page.locator("#card-text").inner_text()
    assert words(page) != said
    page.evaluate("window.broken = ''")
    page.keyboard.press("Control+z")
    answered(page)
    assert page.locator("#card").is_hidden()
    assert words(page) == said


def test_the_size_is_said_before_anything_is_loaded(opened: Opened) -> None:
    config = page_config(embedded=False)
    page = opened(config=config)
    assert page.locator("#load").inner_text() == "Load 3.0 MB"
    assert page.evaluate("window.calls.length") == 0
    page.locator("#load").click()
    answered(page)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    answered(page)
    assert page.locator("#card").is_hidden()


def test_a_picture_goes_the_other_way(opened: Opened, tmp_path: Path) -> None:
    page = opened()
    answered(page)
    said = words(page)
    held = io.BytesIO()
    Image.new("RGB", (300, 260), (10, 20, 30)).save(held, "PNG")
    page.evaluate(DROP, ["air.png", base64.b64encode(held.getvalue()).decode(), "image/png"])
    page.wait_for_selector("#read", state="visible")
    assert page.evaluate("window.calls.at(-1).direction") == "sat2map"
    read = rgb(taken(page, "map", tmp_path))
    assert read.shape == (260, 260, 3)  # its own pixels
    assert (read == (245, 235, 225)).all()
    assert page.locator("#line").inner_text() == "Map read from air.png by a network, which may be wrong."
    page.locator("#unread").click()
    answered(page)
    assert page.locator("#line").inner_text().startswith("Invented by")
    assert words(page) == said
    assert np.array_equal(rgb(taken(page, "photo", tmp_path)), 255 - rgb(taken(page, "map", tmp_path)))
    page.evaluate(DROP, ["air.png", base64.b64encode(b"none").decode(), "image/png"])
    page.wait_for_selector("#notice", state="visible")
    assert page.locator("#notice").inner_text() == "air.png is no picture that this browser reads; give a PNG or JPEG."


def test_an_answer_for_the_drawing_does_not_replace_a_picture(opened: Opened, tmp_path: Path) -> None:
    page = opened()
    answered(page)
    held = io.BytesIO()
    Image.new("RGB", (256, 256), (10, 20, 30)).save(held, "PNG")
    page.evaluate("window.wait = 2000")
    before = page.evaluate("window.calls.length")
    page.keyboard.press("n")
    page.wait_for_function("(before) => window.calls.length > before", arg=before)
    page.evaluate(DROP, ["air.png", base64.b64encode(held.getvalue()).decode(), "image/png"])
    page.wait_for_selector("#read", state="visible")
    answered(page)
    assert (rgb(taken(page, "photo", tmp_path)) == (10, 20, 30)).all()
    page.locator("#unread").click()
    answered(page)
    assert not (rgb(taken(page, "photo", tmp_path)) == (10, 20, 30)).all()


def test_files_lie_where_the_drawing_is_placed(opened: Opened, tmp_path: Path) -> None:
    page = opened()
    answered(page)
    page.locator("#take summary").click()
    page.locator("[data-take=place]").click()
    page.locator("#latitude").fill("43.7712")
    page.locator("#longitude").fill("11.2544")
    page.locator("#placing [value=ok]").click()
    answered(page)
    photo, drawn = taken(page, "photo-tif", tmp_path), taken(page, "map", tmp_path)
    with rasterio.open(photo) as dataset:
        assert dataset.crs.to_epsg() == 32632
        assert dataset.res == (1, 1)
        assert np.array_equal(dataset.read(), 255 - rgb(drawn).transpose(2, 0, 1))
        transform = dataset.transform
    for path in (drawn, taken(page, "map-tif", tmp_path)):
        found = read_image(path)
        assert found.grid == Grid(256, 256, transform, CRS("EPSG:32632"))
        assert np.array_equal(found.pixels, rgb(drawn).transpose(2, 0, 1))
    file = taken(page, "geojson", tmp_path)
    with VectorSource(file, load_style("classic")) as source:
        assert grid_at(source.extent, 1.0) == Grid(256, 256, transform, source.extent.crs)
    page.keyboard.press("x")
    page.evaluate(DROP, ["drawing.geojson", base64.b64encode(file.read_bytes()).decode(), ""])
    page.wait_for_function("document.querySelector('#words').textContent.includes('highway')")
    again = rgb(taken(page, "map", tmp_path))
    assert read_image(drawn).grid.affine == transform
    assert (classify(again.astype(np.uint8)) == classify(255 - rgb(photo).astype(np.uint8))).mean() > 0.99


def test_the_map_opens_in_the_viewer_of_a_server(opened: Opened, tmp_path: Path) -> None:
    assert opened().locator("[data-take=viewer]").is_hidden()
    page, sent = opened(config=page_config(server={"viewer": "../", "layer": "maps"})), []

    def take(route: playwright.Route) -> None:
        sent.append(route.request)
        answers = [(200, "A pixel is 1 m and the model wants 2."), (201, '{"layer": "upload-1"}')]
        status, body = answers[len(sent) - 1]
        route.fulfill(status=status, body=body)

    page.route("http://localhost/uploads?layer=maps", take)
    page.route("http://localhost/", lambda route: route.fulfill(body="<title>viewer</title>", content_type="text/html"))
    drawn = rgb(taken(page, "map", tmp_path))
    for first in (True, False):
        page.locator("#take summary").click()
        page.locator("[data-take=viewer]").click()
        if first:  # the request may not be here yet
            playwright.expect(page.locator("#notice")).to_have_text("A pixel is 1 m and the model wants 2.")
    page.wait_for_url("http://localhost/#layer=upload-1")
    assert [(one.method, one.headers["x-terramorph"]) for one in sent] == 2 * [("PUT", "upload")]
    (tmp_path / "sent.tif").write_bytes(sent[1].post_data_buffer)
    found = read_image(tmp_path / "sent.tif")
    assert np.array_equal(found.pixels, drawn.transpose(2, 0, 1))
    assert found.grid == read_image(tmp_path / "map.png").grid


def test_an_export_of_openstreetmap_becomes_the_drawing(opened: Opened, tmp_path: Path) -> None:
    def feature(kind: str, coordinates: Any, **tags: str) -> dict[str, Any]:
        return {"type": "Feature", "properties": tags, "geometry": {"type": kind, "coordinates": coordinates}}

    def box(half: float) -> list[list[float]]:
        return [[11 + x * half, 44 + y * half, 120.0] for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]

    features = [
        feature("Polygon", [box(0.0008), box(0.0004)], natural="water"),
        feature("LineString", [[10.999, 44.0005], [11.001, 44.0005]], highway="residential"),
        feature("LineString", [[11, 43.999], [11, 44.001]], highway="primary", tunnel="yes"),
        feature("MultiPolygon", [[box(0.0001)], [[[11.3, 44], [11.3, 44.1], [11.4, 44]]]], building="yes"),
        feature("Point", [11, 44], amenity="bench"),
        feature("LineString", [[10.7, 43.9], [10.7, 43.95]], highway="motorway"),
        {"type": "Feature", "properties": None, "geometry": None},
    ]
    page = opened()
    text = json.dumps({"type": "FeatureCollection", "features": features}).encode()
    page.evaluate(DROP, ["town.geojson", base64.b64encode(text).decode(), ""])
    page.wait_for_selector("#notice", state="visible")
    left_out = "Features left out: 3 without a kind that is drawn, 2 too far from the middle."
    assert page.locator("#notice").inner_text() == left_out
    assert words(page).startswith("1 water area, 1 road, 1 building on")
    place = round(11 * 1e4), round(44 * 1e4)
    page.locator("#take summary").click()
    page.locator("[data-take=place]").click()
    at = float(page.locator("#longitude").input_value()), float(page.locator("#latitude").input_value())
    assert np.allclose(np.round(np.multiply(at, 1e4)), place, atol=10)
    page.keyboard.press("Escape")
    drawn = classify(rgb(taken(page, "map", tmp_path)).astype(np.uint8))
    assert drawn[128, 140] == CLASSES.index("land")  # in the hole
    assert drawn[128, 185] == CLASSES.index("water")


def test_a_town_is_always_the_same_of_its_name(opened: Opened) -> None:
    page = opened()
    said = []
    for name in ("Florence", "Pisa", " florence"):
        page.locator("#samples summary").click()
        page.locator("#sample-list button", has_text="My town").click()
        page.locator("#naming-name").fill(name)
        page.locator("#naming [value=ok]").click()
        said.append(words(page))
    assert said[0] == said[2] != said[1]
    assert "building" in said[0]
    for name in ("Crossroads", "Harbour", "Island"):
        page.locator("#samples summary").click()
        page.locator("#sample-list button", has_text=name).click()
        assert "buildings" in words(page)


def test_the_swipe_moves_by_keys_and_pointer(opened: Opened) -> None:
    page = opened()
    page.keyboard.press("s")
    handle = page.locator("#handle")
    handle.focus()
    page.keyboard.press("ArrowLeft")
    assert handle.get_attribute("aria-valuenow") == "49"
    page.keyboard.press("Shift+ArrowRight")
    assert handle.get_attribute("aria-valuenow") == "59"
    page.keyboard.press("[")
    assert handle.get_attribute("aria-valuenow") == "58"
    box, square = page.locator("#handle i").bounding_box(), page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 22, box["y"] + 22)
    page.mouse.down()
    page.mouse.move(square["x"] + 0.25 * square["width"], box["y"] + 22, steps=3)
    page.mouse.up()
    assert handle.get_attribute("aria-valuenow") == "25"
    drag(page, (0.5, 0.6), (0.6, 0.7), canvas="#photo")  # the pen draws on the photograph too
    assert "8 roads" in words(page)


@pytest.mark.parametrize("width", [1280, 390])
def test_people_with_disabilities_can_use_it(opened: Opened, width: int) -> None:
    page = opened(width=width, height=844)
    answered(page)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    rules = "{runOnly: ['wcag2a', 'wcag2aa']}"
    look = f"axe.run(document, {rules}).then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.locator("#take summary").click()
        assert page.evaluate(look) == []


MAPS = """async ([config, metres, seeds]) => {
  const names = ["render", "geojson", "town", "place", "drawing", "geometry"];
  const [{ Renderer }, { toGeoJson }, { makeTown, chance }, { Place }, { feature }, { fair, loops }] =
    await Promise.all(names.map((name) => import(`./${name}.js`)));
  const renderer = new Renderer(config.style, metres), found = [];
  for (const seed of seeds) {
    const side = seed % 5 ? 256 : 512, half = side * metres / 2, random = chance(seed);
    const features = makeTown(seed, config.town, side * metres);
    for (let i = 0; i < 6; i++) {
      let place = [random.between(-half, half), random.between(-half, half)], angle = random.between(0, 6.3);
      const points = Array.from({ length: 60 }, () => {
        angle += random.normal(0.15);
        return place = [place[0] + 6 * metres * Math.cos(angle), place[1] + 6 * metres * Math.sin(angle)];
      });
      features.push(feature(["road", "arterial", "highway", "water"][i % 4], "line", fair(points, metres)));
    }
    for (const kind of ["park", "water", "building"]) {
      const [x, y] = [random.between(-half, half), random.between(-half, half)];
      const at = (k) => [0.3 * half * Math.cos(k / 6.37) + x, 0.3 * half * Math.sin(k / 3.2) + y];
      const ring = Array.from({ length: 40 }, (_, k) => at(k));  // it crosses itself
      features.push(...loops(fair(ring, metres, true), 10).map((one) => feature(kind, "area", one)));
    }
    const place = new Place(metres, seed % 3 ? null : [11.25, 43.77]), { data } = renderer.picture(features, side);
    let text = "";
    for (let i = 0; i < data.length; i += 4) text += String.fromCharCode(data[i], data[i + 1], data[i + 2]);
    found.push([side, btoa(text), JSON.stringify(toGeoJson(features, renderer, place, side))]);
  }
  return found;
}"""


def test_python_draws_what_the_page_draws(opened: Opened, tmp_path: Path) -> None:
    page, file, agreed = opened(), tmp_path / "drawing.geojson", []
    for metres in (1.0, 2.12):
        for side, data, text in page.evaluate(MAPS, [page_config(), metres, list(range(1, 11))]):
            file.write_text(text)
            drawn = np.frombuffer(base64.b64decode(data), np.uint8).reshape(side, side, 3)
            with VectorSource(file, load_style("classic")) as source:
                grid = grid_at(source.extent, metres)
                assert grid.shape == (side, side)
                agreed.append((classify(source.read(grid).pixels) == classify(drawn)).mean())
            assert json.loads(text)["terramorph"]["pixels"] == side
    assert len(agreed) == 20
    assert min(agreed) >= 0.98, agreed


def test_without_a_network_it_opens_again(browser: playwright.Browser, tmp_path: Path) -> None:
    for file in STATIC.glob("*.*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "engine.js").write_text(ENGINE, encoding="utf-8")
    (tmp_path / "draw.json").write_text(json.dumps(page_config(embedded=False)), encoding="utf-8")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        context = browser.new_context()
        page = context.new_page()
        try:
            page.goto(f"http://localhost:{server.server_port}/")
            page.locator("#load").click()
            answered(page)
            page.wait_for_function("async () => Boolean(await caches.match(location.href))")  # put there with the rest
        finally:
            server.shutdown()
    context.set_offline(True)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    answered(page)
    assert "arterial" in words(page)
    context.close()
