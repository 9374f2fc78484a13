"""GeoTIFFs that clients send: good ones become layers for a while, hostile ones leave nothing."""

from __future__ import annotations

import io
import json
import os
import socket
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import urllib3
from filelock import FileLock
from rasterio.transform import from_origin

from terramorph.serve import Settings
from terramorph.serve.uploads import LIFE, remove_left_over

from ..processes import wait_until
from .conftest import HTTP, Client, serving

SENDER = {"X-Terramorph": "upload"}
SECONDS = 2.0


@pytest.fixture(scope="module")
def taking(settings: Callable[..., Settings]) -> Iterator[Client]:
    """A client of a server that takes uploads of 4 MB."""
    with serving(settings(uploads=True, upload_mb=4, window=192)) as client:
        yield client


def put(client: Client, body: Any, path: str = "uploads?layer=town", **headers: str) -> urllib3.BaseHTTPResponse:
    return HTTP.request("PUT", client.server.address + path, body=body, headers=SENDER | headers, retries=False)


def folder_of(client: Client) -> Path:
    return Path(client.app.tiles.uploads._folder.name)


def geotiff(side: int = 300, count: int = 3, value: float = 90, tags: dict | None = None, **profile: Any) -> bytes:
    """A GeoTIFF in memory, of random pixels where it is small."""
    size = {"width": side, "height": side, "count": count, "dtype": "uint8", "crs": "EPSG:32633"}
    place = {"transform": from_origin(500_000, 5_200_000, 2, 2)}
    with rasterio.MemoryFile() as file:
        with file.open(driver="GTiff", **{**size, **place, **profile}) as dataset:
            if side < 2000:
                pixels = np.random.default_rng(1).integers(0, 100, (count, side, side)) + value
                dataset.write(pixels.astype(dataset.dtypes[0]))
            for domain, items in (tags or {}).items():
                dataset.update_tags(ns=domain, **items)
        return bytes(file.getbuffer())


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("a.tif", geotiff(64))
    return data.getvalue()


