"""What a server answers beside tiles, to friends and to others."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
import urllib3
from affine import Affine
from odc.geo.crs import CRS
from pyproj import Transformer

import terramorph
from terramorph.cli.app import run
from terramorph.errors import BundleError, ConfigError, InputError, RasterError, StorageError
from terramorph.geo import Grid
from terramorph.raster import Raster, read_image, write_image
from terramorph.raster.storage import Remote
from terramorph.raster.tiles.write import native_zoom
from terramorph.serve import LayerSettings, Server, Settings, load_settings, open_server, show
from terramorph.serve.documents import tilejson, wmts
from terramorph.serve.layers import Layer
from terramorph.serve.opening import Opener
from terramorph.town import make_town
from terramorph.translate import load
from terramorph.translate.predictor import Gather

from ..processes import wait_until
from .conftest import HTTP, Client, pixels, serving

WMTS = {"w": "http://www.opengis.net/wmts/1.0", "ows": "http://www.opengis.net/ows/1.1"}


def layer_of(client: Client) -> dict:
    return client.json("/layers")["layers"][0]


def a_tile(client: Client, zoom: int | None = None) -> tuple[int, int, int]:
    """A tile in the middle of the town."""
    layer = layer_of(client)
    west, south, east, north = layer["bounds"]
    z = layer["native"] if zoom is None else zoom
    lon, lat = np.radians((west + east) / 2), np.radians((south + north) / 2)
    x = int((lon / np.pi + 1) / 2 * 2**z)
    return z, x, a_row(z, np.degrees(lat))


def a_row(zoom: int, latitude: float) -> int:
    """The row of tiles at a latitude."""
    return int((1 - np.arcsinh(np.tan(np.radians(latitude))) / np.pi) / 2 * 2**zoom)


def test_tilejson(client: Client) -> None:
    layer = layer_of(client)
    document = client.json("/layers/town.json")
    assert document["tilejson"] == "3.0.0"
    assert document["minzoom"] == layer["native"] - 3
    assert document["maxzoom"] == layer["native"] + 1
    assert document["bounds"] == pytest.approx(layer["bounds"], abs=1e-6)
    assert document["attribution"] == "© the town"
    z, x, y = a_tile(client)
    address = document["tiles"][0].replace("{z}", str(z)).replace("{x}", str(x)).replace("{y}", str(y))
    assert address.startswith(client.server.address)
    assert client.get(address.removeprefix(client.server.address)).data == client.tile("output", z, x, y).data
    assert client.json("/layers/town/truth.json")["name"] == "town: truth"
    assert client.get("/layers/other.json").status == 404


def test_gdal_reads_the_wmts(client: Client, sides: tuple[Path, Path], model_path: Path) -> None:
    """An independent client: it finds the layer, places it and reads the tiles' pixels."""
    address = f"WMTS:{client.server.address}wmts/1.0.0/WMTSCapabilities.xml,layer=town"
    with rasterio.Env(GDAL_HTTP_TIMEOUT=60), rasterio.open(address) as dataset:
        assert dataset.crs.to_epsg() == 3857
        z, x, y = a_tile(client)
        side = 2 * np.pi * 6378137 / 2**z
        left, top = -np.pi * 6378137 + x * side, np.pi * 6378137 - y * side
        window = dataset.window(left, top - side, left + side, top)
        read = dataset.read(window=window, out_shape=(dataset.count, 256, 256))
    served = pixels(client.tile("output", z, x, y).data).transpose(2, 0, 1)
    assert np.array_equal(read[:3], served[:3])


