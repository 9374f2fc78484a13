"""Folders of pairs: the layouts, and what is wrong with bad ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terramorph.data import open_pairs
from terramorph.errors import DatasetError
from terramorph.raster import Raster, write_image


def _picture(path: Path, height: int = 32, width: int = 64, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_side_by_side_is_cut_in_halves(tmp_path: Path) -> None:
    whole = np.asarray(Image.open(_picture(tmp_path / "train" / "1.png")))
    pair = open_pairs(tmp_path, "train").read(0)
    assert np.array_equal(pair.a.pixels, whole[:, :32].transpose(2, 0, 1))
    assert np.array_equal(pair.b.pixels, whole[:, 32:].transpose(2, 0, 1))


def test_numbers_sort_as_numbers(tmp_path: Path) -> None:
    for name in ("10", "9", "1"):
        _picture(tmp_path / "train" / f"{name}.png")
    assert open_pairs(tmp_path, "train").ids == ("1", "9", "10")


@pytest.mark.parametrize("layout", ["{split}/{side}", "{side}/{split}", "{split}{side}"])
def test_twins_are_matched_by_name(tmp_path: Path, layout: str) -> None:
    for side, suffix, seed in (("A", "jpg", 1), ("B", "png", 2)):
        _picture(tmp_path / layout.format(split="val", side=side) / f"x.{suffix}", 32, 32, seed)
    pairs = open_pairs(tmp_path, "val")
    assert pairs.ids == ("x",)
    pair = pairs.read(0)
    assert not np.array_equal(pair.a.pixels, pair.b.pixels)


def test_twins_may_differ_in_bands_and_dtype(tmp_path: Path) -> None:
    radar = np.random.default_rng(0).normal(size=(1, 32, 32)).astype(np.float32)
    (tmp_path / "train" / "A").mkdir(parents=True)
    write_image(Raster.from_pixels(radar), tmp_path / "train" / "A" / "x.tif")
    _picture(tmp_path / "train" / "B" / "x.png", 32, 32)
    pair = open_pairs(tmp_path, "train").read(0)
    assert (pair.a.pixels.dtype, pair.a.pixels.shape[0]) == (np.float32, 1)
    assert (pair.b.pixels.dtype, pair.b.pixels.shape[0]) == (np.uint8, 3)


def test_an_odd_width_names_the_file(tmp_path: Path) -> None:
    _picture(tmp_path / "train" / "odd.png", 32, 63)
    with pytest.raises(DatasetError, match=r"odd\.png is 63 px wide"):
        open_pairs(tmp_path, "train").read(0)


def test_twins_of_different_size_name_both(tmp_path: Path) -> None:
    _picture(tmp_path / "train" / "A" / "x.png", 32, 32)
    _picture(tmp_path / "train" / "B" / "x.png", 32, 30)
    with pytest.raises(DatasetError, match=r"A/x\.png and .*B/x\.png differ in size \(32x32 and 30x32"):
        open_pairs(tmp_path, "train").read(0)


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    path = _picture(tmp_path / "train" / "broken.png")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"broken\.png"):
        open_pairs(tmp_path, "train").read(0)


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    _picture(tmp_path / "train" / "1.png")
    (tmp_path / "train" / "notes.docx").write_text("hello")
    with pytest.raises(DatasetError, match=r"notes\.docx is not an image"):
        open_pairs(tmp_path, "train")
    pairs = open_pairs(tmp_path, "train", skip_bad=True)
    assert pairs.ids == ("1",)
    assert len(pairs.skipped) == 1
    assert "notes.docx" in pairs.skipped[0]


def test_a_missing_twin(tmp_path: Path) -> None:
    for side in "AB":
        _picture(tmp_path / "train" / side / "x.png", 32, 32)
    _picture(tmp_path / "train" / "A" / "alone.png", 32, 32)
    with pytest.raises(DatasetError, match=r"alone\.png has no twin"):
        open_pairs(tmp_path, "train")
    assert open_pairs(tmp_path, "train", skip_bad=True).ids == ("x",)


def test_an_empty_and_an_absent_split(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DatasetError, match="holds no pairs"):
        open_pairs(tmp_path, "train")
    with pytest.raises(DatasetError, match="no split 'val'; it holds train"):
        open_pairs(tmp_path, "val")
    with pytest.raises(DatasetError, match="no dataset folder"):
        open_pairs(tmp_path / "nowhere", "val")


def test_the_fingerprint_follows_content_and_not_place(tmp_path: Path, town_pairs: Path) -> None:
    shutil.copytree(town_pairs, tmp_path / "copy")
    before = open_pairs(town_pairs, "train").fingerprint()
    assert open_pairs(tmp_path / "copy", "train").fingerprint() == before
    first = min((tmp_path / "copy" / "train").glob("*.png"))
    pixels = np.asarray(Image.open(first)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(first)
    assert open_pairs(tmp_path / "copy", "train").fingerprint() != before
