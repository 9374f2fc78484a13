"""A server of tiles on this machine, and how it is asked."""

from __future__ import annotations

import base64
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from terramorph import __version__
from terramorph.errors import RasterError
from terramorph.geo.mercator import TileBox, pixel_grid
from terramorph.prepare import Inputs, Opening, Options, Scale, SplitRule, inspect, prepare
from terramorph.raster import Raster, write_image
from terramorph.raster.tiles import FolderTiles, ServerTiles, TileSource
from terramorph.sources import open_source

from ..processes import nobody

Z, X, Y = 12, 2200, 1343


def png(value, size=256):
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Server:
    """Answers from lists, the last answer again and again, and remembers who asked what."""

    def __init__(self):
        self.answers, self.asked, self.agents, self.logins = {}, [], set(), set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                outer.agents.add(self.headers["User-Agent"])
                outer.logins.add(self.headers["Authorization"])
                answers = outer.answers.get(self.path, [(404, b"no", {})])
                status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def put(self, path, *answers):
        self.answers[path] = [(*answer, {})[:3] for answer in answers]

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def tiles(server, cache, path="/{z}/{x}/{y}.png", zoom=Z, **options):
    fast = {"REQUESTS_PER_SECOND": 1e6, "BACKOFF": 0.0, "RETRIES": 3} | options
    with mock.patch.multiple("terramorph.raster.tiles.server", **fast):
        return ServerTiles(server.url + path, zoom, "CC BY 4.0, Town of A", cache)


def test_tiles_are_asked_once_and_kept(server, tmp_path):
    server.put(f"/{Z}/{X}/{Y}.png", (200, png(10)))
    server.put(f"/{Z}/{X + 1}/{Y}.png", (204, b""))
    box = TileBox(X, Y, X + 3, Y + 1)
    grid = pixel_grid(Z, box, 256)
    for _ in range(2):
        with TileSource(tiles(server, tmp_path)) as source:
            raster = source.read(grid)
            assert source.grid.height == 256 << Z
            assert source.licence == "CC BY 4.0, Town of A"
        assert (raster.pixels[:, :, :256] == 10).all()
        assert raster.mask[:, :256].all()
        assert not raster.mask[:, 256:].any()
    assert sorted(server.asked) == [f"/{Z}/{x}/{Y}.png" for x in range(X, X + 3)]
    assert server.agents == {f"terramorph/{__version__}"}
    kept = FolderTiles(tiles(server, tmp_path).folder)
    assert (kept.box(Z), kept.licence) == (TileBox(X, Y, X + 1, Y + 1), "CC BY 4.0, Town of A")


def test_an_interrupted_run_is_resumed(server, tmp_path):
    server.put(f"/{Z}/{X}/{Y}.png", (200, png(10)))
    server.put(f"/{Z}/{X + 1}/{Y}.png", (500, b"", {}))
    grid = pixel_grid(Z, TileBox(X, Y, X + 2, Y + 1), 256)
    with (
        TileSource(tiles(server, tmp_path, RETRIES=0)) as source,
        pytest.raises(RasterError, match="answered with 500"),
    ):
        source.read(grid)
    server.put(f"/{Z}/{X + 1}/{Y}.png", (200, png(20)))
    with TileSource(tiles(server, tmp_path)) as source:
        assert (source.read(grid).pixels[:, :, 256:] == 20).all()
    assert server.asked.count(f"/{Z}/{X}/{Y}.png") == 1


def test_a_busy_server_is_asked_again_when_it_says(server, tmp_path):
    server.put("/0/0/0.png", (503, b""), (429, b"", {"Retry-After": "1"}), (200, png(3)))
    start = time.monotonic()
    assert tiles(server, tmp_path, zoom=0).read(0, 0, 0) == png(3)
    assert time.monotonic() - start >= 1
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((403, b"no"), r"refused by the server \(403\); check the key"),
        ((401, b"no"), r"refused by the server \(401\)"),
        ((429, b"no"), r"too many requests \(429\)"),
        ((400, b"no"), "answered with 400"),
        ((200, b"<html>no</html>"), "not a PNG, JPEG or WebP"),
        ((200, b"\x1f\x8b\x08"), "holds vector tiles"),
    ],
)
def test_answers_that_end_it_are_not_kept(server, tmp_path, answer, sentence):
    server.put("/0/0/0.png?key=SECRET", answer)
    reader = tiles(server, tmp_path, "/{z}/{x}/{y}.png?key=SECRET", zoom=0, RETRIES=1)
    with pytest.raises(RasterError, match=sentence) as raised:
        reader.read(0, 0, 0)
    assert "SECRET" not in str(raised.value)
    server.put("/0/0/0.png?key=SECRET", (200, png(1)))
    assert reader.read(0, 0, 0) == png(1)
    assert "SECRET" not in reader.name
    assert not any(b"SECRET" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_server_that_is_not_there(tmp_path):
    with nobody() as host, pytest.raises(RasterError, match="cannot be reached"):
        tiles(SimpleNamespace(url=f"http://{host}"), tmp_path, RETRIES=1).read(Z, X, Y)


def test_rows_from_the_south(server, tmp_path):
    server.put(f"/{X}/{2**Z - 1 - Y}?z={Z}", (200, png(4)))
    assert tiles(server, tmp_path, "/{x}/{-y}?z={z}").read(Z, X, Y) == png(4)


def test_the_pace_is_kept_and_threads_ask_for_a_tile_once(server, tmp_path):
    for x in range(4):
        server.put(f"/3/{x}/0.png", (200, png(x)))
    reader = tiles(server, tmp_path, zoom=3, REQUESTS_PER_SECOND=20.0)
    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: reader.read(3, i % 4, 0), range(16)))
    assert time.monotonic() - start >= 3 / 20
    assert found == [png(i % 4) for i in range(16)]
    assert len(server.asked) == 4
    reader.close()