def test_wmts_in_key_value_pairs(client: Client) -> None:
    z, x, y = a_tile(client)
    query = (
        "SERVICE=WMTS&REQUEST=GetTile&VERSION=1.0.0&LAYER=town.truth&STYLE=default&TILEMATRIXSET=WebMercatorQuad"
        f"&TILEMATRIX={z}&TILEROW={y}&TILECOL={x}&FORMAT=image/png"
    )
    assert client.get(f"/wmts?{query}").data == client.tile("truth", z, x, y).data
    root = ElementTree.fromstring(client.get("/wmts?request=GetCapabilities&service=WMTS").data)
    names = [node.text for node in root.findall("w:Contents/w:Layer/ows:Identifier", WMTS)]
    assert names == ["town.input", "town", "town.truth", "town.difference", "town.classes"]
    for layer in root.findall("w:Contents/w:Layer", WMTS):
        for limits in layer.findall(".//w:TileMatrixLimits", WMTS):
            zoom, *ends = (int(node.text or "") for node in limits)
            _, column, row = a_tile(client, zoom)
            assert ends[0] <= row <= ends[1]
            assert ends[2] <= column <= ends[3]
    assert client.get("/wmts?request=GetFeatureInfo").status == 400
    assert client.get(f"/wmts?{query.replace('town.truth', 'x')}").status == 404
    assert client.get(f"/wmts?{query.replace(f'TILEROW={y}', 'TILEROW=-1')}").status == 400


def test_qgis_layer_files(client: Client) -> None:
    for path in ("/layers/town.qlr", "/qgis.qlr"):
        root = ElementTree.fromstring(client.get(path).data)
        nodes = root.findall("maplayers/maplayer")
        assert [node.findtext("layername") for node in nodes] == ["town: output", "town: truth", "town: input"]
        source = nodes[0].findtext("datasource") or ""
        native = layer_of(client)["native"]
        assert f"zmin={native - 3}&zmax={native + 3}" in source
        assert unquote(source).count("{z}/{x}/{y}.png") == 1
        assert nodes[0].findtext("attribution") == "© the town"
        west, _, east, _ = layer_of(client)["bounds"]
        to_metres = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True)
        assert float(nodes[0].findtext("extent/xmin") or 0) == pytest.approx(to_metres.transform(west, 0)[0])
        assert float(nodes[0].findtext("extent/xmax") or 0) == pytest.approx(to_metres.transform(east, 0)[0])


def test_health_and_figures(client: Client) -> None:
    assert client.get("/healthz").status == 200
    assert client.get("/readyz").data == b"ready"
    client.tile("output", *a_tile(client))

    def told() -> str:
        return client.get("/metrics").data.decode()

    wait_until(lambda: "terramorph_queue_seconds 0.0" in told())  # what a client has left may run still
    text = told()
    assert 'terramorph_requests_total{route="t",status="200"}' in text
    assert 'terramorph_jobs_total{outcome="computed",queue="compute"}' in text


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/static/../app.py", "/static/%2e%2e/app.py", "/static/vendor/%2e%2e/%2e%2e/app.py",
        "/t/town/output/99/0/0.png", "/t/town/output/3/-1/0.png", "/t/town/output/3/0/9.png",
        "/t/town/output/3/0/0.tif", "/t/town/secret/3/0/0.png", "/t/..%2f..%2fetc/output/3/0/0.png",
        "/t/town/output/3/0/0@9x.png",
        "/t/town/output/" + "9" * 5000 + "/0/0.png", "/t/town/output/3/" + "9" * 5000 + "/0.png",
        "/t/town/output/3/0/" + "9" * 4000 + ".png", "/layers/other.qlr", "/uploads", "/t/town/output/3/0/0.png.png",
    ],
)  # fmt: skip
def test_what_is_not_there(client: Client, path: str) -> None:
    """One text for all that is absent; nothing of a URL meets a path."""
    with closing(http.client.HTTPConnection(*client.server.socket.getsockname()[:2])) as connection:
        connection.request("GET", path)  # as it is: other clients would tidy the dots up
        answer = connection.getresponse()
        body = answer.read()
    assert answer.status in (404, 405)
    assert b"root:" not in body
    assert b"import" not in body


