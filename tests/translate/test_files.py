"""Images on disk to images on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS

from terramorph.bundle import Bands, Bundle
from terramorph.errors import ConfigError, InputError, RasterError
from terramorph.geo import Grid
from terramorph.raster import Raster, ReadOptions, read_image, write_image
from terramorph.translate import Model, load

from .conftest import make_bundle

Picture = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def folder(tmp_path: Path, picture: Picture) -> Path:
    """Five PNG of two sizes, a world file beside the first, and a GeoTIFF."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        size = (64, 64) if number < 3 else (40, 70)
        raster = Raster.from_pixels(picture(*size, seed=number))
        if number == 0:
            grid = Grid(64, 64, Affine(2.0, 0, 1000, 0, -2.0, 5000), CRS("EPSG:32618"))
            raster = Raster.from_pixels(raster.pixels, grid)
        write_image(raster, folder / f"{number}.png")
    grid = Grid(64, 64, Affine(1.0, 0, 1000, 0, -1.0, 5000), CRS("EPSG:32618"))
    mask = np.ones((64, 64), np.bool_)
    mask[0] = False
    write_image(Raster.from_pixels(picture(64, 64, seed=9), grid, mask), folder / "geo.tif")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    steps = []
    done = Model(bundle, batch_size=2).translate_to(folder, out, progress=lambda _, a, b: steps.append((a, b)))
    names = ["0.png", "1.png", "2.png", "3.png", "4.png", "geo.tif"]
    assert [path.name for path in done] == names
    assert (len(done), done.skipped) == (6, [])
    assert [a for a, _ in steps] == sorted({a for a, _ in steps})
    assert steps[-1] == (6, 6)
    model = Model(bundle)
    for name in names:
        written, expected = read_image(out / name), model.translate(folder / name)
        assert np.array_equal(written.mask, expected.mask)
        assert np.abs(written.pixels.astype(int) - expected.pixels).max() <= 1
        assert written.grid == expected.grid
    assert (out / "0.pgw").is_file()
    assert sorted(p.name for p in out.iterdir()) == ["0.pgw", "0.png", "0.prj", *names[1:]]