def test_what_a_server_needs_to_be_asked(tmp_path):
    url = "https://tiles.example/{z}/{x}/{y}.png"
    good = {"zoom": 3, "terms": "CC0", "cache": tmp_path}
    for change, sentence in [
        ({"terms": None}, "name the licence or terms of use"),
        ({"terms": " "}, "name the licence or terms of use"),
        ({"zoom": None}, "name the `zoom` of the tiles"),
        ({"cache": None}, "name a folder .cache. that keeps the fetched tiles"),
    ]:
        with pytest.raises(RasterError, match=sentence):
            open_source(url, **good | change)
    for wrong, sentence in [
        ("https://tiles.example/a.png", "write {z}, {x} and {y} where"),
        ("https://{s}.tiles.example/{z}/{x}/{y}.png", "has {s}, which is not known"),
    ]:
        with pytest.raises(RasterError, match=sentence):
            open_source(wrong, **good)
    assert list(tmp_path.iterdir()) == []
    with open_source(url, **good) as a, open_source(url, **good | {"zoom": 4}) as b:
        assert a.fingerprint() != b.fingerprint()
        assert a.grid.shape == (2048, 2048)
    with open_source("https://tiles.example/{z}/{x}/{y}@2x.png", **good) as source:
        assert source.grid.shape == (4096, 4096)


def test_a_server_of_other_sizes_is_noticed(server, tmp_path):
    server.put("/0/0/0.png", (200, png(1, 512)))
    with TileSource(tiles(server, tmp_path, zoom=0)) as source, pytest.raises(RasterError, match="512 x 512"):
        source.read(source.grid)


def test_a_login_before_the_host_is_sent_and_not_told(server, tmp_path):
    server.put("/0/0/0.png", (200, png(1)))
    with_login = server.url.replace("http://", "http://me:p%40ss@")
    reader = ServerTiles(with_login + "/{z}/{x}/{y}.png", 0, "CC0", tmp_path)
    assert reader.read(0, 0, 0) == png(1)
    assert server.logins == {"Basic " + base64.b64encode(b"me:p@ss").decode()}
    assert reader.name == server.url + "/{z}/{x}/{y}.png"


def test_repetitions_are_logged_without_the_key(tmp_path, caplog):
    with nobody() as host, pytest.raises(RasterError, match="cannot be reached"):
        tiles(SimpleNamespace(url=f"http://{host}"), tmp_path, "/{z}/{x}/{y}.png?key=SECRET", RETRIES=1).read(Z, X, Y)
    assert "Retrying" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("secret", ["?a=1&appid={}", "@"])
def test_no_file_of_a_dataset_holds_a_key(server, tmp_path, secret):
    grid = pixel_grid(Z, TileBox(X, Y, X + 1, Y + 1), 256)
    target = Raster(
        np.full((3, 64, 64), 9, np.uint8), np.ones((64, 64), bool), grid.crop(0, 0, 64, 64), ("r", "g", "b")
    )
    write_image(target, tmp_path / "map.tif")

    def once(key):
        query = secret.format(key) if secret != "@" else ""
        server.put(f"/{Z}/{X}/{Y}.png{query}", (200, png(10)))
        url = server.url if query else server.url.replace("//", f"//me:{key}@")
        spec = f"{url}/{{z}}/{{x}}/{{y}}.png{query}"
        options = Options(
            tile=64, scale=Scale(zoom=Z), split=SplitRule(fractions=(1, 0, 0)), opening=Opening(terms="CC0")
        )
        prepare(tmp_path / "out", [Inputs(spec, str(tmp_path / "map.tif"), "town")], options)
        inspect(tmp_path / "out")
        files = {f: f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()}
        assert not any(key.encode() in content or key in str(f) for f, content in files.items())
        return files

    first = once("SECRET")
    assert server.url in (tmp_path / "out" / ".prepare" / "areas.json").read_text()
    assert once("OTHER") == first  # another key for the same address is the same source
    assert len(server.asked) == 1
