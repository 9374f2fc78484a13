from __future__ import annotations

import cv2
import numpy as np
import pytest

from terramorph.cartography import CLASSES
from terramorph.evaluation.discuss.errors import in_blocks
from terramorph.evaluation.discuss.shapes import (
    GROUPS,
    KINDS,
    count_roads,
    pieces_of,
    road_widths,
    roads_section,
    widths,
)

SIDE = 64
ROAD, BUILDING, WATER = (CLASSES.index(name) for name in ("road", "building", "water"))
EVERYWHERE = np.ones((SIDE, SIDE), bool)


def land() -> np.ndarray:
    return np.zeros((SIDE, SIDE), np.uint8)


@pytest.mark.parametrize("width", range(1, 13))
def test_a_straight_road_has_its_width(width: int) -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:, 20 : 20 + width] = True
    bounds = [k + 0.5 for k in range(14)]
    assert set(widths(mask, bounds)[mask]) == {width}
    assert (widths(mask, bounds)[~mask] == -1).all()


def test_a_slanting_road_has_about_its_width_and_no_mask_is_no_road() -> None:
    fine = np.zeros((SIDE * 8, SIDE * 8), np.uint8)
    cv2.line(fine, (0, 60), (500, 440), 1, 8 * 6)
    mask = cv2.resize(fine.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA) > 0.5
    found = widths(mask, [k + 0.5 for k in range(14)])
    assert 5 <= np.median(found[mask]) <= 6
    assert (widths(np.zeros((8, 8), bool)) == -1).all()
    assert (widths(np.ones((8, 8), bool)) == len(GROUPS) - 1).all()


def test_recall_and_precision_by_width() -> None:
    truth, prediction = land(), land()
    truth[:, 10:12] = truth[:, 40:48] = ROAD  # 2 px and 8 px wide
    prediction[:, 38:46] = ROAD  # the wide one, two pixels off
    prediction[:, 24:26] = ROAD  # one that is not there
    counts = np.stack([count_roads(road_widths(truth, EVERYWHERE), road_widths(prediction, EVERYWHERE))] * 3)
    section = roads_section(counts, 0.5, np.random.default_rng(0))
    groups = {one["width_px"]: one for one in section.data["groups"]}
    assert groups["1–2"]["true_px"] == 3 * 2 * SIDE
    assert groups["1–2"]["recall"].mean == groups["1–2"]["precision"].mean == 0
    assert groups["7–9"]["recall"].mean == groups["7–9"]["precision"].mean == 1
    assert groups["3–4"]["recall"] is None
    assert section.table is not None
    assert [row[0].text for row in section.table.rows][3] == "7–9 px (3.5–4.5 m)"
    assert len(section.charts) == 1


def test_no_roads_are_a_sentence() -> None:
    none = road_widths(land(), EVERYWHERE)
    section = roads_section(count_roads(none, none)[None], None, np.random.default_rng(0))
    assert "hold no road" in section.facts[0]
    assert section.table is None


def test_pieces_that_only_one_side_has() -> None:
    truth, prediction = land(), land()
    truth[5:15, 5:15] = truth[30:40, 5:15] = BUILDING
    prediction[6:16, 6:16] = BUILDING  # a pixel off: kept
    prediction[30:40, 40:50] = BUILDING  # made up
    prediction[50:52, :] = BUILDING  # the rim of something, two pixels wide
    prediction[60, 60] = BUILDING  # a speck
    roads, buildings, water = (pieces_of(kind, truth, prediction, EVERYWHERE) for kind in KINDS)
    assert buildings.counts.tolist() == [200, 100, 1, 200, 100, 1]
    assert buildings.omitted[30:40, 5:15].all()
    assert buildings.made_up[30:40, 40:50].all()
    assert not roads.counts.any()
    assert not water.counts.any()
    hidden = EVERYWHERE.copy()
    hidden[28:42] = False
    assert pieces_of(KINDS[1], truth, prediction, hidden).counts.tolist() == [100, 0, 0, 100, 0, 0]


def test_the_end_of_a_road_is_one_piece_less_what_is_near_the_rest() -> None:
    truth, prediction = land(), land()
    truth[20:23, :] = ROAD
    prediction[20:23, :32] = ROAD
    roads = pieces_of(KINDS[0], truth, prediction, EVERYWHERE)
    assert roads.counts[:3].tolist() == [3 * SIDE, 3 * 30, 1]


def test_sums_over_cells() -> None:
    values = np.arange(100.0).reshape(10, 10)
    assert in_blocks(values, 2).tolist() == [
        [values[:5, :5].sum(), values[:5, 5:].sum()],
        [values[5:, :5].sum(), values[5:, 5:].sum()],
    ]
    assert in_blocks(values, 4).shape == (4, 4)  # cells of 3, the last of 1
    assert in_blocks(values, 32).shape == (10, 10)
