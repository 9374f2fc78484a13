"""Whole rasters: the same as one pass, whatever the windows; resumed, clipped, scaled, written as GeoTIFF and tiles."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geom import box
from PIL import Image, ImageFilter
from rasterio.enums import ColorInterp

from terramorph.bundle import Bundle
from terramorph.errors import ConfigError, InputError, InputWarning, RasterError, StorageError
from terramorph.geo import Cover, Grid
from terramorph.raster import Raster, TileSource, read_image, write_image
from terramorph.sources import open_source
from terramorph.translate import Model
from terramorph.translate.outputs import Kind
from terramorph.translate.parts import Parts
from terramorph.translate.plan import work_grid

from ..processes import exit_code
from .conftest import make_bundle

UTM = CRS("EPSG:32633")
PLACE = Affine(1.0, 0.0, 4e5, 0.0, -1.0, 5.8e6)


@pytest.fixture
def ortho(picture, tmp_path: Path) -> Path:
    """300 x 420 px at 1 m, with a hole of no data."""
    pixels = picture(300, 420)
    mask = np.ones((300, 420), np.bool_)
    mask[40:150, 30:200] = False
    write_image(Raster.from_pixels(pixels, Grid(300, 420, PLACE, UTM), mask), tmp_path / "ortho.tif")
    return tmp_path / "ortho.tif"


def bounded() -> Bundle:
    """A network whose receptive field is bounded."""
    bundle = make_bundle("resnet6", norm="batch")
    assert bundle.header.halo is not None
    return bundle


def made(path: Path) -> Raster:
    return read_image(path)


def test_a_small_raster_is_what_translate_gives(bundle: Bundle, ortho: Path, tmp_path: Path) -> None:
    translator = Model(bundle, precision="fp32")
    translator.translate_to(ortho, tmp_path / "map.tif")
    expected, got = translator.translate(ortho), made(tmp_path / "map.tif")
    assert np.array_equal(got.pixels[:, got.mask], expected.pixels[:, expected.mask])
    assert np.array_equal(got.mask, expected.mask)
    assert got.grid == expected.grid
    assert not list(tmp_path.glob(".map*"))


def test_a_raster_that_is_stored_south_up_is_seen_with_north_up(bundle: Bundle, ortho: Path, tmp_path: Path) -> None:
    image, translator = read_image(ortho), Model(bundle, precision="fp32")
    south_up = Grid(300, 420, PLACE @ Affine.translation(0, 300) @ Affine.scale(1, -1), UTM)
    flipped = Raster(image.pixels[:, ::-1].copy(), image.mask[::-1].copy(), south_up, image.bands)
    expected = translator.translate(ortho)
    flipped.save(tmp_path / "flipped.tif")
    for source in (flipped, tmp_path / "flipped.tif"):
        got = translator.translate(source)
        assert got.grid == expected.grid
        assert np.array_equal(got.mask, expected.mask)
        assert np.array_equal(got.pixels, expected.pixels)
    back = translator.translate(flipped, match_source=True)
    assert back.grid == south_up
    assert np.array_equal(back.pixels, expected.pixels[:, ::-1])


def test_bounded_networks_do_not_see_the_windows(ortho: Path, tmp_path: Path, monkeypatch) -> None:
    translator = Model(bounded(), precision="fp32")
    halo = translator.header.halo
    assert halo is not None
    whole = translator.translate(ortho)
    for number, (window, offset) in enumerate(
        ((4 * halo, (0, 0)), (4 * halo + 40, (12, 28)), (6 * halo, (0, 0))),
    ):
        monkeypatch.setattr("terramorph.translate.plan.Cover", partial(Cover, offset=offset))
        translator.translate_to(ortho, tmp_path / f"{number}.tif", window=window)
        got = made(tmp_path / f"{number}.tif")
        # The same numbers added up in another order: a level where one lay at a half.
        off = np.abs(got.pixels.astype(int) - whole.pixels)[:, got.mask]
        assert off.max() <= 1
        assert (off > 0).mean() < 1e-3


def test_blended_windows_agree_with_another_tiling(ortho: Path, tmp_path: Path, monkeypatch) -> None:
    translator = Model(make_bundle(gain=0.02), precision="fp32")
    results = []
    for number, offset in enumerate(((0, 0), (64, 64))):
        monkeypatch.setattr("terramorph.translate.plan.Cover", partial(Cover, offset=offset))
        translator.translate_to(ortho, tmp_path / f"{number}.tif", window=192, overlap=64)
        results.append(made(tmp_path / f"{number}.tif"))
    assert np.array_equal(results[0].mask, results[1].mask)
    off = np.abs(results[0].pixels.astype(int) - results[1].pixels)[:, results[0].mask]
    assert 0 < off.mean() < 4


def test_empty_windows_cost_nothing(bundle: Bundle, ortho: Path, tmp_path: Path, monkeypatch) -> None:
    seen = []
    translator = Model(bundle, precision="fp32")
    run = translator.predict
    monkeypatch.setattr(translator, "predict", lambda r, *how: seen.append(r[0].grid) or run(r, *how))
    corner = box(400000, 5799936, 400064, 5800000, UTM)
    options = {"window": 128, "overlap": 32, "area": corner}
    translator.translate_to(ortho, tmp_path / "map.tif", **options)
    assert len(seen) == 1
    got = made(tmp_path / "map.tif")
    assert got.mask[:40, :64].all()
    assert not got.mask[64:].any()
    assert not got.mask[:, 64:].any()


@pytest.mark.parametrize("folder", [False, True])
def test_an_output_without_data_is_said(bundle: Bundle, picture, tmp_path: Path, folder: bool) -> None:
    """Of a raster, and of images in a folder; a raster's area may be what has no data."""
    (tmp_path / "in").mkdir()
    nothing, grid = np.zeros((96, 128), np.bool_), Grid(96, 128, PLACE, UTM)
    write_image(Raster.from_pixels(picture(96, 128), grid, nothing), tmp_path / "in" / "a.tif")
    given, out = (tmp_path / "in", tmp_path / "out") if folder else (tmp_path / "in" / "a.tif", tmp_path / "a.tif")
    with pytest.warns(InputWarning, match=r"a\.tif has no pixel with data, and so .*a\.tif has none"):
        Model(bundle, precision="fp32").translate_to(given, out)
    assert not made(out / "a.tif" if folder else out).mask.any()


