"""From two rasters to a dataset: whole, resumed, extended, refused."""

from __future__ import annotations

import os
import shutil
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.crs import CRS
from tests.prepare.planted import plant_labels
from tests.processes import exit_code

from terramorph.cartography import classify
from terramorph.errors import ConfigError, DatasetError, InputError, InputWarning, RasterError
from terramorph.geo import Grid
from terramorph.pairs import load_manifest, open_pairs, write_pairs
from terramorph.pairs.manifest import SPLITS
from terramorph.prepare import Inputs, Opening, Options, Scale, SplitRule, prepare
from terramorph.raster import Raster, ReadOptions, read_image, write_image
from terramorph.town import Town, make_town

ANY = SplitRule(fractions=(0.6, 0.2, 0.2))


@pytest.fixture(scope="module")
def town() -> Town:
    return make_town(size_px=512, seed=5)


@pytest.fixture(scope="module")
def aerial(town: Town) -> Raster:
    return town.aerial()


@pytest.fixture(scope="module")
def drawn(town: Town) -> Raster:
    return town.map()


@pytest.fixture(scope="module")
def sides(aerial: Raster, drawn: Raster, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("sides")
    write_image(aerial, folder / "ortho.tif")
    write_image(drawn, folder / "map.tif")
    return str(folder / "ortho.tif"), str(folder / "map.tif")


def footprints(out: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_parquet(out / "footprints.parquet")


def content(out: Path) -> dict[str, bytes]:
    return {str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*.png"))}


def everything(out: Path) -> dict[str, bytes]:
    return {str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()}


def test_pairs_are_the_pixels_of_both_sides(
    town: Town, aerial: Raster, drawn: Raster, sides: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "ds"
    manifest = prepare(out, [Inputs(*sides)], Options(tile=64, split=ANY))
    seen = 0
    for split in SPLITS:
        folder = open_pairs(out, split)
        assert len(folder) == manifest.counts[split] > 0
        for pair in folder:
            _, y, x = manifest.pairs[split][pair.id]
            assert np.array_equal(pair.a.pixels, aerial.crop(y, x, 64, 64).pixels)
            assert np.array_equal(pair.b.pixels, drawn.crop(y, x, 64, 64).pixels)
            assert pair.a.grid == pair.b.grid == town.grid.crop(y, x, 64, 64)
            seen += 1
    table = footprints(out)
    assert len(table) == 64
    assert table["split"].notna().sum() == seen
    assert table.crs == "EPSG:32633"
    first = table.set_index("id").loc["ortho_01_02"]
    assert shapely.equals(
        shapely.normalize(first.geometry), shapely.normalize(town.grid.crop(0, 64, 64, 64).geobox.extent.geom)
    )
    assert manifest.ground_resolution == pytest.approx(1.0, rel=1e-3)
    assert load_manifest(out) == manifest


@pytest.mark.parametrize("overlap", [0, 24])
def test_no_ground_is_shared_between_splits(sides: tuple[str, str], tmp_path: Path, overlap: int) -> None:
    out = tmp_path / "ds"
    prepare(out, [Inputs(*sides)], Options(tile=64, overlap=overlap, split=replace(ANY, buffer=10.0)))
    table = footprints(out)
    whole = {split: table[table["split"] == split].union_all() for split in SPLITS}
    assert all(not ground.is_empty for ground in whole.values())
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert whole[a].distance(whole[b]) >= 10 - 1e-3


def test_an_area_added_later_shares_no_ground_with_the_first(sides: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "ds"
    options = Options(tile=64, split=ANY)
    prepare(out, [Inputs(*sides, "one")], options)
    before = content(out)
    prepare(out, [Inputs(*sides, "one"), Inputs(*sides, "two")], options)
    assert before.items() <= content(out).items()
    table = footprints(out)
    whole = {split: table[table["split"] == split].union_all() for split in SPLITS}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert whole[a].distance(whole[b]) > 0
    assert (table[table["area"] == "two"]["dropped"] == "buffer").any()


def test_vectors_are_drawn_on_the_source_grid(
    town: Town, aerial: Raster, sides: tuple[str, str], tmp_path: Path
) -> None:
    kinds = ("park", "water", "building")
    chosen = [f for f in town.features if f.kind in kinds]
    frame = geopandas.GeoDataFrame(
        {"kind": [f.kind for f in chosen]}, geometry=[f.geometry for f in chosen], crs="EPSG:32633"
    )
    frame.to_file(tmp_path / "town.gpkg")
    out = tmp_path / "ds"
    prepare(out, [Inputs(sides[0], str(tmp_path / "town.gpkg"))], Options(tile=64, split=ANY))
    pair = open_pairs(out, "train").read(0)
    colours = {tuple(c) for c in pair.b.pixels.reshape(3, -1).T.tolist()}
    assert (242, 241, 235) in colours
    assert np.array_equal(pair.a.pixels, aerial.crop(*pixel_place(out, pair.id), 64, 64).pixels)


def pixel_place(out: Path, pair: str) -> tuple[int, int]:
    row = footprints(out).set_index("id").loc[pair]
    return int(row["y"]), int(row["x"])


def test_deep_images_become_twins(town: Town, aerial: Raster, sides: tuple[str, str], tmp_path: Path) -> None:
    deep = Raster.from_pixels(aerial.pixels[:1].astype(np.uint16) * 37, town.grid)
    write_image(deep, tmp_path / "pan.tif")
    out = tmp_path / "ds"
    manifest = prepare(out, [Inputs(str(tmp_path / "pan.tif"), sides[1])], Options(tile=64, split=ANY))
    assert manifest.areas[0].source.range is not None
    pair = open_pairs(out, "train").read(0)
    y, x = pixel_place(out, pair.id)
    assert pair.a.dtype == np.uint16
    assert np.array_equal(pair.a.pixels, deep.crop(y, x, 64, 64).pixels)
    assert pair.a.grid == town.grid.crop(y, x, 64, 64)


def test_another_crs_is_warped_to_the_source(town: Town, sides: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "ds"
    options = Options(tile=64, scale=Scale(zoom=17), split=ANY, max_nodata=0.0)
    manifest = prepare(out, [Inputs(*sides)], options)
    assert manifest.areas[0].grid.crs == "EPSG:3857"
    assert manifest.ground_resolution == pytest.approx(0.727, abs=0.01)
    table = footprints(out)
    assert (table["dropped"] == "nodata").any()
    assert table[table["split"].notna()]["nodata"].max() == 0


def test_a_planted_shift_is_found_and_taken_back(aerial: Raster, drawn: Raster, tmp_path: Path) -> None:
    moved = Grid(512, 512, drawn.grid.affine @ Affine.translation(4, -3), drawn.grid.crs)
    write_image(aerial, tmp_path / "ortho.tif")
    # The map is filed 4 px too far east and 3 px too far north.
    write_image(Raster.from_pixels(drawn.pixels, moved), tmp_path / "map.tif")
    inputs = Inputs(str(tmp_path / "ortho.tif"), str(tmp_path / "map.tif"))
    rule = Options(tile=128, split=SplitRule(fractions=(1.0, 0.0, 0.0)))
    prepare(tmp_path / "as-is", [inputs], rule)
    table = footprints(tmp_path / "as-is")
    sure = table[table["confidence"] > 0.5]
    assert np.abs(sure["dx"].median() - 4) < 0.5
    assert np.abs(sure["dy"].median() + 3) < 0.5
    assert sure["dx_m"].median() == pytest.approx(sure["dx"].median(), rel=1e-3)
    assert np.abs(table["block_dx"] - 4).max() < 0.5
    manifest = prepare(tmp_path / "registered", [inputs], replace(rule, register=True))
    assert manifest.areas[0].shift == pytest.approx((4, -3), abs=0.5)
    table = footprints(tmp_path / "registered")
    sure = table[table["confidence"] > 0.5]
    assert np.hypot(sure["dx"], sure["dy"]).median() < 0.5


def test_pairs_made_elsewhere_keep_split_and_pixels(town_pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    manifest = prepare(out, [Inputs(str(town_pairs), name="old")])
    assert {k: v for k, v in manifest.counts.items() if k in SPLITS} == {"train": 12, "val": 4}
    for split in ("train", "val"):
        for old, new in zip(open_pairs(town_pairs, split), open_pairs(out, split), strict=True):
            assert new.id == f"old_{split}_{old.id}"
            assert np.array_equal(old.b.pixels, new.b.pixels)
    assert footprints(out)["confidence"].max() > 0.5


def test_pairs_in_folders_keep_their_paths(town_pairs: Path, tmp_path: Path) -> None:
    files = sorted((town_pairs / "train").iterdir())[:3]
    for file, name in zip(files, ("1", "north/1", "south/1"), strict=True):
        into = tmp_path / "pairs" / "train" / f"{name}.png"
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, into)
    manifest = prepare(tmp_path / "ds", [Inputs(str(tmp_path / "pairs"), name="old")])
    made = open_pairs(tmp_path / "ds", "train")
    assert set(made.ids) == set(manifest.pairs["train"]) == {f"old_train_{i}" for i in ("1", "north/1", "south/1")}
    old = open_pairs(tmp_path / "pairs", "train")
    for new in made:
        before = old.read(old.ids.index(new.id.removeprefix("old_train_")))
        assert np.array_equal(before.a.pixels, new.a.pixels)


def test_classes_of_a_folder_stay_classes_as_they_are_moved(aerial: Raster, drawn: Raster, tmp_path: Path) -> None:
    classes = classify(drawn.pixels)[None] * np.uint8(10)
    places = [(y, x) for y in range(8, 300, 136) for x in range(8, 300, 136)]
    given = [(aerial.crop(y, x, 128, 128).pixels, classes[:, y + 3 :, x - 4 :][:, :128, :128]) for y, x in places]
    folder = write_pairs({"train": given}, tmp_path / "pairs")
    with pytest.warns(InputWarning, match="moved by whole pixels"):
        manifest = prepare(tmp_path / "ds", [Inputs(str(folder))], Options(register=True))
    assert manifest.areas[0].shift == pytest.approx((4, -3), abs=0.5)
    assert manifest.areas[0].shift != (4, -3)
    for pair in open_pairs(tmp_path / "ds", "train"):
        assert set(np.unique(pair.b.pixels[:, pair.b.mask])) <= set(np.unique(classes))


def test_pairs_of_several_sizes_beside_a_file_that_is_none(aerial: Raster, drawn: Raster, tmp_path: Path) -> None:
    for number, size in enumerate((48, 128, 128, 48, 64)):
        for side, raster in zip("AB", (aerial, drawn), strict=True):
            file = tmp_path / "pairs" / "train" / side / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_image(Raster.from_pixels(raster.crop(64 * number, 0, size, size).pixels), file)
    (tmp_path / "pairs" / "train" / "B" / "4.png").unlink()
    manifest = prepare(tmp_path / "ds", [Inputs(str(tmp_path / "pairs"))], Options(skip_bad=True))
    assert manifest.counts == {"train": 4, "left out: unreadable": 1}
    notes = footprints(tmp_path / "ds")["note"].dropna()
    assert notes.str.contains(r"4\.png has no twin").tolist() == [True]


def test_options_that_would_do_nothing_for_a_folder_of_pairs_are_refused(town_pairs: Path, tmp_path: Path) -> None:
    wrong = {
        "is a folder of pairs.* leave out `tile`, `bounds`": Options(tile=64, bounds=(1, 1, 2, 2)),
        "is a folder of pairs.* leave out `split.fractions`": Options(split=SplitRule(fractions=(0.0, 0.0, 1.0))),
        "nodata of one side .* is a folder of pairs": Options(opening=Opening(target=ReadOptions(nodata=40))),
    }
    for told, options in wrong.items():
        with pytest.raises(ConfigError, match=told):
            prepare(tmp_path / "ds", [Inputs(str(town_pairs))], options)
    assert prepare(tmp_path / "ds", [Inputs(str(town_pairs))]).counts["train"] == 12


def test_two_areas_never_have_pairs_of_one_id(town_pairs: Path, sides: tuple[str, str], tmp_path: Path) -> None:
    file = next((town_pairs / "train").iterdir())
    (tmp_path / "pairs" / "train").mkdir(parents=True)
    shutil.copy(file, tmp_path / "pairs" / "train" / "01_01.png")
    areas = [Inputs(str(tmp_path / "pairs"), name="a"), Inputs(*sides, name="a_train")]
    rule = Options(tile=256, split=SplitRule(fractions=(1.0, 0.0, 0.0)))
    for order in (1, -1):
        with pytest.raises(DatasetError, match="both have a pair a_train_01_01; give one of them another `name`"):
            prepare(tmp_path / f"ds{order}", areas[::order], rule)


def test_left_out_are_listed_with_their_measures(aerial: Raster, sides: tuple[str, str], tmp_path: Path) -> None:
    pixels = aerial.pixels.copy()
    pixels[:, :128, :128] = 77
    mask = np.ones((512, 512), np.bool_)
    mask[:64, 448:] = False
    write_image(Raster.from_pixels(pixels, aerial.grid, mask), tmp_path / "ortho.tif")
    out = tmp_path / "ds"
    rule = Options(tile=64, split=SplitRule(fractions=(1.0, 0.0, 0.0)), drop_blank=0.99)
    manifest = prepare(out, [Inputs(str(tmp_path / "ortho.tif"), sides[1])], rule)
    table = footprints(out).set_index("id")
    assert table.loc["ortho_01_01", "dropped"] == table.loc["ortho_02_02", "dropped"] == "blank"
    assert table.loc["ortho_01_08", "dropped"] == "nodata"
    assert table.loc["ortho_01_08", "nodata"] == 1
    assert manifest.counts["left out: nodata"] == 1
    assert not list(out.rglob("ortho_01_01.*"))


def test_duplicates_are_told_and_left_out(aerial: Raster, drawn: Raster, tmp_path: Path) -> None:
    pixels = aerial.pixels.copy()
    pixels[:, 128:192, 128:192] = pixels[:, 384:448, 384:448]
    write_image(replace(aerial, pixels=pixels), tmp_path / "ortho.tif")
    write_image(drawn, tmp_path / "map.tif")
    inputs = Inputs(str(tmp_path / "ortho.tif"), str(tmp_path / "map.tif"))
    rule = Options(tile=64, split=SplitRule(fractions=(1.0, 0.0, 0.0)))
    prepare(tmp_path / "all", [inputs], rule)
    table = footprints(tmp_path / "all").set_index("id")
    assert table.loc["ortho_03_03", "duplicates"] == table.loc["ortho_07_07", "duplicates"]
    prepare(tmp_path / "one", [inputs], replace(rule, drop_duplicates=True))
    table = footprints(tmp_path / "one").set_index("id")
    assert (table.loc[["ortho_03_03", "ortho_07_07"], "dropped"] == "duplicate").sum() == 1
    assert len(open_pairs(tmp_path / "one", "train")) == table["split"].notna().sum()


def test_lists_and_polygons_divide(town: Town, sides: tuple[str, str], tmp_path: Path) -> None:
    names = tmp_path / "list.csv"
    names.write_text("id,split\northo_01_01,train\northo_01_02,test\northo_05_05,val\n")
    prepare(tmp_path / "listed", [Inputs(*sides)], Options(tile=64, split=SplitRule("by-list", file=names)))
    table = footprints(tmp_path / "listed").set_index("id")
    assert table["split"].dropna().to_dict() == {"ortho_01_01": "train", "ortho_01_02": "test", "ortho_05_05": "val"}
    assert (table["dropped"] == "unlisted").sum() == 61
    names.write_text("ortho_01_01, test\northo_01_02,test\northo_05_05,val\n")
    with pytest.raises(DatasetError, match=r"another content of .*list\.csv"):
        prepare(tmp_path / "listed", [Inputs(*sides)], Options(tile=64, split=SplitRule("by-list", file=names)))
    box = shapely.box(*town.grid.crop(256, 0, 256, 512).bounds)
    frame = geopandas.GeoDataFrame({"split": ["test"]}, geometry=[box], crs="EPSG:32633").to_crs("EPSG:4326")
    frame.to_file(tmp_path / "areas.geojson")
    rule = SplitRule("by-area", file=tmp_path / "areas.geojson")
    prepare(tmp_path / "areas", [Inputs(*sides)], Options(tile=64, split=rule))
    table = footprints(tmp_path / "areas").set_index("id")
    # Reprojected edges are not straight to the last millimetre, so the tiles along them may fall out.
    assert set(table[table["row"] > 4]["split"]) <= {"test", None}
    assert (table[table["row"] > 4]["split"] == "test").sum() >= 2 * 6
    assert set(table[table["row"] < 3]["split"]) == {"train"}


STRIP = 64 * 64 * 8
"""Pixels of eight tiles."""


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def small(aerial: Raster, drawn: Raster, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("small")
    for name, side in (("ortho", aerial), ("map", drawn)):
        write_image(side.crop(0, 0, 256, 256), folder / f"{name}.tif")
    return str(folder / "ortho.tif"), str(folder / "map.tif")


@pytest.fixture(scope="module")
def whole(small: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A dataset made in one go, of 16 tiles in strips of 8, and how many files it brought to the disk."""
    out, synced = tmp_path_factory.mktemp("whole") / "ds", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("terramorph.prepare.cut.STRIP_PIXELS", STRIP)
        patch.setattr("terramorph.prepare.journal.os.fsync", synced.append)
        prepare(out, [Inputs(*small)], Options(tile=64, split=ANY))
    return out, len(synced)


SCRIPT = """
    import os, signal, sys
    from terramorph.prepare import *
    import terramorph.prepare.cut as jobs
    jobs.STRIP_PIXELS = 64 * 64 * 8
    killed = int(sys.argv[4])
    def progress(step, done, total):
        if step.startswith("cutting") and done >= killed:
            os.kill(os.getpid(), signal.SIGKILL)
    options = Options(tile=64, split=SplitRule(fractions=(0.6, 0.2, 0.2)))
    prepare(sys.argv[1], [Inputs(sys.argv[2], sys.argv[3])], options, progress)
"""


@pytest.mark.kills
def test_kill_and_go_on_gives_the_same_dataset(
    small: tuple[str, str], whole: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("terramorph.prepare.cut.STRIP_PIXELS", STRIP)
    assert exit_code(SCRIPT, tmp_path / "killed", *small, 8) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "manifest.json").exists()
    told: list[tuple[str, int]] = []
    options = Options(tile=64, split=ANY)
    prepare(tmp_path / "killed", [Inputs(*small)], options, lambda step, done, total: told.append((step, done)))
    assert [done for step, done in told if "cutting" in step] == [8, 16], "what was cut is not cut again"
    assert everything(tmp_path / "killed") == everything(whole[0])


def go_on(out: Path, sides: tuple[str, str]) -> None:
    prepare(out, [Inputs(*sides)], Options(tile=64, split=ANY))


def test_killed_at_any_write_it_goes_on_to_the_same_files(
    small: tuple[str, str], whole: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, writes = everything(whole[0]), whole[1]
    monkeypatch.setattr("terramorph.prepare.cut.STRIP_PIXELS", STRIP)
    assert writes > 10
    sync, left = os.fsync, 0

    def kill(file: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:  # other threads get no further either
            raise Killed
        sync(file)

    for at in range(writes):
        out, left = tmp_path / f"killed-{at}", at
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", kill)
            with pytest.raises(Killed):
                go_on(out, small)
        go_on(out, small)
        assert everything(out) == expected, at


def test_a_journal_that_was_cut_or_damaged_anywhere_is_mended(
    small: tuple[str, str], whole: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = everything(whole[0])
    monkeypatch.setattr("terramorph.prepare.cut.STRIP_PIXELS", STRIP)
    out = tmp_path / "ds"
    shutil.copytree(whole[0], out)
    journal = out / ".prepare" / "ortho.jsonl"
    text = journal.read_bytes()
    lines = text.splitlines(keepends=True)
    damaged = [text[:cut] for cut in range(0, len(text), 1999)]
    damaged += [
        text.replace(b'"hash"', b'"hush"', 1),
        text.replace(b'"split":"train"', b'"split":"../.."', 1),
        b"".join([*lines[:2], b"[" * 100_000 + b"\n", *lines[2:]]),
        b"".join([*lines[:9], b"null\n", *lines[10:]]),
        b"".join([*lines[:3], lines[3].replace(b"ortho_", b"other_"), *lines[4:]]),
        b"".join([*lines, lines[0]]),
    ]
    for content in damaged:
        journal.write_bytes(content)
        for file in out.rglob("*.png") if content == damaged[1] else ():
            file.unlink()
        go_on(out, small)
        assert everything(out) == expected, content[-80:]


def test_other_settings_or_files_are_refused(sides: tuple[str, str], town: Town, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    mine = [tmp_path / "ortho.tif", tmp_path / "map.tif"]
    for file, side in zip(mine, sides, strict=True):
        shutil.copy(side, file)
    prepare(out, [Inputs(*map(str, mine))], Options(tile=64))
    expected = content(out)
    with pytest.raises(DatasetError, match=r"begun with other settings \(tile: 64, now 128\)"):
        prepare(out, [Inputs(*map(str, mine))], Options(tile=128))
    write_image(make_town(size_px=512, seed=6).map(), mine[1])
    with pytest.raises(DatasetError, match="no longer those it was begun with"):
        prepare(out, [Inputs(*map(str, mine))], Options(tile=64))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("")
    with pytest.raises(DatasetError, match=r"already holds thesis\.doc"):
        prepare(tmp_path / "full", [Inputs(*sides)], Options(tile=64))
    assert content(out) == expected


def test_inputs_that_cannot_be_used(sides: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "ds"
    with pytest.raises(ConfigError, match="nothing to prepare"):
        prepare(out, [])
    with pytest.raises(ConfigError, match=r"called ortho; tell them apart"):
        prepare(out, [Inputs(*sides), Inputs(*sides)])
    with pytest.raises(RasterError, match=r"missing\.tif does not exist"):
        prepare(out, [Inputs(str(tmp_path / "missing.tif"), sides[1])])
    with pytest.raises(ConfigError, match="not a coordinate system"):
        prepare(tmp_path / "b", [Inputs(*sides)], Options(opening=Opening(source_crs="EPSG:banana")))
    for wrong in ({"tile": 4}, {"overlap": 256}, {"max_nodata": 2.0}, {"bounds": (1, 1, 0, 2)}):
        with pytest.raises(ConfigError):
            Options(**wrong)


def test_a_damaged_file_stops_with_its_name_or_is_skipped(sides: tuple[str, str], tmp_path: Path) -> None:
    png = tmp_path / "map.png"
    write_image(read_image(sides[1]), png)
    data = png.read_bytes()
    png.write_bytes(data[: int(len(data) * 0.6)])
    rule = Options(tile=64, split=SplitRule(fractions=(1.0, 0.0, 0.0)))
    with pytest.raises(InputError, match=r"map\.png"):
        prepare(tmp_path / "ds", [Inputs(sides[0], str(png))], rule)
    manifest = prepare(tmp_path / "skipped", [Inputs(sides[0], str(png))], replace(rule, skip_bad=True))
    table = footprints(tmp_path / "skipped")
    lost = table[table["dropped"] == "unreadable"]
    assert 0 < len(lost) == manifest.counts["left out: unreadable"] < 64
    assert lost["note"].str.contains("map.png").all()


def test_areas_of_another_kind_or_scale_are_refused_before_anything_is_written(
    town: Town, aerial: Raster, sides: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "ds"
    rule = Options(tile=64, split=SplitRule(fractions=(1.0, 0.0, 0.0)))
    prepare(out, [Inputs(*sides)], rule)
    expected = content(out)
    deep = Raster.from_pixels(aerial.pixels[:1].astype(np.uint16), town.grid)
    write_image(deep, tmp_path / "pan.tif")
    with pytest.raises(DatasetError, match=r"pan \(.*\) has 1 bands of uint16 and that of ortho 3 of uint8"):
        prepare(out, [Inputs(str(tmp_path / "pan.tif"), sides[1])], rule)
    coarse = Raster.from_pixels(aerial.pixels, Grid(512, 512, town.grid.affine @ Affine.scale(2), town.grid.crs))
    write_image(coarse, tmp_path / "coarse.tif")
    with pytest.raises(DatasetError, match=r"A pixel of coarse is 2 m and one of ortho 1 m; give one `resolution`"):
        prepare(out, [Inputs(str(tmp_path / "coarse.tif"), str(tmp_path / "coarse.tif"))], rule)
    prepare(out, [Inputs(*sides)], rule)
    assert content(out) == expected


def test_labels_at_the_edge_of_the_map_take_no_colour_from_outside(
    town: Town, aerial: Raster, drawn: Raster, tmp_path: Path
) -> None:
    labelled, _ = plant_labels(drawn, town.features, seed=7, density=2.0)
    write_image(aerial, tmp_path / "ortho.tif")
    write_image(labelled, tmp_path / "map.tif")
    rule = Options(tile=64, split=SplitRule(fractions=(1.0, 0.0, 0.0)), clean_labels=True)
    manifest = prepare(tmp_path / "ds", [Inputs(str(tmp_path / "ortho.tif"), str(tmp_path / "map.tif"))], rule)
    assert footprints(tmp_path / "ds")["labels"].max() > 0.05
    turned_black = 0
    for pair in open_pairs(tmp_path / "ds", "train"):
        _, y, x = manifest.pairs["train"][pair.id]
        before = labelled.crop(y, x, 64, 64).pixels.max(axis=0)
        turned_black += int(((pair.b.pixels.max(axis=0) < 30) & (before >= 30)).sum())
    assert turned_black == 0


def test_options_for_vectors_are_refused_where_there_are_none(sides: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="are for vectors, and ortho has none"):
        prepare(tmp_path / "ds", [Inputs(*sides)], Options(opening=Opening(style="osm")))


def test_where_nothing_is_kept_the_reason_is_said(sides: tuple[str, str], tmp_path: Path) -> None:
    box = shapely.box(0, 0, 1, 1)
    geopandas.GeoDataFrame({"split": ["train"]}, geometry=[box], crs="EPSG:32633").to_file(tmp_path / "far.gpkg")
    rule = SplitRule("by-area", file=tmp_path / "far.gpkg")
    with pytest.raises(DatasetError, match="polygons of the split do not cover this ground"):
        prepare(tmp_path / "ds", [Inputs(*sides)], Options(tile=64, split=rule))
    both = geopandas.GeoDataFrame({"split": ["train", "val"]}, geometry=[box, box], crs="EPSG:32633")
    both.to_file(tmp_path / "both.gpkg")
    rule = SplitRule("by-area", file=tmp_path / "both.gpkg")
    with pytest.raises(DatasetError, match="polygons of train and of val overlap"):
        prepare(tmp_path / "other", [Inputs(*sides)], Options(tile=64, split=rule))


def test_one_block_is_trained_on(sides: tuple[str, str], tmp_path: Path) -> None:
    manifest = prepare(tmp_path / "ds", [Inputs(*sides)], Options(tile=64, split=SplitRule(block=1000)))
    assert manifest.counts == {"train": 64}


def test_small_areas_are_trained_on_and_tested_whole(aerial: Raster, drawn: Raster, tmp_path: Path) -> None:
    areas = []
    for number in range(5):
        corner = (0, 96 * number, 64, 64)
        files = [tmp_path / f"{side}{number}.tif" for side in ("ortho", "map")]
        for raster, file in zip((aerial, drawn), files, strict=True):
            write_image(raster.crop(*corner), file)
        areas.append(Inputs(*map(str, files), f"site{number}"))
    manifest = prepare(tmp_path / "ds", areas, Options(tile=32))
    assert manifest.counts == {"train": 16, "test": 4}


def test_too_few_pairs_are_told_with_what_would_give_more(sides: tuple[str, str], tmp_path: Path) -> None:
    with pytest.warns(InputWarning, match=r"pairs? to train on: too few.*`tile` 80 about 4 times.*`overlap` 80"):
        prepare(tmp_path / "few", [Inputs(*sides)], Options(tile=160, split=ANY))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifest = prepare(tmp_path / "more", [Inputs(*sides)], Options(tile=32, split=ANY))
    assert manifest.counts["train"] >= 50
    folder = tmp_path / "few"
    with pytest.warns(InputWarning, match="put more of them into the folder"):
        prepare(tmp_path / "again", [Inputs(str(folder))])


def rotated(path: Path, degrees: float) -> None:
    """A raster of noise whose rows run askew."""
    pixels = np.random.default_rng(3).integers(0, 255, (3, 160, 160), dtype=np.uint8)
    affine = Affine.translation(392_000, 5_820_000) @ Affine.rotation(degrees) @ Affine.scale(1, -1)
    write_image(Raster.from_pixels(pixels, Grid(160, 160, affine, CRS("EPSG:32633"))), path)


def test_a_map_is_not_mirrored_by_a_source_that_is_stored_south_up(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (3, 160, 160), dtype=np.uint8)
    north = Grid(160, 160, Affine(1, 0, 392_000, 0, -1, 5_820_000), CRS("EPSG:32633"))
    south = Grid(160, 160, Affine(1, 0, 392_000, 0, 1, 5_820_000 - 160), CRS("EPSG:32633"))
    write_image(Raster.from_pixels(np.ascontiguousarray(pixels[:, ::-1]), south), tmp_path / "a.tif")
    write_image(Raster.from_pixels(pixels, north), tmp_path / "b.tif")
    rule = Options(tile=80, split=SplitRule(fractions=(1.0, 0.0, 0.0)))
    prepare(tmp_path / "set", [Inputs(str(tmp_path / "a.tif"), str(tmp_path / "b.tif"))], rule)
    found = list(open_pairs(tmp_path / "set", "train"))
    assert found
    for pair in found:
        y, x = (round(v) for v in (5_820_000 - pair.a.grid.affine.f, pair.a.grid.affine.c - 392_000))
        assert np.array_equal(pair.a.pixels, pixels[:, y : y + 80, x : x + 80])
        assert np.array_equal(pair.b.pixels, pair.a.pixels)


def test_areas_that_run_askew_of_each_other_are_not_mixed(tmp_path: Path) -> None:
    for name, degrees in (("a", 0), ("b", 2), ("c", 30)):
        rotated(tmp_path / f"{name}.tif", degrees)
    straight, little, much = (Inputs(str(tmp_path / f"{n}.tif"), str(tmp_path / f"{n}.tif")) for n in "abc")
    rule = Options(tile=80, split=SplitRule(fractions=(1.0, 0.0, 0.0)))
    with pytest.raises(DatasetError, match="turned by 30 degrees"):
        prepare(tmp_path / "mixed", [straight, much], rule)
    prepare(tmp_path / "alike", [straight, little], rule)
