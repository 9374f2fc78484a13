"""One translation, whatever it is asked for as: the same pixels as a Raster, a file, a DataArray, or read in pieces."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401
import pytest
import torch
import xarray
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.xr import wrap_xr

from terramorph.bundle import Bands, Bundle, Mode
from terramorph.errors import InputError, RasterError
from terramorph.geo import Grid
from terramorph.raster import Raster, read_image, write_image
from terramorph.sources import open_source
from terramorph.translate import Model, TorchBackend, load, plan
from terramorph.translate.lazy import LazySource

from .conftest import make_bundle

UTM = CRS("EPSG:32633")
STRAIGHT = Affine(1.0, 0.0, 4e5, 0.0, -1.0, 5.8e6)
ROTATED = STRAIGHT @ Affine.rotation(25.0)
TARGETS = {
    "uint8": Bands(names=("red", "green", "blue")),
    "uint16": Bands(names=("height",), dtype="uint16", low=0, high=9000),
    "float32": Bands(names=("vv", "vh"), dtype="float32", low=-25.0, high=5.0),
}


def made_bundle(network: str, dtype: str) -> Bundle:
    """A small network, bounded (resnet6) or not, for a target of some dtype."""
    more: dict[str, Any] = {"norm": "batch"} if network == "resnet6" else {}
    target = TARGETS[dtype]
    return make_bundle(
        network, gain=0.05, width=2, out_bands=target.count, header={"size": 32, "target": target}, **more
    )


def ortho(picture: Any, folder: Path, affine: Affine, height: int = 300, width: int = 420) -> Path:
    """An image with a hole of no data."""
    mask = np.ones((height, width), np.bool_)
    mask[40:150, 30:200] = False
    raster = Raster.from_pixels(picture(height, width), Grid(height, width, affine, UTM), mask)
    write_image(raster, folder / "ortho.tif")
    return folder / "ortho.tif"


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows from 1000 px on, so that small images have several."""
    monkeypatch.setattr(plan, "WHOLE_PIXELS", 1000)


def same(one: Raster, other: Raster) -> None:
    assert one.grid == other.grid
    assert np.array_equal(one.mask, other.mask)
    assert np.array_equal(one.pixels, other.pixels), int((one.pixels != other.pixels).sum())
    assert one.dtype == other.dtype


@pytest.mark.parametrize("affine", [STRAIGHT, ROTATED], ids=["straight", "rotated"])
@pytest.mark.parametrize("dtype", list(TARGETS))
@pytest.mark.parametrize("network", ["unet64", "resnet6"])
@pytest.mark.usefixtures("windows")
def test_no_pixel_depends_on_how_it_is_asked_for(
    picture: Any, tmp_path: Path, network: str, dtype: str, affine: Affine
) -> None:
    model = Model(made_bundle(network, dtype), precision="fp32")
    assert (model.header.halo is None) is (network == "unet64")
    path = ortho(picture, tmp_path, affine)
    whole = model.translate(path)
    assert not whole.mask[40:150, 30:200].any()
    assert whole.mask.sum() == 300 * 420 - 110 * 170
    same(model.translate(read_image(path)), whole)

    model.translate_to(path, tmp_path / "map.tif")
    written = read_image(tmp_path / "map.tif")
    assert np.array_equal(written.mask, whole.mask)
    assert np.array_equal(written.pixels[:, whole.mask], whole.pixels[:, whole.mask])
    with model.lazy(path) as lazy:
        assert len(lazy._tiled.cover) > 4
        same(lazy.read(whole.grid), whole)
    with model.lazy(path) as lazy:
        pieces = [(y, x) for y in range(0, 300, 90) for x in range(0, 420, 110)]
        for y, x in np.random.default_rng(0).permutation(pieces):
            size = min(90, 300 - y), min(110, 420 - x)
            same(lazy.read(whole.grid.crop(y, x, *size)), whole.crop(y, x, *size))