SCRIPT = """
    import os, signal, sys
    from terramorph.translate import load
    def progress(step, done, total):
        if step == sys.argv[4] and done >= int(sys.argv[5]):
            os.kill(os.getpid(), signal.SIGKILL)
    translator = load(sys.argv[1], precision="fp32")
    translator.translate_to(sys.argv[2], sys.argv[3], window=128, overlap=32, progress=progress)
"""


@pytest.mark.kills
def test_kill_and_go_on_gives_the_same_pixels(bundle: Bundle, ortho: Path, tmp_path: Path, monkeypatch) -> None:
    bundle.save(tmp_path / "model.safetensors")
    from terramorph.translate import load

    translator = load(tmp_path / "model.safetensors", precision="fp32")
    translator.translate_to(ortho, tmp_path / "whole.tif", window=128, overlap=32)
    target = tmp_path / "killed.tif"
    for step, at in (("translating", 2), ("translating", 5), ("joining", 0), ("writing", 0)):
        words = (tmp_path / "model.safetensors", ortho, target, step, at)
        assert exit_code(SCRIPT, *words) == -signal.SIGKILL
        assert not target.exists()
    seen = []
    run = translator.predict
    monkeypatch.setattr(translator, "predict", lambda r, *how: seen.append(r[0].grid) or run(r, *how))
    translator.translate_to(ortho, target, window=128, overlap=32)
    assert not seen  # all was done before the last kills
    assert np.array_equal(made(target).pixels, made(tmp_path / "whole.tif").pixels)
    assert not (tmp_path / ".killed.tif.parts").exists()


