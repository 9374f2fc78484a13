"""Sources and outputs on object storage, against a server of it in this process: the same pixels as here, gone on with
after a kill, and sentences where something is missing."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from odc.geo.crs import CRS

from terramorph.atomic import HOST
from terramorph.bundle import Bundle
from terramorph.errors import InputError, RasterError, StorageError
from terramorph.geo import Grid
from terramorph.raster import Raster, write_image
from terramorph.raster.storage import Remote, location
from terramorph.raster.writer import write_cog
from terramorph.sources import open_source
from terramorph.translate import Model, load, parts
from terramorph.translate.parts import Parts
from terramorph.translate.tiled import Part

from ..processes import exit_code, free_port, nobody, wait_until

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("s3fs")
pytest.importorskip("moto")

# Connections that s3fs keeps open are closed whenever they are collected, which may be in another test.
pytestmark = pytest.mark.filterwarnings("ignore:.*<socket.socket:pytest.PytestUnraisableExceptionWarning")

GRID = Grid(300, 420, Affine(1.0, 0.0, 4e5, 0.0, -1.0, 5.8e6), CRS("EPSG:32633"))
OPTIONS = {"window": 128, "overlap": 32}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A line for each request that the server was asked."""
    return tmp_path_factory.mktemp("s3") / "log"