def test_an_image(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    path = bundle.save(tmp_path / "model.safetensors")
    for name in ("a.png", "a.jpg", "a.tif"):
        assert load(path).translate_to(folder / "0.png", tmp_path / name).files == [tmp_path / name]
        assert read_image(tmp_path / name).grid == read_image(folder / "0.png").grid
    into = load(path).translate_to(folder / "1.png", tmp_path / "folder", suffix=".tif")
    assert into.files == [tmp_path / "folder" / "1.tif"]


def test_what_is_there_is_replaced_only_if_that_is_allowed(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("1.png", "3.png"):
        (out / name).write_bytes(b"the work of weeks")
    for source, target in ((folder, out), (folder / "1.png", out), (folder / "0.png", out / "1.png")):
        with pytest.raises(InputError, match=r"out/1\.png.* would be replaced; .*overwrite"):
            Model(bundle).translate_to(source, target)
    assert sorted(path.name for path in out.iterdir()) == ["1.png", "3.png"]
    assert (out / "3.png").read_bytes() == b"the work of weeks"
    assert len(Model(bundle).translate_to(folder, out, overwrite=True)) == 6
    assert read_image(out / "3.png").count == 3


def test_targets_that_png_cannot_hold(folder: Path, tmp_path: Path) -> None:
    bundle = make_bundle(out_bands=2, header={"target": Bands(names=("vv", "vh"), dtype="float32")})
    written = Model(bundle).translate_to(folder / "0.png", tmp_path / "out").files
    assert written == [tmp_path / "out" / "0.tif"]
    assert read_image(written[0]).bands == ("vv", "vh")
    with pytest.raises(RasterError, match=r"use \.tif"):
        Model(bundle).translate_to(folder / "0.png", tmp_path / "x.png")


def test_samples(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    done = Model(bundle, mode="paper").translate_to(folder / "0.png", tmp_path / "s.png", samples=3)
    assert [path.name for path in done] == ["s_1.png", "s_2.png", "s_3.png"]
    pictures = {read_image(path).pixels.tobytes() for path in done}
    assert len(pictures) == 3
    with pytest.raises(ConfigError, match="would be equal"):
        Model(bundle, mode="raster").translate_to(folder / "0.png", tmp_path / "s.png", samples=3)


def test_interrupted_samples_go_on(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    model, seen = Model(bundle, mode="paper"), []

    def stop(step: str, done: int, total: int) -> None:
        seen.append(step)
        if seen.count("joining") > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.translate_to(folder / "0.png", tmp_path / "s.png", samples=3, progress=stop)
    made = (tmp_path / "s_1.png").stat().st_mtime_ns
    model.translate_to(folder / "0.png", tmp_path / "s.png", samples=3)
    assert (tmp_path / "s_1.png").stat().st_mtime_ns == made
    assert {path.name for path in tmp_path.glob("s_*.png")} == {"s_1.png", "s_2.png", "s_3.png"}
    with pytest.raises(InputError, match="would be replaced"):
        model.translate_to(folder / "0.png", tmp_path / "s.png", samples=3)


@pytest.mark.parametrize("restart", [False, True])
def test_an_interrupted_overwrite_of_samples_replaces_all(
    bundle: Bundle, folder: Path, tmp_path: Path, restart: bool
) -> None:
    model, out, seen = Model(bundle, mode="paper"), tmp_path / "s.tif", []
    model.translate_to(folder / "1.png", out, samples=3)

    def stop(step: str, done: int, total: int) -> None:
        seen.append(step)
        if seen.count("joining") > 2:  # in the second
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.translate_to(folder / "0.png", out, samples=3, overwrite=True, progress=stop)
    with pytest.raises(InputError, match=r"s_\d\.tif.* would be replaced"):
        model.translate_to(folder / "0.png", out, samples=3, restart=restart)
    source = folder / ("2.png" if restart else "0.png")  # another one discards what is begun
    made = model.translate_to(source, out, samples=3, overwrite=True, restart=restart)
    assert {read_image(path).grid for path in made} == {read_image(source).grid}
    assert [read_image(path).pixels.tolist() for path in made] == [
        model.translate(source, sample=number).pixels.tolist() for number in range(3)
    ]


def test_bad_inputs_stop_before_anything_is_written(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    with pytest.raises(RasterError, match=r"3\.png"):
        Model(bundle).translate_to(folder, out)
    assert not out.exists()
    write_image(Raster.from_pixels(np.zeros((1, 64, 64), np.uint8)), folder / "gray.png")
    done = Model(bundle).translate_to(folder, out, skip_bad=True)
    assert len(done) == 5
    assert len(done.skipped) == 2
    assert "3.png" in done.skipped[0]
    assert "gray.png" in done.skipped[1]
    assert "1 band and the model takes 3" in done.skipped[1]
    with pytest.raises(InputError, match="No image of"):
        Model(bundle).translate_to(folder / "gray.png", out, skip_bad=True)


def test_names_that_make_no_sense(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no image"):
        Model(bundle).translate_to(empty, tmp_path / "out")
    with pytest.raises(InputError, match="at least one"):
        Model(bundle).translate_to([], tmp_path / "out")
    with pytest.raises(InputError, match="would replace the source"):
        Model(bundle).translate_to(folder / "0.png", folder / "0.png")
    with pytest.raises(InputError, match="would be replaced"):
        Model(bundle).translate_to(folder, folder)
    with pytest.raises(InputError, match="is a file"):
        Model(bundle).translate_to(folder, folder / "notes.txt")
    with pytest.raises(InputError, match="not written as"):
        Model(bundle).translate_to(folder, tmp_path / "out", suffix=".gif")
    with pytest.raises(InputError, match="not written as"):
        Model(bundle).translate_to(folder / "0.png", tmp_path / "out.webp")
    twin = tmp_path / "twin"
    twin.mkdir()
    write_image(read_image(folder / "1.png"), twin / "1.jpg")
    with pytest.raises(InputError, match="both become"):
        Model(bundle).translate_to([folder / "1.png", twin / "1.jpg"], tmp_path / "out")
    with pytest.raises(RasterError, match="does not exist"):
        Model(bundle).translate_to(folder / "99.png", tmp_path / "out.png")


@pytest.mark.parametrize("name", ["out.foo", "out.tiff2", "map.shp"])
def test_a_name_that_says_no_kind_is_no_folder(bundle: Bundle, folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"does not .*; name it \.tif"):
        Model(bundle).translate_to(folder / "0.png", tmp_path / name)
    assert not (tmp_path / name).exists()
    (tmp_path / "run.1").mkdir()
    assert Model(bundle).translate_to(folder / "0.png", tmp_path / "run.1").files == [tmp_path / "run.1" / "0.png"]
    with pytest.raises(ConfigError, match="There is no kind of output 'clases'; use cog, classes"):
        Model(bundle).translate_to(folder / "0.png", tmp_path / "out.tif", kind="clases")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["out.gif", "out.bmp", "out.webp", "out.JP2", "out.vrt", "out.avif"])
def test_an_image_of_a_kind_that_is_not_written(bundle: Bundle, folder: Path, tmp_path: Path, name: str) -> None:
    for source in (folder / "0.png", [folder / "0.png"]):
        with pytest.raises(InputError, match=r"are not written as \..*; use \.png, \.jpg or \.tif"):
            Model(bundle).translate_to(source, tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["two_out.png", "two_out.tif", "two_out.gif"])
def test_several_images_do_not_become_one(bundle: Bundle, folder: Path, tmp_path: Path, name: str) -> None:
    model = Model(bundle)
    for source in (folder, [folder / "0.png", folder / "1.png"]):
        with pytest.raises(InputError, match=r"there are several|holds no image whose path is that of a tile"):
            model.translate_to(source, tmp_path / name)
        assert not (tmp_path / name).exists()
    assert model.translate_to([folder / "0.png"], tmp_path / "one.png").files == [tmp_path / "one.png"]
    (tmp_path / name).mkdir()
    assert len(model.translate_to([folder / "0.png", folder / "1.png"], tmp_path / name)) == 2


def test_an_interrupted_folder_goes_on_without_overwriting(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = Model(bundle, batch_size=1), tmp_path / "out"

    def stop(step: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.translate_to(folder, out, progress=stop)
    finished = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.suffix in (".png", ".tif")}
    assert 2 <= len(finished) < 6
    with pytest.raises(InputError, match=r"another bundle; .* `restart`"):
        Model(make_bundle(gain=0.3)).translate_to(folder, out)
    with pytest.raises(InputError, match=r"another window and overlap; .* `restart`"):
        model.translate_to(folder, out, window=128, overlap=32)
    with pytest.raises(InputError, match=r"another source; .* `restart`"):
        model.translate_to(folder, out, options=ReadOptions(bands=(3, 2, 1)))
    before = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes((folder / "1.png").read_bytes())
    with pytest.raises(InputError, match=r"another source; .* `restart`"):
        model.translate_to(folder, out)
    (folder / "0.png").write_bytes(before)
    seen: list[int] = []
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda rasters, *how: seen.append(len(rasters)) or predict(rasters, *how))
    written = model.translate_to(folder, out)
    assert len(written) == 6
    assert sum(seen) <= 6 - len(finished)
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    assert not list(tmp_path.glob(".out*"))
    with pytest.raises(InputError, match="would be replaced"):
        model.translate_to(folder, out)


def test_what_a_format_cannot_hold_is_refused_before_translating(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    floats = make_bundle(header={"target": Bands(names=("a", "b", "c"), dtype="float32")})
    two = make_bundle(out_bands=2)

    def translated(*values: object, **how: object) -> None:
        raise AssertionError("it was translated")

    with monkeypatch.context() as patch:
        patch.setattr(Model, "predict", translated)
        out = tmp_path / "out"
        with pytest.raises(RasterError, match=r"cannot hold 3 band.* of float32; use \.tif"):
            Model(floats).translate_to(folder / "0.png", tmp_path / "a.png")
        with pytest.raises(RasterError, match=r"cannot hold 3 band.* of float32; use \.tif"):
            Model(floats).translate_to(folder, out, suffix=".png", skip_bad=True)
        with pytest.raises(RasterError, match=r"cannot hold 2 band.* of uint8; use \.tif"):
            Model(two).translate_to(folder / "0.png", tmp_path / "a.jpg")
        for source, where, suffix in ((folder / "geo.tif", tmp_path / "a.jpg", None), (folder, out, ".jpg")):
            with pytest.raises(RasterError, match=r"pixels without data; use \.tif"):
                Model(bundle).translate_to(source, where, suffix=suffix)
        assert not out.exists()
    done = Model(bundle).translate_to(folder, out, suffix=".jpg", skip_bad=True)
    assert (len(done), len(done.skipped)) == (5, 1)


def test_a_ground_resolution_that_is_far_off_is_refused(folder: Path, tmp_path: Path) -> None:
    fine = make_bundle(header={"ground_resolution": 0.25})
    with pytest.raises(InputError, match="with `any_resolution`"):
        Model(fine).translate_to(folder / "0.png", tmp_path / "out.png")
    assert len(Model(fine, any_resolution=True).translate_to(folder / "0.png", tmp_path / "out.png")) == 1


def test_a_folder_of_images_is_no_raster(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"output of a folder of images must be a folder, got .*map\.tif"):
        Model(bundle).translate_to(folder, tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()


def test_palettes_of_another_resolution_keep_their_colours(bundle: Bundle, tmp_path: Path) -> None:
    """As they do where a single file is translated."""
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    with rasterio.open(
        tmp_path / "in" / "a.tif", "w", driver="GTiff", width=96, height=96, count=1, dtype="uint8", crs="EPSG:32633",
        transform=Affine(1, 0, 500000, 0, -1, 5000000),
    ) as made:  # fmt: skip
        made.write(rng.integers(0, 4, (96, 96), np.uint8), 1)
        made.write_colormap(1, {0: (255, 0, 0, 255), 1: (0, 255, 0, 255), 2: (0, 0, 255, 255), 3: (9, 9, 9, 255)})
    model = Model(bundle, precision="fp32", any_resolution=True)
    model.translate_to(tmp_path / "in", tmp_path / "out", resolution=1.5)
    expected = model.translate(tmp_path / "in" / "a.tif", resolution=1.5)
    assert np.array_equal(read_image(tmp_path / "out" / "a.tif").pixels, expected.pixels)


def test_a_list_of_images_is_of_paths_of_images(bundle: Bundle, tmp_path: Path) -> None:
    model = Model(bundle)
    with pytest.raises(InputError, match="holds a ndarray; give paths"):
        model.translate_to([np.zeros((3, 64, 64), np.uint8)], tmp_path / "out")
    square = '{"type": "Polygon", "coordinates": [[[0, 0], [1e-3, 0], [1e-3, 1e-3], [0, 0]]]}'
    (tmp_path / "a.geojson").write_text(
        '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"kind": "building"}, '
        f'"geometry": {square}}}]}}'
    )
    with pytest.raises(InputError, match="has no pixels of its own"):
        model.translate_to([tmp_path / "a.geojson"], tmp_path / "out")
