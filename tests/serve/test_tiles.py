"""Tiles that a server answers: those of the batch, seamless, each computed once."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pmtiles.reader import MmapSource, Reader, all_tiles
from pyproj import Transformer

import terramorph
from terramorph.bundle import Bundle
from terramorph.cartography import CLASSES, PALETTE
from terramorph.geo import Grid
from terramorph.geo.mercator import TileBox, pixel_grid, tiles_of_degrees
from terramorph.networks import build_network, initialize
from terramorph.raster import Raster
from terramorph.raster.tiles.write import native_zoom, write_tiles
from terramorph.serve import LayerSettings, Settings
from terramorph.town import make_town
from terramorph.translate import Model
from terramorph.translate.products import entropy

from ..processes import wait_until
from .conftest import RESOLUTION, RGB, Client, pixels, serving

Tile = tuple[int, int, int]


@pytest.fixture(scope="module")
def batch(model_path: Path, sides: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[Tile, bytes]:
    """The tiles that `translate_to` writes."""
    path = tmp_path_factory.mktemp("batch") / "town.pmtiles"
    terramorph.load(model_path).translate_to(sides[0], path)
    with path.open("rb") as file:
        return {number: bytes(data) for number, data in all_tiles(Reader(MmapSource(file)).get_bytes)}


def test_served_tiles_are_those_of_the_batch(client: Client, batch: dict[Tile, bytes]) -> None:
    layer = client.json("/layers")["layers"][0]
    output = next(view for view in layer["views"] if view["name"] == "output")
    compared = 0
    for number, data in batch.items():
        if number[0] < output["minzoom"]:
            continue
        answer = client.tile("output", *number)
        assert answer.status == 200
        assert np.array_equal(pixels(answer.data), pixels(data)), number
        compared += 1
    assert compared > 20
    assert layer["native"] == max(z for z, _, _ in batch)
    # Beside them there is nothing.
    z, x, y = max(batch)
    assert client.tile("output", z, x + 9, y).status == 204


def test_tiles_made_alone_would_differ(
    client: Client, batch: dict[Tile, bytes], model_path: Path, sides: tuple[Path, Path]
) -> None:
    """What the test above proves is more than a network run tile by tile gives."""
    model: Model = terramorph.load(model_path)
    zoom, x, y = whole_block(batch)
    raster = terramorph.open_source(sides[0]).read(pixel_grid(zoom, TileBox(x, y, x + 1, y + 1), 256))
    alone = model.translate(Raster.from_pixels(raster.pixels)).pixels.transpose(1, 2, 0)
    served = pixels(client.tile("output", zoom, x, y).data)[..., :3]
    assert np.abs(served.astype(int) - alone).max() > 4


SEEN = 128
"""Side of the tiles that are looked at for seams."""


def seam_ratio(image: np.ndarray) -> float:
    """Steps across the lines between tiles over steps elsewhere, of pixels (H, W, C)."""
    ratios = []
    for values in (image.astype(float), image.astype(float).transpose(1, 0, 2)):
        steps = np.abs(np.diff(values, axis=0)).mean(axis=(1, 2))
        at = np.arange(SEEN - 1, len(steps), SEEN)
        ratios.append(steps[at].mean() / np.delete(steps, at).mean())
    return float(np.mean(ratios))


def test_tiles_have_no_seams() -> None:
    """Beside the translation in one pass, which has no windows, on the same tiles."""
    model: Model = terramorph.load("town-sat2map")
    source = terramorph.open_source(make_town(768, seed=3).aerial())
    windows, once = model.lazy(source, window=640), terramorph.open_source(model.translate(source))
    zoom = native_zoom(windows) + 1  # half as large as usual, so that a smaller raster has some
    to_degrees = Transformer.from_crs(windows.grid.crs.proj, "EPSG:4326", always_xy=True)
    box = tiles_of_degrees(zoom, *to_degrees.transform_bounds(*windows.grid.bounds))
    columns, rows = range(box.left + 1, box.right - 1), range(box.top + 1, box.bottom - 1)
    assert min(len(columns), len(rows)) > 2

    def joined(read: Callable[[Grid], Raster]) -> np.ndarray:
        tiles = [[read(pixel_grid(zoom, TileBox(x, y, x + 1, y + 1), SEEN)).pixels for x in columns] for y in rows]
        return np.concatenate([np.concatenate(row, axis=2) for row in tiles], axis=1).transpose(1, 2, 0)

    whole = seam_ratio(joined(once.read))
    assert 0.98 <= seam_ratio(joined(windows.read)) / whole <= 1.02
    alone = joined(lambda grid: model.translate(Raster.from_pixels(source.read(grid).pixels)))
    assert seam_ratio(alone) / whole > 1.1


def whole_block(batch: dict[Tile, bytes]) -> Tile:
    """The first of 2 x 2 tiles of the finest zoom that are full of data."""
    zoom = max(batch)[0]
    full = {number for number, data in batch.items() if number[0] == zoom and pixels(data)[..., 3].all()}
    return next((z, x, y) for z, x, y in sorted(full) if {(z, x + 1, y), (z, x, y + 1), (z, x + 1, y + 1)} <= full)


def test_any_order_and_any_cache_give_the_same_bytes(
    settings: Callable[..., Settings], client: Client, batch: dict[Tile, bytes]
) -> None:
    numbers = [number for number in batch if number[0] == max(batch)[0]][::3]
    np.random.default_rng(0).shuffle(numbers)
    with serving(settings(window_cache_mb=1, tile_cache_mb=1)) as small:
        for number in numbers:
            assert small.tile("output", *map(int, number)).data == client.tile("output", *map(int, number)).data


def test_what_is_asked_for_at_once_is_made_once(settings: Callable[..., Settings], batch: dict[Tile, bytes]) -> None:
    z, x, y = max(batch)
    with serving(settings()) as cold, ThreadPoolExecutor(32) as pool:
        bodies = list(pool.map(lambda _: cold.tile("output", z, x, y).data, range(32)))
        assert len(set(bodies)) == 1
        status = cold.json("/status")
    assert status["computed"] == 1
    assert status["joined"] + sum(1 for _ in bodies) >= 32


def test_tiles_may_be_kept(client: Client, batch: dict[Tile, bytes]) -> None:
    layer = client.json("/layers")["layers"][0]
    z, x, y = max(batch)
    path = f"/t/town/output/{layer['identity']}/{z}/{x}/{y}.png"
    answer = client.get(path)
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    tag = answer.headers["ETag"]
    for held in (tag, f"W/{tag}", f'"another", {tag}'):
        assert client.get(path, **{"If-None-Match": held}).status == 304
    assert client.get(path, **{"If-None-Match": '"another"'}).status == 200
    brief = client.tile("output", z, x, y)
    assert "immutable" not in brief.headers["Cache-Control"]
    assert brief.data == answer.data
    assert client.get(path.replace(layer["identity"], "0" * 16)).status == 404


def test_zooms_beyond_those_of_the_model(client: Client, batch: dict[Tile, bytes]) -> None:
    layer = client.json("/layers")["layers"][0]
    output = next(view for view in layer["views"] if view["name"] == "output")
    z, x, y = max(batch)
    assert output["minzoom"] == z - 3
    assert output["maxzoom"] == z + 1
    finest = pixels(client.tile("output", z + 1, 2 * x, 2 * y).data)
    over = pixels(client.tile("output", z + 2, 4 * x, 4 * y).data)
    # Enlarged, without another pass of the network: its means are those of the quarter that it shows.
    quarter = finest[:128, :128, :3].astype(float)
    assert over[..., :3].reshape(128, 2, 128, 2, 3).mean(axis=(1, 3)) == pytest.approx(quarter, abs=40)
    assert abs(over[..., :3].mean() - quarter.mean()) < 1
    assert client.tile("output", z + 4, 16 * x, 16 * y).status == 404
    coarse = client.tile("output", z - 4, x >> 4, y >> 4)
    assert coarse.status == 204
    assert coarse.headers["X-Terramorph"] == "zoom-in"
    assert client.tile("input", z - 4, x >> 4, y >> 4).status == 200


def test_tiles_of_512_pixels_and_other_formats(client: Client, batch: dict[Tile, bytes]) -> None:
    z, x, y = whole_block(batch)
    x, y = x >> 1, y >> 1
    large = pixels(client.get(f"/t/town/output/{z - 1}/{x}/{y}@2x.png").data)
    assert large.shape == (512, 512, 4)
    for i in (0, 1):
        for j in (0, 1):
            answer = client.tile("output", z, 2 * x + i, 2 * y + j)
            part = large[256 * j : 256 * (j + 1), 256 * i : 256 * (i + 1)]
            assert np.array_equal(part, pixels(answer.data)) if answer.status == 200 else not part.any()
    z, x, y = whole_block(batch)
    exact = pixels(client.tile("input", z, x, y).data).astype(int)
    for format, name in (("webp", "WEBP"), ("jpg", "JPEG")):
        answer = client.tile("input", z, x, y, format)
        assert Image.open(io.BytesIO(answer.data)).format == name
        assert np.abs(pixels(answer.data) - exact)[..., :3].mean() < 12


def test_difference_and_classes_follow_the_output(client: Client, batch: dict[Tile, bytes]) -> None:
    z, x, y = whole_block(batch)
    output, truth = (pixels(client.tile(view, z, x, y).data).astype(int) for view in ("output", "truth"))
    apart = np.abs(output - truth)[..., :3].mean(axis=2)
    shown = pixels(client.tile("difference", z, x, y).data)
    both = (output[..., 3] > 0) & (truth[..., 3] > 0)
    assert both.any()
    strongest = apart[both] > np.percentile(apart[both], 80)
    assert shown[both][strongest][:, 3].mean() > shown[both][~strongest][:, 3].mean()
    colours = {tuple(c) for c in pixels(client.tile("classes", z, x, y).data).reshape(-1, 4)[:, :3]}
    named = {tuple(bytes.fromhex(one["colour"][1:])) for one in client.json("/layers")["layers"][0]["classes"]}
    assert colours <= named


def test_entropy_is_drawn_where_the_model_is_unsure(
    settings: Callable[..., Settings], sides: tuple[Path, Path], batch: dict[Tile, bytes], tmp_path: Path
) -> None:
    network = build_network("lite-unet", width=12, colours=len(CLASSES), encoder="none")
    network.get_buffer("palette").copy_(torch.from_numpy(PALETTE / 127.5 - 1))
    initialize(network, torch.Generator().manual_seed(3), gain=0.15)
    with torch.no_grad():
        network.get_parameter("head.weight").mul_(100)  # untrained, it is unsure of all alike
    bundle = Bundle.of(network, "lite-unet", source=RGB, target=RGB, size=64, ground_resolution=RESOLUTION)
    path = bundle.save(tmp_path / "mapper.safetensors")
    layer = LayerSettings(name="town", model=str(path), source=str(sides[0]))
    shared = settings(layers=(layer,), cache=tmp_path / "cache")
    with serving(shared) as mapper:
        (about,) = mapper.json("/layers")["layers"]
        assert [view["name"] for view in about["views"]] == ["input", "output", "classes", "entropy"]
        z, x, y = whole_block(batch)
        shown = pixels(mapper.tile("entropy", z, x, y).data)
    with serving(shared) as another:
        assert another.tile("entropy", z + 1, 2 * x, 2 * y).status == 200
        assert another.json("/status")["windows"] == 0  # those of the first serve it too
    probabilities = terramorph.load(path).probabilities().lazy(sides[0])
    with probabilities:
        found = entropy(probabilities.read(pixel_grid(z, TileBox(x, y, x + 1, y + 1), 256)).pixels)
    opacity = shown[..., 3].ravel()[np.argsort(found.ravel())].astype(int)  # the more unsure, the more it covers
    assert opacity[-1] > opacity[0]
    assert (np.diff(opacity) >= 0).all()


def test_values_at_a_point_and_a_piece_as_a_geotiff(
    client: Client, model_path: Path, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    west, south, east, north = client.json("/layers")["layers"][0]["bounds"]
    lon, lat = west + 0.6 * (east - west), south + 0.4 * (north - south)
    found = client.json(f"/point?layer=town&lon={lon}&lat={lat}")
    with terramorph.load(model_path).lazy(sides[0]) as output:
        column, row = (int(v) for v in ~output.grid.affine @ (found["x"], found["y"]))
        pixel: Grid = output.grid.crop(row, column, 1, 1)
        assert found["output"] == output.read(pixel).pixels[:, 0, 0].tolist()
        assert found["class"] in {"land", "building", "road", "highway", "arterial", "park", "water"}
        box = f"{lon - 0.001},{lat - 0.001},{lon + 0.001},{lat + 0.001}"
        answer = client.get(f"/export?layer=town&view=output&bbox={box}")
        assert answer.status == 200
        (tmp_path / "view.tif").write_bytes(answer.data)
        with terramorph.open_source(tmp_path / "view.tif") as piece:
            wanted = output.read(piece.grid)
            assert np.array_equal(piece.read(piece.grid).pixels, wanted.pixels)
            to_degrees = Transformer.from_crs(piece.grid.crs.proj, "EPSG:4326", always_xy=True)
            west_, _, east_, _ = to_degrees.transform_bounds(*piece.grid.bounds)
    assert west_ <= lon - 0.001 < lon + 0.001 <= east_
    assert b"TERRAMORPH_SYNTHETIC" in answer.data
    assert client.get(f"/point?layer=town&lon={west - 1}&lat={lat}").status == 200
    assert client.get("/point?layer=town&lon=x&lat=1").status == 400
    assert client.get("/export?layer=town&view=output&bbox=0,0,1,1").status == 400


def test_a_large_export_says_what_to_run(settings: Callable[..., Settings]) -> None:
    with serving(settings(export_pixels=1000)) as client:
        west, south, east, north = client.json("/layers")["layers"][0]["bounds"]
        answer = client.get(f"/export?layer=town&view=output&bbox={west},{south},{east},{north}")
    assert answer.status == 400
    assert b"terramorph translate" in answer.data


HOLDING = """
import time
from pathlib import Path
from terramorph.cli.app import main
from terramorph.serve import cache

