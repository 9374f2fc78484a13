"""Splits share no ground: not by blocks, lists or polygons, not through overlap, not between areas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.crs import CRS

from terramorph.errors import ConfigError, DatasetError
from terramorph.geo import Grid
from terramorph.prepare.plan import Tiles, plan_tiles, tile_boxes
from terramorph.prepare.split import NONE, SplitRule, assign_polygons, draw_blocks, keep_apart, read_list, read_polygons

UTM = CRS("EPSG:32633")


def lattice(rows: int, columns: int, tile: int = 64, overlap: int = 0) -> tuple[Grid, Tiles, np.ndarray]:
    step = tile - overlap
    grid = Grid(rows * step + overlap, columns * step + overlap, Affine(0.5, 0, 4e5, 0, -0.5, 5.8e6), UTM)
    tiles = plan_tiles(grid, tile, overlap)
    return grid, tiles, tile_boxes(grid, tiles, tile)


def apart(boxes: np.ndarray, codes: np.ndarray) -> float:
    """The least distance on the ground between tiles of two splits; under 0 where they overlap."""
    least = np.inf
    for code in range(3):
        mine, others = boxes[codes == code], boxes[(codes != code) & (codes != NONE)]
        if len(mine) and len(others):
            a, b = shapely.union_all(mine), shapely.union_all(others)
            least = min(least, -a.intersection(b).area or a.distance(b))
    return float(least)


@pytest.mark.parametrize("overlap", [0, 16, 40])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_share_no_ground_not_even_through_overlap(overlap: int, seed: int) -> None:
    _, tiles, boxes = lattice(20, 24, overlap=overlap)
    codes = draw_blocks(tiles, SplitRule(seed=seed), "a")
    if overlap:
        assert apart(boxes, codes) < 0  # the blocks alone do share ground
    codes[keep_apart(boxes, codes, None)] = NONE
    assert apart(boxes, codes) > 0
    assert all((codes == code).any() for code in range(3))


@pytest.mark.parametrize("buffer", [1.0, 20.0, 50.0])
def test_a_buffer_is_kept(buffer: float) -> None:
    _, tiles, boxes = lattice(20, 24)
    codes = draw_blocks(tiles, SplitRule(seed=1), "a")
    codes[keep_apart(boxes, codes, buffer)] = NONE
    assert apart(boxes, codes) >= buffer * (1 - 1e-5)


def test_without_a_buffer_tiles_may_touch_and_none_is_lost() -> None:
    _, tiles, boxes = lattice(20, 24)
    codes = draw_blocks(tiles, SplitRule(seed=1), "a")
    assert not keep_apart(boxes, codes, 0.0).any()


def test_shares_are_met_to_about_a_block() -> None:
    _, tiles, _ = lattice(40, 40)
    for seed in range(5):
        codes = draw_blocks(tiles, SplitRule(fractions=(0.7, 0.1, 0.2), block=4, seed=seed), "a")
        shares = np.bincount(codes, minlength=3) / len(codes)
        assert np.abs(shares - (0.7, 0.1, 0.2)).max() <= 0.75 * 16 / 1600 + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_a_split_without_a_share_gets_nothing(seed: int) -> None:
    _, tiles, _ = lattice(9, 9)
    for fractions in ((0.0, 0.0, 1.0), (0.0, 0.5, 0.5), (0.0, 1.0, 0.0)):
        counts = np.bincount(draw_blocks(tiles, SplitRule(fractions=fractions, seed=seed), "a"), minlength=3)
        assert ((counts > 0) == (np.array(fractions) > 0)).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (3, 3)])
def test_areas_too_small_for_blocks_go_whole_to_one_split(rows: int, columns: int, seed: int) -> None:
    _, tiles, _ = lattice(rows, columns)
    drawn = [draw_blocks(tiles, SplitRule(seed=seed), f"site-{n}", n) for n in range(100)]
    assert all(len(set(codes.tolist())) == 1 for codes in drawn)
    counts = np.bincount([codes[0] for codes in drawn], minlength=3)
    assert np.abs(counts - (80, 10, 10)).max() <= 1
    assert drawn[0][0] == 0  # one small area alone is trained on
    assert {codes[0] for codes in drawn[:15]} == {0, 1, 2}


def test_blocks_depend_on_seed_and_name_alone() -> None:
    _, tiles, _ = lattice(20, 24)
    same = [draw_blocks(tiles, SplitRule(seed=s), n) for s, n in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))]
    assert np.array_equal(same[0], same[1])
    assert not np.array_equal(same[0], same[2])
    assert not np.array_equal(same[0], same[3])


def test_earlier_tiles_stay_and_the_new_keep_away() -> None:
    _, _, boxes = lattice(4, 4)
    codes = np.zeros(16, np.int8)
    codes[5] = 2  # a new test tile amid old train tiles
    fixed = np.ones(16, np.bool_)
    fixed[5] = False
    left_out = keep_apart(boxes, codes, None, fixed)
    assert left_out.tolist() == [i == 5 for i in range(16)]


def test_polygons_take_whole_tiles_only() -> None:
    _, _, boxes = lattice(4, 4)
    codes, across = assign_polygons(boxes, np.array([shapely.union_all(boxes[[0, 1]])]), np.array([2], np.int8))
    assert codes.tolist() == [2, 2] + [0] * 14
    assert not across.any()
    half = shapely.box(*shapely.affinity.translate(boxes[0], xoff=16).bounds)
    codes, across = assign_polygons(boxes, np.array([half]), np.array([1], np.int8))
    assert np.flatnonzero(across).tolist() == [0, 1]
    assert (codes[:2] == NONE).all()


def test_lists_and_polygons_that_cannot_be_used(tmp_path: Path) -> None:
    bad = tmp_path / "list.csv"
    bad.write_text("id,split\na_01_01,trian\n")
    with pytest.raises(DatasetError, match=r"a_01_01,trian"):
        read_list(bad)
    bad.write_text("a,train\na,test\n")
    with pytest.raises(DatasetError, match="two splits"):
        read_list(bad)
    bad.write_text("ID,Split\na,train\n")
    assert read_list(bad) == {"a": 0}
    with pytest.raises(DatasetError, match=r"missing\.csv"):
        read_list(tmp_path / "missing.csv")
    polygon = {
        "type": "Feature",
        "properties": {"name": "x"},
        "geometry": shapely.geometry.mapping(shapely.box(0, 0, 1, 1)),
    }
    areas = tmp_path / "areas.geojson"
    areas.write_text(json.dumps({"type": "FeatureCollection", "features": [polygon]}))
    with pytest.raises(DatasetError, match="attribute split"):
        read_polygons(areas)
    bad.write_text("id,split\na,train\n")
    with pytest.raises(DatasetError, match="no polygons with an attribute split"):
        read_polygons(bad)
    crossed = [
        {
            "type": "Feature",
            "properties": {"split": split},
            "geometry": {"type": "Polygon", "coordinates": [[[x, 0], [x + 2, 2], [x + 2, 0], [x, 2], [x, 0]]]},
        }
        for x, split in ((0, "train"), (1, "test"))
    ]
    areas.write_text(json.dumps({"type": "FeatureCollection", "features": crossed}))
    with pytest.raises(DatasetError, match="overlap"):
        read_polygons(areas)
    for wrong in ({"method": "by-list"}, {"fractions": (0.5, 0.1, 0.1)}, {"block": 0}, {"buffer": -1.0}):
        with pytest.raises(ConfigError):
            SplitRule(**wrong)