VRT = (
    b'<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
    b'<SourceFilename relativeToVRT="0">/etc/passwd</SourceFilename></VRTRasterBand></VRTDataset>'
)
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a VRT of /etc/passwd": (lambda: VRT, "not a TIFF"),
    "a VRT behind the first bytes of a PNG": (lambda: b"\x89PNG\r\n\x1a\n" + VRT, "PNG"),
    "a VRT behind the first bytes of a JPEG": (lambda: b"\xff\xd8\xff\xe0" + VRT, "JPEG"),
    "a VRT behind the first bytes of a TIFF": (lambda: b"II*\0\x08\0\0\0" + VRT, "upload"),
    "a WMS": (lambda: b"<GDAL_WMS><Service name='WMS'><ServerUrl>http://169.254.169.254/", "not a TIFF"),
    "a zip": (zipped, "not a TIFF"),
    "HTML": (lambda: b"<html><script>alert(1)</script></html>", "not a TIFF"),
    "nothing": (lambda: b"", "not a TIFF"),
    "three bytes": (lambda: b"II*", "not a TIFF"),
    "1e6 x 1e6 pixels": (
        lambda: geotiff(1_000_000, 1, sparse_ok=True, tiled=True, blockxsize=32768, blockysize=32768, bigtiff="YES"),
        "1000000 x 1000000",
    ),
    "one strip of 30,000 px": (lambda: geotiff(30_000, sparse_ok=True, blockysize=30_000), "30000 x 30000"),
    "one deflated strip of 30,000 px": (
        lambda: geotiff(30_000, 1, sparse_ok=True, blockysize=30_000, compress="deflate"),
        "30000 x 30000",
    ),
    "508,369 blocks": (
        lambda: geotiff(11_400, 1, sparse_ok=True, tiled=True, blockxsize=16, blockysize=16),
        "blocks",
    ),
    "a truncated one": (lambda: geotiff(600)[:-300_000], "truncated"),
    "NaN": (lambda: geotiff(value=np.nan, dtype="float32"), "float32"),
    "13 bands": (lambda: geotiff(count=13), "13"),
    "no CRS": (lambda: geotiff(crs=None), "CRS"),
    "other files as overviews": (lambda: geotiff(tags={"OVERVIEWS": {"OVERVIEW_FILE": "/etc/passwd"}}), "other files"),
    "other files as places": (lambda: geotiff(tags={"GEOLOCATION": {"X_DATASET": "/etc/passwd"}}), "other files"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ones_are_refused_in_a_sentence_and_leave_nothing(taking: Client, name: str) -> None:
    make, said = HOSTILE[name]
    body = make()
    begun = time.process_time()
    answer = put(taking, body)
    spent = time.process_time() - begun
    text = answer.data.decode()
    print(f"{name}: {answer.status}, {spent:.2f} s, {text}")
    assert answer.status in (400, 413, 415)
    assert said in text
    assert len(text.splitlines()) == 1
    assert "root:" not in text
    assert str(folder_of(taking)) not in text
    assert spent < 2 * SECONDS  # of computation, however busy the machine is
    assert list(folder_of(taking).glob("*.tif")) == []
    assert taking.get("/readyz").status == 200


def read(page: urllib3.BaseHTTPResponse) -> Any:
    assert page.status in (200, 201), page.data[:300]
    return json.loads(page.data)


def middle(layer: dict) -> str:
    """Zoom, column and row of a tile in the middle of a layer."""
    west, south, east, north = layer["bounds"]
    z, lon, lat = layer["native"], np.radians((west + east) / 2), np.radians((south + north) / 2)
    return f"{z}/{int((lon / np.pi + 1) / 2 * 2**z)}/{int((1 - np.arcsinh(np.tan(lat)) / np.pi) / 2 * 2**z)}.png"


def names(client: Client, query: str = "") -> list[str]:
    return [layer["name"] for layer in client.json(f"/layers{query}")["layers"]]


def test_a_good_one_is_a_layer_for_who_knows_its_name_and_goes_after_its_time(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + later, time=time.time)
    monkeypatch.setattr("terramorph.serve.uploads.time", clock)
    monkeypatch.setattr("terramorph.serve.tiles.LOOK", 0.05)
    with serving(settings(uploads=True, upload_mb=4, window=192, cache=tmp_path / "cache")) as client:
        name = read(put(client, geotiff()))["layer"]
        assert len(name) == len("upload-") + 12
        assert names(client) == ["town"]
        assert names(client, f"?also={name}") == ["town", name]
        for path in ("/qgis.qlr", "/wmts?request=GetCapabilities", "/metrics"):
            assert name.encode() not in client.get(path).data
        layer = client.json(f"/layers?also={name}")["layers"][1]
        path = f"/t/{name}/output/{layer['identity']}/{middle(layer)}"
        tile = client.get(path)
        assert tile.status == 200
        assert tile.headers["Cache-Control"].startswith("private")
        assert not list((tmp_path / "cache").glob("*/*"))
        folder = folder_of(client)
        (file,) = folder.glob("*.tif")
        assert file.stem not in (name, "a")
        assert client.get(f"/uploads/{file.name}").status == 404
        later += LIFE
        assert client.get(path).status == 404
        wait_until(lambda: not list(folder.glob("*.tif")))
        assert names(client, f"?also={name}") == ["town"]
        assert client.get("/readyz").status == 200
        read(put(client, geotiff()))
        assert len(list(folder.glob("*.tif"))) == 1
    assert not folder.exists()


def test_a_stream_over_the_limit_is_cut_off_without_a_length(taking: Client) -> None:
    sent = 0
    with socket.create_connection(taking.server.socket.getsockname()[:2]) as connection:
        head = "PUT /uploads?layer=town HTTP/1.1\r\nHost: localhost\r\nX-Terramorph: upload\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"II*\0" + bytes(65532)
        try:
            while sent < 40_000_000:
                connection.sendall(b"10000\r\n" + piece + b"\r\n")
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert sent < 20_000_000
    wait_until(lambda: not list(folder_of(taking).glob("*.tif")))
    answer = put(taking, iter([b"II*\0" + bytes(3_000_000), bytes(1_500_000)]))
    assert answer.status == 413
    assert b"4 MB" in answer.data
    assert put(taking, bytes(5_000_000)).status == 413
    assert list(folder_of(taking).glob("*.tif")) == []
    assert taking.get("/readyz").status == 200


def test_one_that_stops_coming_is_given_up(taking: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terramorph.serve.uploads.STALL", 0.2)
    with socket.create_connection(taking.server.socket.getsockname()[:2]) as connection:
        head = "PUT /uploads?layer=town HTTP/1.1\r\nHost: localhost\r\nX-Terramorph: upload\r\nContent-Length: 999"
        connection.sendall(f"{head}\r\n\r\nII*".encode() + b"\0")
        assert b" 408 " in connection.recv(4000).splitlines()[0]
    assert list(folder_of(taking).glob("*.tif")) == []


def test_all_together_are_bounded(settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    body = geotiff(560)  # 0.94 MB
    with serving(settings(uploads=True, upload_mb=1, window=192)) as client:
        answers = [put(client, body).status for _ in range(5)]
        assert answers == [201] * 4 + [503]
        assert len(list(folder_of(client).glob("*.tif"))) == 4
        monkeypatch.setattr("terramorph.serve.uploads.UPLOADS", 4)
        assert put(client, geotiff(64)).status == 503


def test_they_are_seen_at_the_resolution_of_the_layer(settings: Callable[..., Settings]) -> None:
    (one,) = settings().layers
    layers = (one.model_copy(update={"resolution": 2.0}),)
    with serving(settings(uploads=True, layers=layers)) as client:
        answer = put(client, geotiff(transform=from_origin(500_000, 5_200_000, 0.5, 0.5)))
    assert answer.status == 201, answer.data


def test_other_sites_cannot_send(taking: Client) -> None:
    body, own = geotiff(), taking.server.address.rstrip("/")
    for headers in ({"X-Terramorph": "no"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        answer = put(taking, body, **headers)
        assert answer.status == 403, headers
    assert put(taking, body, "uploads?layer=other").status == 404
    assert put(taking, body, "uploads?layer=..%2Ftown").status == 404
    assert list(folder_of(taking).glob("*.tif")) == []
    preflight = HTTP.request("OPTIONS", taking.server.address + "uploads", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Headers" not in preflight.headers
    assert put(taking, body, Origin=own).status == 201


def test_addresses_that_a_tiff_names_are_not_asked(taking: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.3)
        address = f"/vsicurl/http://127.0.0.1:{listener.getsockname()[1]}/a.tif"
        for tags in ({"OVERVIEWS": {"OVERVIEW_FILE": address}}, {"GEOLOCATION": {"X_DATASET": address}}):
            assert put(taking, geotiff(tags=tags)).status == 400
        with pytest.raises(TimeoutError):
            listener.accept()


def test_they_are_off_unless_asked_for(client: Client) -> None:
    assert put(client, geotiff(64)).status == 404
    assert client.json("/layers")["uploads"] is None
    assert client.app.tiles.uploads._folder is None


def test_what_a_killed_server_has_left_goes_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, held, new = (tmp_path / f"terramorph-uploads-{name}" for name in ("left", "held", "new"))
    other = tmp_path / "other"
    for folder in (left, held, new, other):
        folder.mkdir()
        (folder / "a.tif").write_bytes(b"II*\0")
    (tmp_path / "terramorph-uploads-link").symlink_to(other)
    hour_ago = time.time() - 3600
    with FileLock(held / "lock"):  # as its server does, until it dies
        for folder in (left, held, other):
            os.utime(folder, (hour_ago, hour_ago))
        remove_left_over()
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "other", "terramorph-uploads-held", "terramorph-uploads-link", "terramorph-uploads-new",
        ]  # fmt: skip
    assert (other / "a.tif").exists()
    os.utime(held, (hour_ago, hour_ago))
    remove_left_over()
    assert not held.exists()