def encoded(pixels, encode=cache.npy_bytes):
    while Path("hold").exists():  # a window is predicted, and others wait for it
        Path("held").touch()
        time.sleep(0.01)
    return encode(pixels)

cache.npy_bytes = encoded
main()
"""


def test_servers_share_a_folder(settings: Callable[..., Settings], batch: dict[Tile, bytes], tmp_path: Path) -> None:
    """Two processes predict each window once, and one that is killed leaves nothing that is not whole."""
    shared = settings(cache=tmp_path / "cache", window=192)
    (layer,) = shared.layers
    lines = [f'port = 0\nwindow = 192\nmax_wait = 240\ncache = "{shared.cache}"\n[[layers]]']
    lines += [f'{key} = "{getattr(layer, key)}"' for key in ("name", "model", "source", "truth")]
    (tmp_path / "serve.toml").write_text("\n".join(lines), encoding="utf-8")
    hold, held = tmp_path / "hold", tmp_path / "held"
    words = ["-c", HOLDING, "serve", str(tmp_path / "serve.toml")]
    fine = [number for number in batch if number[0] == max(batch)[0]]
    left = [(z, x, y) for z, x, y in fine if x <= np.median([x for _, x, _ in fine])]
    rest = [(z + 1, 2 * x + i, 2 * y) for z, x, y in sorted(set(fine) - set(left)) for i in (0, 1)]
    with (
        subprocess.Popen(
            [sys.executable, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process,
        serving(shared) as own,
        ThreadPoolExecutor(8) as pool,
    ):
        try:
            assert process.stdout is not None
            other = Client(SimpleNamespace(address=process.stdout.readline().split()[-1].decode()), None)
            tiles = [left[number // 2 % len(left)] for number in range(500)]
            bodies = pool.map(lambda one, tile: one.tile("output", *tile).data, [own, other] * 250, tiles)
            assert len(set(zip(tiles, bodies, strict=True))) == len(left)
            predicted = own.json("/status")["windows"], other.json("/status")["windows"]
            distinct = sum(path.read_bytes().startswith(b"\x93NUMPY") for path in (tmp_path / "cache").glob("*/[!.]*"))
            assert distinct > 5
            assert distinct <= sum(predicted) <= 1.05 * distinct
            hold.touch()
            asked = [pool.submit(other.tile, "output", *tile) for tile in rest]
            wait_until(held.exists)
        finally:
            process.kill()
        assert any(one.exception() for one in asked)  # it was not through
        for path in (tmp_path / "cache").glob("*/[!.]*"):
            data = path.read_bytes()
            if data.startswith(b"\x93NUMPY"):
                np.load(io.BytesIO(data))
            elif data:
                pixels(data)
        assert {own.tile("output", *tile).status for tile in rest} <= {200, 204}  # no lock was left


def test_write_tiles_of_the_lazy_source_is_the_batch(
    model_path: Path, sides: tuple[Path, Path], batch: dict[Tile, bytes], tmp_path: Path
) -> None:
    with terramorph.load(model_path).lazy(sides[0]) as output:
        write_tiles(output, tmp_path / "lazy.pmtiles", kind="pmtiles", name="town")
    with (tmp_path / "lazy.pmtiles").open("rb") as file:
        made = {number: bytes(data) for number, data in all_tiles(Reader(MmapSource(file)).get_bytes)}
    assert made == batch