@pytest.mark.parametrize("mode", ["raster", "paper"])
@pytest.mark.usefixtures("windows")
def test_a_network_that_computes_cores_gives_the_pixels_of_one_that_does_not(
    picture: Any, tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle("lite-unet", gain=0.05, width=10, noise=2, header={"size": 32})
    path = ortho(picture, tmp_path, STRAIGHT)
    model = Model(bundle, precision="fp32", mode=mode)
    asked: list[object] = []
    run = TorchBackend.run

    def noted(self: TorchBackend, *given: Any, **more: Any) -> torch.Tensor:
        asked.append(more.get("core"))
        return run(self, *given, **more)

    monkeypatch.setattr(TorchBackend, "run", noted)
    made = model.translate(path, window=192, overlap=64)
    assert all((core is None) is (mode == "paper") for core in asked)
    model.backend.takes_core = False  # type: ignore[attr-defined]
    whole = model.translate(path, window=192, overlap=64)
    assert np.array_equal(made.mask, whole.mask)
    assert int(np.abs(made.pixels.astype(int) - whole.pixels).max()) <= 1
    assert (made.pixels != whole.pixels).mean() < 1e-5


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("dtype", list(TARGETS))
@pytest.mark.parametrize("network", ["unet64", "resnet6"])
@pytest.mark.usefixtures("windows")
def test_a_dataarray_has_the_same_pixels(picture: Any, tmp_path: Path, network: str, dtype: str, lazily: bool) -> None:
    model = Model(made_bundle(network, dtype), precision="fp32")
    path = ortho(picture, tmp_path, STRAIGHT)
    raster = read_image(path)
    pixels = np.where(raster.mask, np.maximum(raster.pixels, 1), 0)
    array: xarray.DataArray = wrap_xr(pixels, raster.grid.geobox, dims=("band", "y", "x"), axis=1, nodata=0)
    whole = model.translate(Raster(pixels, raster.mask, raster.grid, raster.bands))
    made = model.translate(array.chunk({"y": 100, "x": 100}) if lazily else array).values
    lowest = TARGETS[dtype].low
    assert (np.isnan(made) if dtype == "float32" else made == lowest)[:, ~raster.mask].all()
    wanted = whole.pixels if dtype == "float32" else np.maximum(whole.pixels, int(lowest) + 1)
    assert np.array_equal(made[:, raster.mask], wanted[:, raster.mask])


@pytest.mark.parametrize("network", ["unet64", "resnet6"])
@pytest.mark.usefixtures("windows")
def test_workers_make_the_same_pixels(picture: Any, tmp_path: Path, network: str) -> None:
    pytest.importorskip("distributed")
    from terramorph.translate.cluster import Cluster, DaskEngine

    torch.set_num_threads(1)  # as each worker has
    bundle, path = made_bundle(network, "uint8").save(tmp_path / "m.safetensors"), ortho(picture, tmp_path, STRAIGHT)
    model = load(bundle, precision="fp32")
    with Cluster(workers=2) as cluster:
        engine = DaskEngine(cluster, partial(load, bundle, precision="fp32"), partial(open_source, path))
        model.translate_to(path, tmp_path / "there.tif", engine=engine)
    model.translate_to(path, tmp_path / "here.tif")
    assert (tmp_path / "there.tif").read_bytes() == (tmp_path / "here.tif").read_bytes()
    there, here = read_image(tmp_path / "there.tif"), model.translate(path)
    assert np.array_equal(there.pixels[:, here.mask], here.pixels[:, here.mask])


@pytest.mark.parametrize("name", ["map.png", "map.tif"])
@pytest.mark.usefixtures("windows")
def test_a_picture_has_the_same_pixels(picture: Any, tmp_path: Path, name: str) -> None:
    model = Model(made_bundle("unet64", "uint8"), precision="fp32")
    write_image(Raster.from_pixels(picture(200, 250)), tmp_path / "in.png")
    whole = model.translate(tmp_path / "in.png")
    model.translate_to(tmp_path / "in.png", tmp_path / name)
    same(read_image(tmp_path / name), whole)
    assert np.array_equal(model.translate(read_image(tmp_path / "in.png").pixels), whole.pixels)


class Counted:
    """A model's predictions by place, each after a pause in which others may ask."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Grid] = []
        predict, pause = model.predict, threading.Event()

        def counted(rasters: list[Raster], *how: Any) -> Any:
            self.seen.append(rasters[0].grid)
            pause.wait(0.02)
            return predict(rasters, *how)

        monkeypatch.setattr(model, "predict", counted)


@pytest.mark.usefixtures("windows")
def test_what_is_read_at_once_by_many_is_predicted_once(
    picture: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(made_bundle("unet64", "uint8"), precision="fp32")
    path, counted = ortho(picture, tmp_path, STRAIGHT), Counted(model, monkeypatch)
    with model.lazy(path) as lazy, ThreadPoolExecutor(8) as pool:
        assert not counted.seen
        grid = lazy.grid.crop(0, 250, 60, 60)
        results = list(pool.map(lazy.read, [grid] * 8))
    assert len(counted.seen) == len(set(counted.seen))
    assert 0 < len(counted.seen) < len(lazy._tiled.cover)
    for result in results:
        same(result, results[0])


@pytest.mark.usefixtures("windows")
def test_windows_are_kept_within_a_bound(picture: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(made_bundle("resnet6", "uint8"), precision="fp32")
    path, counted = ortho(picture, tmp_path, STRAIGHT), Counted(model, monkeypatch)
    corner, far = (0, 300), (200, 0)
    for memory, again in ((2**28, 0), (1000, 1)):
        with model.lazy(path, memory=memory) as lazy:
            for y, x in (corner, far):
                lazy.read(lazy.grid.crop(y, x, 8, 8))
            counted.seen.clear()
            first = lazy.read(lazy.grid.crop(*corner, 8, 8))
            assert len(counted.seen) == again
            assert lazy._window.cache.currsize <= memory
            same(first, lazy.read(lazy.grid.crop(*corner, 8, 8)))


def test_a_read_that_failed_is_tried_again(picture: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(made_bundle("unet64", "uint8"), precision="fp32")
    source = open_source(ortho(picture, tmp_path, STRAIGHT))
    with source, model.lazy(source) as lazy:
        with monkeypatch.context() as broken:
            broken.setattr(source, "read", lambda grid: (_ for _ in ()).throw(RasterError("the disk is gone.")))
            with pytest.raises(RasterError, match="the disk is gone"):
                lazy.read(lazy.grid)
        assert lazy.read(lazy.grid).mask.any()


def test_it_is_read_on_any_grid(picture: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(made_bundle("unet64", "uint8"), precision="fp32")
    path = ortho(picture, tmp_path, STRAIGHT)
    model.translate_to(path, tmp_path / "map.tif")
    with model.lazy(path) as lazy, open_source(tmp_path / "map.tif") as written:
        assert isinstance(lazy, LazySource)
        moved = Grid(100, 100, STRAIGHT @ Affine.translation(250.5, 150.5) @ Affine.rotation(10), UTM)
        one, other = lazy.read(moved), written.read(moved)
        assert np.array_equal(one.mask, other.mask)
        assert np.abs(one.pixels.astype(int) - other.pixels)[:, one.mask].max() <= 1
        outside = lazy.read(Grid(8, 8, STRAIGHT @ Affine.translation(5000, 5000), UTM))
        assert not outside.mask.any()
        assert lazy.fingerprint() != written.fingerprint()
        monkeypatch.setattr("terramorph.translate.lazy.MAX_READ", 1000)
        with pytest.raises(InputError, match=r"would be translated for one read of .*translate_to"):
            lazy.read(lazy.grid)
