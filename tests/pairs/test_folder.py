"""Folders of pairs: the layouts, and what is wrong with bad ones."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image

from terramorph.data import decode
from terramorph.errors import DatasetError, InputWarning
from terramorph.geo import Grid
from terramorph.pairs import open_pairs
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


def test_images_of_one_side_are_no_pairs_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in "ab":
        Image.new("RGB", (64, 64)).save(tmp_path / "train" / f"{name}.png")
    with pytest.warns(InputWarning, match=r"a\.png of 64 x 64 px has halves of 32 x 64 px. If they show one side"):
        assert len(open_pairs(tmp_path, "train")) == 2


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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text_is_named_and_can_be_skipped(tmp_path: Path) -> None:
    _picture(tmp_path / "train" / "1.png")
    _picture(tmp_path / "train" / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(DatasetError, match=r"caf\\udce9\.png' is not UTF-8; rename it"):
        open_pairs(tmp_path, "train")
    assert open_pairs(tmp_path, "train", skip_bad=True).ids == ("1",)


def test_what_drives_and_desktops_leave_is_no_pair(tmp_path: Path) -> None:
    _picture(tmp_path / "train" / "1.png")
    for litter in ("@eaDir/1.png/SYNOFILE_THUMB_M.png", "__MACOSX/1.png", "$RECYCLE.BIN/2.png", ".x/3.png", "._1.png"):
        _picture(tmp_path / "train" / litter)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "train" / "pipe.png")
    assert open_pairs(tmp_path, "train").ids == ("1",)


def test_an_accent_as_a_letter_of_its_own_makes_no_other_name(tmp_path: Path) -> None:
    for side, form in (("A", "NFC"), ("B", "NFD")):
        _picture(tmp_path / "train" / side / f"{unicodedata.normalize(form, 'Málaga')}.png", 32, 32)
    pairs = open_pairs(tmp_path, "train")
    assert pairs.ids == (unicodedata.normalize("NFC", "Málaga"),)
    assert pairs.read(0).a.width == 32


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
    (tmp_path / ".prepare").mkdir()
    with pytest.raises(DatasetError, match=r"no split 'val'; it holds train\."):
        open_pairs(tmp_path, "val")
    with pytest.raises(DatasetError, match="no dataset folder"):
        open_pairs(tmp_path / "nowhere", "val")


@pytest.mark.parametrize("split", ["", ".", "..", "train/..", "train/"])
def test_a_split_is_one_folder_and_never_all(tmp_path: Path, split: str) -> None:
    for name in ("train", "val"):
        _picture(tmp_path / name / "1.png")
    with pytest.raises(DatasetError, match="has no split"):
        open_pairs(tmp_path, split)


def test_the_fingerprint_follows_content_and_not_place(tmp_path: Path, town_pairs: Path) -> None:
    shutil.copytree(town_pairs, tmp_path / "copy")
    before = open_pairs(town_pairs, "train").fingerprint()
    assert open_pairs(tmp_path / "copy", "train").fingerprint() == before
    first = min((tmp_path / "copy" / "train").glob("*.png"))
    pixels = np.asarray(Image.open(first)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(first)
    assert open_pairs(tmp_path / "copy", "train").fingerprint() != before


def test_the_fingerprint_follows_the_files_beside_an_image(tmp_path: Path) -> None:
    for name in ("x.png", "xx.png"):
        _picture(tmp_path / "train" / name)
    pairs = open_pairs(tmp_path, "train")
    seen = [pairs.fingerprint()]
    for name in ("x.pgw", "x.prj", "x.png.aux.xml", "x.png.msk", "xx.wld", "x.map"):
        (tmp_path / "train" / name).write_text(f"1 0 0 -1 5 5 {name}")
        seen.append(pairs.fingerprint())
    (tmp_path / "train" / "x.pgw").write_text("2 0 0 -2 5 5")
    seen.append(pairs.fingerprint())
    assert len(set(seen)) == len(seen)
    for name in ("x.png.ovr", "notes.txt", "y.pgw"):
        (tmp_path / "train" / name).write_text("of no matter")
        assert pairs.fingerprint() == seen[-1], name
    assert open_pairs(tmp_path, "train").ids == ("x", "xx"), "what lies beside images is no image"


@pytest.mark.parametrize("how", ["dangling", "forbidden"])
def test_an_unreadable_file_is_named_or_skipped(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _picture(tmp_path / "set" / "train" / "1.png")
    bad = tmp_path / "set" / "train" / "2.png"
    if how == "dangling":
        bad.symlink_to(tmp_path / "gone.png")
    else:  # permissions do not stop root, so the refusal is played
        _picture(bad)
        for name in ("open", "read_bytes"):
            real = getattr(Path, name)

            def refuse(self: Path, *args: object, real: object = real, **kwargs: object) -> object:
                if self.name == bad.name:
                    raise PermissionError(13, "Permission denied", str(self))
                return real(self, *args, **kwargs)  # type: ignore[operator]

            monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(DatasetError, match=r"2\.png"):
        decode(open_pairs(tmp_path / "set", "train"), size=16, cache=tmp_path / "cache")
    found = open_pairs(tmp_path / "set", "train", skip_bad=True)
    decoded = decode(found, size=16, cache=tmp_path / "cache", skip_bad=True)
    assert decoded.ids == ("1",)
    assert "2.png" in decoded.skipped[0]


def _twins(root: Path, a: Grid | None, b: Grid | None) -> Path:
    for side, grid in (("A", a), ("B", b)):
        (root / "train" / side).mkdir(parents=True)
        write_image(Raster.from_pixels(np.zeros((3, 32, 32), np.uint8), grid), root / "train" / side / "x.tif")
    return root


def _grid(x: float = 500_000.0, epsg: int = 32633, step: float = 2.0) -> Grid:
    return Grid(32, 32, Affine(step, 0, x, 0, -step, 4_000_000), CRS(f"EPSG:{epsg}"))


def test_twins_on_other_ground_name_both(tmp_path: Path) -> None:
    moved = open_pairs(_twins(tmp_path / "moved", _grid(), _grid(500_003.0)), "train")
    with pytest.raises(DatasetError, match=r"A/x\.tif and .*B/x\.tif do not lie on the same ground.* 1\.5 px"):
        moved.read(0)
    coarser = open_pairs(_twins(tmp_path / "coarser", _grid(), _grid(step=2.1)), "train")
    with pytest.raises(DatasetError, match="same ground"):
        coarser.read(0)
    other = open_pairs(_twins(tmp_path / "crs", _grid(), _grid(epsg=32634)), "train")
    with pytest.raises(DatasetError, match=r"A/x\.tif and .*B/x\.tif differ in CRS \(EPSG:32633 and EPSG:32634\)"):
        other.read(0)


def test_twins_share_one_grid(tmp_path: Path) -> None:
    for name, a, b in (
        ("near", _grid(), _grid(500_000.9)),
        ("first", _grid(), None),
        ("second", None, _grid()),
        ("neither", None, None),
    ):
        pair = open_pairs(_twins(tmp_path / name, a, b), "train").read(0)
        wanted = Grid.pixels(32, 32) if name == "neither" else _grid()
        assert pair.a.grid == pair.b.grid == wanted, name


def test_folders_below_the_split_are_read(tmp_path: Path) -> None:
    for number, name in enumerate(("0", "north/0", "north/deep/1", "south/0")):
        _picture(tmp_path / "train" / f"{name}.png", seed=number)
    _picture(tmp_path / "train" / ".cache" / "9.png")
    (tmp_path / "train" / "notes").mkdir()
    (tmp_path / "train" / "notes" / "model.pkl").write_bytes(b"no image")
    pairs = open_pairs(tmp_path, "train")
    assert pairs.ids == ("0", "north/0", "north/deep/1", "south/0")
    contents = {pair.a.pixels.tobytes() for pair in pairs}
    assert len(contents) == 4
    decoded = decode(pairs, size=None, cache=tmp_path / "cache")
    assert decoded.ids == pairs.ids
    (tmp_path / "train" / "south").rename(tmp_path / "train" / "west")
    moved = open_pairs(tmp_path, "train")
    assert moved.fingerprint() != pairs.fingerprint()
    assert decode(moved, size=None, cache=tmp_path / "cache").ids[-1] == "west/0"


@pytest.mark.parametrize(
    "layout", ["val/{side}/{name}", "{side}/val/{name}", "val{side}/{name}", "val/{above}{side}/{stem}"]
)
def test_twins_in_folders_are_matched_by_their_paths(tmp_path: Path, layout: str) -> None:
    for seed, name in enumerate(("x1", "north/x1", "south/x1")):
        above, _, stem = name.rpartition("/")
        for side, suffix in (("A", "jpg"), ("B", "png")):
            path = layout.format(side=side, name=name, above=f"{above}/" if above else "", stem=stem)
            _picture(tmp_path / f"{path}.{suffix}", 32, 32, 2 * seed + (side == "B"))
    pairs = open_pairs(tmp_path, "val")
    assert pairs.ids == ("north/x1", "south/x1", "x1")
    assert [[file.suffix for file in files] for files in pairs.files] == [[".jpg", ".png"]] * 3
    assert len({pairs.read(index).b.pixels.tobytes() for index in range(3)}) == 3
    pairs.files[0][1].unlink()
    with pytest.raises(DatasetError, match=r"north.*x1\.jpg has no twin in .*north"):
        open_pairs(tmp_path, "val")


def test_twins_under_other_names_are_no_pairs(tmp_path: Path) -> None:
    for side in ("images", "maps"):
        for name in "12":
            _picture(tmp_path / "train" / side / f"{name}.png", 32, 32)
    with pytest.raises(DatasetError, match="images of the same names, as twins do; call them A and B"):
        open_pairs(tmp_path, "train")


def test_folders_that_are_links_are_followed_once(tmp_path: Path) -> None:
    _picture(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "train")
    assert open_pairs(tmp_path, "train").ids == ("linked/1",)