def test_links_do_not_repeat_a_host_that_a_client_makes_up(client: Client, settings: Callable[..., Settings]) -> None:
    for path in ("/layers/town.json", "/qgis.qlr", "/wmts/1.0.0/WMTSCapabilities.xml", "/layers"):
        assert b"evil" not in client.get(path, Host="evil.example").data
    with serving(settings(public_url="https://maps.example/town", root_path="/town")) as proxied:
        document = proxied.get("/layers/town.json").data
        assert b"https://maps.example/town/t/town/output/" in document
        # Whether or not the proxy takes the root path off.
        assert proxied.get("/layers").status == 200
        with closing(http.client.HTTPConnection(*proxied.server.socket.getsockname()[:2])) as connection:
            connection.request("GET", "/layers")
            assert connection.getresponse().status == 200
        links = client.get("/layers/town.json").data
        assert b"maps.example" not in links


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not here")
def test_behind_nginx(settings: Callable[..., Settings], tmp_path: Path) -> None:
    """As docs/serve.md sets it up: the page, all that it loads, tiles and links of documents."""
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    public = f"http://127.0.0.1:{port}/maps"
    documented = Path(__file__).parents[2] / "docs" / "serve.md"
    (location,) = re.findall(
        r"^    location /maps/ \{\n.*?^    \}\n", documented.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    with closing(taken), serving(settings(root_path="/maps", public_url=public)) as behind:
        location = location.replace("8765", str(behind.server.socket.getsockname()[1]))
        temporary = " ".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}} "
            f"http {{ access_log off; client_body_temp_path {tmp_path}/body; {temporary} "
            f"server {{ listen 127.0.0.1:{port};\n{location} }} }}"
        )
        line = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
        handed = {"NGINX": f"{taken.fileno()};"}  # the socket: nobody takes the port meanwhile
        with subprocess.Popen(
            line, stderr=subprocess.PIPE, env=os.environ | handed, pass_fds=[taken.fileno()]
        ) as nginx:
            try:
                outside = Client(SimpleNamespace(address=f"{public}/"), None)
                HTTP.request("GET", f"{public}/healthz", retries=urllib3.Retry(20, backoff_factor=0.02))
                tile = a_tile(behind)
                links = re.findall(r'(?:src|href)="(?!data:)([^"#]+)"', outside.get("/").data.decode())
                assert len(links) > 2
                tiles = [layer_of(outside)["views"][1]["tiles"], outside.json("/layers/town.json")["tiles"][0]]
                for name, number in zip("zxy", tile, strict=True):
                    tiles = [one.replace(f"{{{name}}}", str(number)) for one in tiles]
                for link in (*links, *tiles):
                    address = urljoin(f"{public}/", link)
                    answer = outside.get(address.removeprefix(public))
                    assert answer.status == 200, address
                assert answer.data == behind.tile("output", *tile).data
                with rasterio.open(f"WMTS:{public}/wmts/1.0.0/WMTSCapabilities.xml,layer=town") as dataset:
                    assert dataset.read(1, out_shape=(64, 64)).any()
                assert f"{public}/t/town/" in unquote(outside.get("/qgis.qlr").data.decode())
            finally:
                nginx.terminate()


