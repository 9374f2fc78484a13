"""What may go wrong with the cache: nodata, pairs of several kinds, damaged and abandoned entries."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from odc.geo.crs import CRS
from PIL import Image

from terramorph.bands import Units
from terramorph.data import DecodedPairs, decode
from terramorph.errors import DatasetError, InputWarning
from terramorph.pairs import open_pairs
from terramorph.raster import Raster, write_image


def _side(path: Path, pixels: np.ndarray, mask: np.ndarray | None = None, bands: tuple[str, ...] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(Raster.from_pixels(pixels, mask=mask, bands=bands), path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_nodata_does_not_reach_its_neighbours_or_the_range(tmp_path: Path, dtype: str) -> None:
    holes = [np.ones((40, 40), bool) for _ in "AB"]
    holes[0][:, :10], holes[1][30:] = False, False
    for side, mask in zip("AB", holes, strict=True):
        pixels = np.full((2, 40, 40), 150, dtype)
        pixels[:, ~mask] = 0 if side == "A" else 255
        _side(tmp_path / "train" / side / "x.tif", pixels, mask)
    pairs = decode(open_pairs(tmp_path, "train"), size=26, cache=tmp_path / "cache")
    assert pairs.masks is not None
    assert not pairs.masks[0][:, :6].any()
    assert not pairs.masks[0][20:].any()
    assert pairs.masks[0][:18, 9:].all()
    for side in (pairs.a, pairs.b):
        assert (side.images[0] == 150).all(), "valid pixels and the fill alike"
        assert (side.limits, side.robust) == ((150, 150), (150, 150))


def test_values_that_are_not_finite_are_refused_outside_the_mask_only(tmp_path: Path) -> None:
    pixels = np.ones((1, 16, 16), np.float32)
    pixels[0, 3, 3] = np.nan
    for side in "AB":
        _side(tmp_path / "train" / side / "x.tif", pixels)
    pairs = decode(open_pairs(tmp_path, "train"), size=16, cache=tmp_path / "cache")
    assert pairs.masks is not None
    assert np.argwhere(pairs.masks[0] == 0).tolist() == [[3, 3]]


@pytest.fixture
def one_grey_first(tmp_path: Path) -> Path:
    """0.png is grey, 1 to 3 are in colour."""
    rng = np.random.default_rng(0)
    (tmp_path / "set" / "train").mkdir(parents=True)
    for i in range(4):
        pixels = rng.integers(0, 256, (32, 64) if i == 0 else (32, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / "train" / f"{i}.png")
    return tmp_path / "set"


def test_the_kind_of_most_pairs_is_kept(one_grey_first: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"1\.png holds 3 bands of uint8 .* while the pairs before it hold 1 band of"
    ):
        decode(open_pairs(one_grey_first, "train"), size=16, cache=tmp_path / "cache")
    (one_grey_first / "train" / "1.png").write_bytes(b"no image at all")
    pairs = decode(open_pairs(one_grey_first, "train"), size=16, cache=tmp_path / "cache", skip_bad=True)
    assert pairs.ids == ("2", "3")
    assert len(pairs.skipped) == 2
    assert "0.png holds 1 band of uint8" in pairs.skipped[0]
    assert "most pairs hold 3 bands" in pairs.skipped[0]


def test_the_kind_of_most_twins_is_kept(tmp_path: Path) -> None:
    for i in range(3):
        _side(tmp_path / "set" / "train" / "A" / f"{i}.tif", np.ones((1 if i else 2, 16, 16), np.uint16))
        _side(tmp_path / "set" / "train" / "B" / f"{i}.png", np.ones((3, 16, 16), np.uint8))
    pairs = decode(open_pairs(tmp_path / "set", "train", skip_bad=True), size=16, cache=tmp_path / "c", skip_bad=True)
    assert pairs.ids == ("1", "2")
    assert (pairs.a.dtype, pairs.b.dtype) == ("uint16", "uint8")


def test_band_names_are_no_part_of_the_kind(tmp_path: Path) -> None:
    for i, names in enumerate((("vv", "vh"), ("VV", "VH"), ("hh", "hv"))):
        _side(tmp_path / "set" / "train" / "A" / f"{i}.tif", np.ones((2, 16, 16), np.uint16), bands=names)
        _side(tmp_path / "set" / "train" / "B" / f"{i}.tif", np.ones((1, 16, 16), np.uint16), bands=("height",))
    pairs = decode(open_pairs(tmp_path / "set", "train"), size=16, cache=tmp_path / "cache")
    assert len(pairs) == 3
    assert (pairs.a.bands, pairs.b.bands) == (("band1", "band2"), ("height",))


def test_every_pair_has_the_bands_and_units_of_the_first(tmp_path: Path) -> None:
    pixels = np.arange(3 * 16 * 16, dtype=np.uint16).reshape(3, 16, 16)
    sides = [
        Raster.from_pixels(pixels, bands=("red", "nir", "blue")),
        Raster.from_pixels(pixels[::-1] + np.uint16(1000), bands=("Blue", "NIR", "Red")),
    ]
    for i, (side, offset) in enumerate(zip(sides, (0.0, -0.1), strict=True)):
        for name in "AB":
            (tmp_path / "set" / "train" / name).mkdir(parents=True, exist_ok=True)
            held = replace(side, units=Units((1e-4,) * 3, (offset,) * 3))
            write_image(held, tmp_path / "set" / "train" / name / f"{i}.tif")
    pairs = decode(open_pairs(tmp_path / "set", "train"), size=16, cache=tmp_path / "cache")
    assert (pairs.a.bands, pairs.a.units) == (("red", "nir", "blue"), Units((1e-4,) * 3, (0.0,) * 3))
    assert np.array_equal(pairs.a.images[0], pairs.a.images[1])
    assert pairs.a.limits == (0, 767)
    second = decode(open_pairs(tmp_path / "set", "train").only([1], []), size=16, cache=tmp_path / "cache")
    assert second.a.bands == ("Blue", "NIR", "Red")
    assert np.array_equal(second.a.like(pairs.a)[0], pairs.a.images[0]), "another split is brought to the first"
    for name in "AB":
        write_image(sides[0], tmp_path / "set" / "train" / name / "1.tif")
    with pytest.warns(InputWarning, match="only some say scale and offset"):
        decode(open_pairs(tmp_path / "set", "train"), size=16, cache=tmp_path / "cache")


def test_undeclared_nodata_is_told_where_a_range_is_measured_and_can_be_named(tmp_path: Path) -> None:
    pixels = np.linspace(100, 300, 400, dtype=np.float32).reshape(1, 20, 20)
    pixels[0, :2] = -9999
    for side in "AB":
        _side(tmp_path / "train" / side / "x.tif", pixels)
    pairs = decode(open_pairs(tmp_path, "train"), size=26, cache=tmp_path / "cache")
    with pytest.warns(InputWarning, match="-9999"):
        pairs.a.scaling()
    assert pairs.a.scaling((0, 300)).low == 0, "who gives a range knows it"
    named = decode(open_pairs(tmp_path, "train", nodata=-9999), size=26, cache=tmp_path / "cache")
    assert named.a.scaling().low > 100
    assert named.masks is not None
    assert not named.masks[0][:2].any()


def _only_entry(cache: Path) -> Path:
    (entry,) = (path for path in cache.iterdir() if path.suffix != ".lock")
    return entry


def _same(one: DecodedPairs, other: DecodedPairs) -> bool:
    images = (zip(x.images, y.images, strict=True) for x, y in ((one.a, other.a), (one.b, other.b)))
    return one.ids == other.ids and all(np.array_equal(x, y) for side in images for x, y in side)


@pytest.mark.parametrize("damage", ["cut", "gone", "index cut", "index gone", "index nonsense"])
def test_a_damaged_entry_is_built_again(town_pairs: Path, tmp_path: Path, damage: str) -> None:
    pairs = open_pairs(town_pairs, "val")
    whole = decode(pairs, size=32, cache=tmp_path / "whole")
    decode(pairs, size=32, cache=tmp_path / "cache")
    entry = _only_entry(tmp_path / "cache")
    if damage == "cut":
        os.truncate(entry / "b.bin", 1000)
    elif damage == "gone":
        (entry / "a.bin").unlink()
    elif damage == "index cut":
        (entry / "index.json").write_text((entry / "index.json").read_text()[:50])
    elif damage == "index gone":
        (entry / "index.json").unlink()
    else:
        (entry / "index.json").write_text('{"shapes": 7}\\n0')
    calls: list[int] = []
    assert _same(decode(pairs, size=32, cache=tmp_path / "cache", progress=lambda done, _: calls.append(done)), whole)
    assert calls == [1, 2, 3, 4]
    calls.clear()
    assert _same(decode(pairs, size=32, cache=tmp_path / "cache", progress=lambda done, _: calls.append(done)), whole)
    assert calls == []
    assert _only_entry(tmp_path / "cache") == entry


def test_a_place_that_changes_names_another_entry(town_pairs: Path, tmp_path: Path) -> None:
    file = tmp_path / "set" / "val" / "x.png"
    file.parent.mkdir(parents=True)
    shutil.copy(min((town_pairs / "val").glob("*.png")), file)
    file.with_suffix(".prj").write_text(CRS("EPSG:32633").to_wkt())
    for step in (1.0, 2.0):
        file.with_suffix(".pgw").write_text(f"{step} 0 0 {-step} 500000 4000000")
        pairs = decode(open_pairs(tmp_path / "set", "val"), size=64, cache=tmp_path / "cache")
        assert pairs.ground_resolution == pytest.approx(2 * step, rel=1e-3)


def _decode_in_process(root: Path, cache: Path) -> None:
    decode(open_pairs(root, "train"), size=64, cache=cache)


def _decode_at_once(processes: int, root: Path, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_decode_in_process, args=(root, cache)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * processes


def test_two_processes_build_the_same_entry(town_pairs: Path, tmp_path: Path) -> None:
    _decode_at_once(2, town_pairs, tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_processes_that_meet_a_damaged_entry_agree(town_pairs: Path, tmp_path: Path) -> None:
    _decode_in_process(town_pairs, tmp_path)
    entry = _only_entry(tmp_path)
    os.truncate(entry / "a.bin", 10)
    _decode_at_once(3, town_pairs, tmp_path)
    assert _only_entry(tmp_path) == entry