def test_a_full_disk_is_a_sentence_and_the_same_call_goes_on(
    bundle: Bundle, ortho: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    translator, options = Model(bundle, precision="fp32"), {"window": 128, "overlap": 32}
    translator.translate_to(ortho, tmp_path / "whole.tif", **options)
    room = iter(range(8))

    def full(file: int) -> None:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as little:
        little.setattr("terramorph.atomic.os.fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            translator.translate_to(ortho, tmp_path / "map.tif", **options)
    assert not (tmp_path / "map.tif").exists()
    told: list[int] = []
    translator.translate_to(
        ortho,
        tmp_path / "map.tif",
        **options,
        progress=lambda step, done, _: told.append(done) if step == "translating" else None,
    )
    assert told[0] >= 5
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def stop(step: str, done: int, total: int) -> None:
    if step == "joining":
        raise KeyboardInterrupt


def test_another_plan_is_refused_and_a_damaged_part_is_made_again(bundle: Bundle, ortho: Path, tmp_path: Path) -> None:
    translator = Model(bundle, precision="fp32")
    options = {"window": 128, "overlap": 32}
    with pytest.raises(KeyboardInterrupt):
        translator.translate_to(ortho, tmp_path / "map.tif", **options, progress=stop)
    folder = tmp_path / ".map.tif.parts"
    damaged = folder / "000003.npy"
    damaged.write_bytes(damaged.read_bytes()[:500])
    with pytest.raises(InputError, match=r"000003\.npy was damaged .* run the same again"):
        translator.translate_to(ortho, tmp_path / "map.tif", **options)
    translator.translate_to(ortho, tmp_path / "map.tif", **options)
    with pytest.raises(KeyboardInterrupt):
        translator.translate_to(ortho, tmp_path / "map.tif", **options, overwrite=True, progress=stop)
    other = {"window": 192, "overlap": 32}
    with pytest.raises(InputError, match=r"parts of an unfinished translation with another cover; .* `restart`"):
        translator.translate_to(ortho, tmp_path / "map.tif", **other)
    assert Parts(tmp_path / "map.tif", {}, restart=True).done() == set()


@pytest.mark.parametrize("kind", ["cog", "mbtiles", "pmtiles"])
def test_what_is_there_is_replaced_only_if_that_is_allowed(
    bundle: Bundle, ortho: Path, tmp_path: Path, kind: Kind
) -> None:
    translator, out = Model(bundle, precision="fp32"), tmp_path / f"map.{'tif' if kind == 'cog' else kind}"
    out.write_bytes(b"the work of weeks")
    options = {"kind": kind, "window": 128, "overlap": 32}

    told: list[str] = []
    with pytest.raises(InputError, match=rf"{out.name} would be replaced; .*overwrite"):
        translator.translate_to(ortho, out, **options, progress=lambda step, done, total: told.append(step))
    assert told == []
    assert [path.read_bytes() for path in tmp_path.glob("*map*")] == [b"the work of weeks"]
    allowed = {**options, "overwrite": True}
    with pytest.raises(KeyboardInterrupt):
        translator.translate_to(ortho, out, **allowed, progress=stop)
    assert out.read_bytes() == b"the work of weeks"
    translator.translate_to(ortho, out, **options)  # it was allowed when this was begun
    with open_source(out) as source:
        assert source.read(source.grid).mask.any()


def test_an_uncertainty_that_is_there_is_not_replaced(bundle: Bundle, ortho: Path, tmp_path: Path) -> None:
    (tmp_path / "std.tif").write_bytes(b"the work of weeks")
    options = {"samples": 2, "uncertainty": tmp_path / "std.tif"}
    with pytest.raises(InputError, match=r"std\.tif would be replaced"):
        Model(bundle, mode="paper").translate_to(ortho, tmp_path / "map.tif", **options)


def test_scale_is_brought_to_the_models_or_refused(ortho: Path, picture, tmp_path: Path) -> None:
    bundle = make_bundle(header={"ground_resolution": 1.25})
    translator = Model(bundle, precision="fp32")
    translator.translate_to(ortho, tmp_path / "coarse.tif")
    got = made(tmp_path / "coarse.tif")
    assert got.grid.resolution == pytest.approx((1.25, 1.25))
    assert got.grid.crs == UTM
    translator.translate_to(ortho, tmp_path / "back.tif", match_source=True)
    back, own = made(tmp_path / "back.tif"), read_image(ortho)
    assert back.grid == own.grid
    assert not back.mask[~own.mask].any()
    lost = own.mask & ~back.mask
    assert lost.sum() < 3 * 2 * (300 + 420 + 110 + 170)  # at most three pixels along every border
    inner = np.asarray(Image.fromarray(np.pad(own.mask, 3)).filter(ImageFilter.MinFilter(7)))[3:-3, 3:-3]
    assert back.mask[inner].all()

    far = Model(make_bundle(header={"ground_resolution": 2.0}), precision="fp32")
    with pytest.raises(InputError, match=r"is 1 m and the model .* 2 m; translate it at resolution 2"):
        far.translate_to(ortho, tmp_path / "no.tif")
    far.translate_to(ortho, tmp_path / "two.tif", resolution=2.0)
    assert made(tmp_path / "two.tif").grid.resolution == pytest.approx((2.0, 2.0))

    write_image(Raster.from_pixels(picture(80, 80)), tmp_path / "plain.tif")
    with pytest.raises(InputError, match="no place on Earth"):
        far.translate_to(tmp_path / "plain.tif", tmp_path / "no.tif", resolution=2.0)
    four = Raster.from_pixels(picture(80, 80, bands=4), Grid(80, 80, PLACE, UTM))
    write_image(four, tmp_path / "four.tif")
    with pytest.raises(InputError, match="4 bands and the model takes 3"):
        translator.translate_to(tmp_path / "four.tif", tmp_path / "no.tif")
    assert not (tmp_path / "no.tif").exists()


def test_tiles_come_out_on_the_worlds_grid(bundle: Bundle, ortho: Path, tmp_path: Path) -> None:
    translator = Model(bundle, precision="fp32")
    translator.translate_to(ortho, tmp_path / "map.tif")
    for kind in ("mbtiles", "pmtiles", "xyz"):
        out = tmp_path / f"map.{kind}"
        translator.translate_to(ortho, out, kind=kind)
        with open_source(out) as tiles, open_source(tmp_path / "map.tif") as whole:
            assert isinstance(tiles, TileSource)
            grid = tiles.grid
            shown, expected = tiles.read(grid), whole.read(grid)
            both = shown.mask & expected.mask
            assert both.sum() > 0.95 * expected.mask.sum()
            assert np.abs(shown.pixels.astype(int) - expected.pixels)[:, both].max() <= 1
        assert not list(tmp_path.glob(f".map.{kind}*"))


def test_the_spread_of_draws(ortho: Path, tmp_path: Path) -> None:
    bundle = make_bundle(header={"mode": "paper"})
    translator = Model(bundle, mode="paper", precision="fp32")
    options = {"samples": 3, "uncertainty": tmp_path / "std.tif"}
    translator.translate_to(ortho, tmp_path / "map.tif", **options)
    draws = [translator.translate(ortho, sample=number) for number in range(3)]
    raster = read_image(ortho)
    stack = np.stack([(translator.predict([raster], number)[0] + 1.0) * 127.5 for number in range(3)])
    spread = made(tmp_path / "std.tif")
    assert spread.dtype == np.float32
    expected = stack.std(axis=0, ddof=1).mean(axis=0)
    assert np.allclose(spread.pixels[0][spread.mask], expected[spread.mask], atol=1e-3)
    assert np.array_equal(made(tmp_path / "map.tif").pixels[:, spread.mask], draws[0].pixels[:, spread.mask])
    back = {"samples": 2, "uncertainty": tmp_path / "back-std.tif", "resolution": 2.0, "match_source": True}
    translator.translate_to(ortho, tmp_path / "back.tif", **back)
    image, beside = made(tmp_path / "back.tif"), made(tmp_path / "back-std.tif")
    assert image.grid == beside.grid == raster.grid
    assert np.array_equal(image.mask, beside.mask)
    assert 0.5 < beside.pixels[0][beside.mask].mean() / spread.pixels[0][spread.mask].mean() < 2
    assert beside.pixels.min() >= 0
    with pytest.raises(ConfigError, match="`uncertainty` needs `samples` >= 2"):
        translator.translate_to(ortho, tmp_path / "no.tif", uncertainty=tmp_path / "std.tif")
    with pytest.raises(ConfigError, match="would be equal"):
        Model(bundle, mode="raster").translate_to(ortho, tmp_path / "no.tif", **options)


def test_the_output_says_where_it_is_from(bundle: Bundle, ortho: Path, tmp_path: Path) -> None:
    noted = replace(bundle, header=bundle.header.model_copy(update={"note": "Research only."}))
    Model(noted, precision="fp32").translate_to(ortho, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        tags = file.tags()
        assert tags["TERRAMORPH_SOURCE"].endswith("ortho.tif")
        assert "unet64" in tags["TERRAMORPH_BUNDLE"]
        assert tags["TERRAMORPH_BUNDLE_NOTE"] == "Research only."
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.colorinterp[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def test_instance_norm_is_warned_of(ortho: Path, tmp_path: Path) -> None:
    model = Model(make_bundle(norm="instance"), precision="fp32")
    with pytest.warns(InputWarning, match="instance norm"):
        model.translate_to(ortho, tmp_path / "map.tif", window=128, overlap=32)
    model.translate_to(ortho, tmp_path / "one.tif")


def test_a_place_without_crs_is_told(bundle: Bundle, picture, tmp_path: Path) -> None:
    write_image(Raster.from_pixels(picture(64, 80)), tmp_path / "in.png")
    (tmp_path / "in.pgw").write_text("1\n0\n0\n-1\n392000.5\n5819999.5\n")
    for name in ("out.png", "out.tif", "folder"):
        with pytest.warns(InputWarning, match=r"in\.png has a place but no CRS"):
            Model(bundle).translate_to(tmp_path / "in.png", tmp_path / name)


def test_unreadable_blocks_are_named_and_gone_on_from(bundle: Bundle, ortho: Path, tmp_path: Path) -> None:
    whole = ortho.read_bytes()
    translator = Model(bundle, precision="fp32")
    ortho.write_bytes(whole[: len(whole) // 2])
    with pytest.raises((InputError, StorageError), match=r"ortho\.tif"):
        translator.translate_to(ortho, tmp_path / "map.tif", window=128, overlap=32)
    assert not (tmp_path / "map.tif").exists()
    ortho.write_bytes(whole)
    translator.translate_to(ortho, tmp_path / "map.tif", window=128, overlap=32)
    assert made(tmp_path / "map.tif").mask.any()


def test_what_could_not_be_written_is_refused_before_the_first_window(
    bundle: Bundle, ortho: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    translator = Model(bundle, precision="fp32")
    monkeypatch.setattr(translator, "predict", lambda *_: pytest.fail("a window was computed"))
    whole = ortho.read_bytes()
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles" / "notes.txt").touch()
    plain = tmp_path / "plain.png"
    write_image(Raster.from_pixels(read_image(ortho).pixels), plain)
    (tmp_path / "link.tif").symlink_to(ortho)
    pole = Grid(64, 64, Affine(10, 0, -320, 0, -10, 320), CRS("EPSG:3031"))
    write_image(Raster.from_pixels(np.full((3, 64, 64), 90, np.uint8), pole), tmp_path / "pole.tif")
    for source, output, options, sentence in (
        (ortho, ortho, {}, r"ortho\.tif would replace the source"),
        (tmp_path / "link.tif", ortho, {}, r"ortho\.tif would replace the source"),
        (ortho, "map.png", {"kind": "cog"}, r"GeoTIFF must be named \.tif, got .*map\.png"),
        (ortho, "map.jpg", {}, r"a JPEG cannot hold pixels without data; use \.tif"),
        (ortho, "map.pmtiles", {"match_source": True}, "leave `match_source` out"),
        (tmp_path / "pole.tif", "map.pmtiles", {}, r"pole\.tif lies nowhere on web maps, which end at 85 degrees"),
        (ortho, "map.tif", {"skip_bad": True}, "`skip_bad` and `suffix` need a folder of images"),
        (ortho, "drawn", {"area": box(0, 0, 1, 1, UTM)}, "drawn is a folder of images, each translated whole"),
        (ortho, "map.tif", {"kind": "pmtiles"}, r"archive of tiles must be named \.pmtiles, got .*map\.tif"),
        (ortho, "map.pmtiles", {"kind": "mbtiles"}, r"archive of tiles must be named \.mbtiles"),
        (ortho, "map.tif", {"kind": "xyz"}, r"A folder of tiles must not be named \.tif"),
        (ortho, "tiles", {"kind": "xyz"}, "tiles exists and is not empty"),
        (plain, "map.pmtiles", {"kind": "pmtiles"}, r"plain\.png has no CRS"),
    ):
        with pytest.raises((InputError, RasterError), match=sentence):
            translator.translate_to(source, tmp_path / output, **options)
    noisy = Model(make_bundle(dropout=0.5), precision="fp32", mode="paper")
    monkeypatch.setattr(noisy, "predict", lambda *_: pytest.fail("a window was computed"))
    for spread, sentence in (
        ("map.tif", "must be two files, got .* for both"),
        ("std.png", r"got .*std\.png"),
    ):
        with pytest.raises(InputError, match=sentence):
            noisy.translate_to(ortho, tmp_path / "map.tif", samples=2, uncertainty=tmp_path / spread)
    assert ortho.read_bytes() == whole
    assert not list(tmp_path.glob(".*.parts"))


def test_the_output_of_an_area_is_no_larger_than_it(bundle: Bundle, ortho: Path, tmp_path: Path) -> None:
    translator = Model(bundle, precision="fp32")
    area = box(400200, 5799800, 400300, 5799900, UTM)
    translator.translate_to(ortho, tmp_path / "whole.tif", window=320)
    translator.translate_to(ortho, tmp_path / "part.tif", area=area, match_source=True)
    part, own = made(tmp_path / "part.tif"), read_image(ortho).grid
    assert part.grid == own.crop(64, 192, 136, 108)  # from a multiple of the stride on
    assert part.mask.sum() == 100 * 100
    assert part.mask[36:, 8:].all()


def test_pixels_that_are_not_square_are_warped(bundle: Bundle, picture, tmp_path: Path) -> None:
    translator = Model(bundle, precision="fp32")
    grid = Grid(200, 300, Affine(1.0, 0.0, 4e5, 0.0, -2.0, 5.8e6), UTM)
    degrees = Grid(200, 300, Affine(1e-5, 0.0, 15.0, 0.0, -1e-5, 60.0), CRS("EPSG:4326"))
    mirrored = Grid(200, 300, Affine(1.0, 0.0, 4e5, 0.0, 1.0, 5.8e6), UTM)
    for number, (own, square) in enumerate(
        ((grid, False), (degrees, False), (mirrored, False), (Grid(300, 420, PLACE, UTM), True))
    ):
        assert own.is_square is square
        path = tmp_path / f"{number}.tif"
        write_image(Raster.from_pixels(picture(own.height, own.width), own), path)
        translator.translate_to(path, tmp_path / f"made{number}.tif")
        got = made(tmp_path / f"made{number}.tif").grid
        assert got.is_square
        assert (got == own) is square
        assert got.ground_resolution == pytest.approx(own.ground_resolution, rel=0.01)


def test_grids_out_of_all_reason_are_refused(bundle: Bundle, ortho: Path, tmp_path: Path) -> None:
    translator = Model(bundle, precision="fp32", any_resolution=True)
    with pytest.raises(InputError, match=r"is 1 m, and nothing is to be seen at 0\.001 m; give a coarser resolution"):
        translator.translate_to(ortho, tmp_path / "no.tif", resolution=0.001)
    world = Grid(2**24, 2**24, Affine(2.0, 0.0, 0.0, 0.0, -2.0, 0.0), UTM)
    with open_source(ortho) as source:
        source.grid = world  # type: ignore[misc]
        with pytest.raises(InputError, match=r"16,777,216 x 16,777,216 pixels; .* area"):
            work_grid(source, translator, None)