def test_every_answer_forbids_what_the_page_does_not_need(client: Client) -> None:
    for path in ("/", "/layers", "/t/town/output/99/0/0.png"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    page = client.get("/").data.decode()
    assert "http://" not in page
    assert "https://" not in page


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Tiles are made as on a slow machine: none before this is set."""
    made, go = Layer.tile, threading.Event()
    monkeypatch.setattr(Layer, "tile", lambda *which: made(*which) if go.wait(240) else None)
    yield go
    go.set()


def test_clients_that_leave_are_not_worked_for(settings: Callable[..., Settings], held: threading.Event) -> None:
    with serving(settings(window=192)) as client:
        z, x, y = a_tile(client, layer_of(client)["native"] + 1)
        host = client.server.socket.getsockname()[:2]
        sockets = []
        for number in range(60):
            one = socket.create_connection(host)
            path = f"/t/town/output/{z}/{x - 4 + number % 8}/{y - 4 + number // 8}.png"
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            sockets.append(one)
        jobs = client.app.tiles.computing._jobs
        wait_until(lambda: len(jobs) == 60)
        for one in sockets:
            one.close()
        wait_until(lambda: len(jobs) == 1)
        held.set()
        assert client.tile("output", z, x + 4, y).status == 200  # none of those
        status = client.json("/status")
    assert status["dropped"] == 59
    assert status["computed"] == 2


def test_a_busy_server_says_when_to_ask_again(settings: Callable[..., Settings], held: threading.Event) -> None:
    with serving(settings(max_wait=0.001, window=192)) as client:
        z, x, y = a_tile(client, layer_of(client)["native"] + 1)
        host = client.server.socket.getsockname()[:2]
        sockets = [socket.create_connection(host) for _ in range(12)]
        for number, one in enumerate(sockets):
            path = f"/t/town/output/{z}/{x - 3 + number % 6}/{y + 1 + number // 6}.png"
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        heads = [sockets[0].recv(4000)]
        held.set()
        heads += [one.recv(4000) for one in sockets[1:]]
        for one in sockets:
            one.close()
        busy = [head for head in heads if b" 503 " in head.splitlines()[0]]
        assert heads[0] in busy
        assert all(b"retry-after: " in head.lower() for head in busy)
        assert all(b" 200 " in head.splitlines()[0] or head in busy for head in heads)
        assert client.get("/readyz").status == 200


def test_a_client_over_its_rate_is_answered_429_and_cached_tiles_are_free(settings: Callable[..., Settings]) -> None:
    with serving(settings(rate_limit=1, window=192)) as client:
        client.app.tiles._rates._clock = lambda: 0.0  # an hour is no longer than a moment
        z, x, y = a_tile(client, layer_of(client)["native"] + 1)
        assert client.tile("output", z, x, y).status == 200
        refused = client.tile("output", z, x + 1, y)
        assert refused.status == 429
        assert 0 < int(refused.headers["Retry-After"]) <= 600
        assert refused.headers["Cache-Control"] == "no-store"
        assert client.get("/export?layer=town&bbox=11.24,43.76,11.25,43.77").status == 429
        assert client.tile("output", z, x, y).status == 200
        assert client.tile("input", z, x + 1, y).status == 200
        assert client.json("/status")["windows"] >= 1


def test_on_a_gpu_windows_of_several_tiles_share_passes(
    settings: Callable[..., Settings], model_path: Path, client: Client
) -> None:
    model = load(model_path)
    passes: list[Any] = []

    def predict(*how: Any) -> np.ndarray:
        passes.append(how)
        if len(passes) == 1:  # as long as on a slow machine: two that can share the next pass have come
            wait_until(lambda: any(a.shares(b) for a, b in combinations(tuple(model.gather._waiting), 2)))
        return model.predict(*how)

    model.gather = Gather(predict, lambda height, width: 4, model.turn)  # as if it ran on one
    z, x, y = a_tile(client, layer_of(client)["native"] + 1)
    tiles = [(z, x + i - 2, y + j - 2) for i in range(4) for j in range(4)]
    with serving(settings(window=192), {str(model_path): model}) as gathering, serving(settings(window=192)) as alone:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda tile: gathering.tile("output", *tile), tiles))
        windows = gathering.json("/status")["windows"]
        for tile, answer in zip(tiles, found, strict=True):
            expected = alone.tile("output", *tile)
            assert (answer.status, answer.data) == (expected.status, expected.data)
        assert windows == alone.json("/status")["windows"]
    assert 0 < len(passes) < windows


def test_metrics_have_a_port_of_their_own(settings: Callable[..., Settings]) -> None:
    with serving(settings(metrics_port=0)) as client:
        assert client.get("/metrics").status == 404
        client.get("/layers")
        host, port = client.server.metrics.server_address
        text = HTTP.request("GET", f"http://{host}:{port}/metrics").data.decode()
        assert 'terramorph_requests_total{route="layers",status="200"} 1.0' in text
        with pytest.raises(StorageError, match=f"Port {port} "):
            Server(open_server(settings(metrics_port=port)))
    assert client.server.metrics.socket.fileno() == -1  # it is closed


def test_the_identity_follows_what_decides_the_pixels(
    settings: Callable[..., Settings], model_path: Path, sides: tuple[Path, Path]
) -> None:
    (one,) = settings().layers

    def identity(window: int | None = None, seed: int = 0, **changes: str) -> str:
        layer = one.model_copy(update=changes)
        models = {str(model_path): load(model_path, seed=seed)}
        return Opener(settings(window=window, layers=(layer,)), models).open(layer).identity

    assert identity() == identity(title="another")
    others = [identity(192), identity(seed=1), identity(source=str(sides[1])), identity(truth=str(sides[0]))]
    assert len({identity(), *others}) == 5


def test_a_layer_follows_all_files_that_it_is_read_from(
    settings: Callable[..., Settings], model_path: Path, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    """The file behind a VRT, and what a Shapefile says of its features."""
    shutil.copy(sides[0], tmp_path / "a.tif")
    with rasterio.Env(), rasterio.open(tmp_path / "a.tif") as dataset:
        rasterio.shutil.copy(dataset, tmp_path / "a.vrt", driver="VRT")
    place = shapely.box(*terramorph.open_source(sides[0]).grid.bounds).buffer(-100)
    crs = terramorph.open_source(sides[0]).grid.crs

    def write(kind: str) -> None:
        geopandas.GeoDataFrame({"kind": [kind]}, geometry=[place], crs=str(crs)).to_file(tmp_path / "b.shp")

    write("park")
    layer = LayerSettings(
        name="town", model=str(model_path), source=str(tmp_path / "a.vrt"), truth=str(tmp_path / "b.shp")
    )
    opener = Opener(settings(layers=(layer,)))

    def opened() -> Layer:
        with closing(opener.open(layer)) as found:
            assert found.state == opener.state(layer, found.files)
            return found

    first = opened()
    (tmp_path / "new").write_text("")  # beside the files, it is nothing to them
    assert opened().identity == first.identity
    shutil.copy(sides[1], tmp_path / "a.tif")
    assert opener.state(layer, first.files) != first.state
    second = opened()
    assert second.identity != first.identity
    write("water")
    assert opener.state(layer, second.files) != second.state
    assert opened().identity not in (first.identity, second.identity)


def test_a_server_is_asked_now_and_then_whether_a_file_has_changed(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = settings().layers
    opener, files, answers = Opener(settings()), (Remote("s3://bucket/a.tif"),), ["1", "2", None, "2", "3"]

    def identity(_: Remote) -> str:
        answer = answers.pop(0)
        if answer is None:
            raise RasterError("It does not answer.")
        return answer

    monkeypatch.setattr(Remote, "identity", identity)
    first = opener.state(one, files)
    assert opener.state(one, files) == first
    monkeypatch.setattr("terramorph.serve.opening.ASK", 0.0)
    second, silent, same, third = (opener.state(one, files) for _ in range(4))
    assert first != second == silent == same != third


def test_files_that_are_replaced_are_opened_again(
    settings: Callable[..., Settings], model_path: Path, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    source, bundle = tmp_path / "a.tif", tmp_path / "model.safetensors"
    shutil.copy(sides[0], source)
    shutil.copy(model_path, bundle)
    layer = LayerSettings(name="town", model=str(bundle), source=str(source))

    def seen(client: Client) -> str:
        return layer_of(client)["identity"]

    def changed(client: Client, before: str) -> str:
        wait_until(lambda: seen(client) != before)
        return seen(client)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("terramorph.serve.tiles.LOOK", 0.05)
        with serving(settings(layers=(layer,))) as client:
            first, (z, x, y) = seen(client), a_tile(client)
            path = f"/t/town/output/{first}/{z}/{x}/{y}.png"
            old = client.get(path).data
            shutil.copy(sides[1], tmp_path / "b.tif")
            (tmp_path / "b.tif").replace(source)
            second = changed(client, first)
            assert client.get(path).data == old  # of what clients still show
            assert client.tile("output", z, x, y).data != old
            (tmp_path / "c").write_bytes(model_path.read_bytes()[:5000])
            (tmp_path / "c").replace(bundle)
            wait_until(lambda: client.get("/readyz").status == 503)
            assert b"town" in client.get("/readyz").data
            assert seen(client) == second
            assert client.tile("output", z, x, y).status == 200
            shutil.copy(model_path, tmp_path / "d")
            (tmp_path / "d").replace(bundle)
            wait_until(lambda: client.get("/readyz").status == 200)


def test_a_notebook_shows_the_viewer(model_path: Path, sides: tuple[Path, Path]) -> None:
    shown = terramorph.load(model_path).show(sides[0], truth=sides[1], height=300)
    assert f'src="{shown.address}"' in shown._repr_html_()
    answer = HTTP.request("GET", shown.address + "layers")
    assert [view["name"] for view in answer.json()["layers"][0]["views"]][:3] == ["input", "output", "truth"]
    shown.server.should_exit = True
    named = show(model_path, sides[0])
    assert HTTP.request("GET", named.address + "layers").status == 200
    named.server.should_exit = True
    with pytest.raises(InputError, match=r"got a Raster; save it"):
        show(model_path, read_image(sides[0]))  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="There is no bundle"):
        show("nowhere", sides[0])


def test_a_server_drains_and_ends_when_it_is_told(model_path: Path, sides: tuple[Path, Path]) -> None:
    line = [
        sys.executable,
        "-c",
        "from terramorph.cli.app import main; main()",
        "serve",
        str(model_path),
        str(sides[0]),
    ]
    with subprocess.Popen([*line, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            native = HTTP.request("GET", address + "layers").json()["layers"][0]["native"]
            assert HTTP.request("GET", address + "readyz").status == 200
            with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port)) as running:
                name = HTTP.request("GET", address + "layers").json()["layers"][0]["name"]
                running.sendall(
                    f"GET /t/{name}/output/{native - 3}/0/0.png HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                )
                assert running.recv(100).startswith(b"HTTP/1.1 204")
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate()
        finally:
            process.kill()  # if it has not ended
    assert process.returncode == 0
    assert all(json.loads(line)["status"] for line in said.splitlines() if line.startswith("{"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.safetensors"], "raster"),
        (["serve.toml", "a.tif"], "serve.toml"),
        (["a", "b.tif", "--port", "70000"], "port"),
        (["a", "b.tif", "--root-path", "maps"], "root_path"),
    ],
)
def test_bad_settings_are_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_settings_of_a_file_and_of_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "serve.toml"
    path.write_text('port = 1\nmax_wait = 5\n[[layers]]\nname = "a"\nmodel = "m"\nsource = "s.tif"\n')
    assert run(["serve", str(path), "--port", "9000", "--dry-run"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["port"], shown["max_wait"], shown["layers"][0]["name"]) == (9000, 5, "a")
    assert run(["serve", "m", "https://h.example/ortho.tif?token=a.secret", "--dry-run"]) == 0
    (layer,) = json.loads(capsys.readouterr().out)["layers"]
    assert (layer["name"], layer["title"]) == ("ortho", "ortho")
    path.write_text('prot = 1\n[[layers]]\nname = "a b"\nmodel = "m"\nsource = "s.tif"\n')
    with pytest.raises(ConfigError, match=r"serve\.toml"):
        load_settings(path)


@pytest.mark.parametrize(
    ("epsg", "latitude", "native"), [(32643, 19, 16), (32618, 41, 16), (32630, 51.5, 15), (32633, 60, 15)]
)
def test_native_zooms_of_2_12_metres(epsg: int, latitude: float, native: int) -> None:
    """Of Mumbai, New York, London, and 60 degrees north."""
    utm = CRS(f"EPSG:{epsg}")
    _, northing = Transformer.from_crs(4326, epsg, always_xy=True).transform(utm.proj.area_of_use.west + 3, latitude)
    grid = Grid(64, 64, Affine(2.12, 0, 500_000, 0, -2.12, northing), utm)
    assert native_zoom(terramorph.open_source(Raster.from_pixels(np.zeros((3, 64, 64), np.uint8), grid))) == native


def test_a_layer_across_180_degrees(settings: Callable[..., Settings], model_path: Path, tmp_path: Path) -> None:
    grid = Grid(64, 128, Affine(2, 0, 166_021 - 128, 0, -2, 1000), CRS("EPSG:32601"))
    image = np.random.default_rng(1).integers(0, 255, (3, 64, 128), dtype=np.uint8)
    write_image(Raster.from_pixels(image, grid), tmp_path / "line.tif")
    one = LayerSettings(name="line", model=str(model_path), source=str(tmp_path / "line.tif"))
    layer = Opener(settings(layers=(one,))).open(one)
    west, south, east, north = layer.bounds
    assert 179.99 < west < 180 < east < 180.01
    last, row = 2**layer.native - 1, a_row(layer.native, (south + north) / 2)
    for view in ("input", "output"):
        assert layer.tile(layer.views[view], layer.native, 0, row) is not None
        assert layer.tile(layer.views[view], layer.native, last, row) is not None
    assert not layer.touches(layer.native, 1 << (layer.native - 1), row)
    document = tilejson(layer, layer.views["output"], "", "png")
    assert document["bounds"][::2] == [-180, 180]
    assert abs(document["center"][0]) > 179.99
    root = ElementTree.fromstring(wmts([layer], ""))
    for limits in root.findall("w:Contents/w:Layer//w:TileMatrixLimits", WMTS):
        zoom, *ends = (int(node.text or "") for node in limits)
        assert ends[2:] == [0, 2**zoom - 1]
    layer.close()


def test_settings_that_do_not_fit_say_what_to_write(tmp_path: Path) -> None:
    layer = {"name": "a", "model": "m", "source": "s"}
    for values, said in (
        ({"layers": [{**layer, "name": "a b"}]}, r"layers\.0\.name: 'a b' does not fit; use lower-case letters"),
        ({"layers": [layer], "root_path": "maps"}, "root_path: 'maps' does not fit; give a path that begins with /"),
        ({"layers": [layer], "public_url": "maps"}, "public_url: 'maps' does not fit; give an address"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_settings(values=values)
    with pytest.raises(ConfigError, match=r"settings of a server \(No such file or directory\)"):
        load_settings(tmp_path / "absent.toml")


def test_a_raster_of_another_scale_is_seen_at_the_resolution_of_its_layer(
    settings: Callable[..., Settings], sides: tuple[Path, Path], model_path: Path, tmp_path: Path
) -> None:
    write_image(make_town(300, seed=2, resolution=0.5).aerial(), tmp_path / "fine.tif")
    layer = LayerSettings(name="town", model=str(model_path), source=str(tmp_path / "fine.tif"))
    with pytest.raises(InputError, match="resolution"):
        Opener(settings(layers=(layer,))).open(layer)
    opened = Opener(settings(layers=(layer,))).open(layer.model_copy(update={"resolution": 2.0}))
    assert opened.grid.ground_resolution == pytest.approx(2.0, rel=0.01)
    opened.close()