@pytest.fixture(scope="module")
def server(log: Path) -> Iterator[str]:
    """The address of an empty S3: of a process of its own, because GDAL may hold on to the interpreter as it waits."""
    port = free_port()
    with log.open("wb") as told:
        words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(words, stdout=told, stderr=told)
    try:
        wait_until(lambda: answers(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as door:
        return door.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """fsspec's view of it, with an empty bucket `town`; the environment says where it is, and nothing else does."""
    enter(monkeypatch, server)
    files = fsspec.filesystem("s3", use_listings_cache=False)
    files.mkdir("town")
    yield files
    files.rm("town", recursive=True)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def enter(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)


@pytest.fixture
def close(server: str) -> Iterator[Callable[[bool], None]]:
    """Lets the server refuse everybody, or nobody."""

    def close(closed: bool) -> None:
        data = b"0" if closed else b"inf"
        kind = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset-auth", data, kind)).close()

    yield close
    close(False)


@pytest.fixture
def ortho(picture, s3: Any, tmp_path: Path) -> Path:
    """300 x 420 px at 1 m with a hole of no data, here and as s3://town/ortho.tif."""
    mask = np.ones(GRID.shape, np.bool_)
    mask[40:150, 30:200] = False
    write_image(Raster.from_pixels(picture(*GRID.shape), GRID, mask), tmp_path / "ortho.tif")
    s3.put_file(str(tmp_path / "ortho.tif"), "town/ortho.tif")
    return tmp_path / "ortho.tif"


@pytest.fixture
def translator(bundle: Bundle) -> Model:
    return Model(bundle, precision="fp32")


def same(spec: str, path: Path) -> bool:
    """Whether two rasters are equal."""
    with open_source(spec) as one, open_source(path) as other:
        assert one.grid is not None
        mine, its = one.read(one.grid), other.read(one.grid)
        return (
            one.grid == other.grid and np.array_equal(mine.pixels, its.pixels) and np.array_equal(mine.mask, its.mask)
        )


def test_an_image_there_is_a_source(s3: Any, ortho: Path) -> None:
    assert same("s3://town/ortho.tif", ortho)
    with open_source("s3://town/ortho.tif") as there, open_source(ortho) as here:
        assert there.name == "s3://town/ortho.tif"
        window, coarse = GRID.crop(20, 30, 100, 50), Grid(30, 40, GRID.affine @ Affine.scale(10), GRID.crs)
        for grid in (window, coarse):
            assert np.array_equal(there.read(grid).pixels, here.read(grid).pixels)
        before = there.fingerprint()
        assert there.fingerprint() == before
        s3.pipe_file("town/ortho.tif", ortho.read_bytes() + b"\0")
        assert there.fingerprint() != before


def test_an_image_on_a_web_server_is_a_source(s3: Any, server: str, ortho: Path) -> None:
    s3.put_file(str(ortho), "town/ortho.tif", ACL="public-read")
    url = f"{server}/town/ortho.tif"
    assert same(f"{url}?signature=1", ortho)
    with open_source(f"{url}?signature=1") as source:
        assert source.name == url  # what outputs say they are made of
        before = source.fingerprint()
        s3.pipe_file("town/ortho.tif", ortho.read_bytes() + b"\0", ACL="public-read")
        assert source.fingerprint() != before


def test_a_window_is_not_a_download(s3: Any, log: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 2048, 2048), np.uint8)
    grid = Grid(2048, 2048, GRID.affine, GRID.crs)
    strip = slice(0, 2048), noise, np.ones(grid.shape, np.bool_)
    write_cog(tmp_path / "noise.tif", grid, ("red", "green", "blue"), np.uint8, [strip], masked=False)
    s3.put_file(str(tmp_path / "noise.tif"), "town/noise.tif")
    with open_source("s3://town/noise.tif") as source:
        assert np.array_equal(source.read(grid.crop(100, 100, 64, 64)).pixels, noise[:, 100:164, 100:164])
    asked = [line for line in log.read_text(encoding="utf-8").splitlines() if "GET /town/noise.tif" in line]
    assert asked
    assert all('" 206 ' in line for line in asked)  # parts of it
    assert len(asked) < 12


def test_archives_there(s3: Any, ortho: Path, translator: Model, tmp_path: Path) -> None:
    for kind in ("pmtiles", "mbtiles"):
        options = {"kind": kind}
        translator.translate_to(ortho, f"s3://town/map.{kind}", **options)
        translator.translate_to(ortho, tmp_path / f"map.{kind}", **options)
    s3.get_file("town/map.mbtiles", str(tmp_path / "copy.mbtiles"))
    assert same(str(tmp_path / "copy.mbtiles"), tmp_path / "map.mbtiles")
    assert same("s3://town/map.pmtiles", tmp_path / "map.pmtiles")
    with open_source("s3://town/map.pmtiles") as there, open_source(tmp_path / "map.pmtiles") as here:
        assert len(there.fingerprint()) == len(here.fingerprint()) == 32
    translator.translate_to(ortho, "s3://town/tiles", kind="xyz")
    assert json.loads(s3.cat_file("town/tiles/tilejson.json"))["minzoom"] > 0
    with pytest.raises(InputError, match=r"s3://town/tiles exists and is not empty; remove it"):
        translator.translate_to(ortho, "s3://town/tiles", kind="xyz")
    with pytest.raises(RasterError, match=r"map\.mbtiles is a database, .* copy it here"):
        open_source("s3://town/map.mbtiles")
    s3.pipe_file("town/roads.geojson", b'{"type": "FeatureCollection", "features": []}')
    with pytest.raises(RasterError, match="holds vectors"):
        open_source("s3://town/roads.geojson")


def test_a_sweep_from_there_to_there_is_the_one_here(s3: Any, ortho: Path, translator: Model, tmp_path: Path) -> None:
    translator.translate_to(ortho, tmp_path / "map.tif", **OPTIONS)
    (made,) = translator.translate_to("s3://town/ortho.tif", Path("s3://town/deep/map.tif"), **OPTIONS)
    assert str(made) == "s3://town/deep/map.tif"
    assert same("s3://town/deep/map.tif", tmp_path / "map.tif")
    assert s3.find("town") == ["town/deep/map.tif", "town/ortho.tif"]


def test_a_cluster_reads_and_writes_there(s3: Any, ortho: Path, bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    from terramorph.translate.cluster import Cluster, DaskEngine

    torch.set_num_threads(1)  # as the worker has
    bundle.save(tmp_path / "model.safetensors")
    model = partial(load, tmp_path / "model.safetensors", precision="fp32")
    model().translate_to(ortho, tmp_path / "map.tif", **OPTIONS)
    with Cluster(workers=1) as cluster:  # its worker finds the server by the environment, as this process does
        engine = DaskEngine(cluster, model, partial(open_source, "s3://town/ortho.tif"))
        model().translate_to("s3://town/ortho.tif", "s3://town/map.tif", **OPTIONS, engine=engine)
    assert same("s3://town/map.tif", tmp_path / "map.tif")
    assert s3.find("town") == ["town/map.tif", "town/ortho.tif"]


SCRIPT = """
    import os, signal, sys
    from terramorph.translate import load
    def progress(step, done, total):
        if done >= 2:
            os.kill(os.getpid(), signal.SIGKILL)
    translator = load(sys.argv[1], precision="fp32")
    translator.translate_to(sys.argv[2], sys.argv[3], window=128, overlap=32, progress=progress)
"""


@pytest.mark.kills
def test_what_was_killed_there_goes_on(
    s3: Any, ortho: Path, bundle: Bundle, close: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.save(tmp_path / "model.safetensors")
    translator = load(tmp_path / "model.safetensors", precision="fp32")
    translator.translate_to(ortho, tmp_path / "map.tif", **OPTIONS)
    words = [str(tmp_path / "model.safetensors"), "s3://town/ortho.tif", "s3://town/map.tif"]
    assert exit_code(SCRIPT, *words) == -signal.SIGKILL
    assert s3.exists("town/.map.tif.parts/lock")
    assert not s3.exists("town/map.tif")

    def lose_the_network(step: str, done: int, total: int) -> None:
        close(done >= 6)

    with pytest.raises((StorageError, InputError), match=r"s3://town/\S+ cannot be \w+ \(.+\); check .* and run again"):
        translator.translate_to(*words[1:], **OPTIONS, progress=lose_the_network)
    close(False)
    monkeypatch.setattr(parts, "STALE", -1.0)  # the lock could not be removed
    kept = [name for name in s3.ls("town/.map.tif.parts", detail=False) if name[-4:] in (".npy", "none")]
    assert len(kept) >= 3
    first = []
    translator.translate_to(
        *words[1:], **OPTIONS, progress=lambda step, done, total: first.append(done) if step == "translating" else 0
    )
    assert first[0] == len(kept)
    assert same("s3://town/map.tif", tmp_path / "map.tif")
    assert s3.find("town") == ["town/map.tif", "town/ortho.tif"]


def test_parts_there(s3: Any) -> None:
    parts = Parts(location("s3://town/map.tif"), {"a": 1})
    part = Part(np.arange(48, dtype=np.float16).reshape(3, 4, 4), np.ones((1, 4, 4), np.float32))
    shape = ((3, 4, 4), "float16")
    with parts.locked():
        parts.save(3, part)
        parts.save(4, None)
        assert parts.done() == Parts(location("s3://town/map.tif"), {"a": 1}).done() == {3, 4}
        got, spread = parts.load(3, *shape), parts.load(3, (1, 4, 4), "float32", spread=True)
        assert got is not None
        assert spread is not None
        assert np.array_equal(got, part.pixels)
        assert np.array_equal(spread, np.ones((1, 4, 4)))
        assert parts.load(4, *shape) is None
        scratch = parts.scratch
        assert not list(scratch.iterdir())
        with pytest.raises(InputError, match=r"is making map\.tif"):
            Parts(location("s3://town/map.tif"), {"a": 2})
    assert not scratch.exists()
    s3.pipe_file("town/.map.tif.parts/000003.npy", b"\x93NUMPY")
    with pytest.raises(InputError, match=r"s3://town/\.map\.tif\.parts/000003\.npy was damaged .* run the same again"):
        parts.load(3, *shape)
    assert parts.done() == {4}
    assert Parts(location("s3://town/map.tif"), {"a": 2}, restart=True).done() == set()
    parts.remove()
    assert s3.find("town") == []


@pytest.mark.parametrize(
    ("holder", "stale", "free"),
    [
        ({"machine": "another", "process": 1, "token": "t"}, 300.0, False),
        ({"machine": "another", "process": 1, "token": "t"}, -1.0, True),
        ({"machine": HOST, "process": 2**22 + 1, "token": "t"}, 300.0, True),
        ({"machine": HOST, "process": 1, "token": "t"}, 300.0, False),
        ({"nonsense": 1}, 300.0, False),
    ],
)
def test_a_lock_is_held_until_its_holder_is_gone(
    s3: Any, monkeypatch: pytest.MonkeyPatch, holder: dict[str, Any], stale: float, free: bool
) -> None:
    monkeypatch.setattr(parts, "STALE", stale)
    monkeypatch.setattr(parts, "RENEWED", 0.01)
    s3.pipe_file("town/lock", json.dumps(holder).encode())
    lock = Remote("s3://town/lock")
    if not free:
        with pytest.raises(InputError, match=r"Another process is making map, or was killed less than 5 min"):  # noqa: SIM117
            with parts.leased(lock, "map"):
                pass
        assert s3.find("town") == ["town/lock"]
        return
    with parts.leased(lock, "map"):
        s3.pipe_file("town/lock", b"gone")
        for _ in range(500):
            if s3.cat_file("town/lock") != b"gone":
                break
        assert json.loads(s3.cat_file("town/lock"))["machine"] == HOST  # renewed
    assert s3.find("town") == []


def test_what_is_not_there_is_a_sentence(
    s3: Any, ortho: Path, translator: Model, close: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in ("s3://town/other.tif", "s3://city/ortho.tif"):
        with pytest.raises(RasterError, match=rf"^{url} cannot be read \(.* does not exist\); check the name"):
            open_source(url)
    with pytest.raises(StorageError, match=r"^s3://city/\S+ cannot be written \(.* does not exist\); check"):
        translator.translate_to(ortho, "s3://city/map.tif", **OPTIONS)
    s3.pipe_file("town/text.tif", b"no image")
    with pytest.raises(RasterError, match=r"s3://town/text\.tif is not an image of a kind that is read"):
        open_source("s3://town/text.tif")
    with open_source("s3://town/ortho.tif") as source:
        close(True)
        with pytest.raises(RasterError, match=r"s3://town/ortho\.tif cannot be read"):
            source.fingerprint()
    with pytest.raises(RasterError, match=r"ortho\.tif cannot be read .*check the name, the credentials"):
        open_source("s3://town/ortho.tif")
    with pytest.raises(StorageError, match="s3://town/"):
        translator.translate_to(ortho, "s3://town/map.tif", **OPTIONS)
    close(False)
    with nobody() as host:
        enter(monkeypatch, f"http://{host}")
        with pytest.raises(RasterError, match=r"ortho\.tif cannot be read \(.*[Cc]onnect"):
            open_source("s3://town/ortho.tif")
        with pytest.raises(StorageError, match=r"cannot be read \(Could not connect"):
            translator.translate_to(ortho, "s3://town/map.tif", **OPTIONS)
    enter(monkeypatch, s3.endpoint_url or "")


def test_kinds_that_are_decoded_from_the_top_are_refused(s3: Any, picture, tmp_path: Path) -> None:
    write_image(Raster.from_pixels(picture(64, 64)), tmp_path / "photo.png")
    s3.put_file(str(tmp_path / "photo.png"), "town/photo.png")
    with pytest.raises(RasterError, match=r"s3://town/photo\.png can only be decoded from the top; copy it here"):
        open_source("s3://town/photo.png")


def test_stac_items_there_are_a_source(s3: Any, server: str, ortho: Path, translator: Model, tmp_path: Path) -> None:
    beside = Grid(GRID.height, GRID.width, GRID.affine @ Affine.translation(GRID.width, 0), GRID.crs)
    with open_source(ortho) as source:
        write_image(Raster.from_pixels(source.read(GRID).pixels, beside), tmp_path / "second.tif")
    s3.put_file(str(tmp_path / "second.tif"), "town/deep/second.tif", ACL="public-read")
    s3.put_file(str(ortho), "town/ortho.tif", ACL="public-read")
    for name, href, when in (("new", "../ortho.tif", 2026), ("old", "./second.tif", 2025)):
        asset = {"href": href, "type": "image/tiff"}
        item = {"type": "Feature", "stac_version": "1.1.0", "id": name, "geometry": None, "assets": {"visual": asset}}
        item["properties"] = {"datetime": f"{when}-01-01T00:00:00Z"}
        item["links"] = [{"rel": "self", "href": f"s3://town/deep/{name}.json"}]
        s3.pipe_file(f"town/deep/{name}.json", json.dumps(item).encode(), ACL="public-read")
    items = [json.loads(s3.cat_file(f"town/deep/{name}.json")) for name in ("old", "new")]
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    with open_source(tmp_path / "items.json") as both:
        assert both.grid == Grid(GRID.height, 2 * GRID.width, GRID.affine, GRID.crs)
        assert both.read(both.grid).mask.sum() == 2 * GRID.height * GRID.width - 110 * 170
        assert [layer.href for layer in both.layers] == ["s3://town/deep/new.json", "s3://town/deep/old.json"]
        before = both.fingerprint()
    with open_source(ortho) as here:
        known = here.read(GRID)
    for place in ("s3://town", f"{server}/town"):
        with open_source(f"{place}/deep/new.json") as one:
            found = one.read(GRID)
        assert np.array_equal(found.mask, known.mask)
        assert np.array_equal(found.pixels, np.where(known.mask, known.pixels, 0))
    s3.pipe_file("town/deep/second.tif", ortho.read_bytes() + b"\0")
    with open_source(tmp_path / "items.json") as both:
        assert both.fingerprint() != before
    translator.translate_to(tmp_path / "items.json", "s3://town/map.tif", **OPTIONS, stac=True)
    written = json.loads(s3.cat_file("town/map.json"))
    assert [link["href"] for link in written["links"]] == ["s3://town/deep/new.json", "s3://town/deep/old.json"]
    checksum = hashlib.sha256(s3.cat_file("town/map.tif")).hexdigest()
    assert written["assets"]["data"]["file:checksum"] == f"1220{checksum}"
    translator.translate_to("s3://town/deep/new.json", tmp_path / "one.tif", **OPTIONS)
    translator.translate_to(ortho, tmp_path / "map.tif", **OPTIONS)
    assert same(str(tmp_path / "one.tif"), tmp_path / "map.tif")
