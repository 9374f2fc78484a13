from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from terramorph.geo.grid import Grid
from terramorph.prepare.registration import (
    MIN_CONFIDENCE,
    UNKNOWN,
    Shift,
    consistent_shift,
    correlate,
    estimate_shift,
    locate,
    locate_common,
    shift_raster,
)
from terramorph.raster import Raster
from terramorph.town import make_town

TILE, MARGIN, SIDE = 256, 16, 1100


@pytest.fixture(scope="module")
def town() -> tuple[np.ndarray, np.ndarray]:
    """Aerial and map, uint8 (3, SIDE, SIDE)."""
    made = make_town(size_px=SIDE, seed=31)
    return made.aerial().pixels, made.map().pixels


def planted(drawn: np.ndarray, y: int, x: int, dx: float, dy: float) -> np.ndarray:
    """The tile at (y, x) of a map whose content was moved by (+dx, +dy)."""
    wide = drawn[:, y - MARGIN : y + TILE + MARGIN, x - MARGIN : x + TILE + MARGIN]
    if float(dx).is_integer() and float(dy).is_integer():
        top, left = MARGIN - int(dy), MARGIN - int(dx)
        return wide[:, top : top + TILE, left : left + TILE]
    move = np.array([[1, 0, dx - MARGIN], [0, 1, dy - MARGIN]], np.float64)
    return np.stack([cv2.warpAffine(band, move, (TILE, TILE), flags=cv2.INTER_CUBIC) for band in wide])


def has_structure(drawn: np.ndarray) -> bool:
    """Whether edges of the map run in more than one direction, told without the code under test."""
    gy, gx = np.gradient(drawn.astype(np.float64).mean(axis=0))[:2]
    tensor = np.array([[(gx * gx).mean(), (gx * gy).mean()], [(gx * gy).mean(), (gy * gy).mean()]])
    return bool(np.linalg.eigvalsh(tensor)[0] > 2)


def places(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    return [(int(y), int(x)) for y, x in rng.integers(MARGIN, SIDE - TILE - MARGIN, (count, 2))]


@pytest.mark.parametrize("whole", [True, False], ids=["whole pixels", "parts of pixels"])
def test_planted_shifts_are_recovered_in_tiles_with_structure(town, whole):
    aerial, drawn = town
    rng = np.random.default_rng(7)
    errors, confidences = [], []
    for y, x in places(rng, 60):
        dx, dy = (float(v) for v in rng.uniform(-8, 8, 2))
        if whole:
            dx, dy = round(dx), round(dy)
        if not has_structure(drawn[:, y : y + TILE, x : x + TILE]):
            continue
        shift = estimate_shift(aerial[:, y : y + TILE, x : x + TILE], planted(drawn, y, x, dx, dy))
        errors.append(max(abs(shift.dx - dx), abs(shift.dy - dy)))
        confidences.append(shift.confidence)
    assert len(errors) >= 40
    assert np.mean(np.array(errors) <= 0.5) >= 0.9
    assert np.mean(np.array(confidences) >= MIN_CONFIDENCE) >= 0.9


def test_unrelated_sides_are_not_confident(town):
    aerial, drawn = town
    rng = np.random.default_rng(8)
    confidences = []
    for (y, x), (v, u) in zip(places(rng, 40), places(rng, 40), strict=True):
        if max(abs(y - v), abs(x - u)) > 100:
            shift = estimate_shift(aerial[:, y : y + TILE, x : x + TILE], drawn[:, v : v + TILE, u : u + TILE])
            confidences.append(shift.confidence)
    assert len(confidences) >= 20
    assert np.mean(np.array(confidences) >= MIN_CONFIDENCE) <= 0.1


def test_sides_without_structure_are_not_confident(town):
    photo = town[0][:, 100 : 100 + TILE, 100 : 100 + TILE]
    rng = np.random.default_rng(9)
    plain = np.full((3, TILE, TILE), 200, np.uint8)
    assert estimate_shift(photo, plain) == estimate_shift(plain, photo) == Shift(0.0, 0.0, 0.0)
    noise = rng.normal(128, 10, (3, TILE, TILE)).astype(np.uint8)
    assert estimate_shift(photo, noise).confidence < MIN_CONFIDENCE
    road = plain.copy()
    road[:, :, 100:112] = 90
    across = estimate_shift(road + rng.integers(0, 9, road.shape, np.uint8), np.roll(road, 5, axis=2))
    assert across.dx == pytest.approx(5, abs=0.5)
    assert across.confidence < MIN_CONFIDENCE  # dy cannot be told


def test_contrast_dtype_and_band_count_do_not_matter(town):
    aerial, drawn = (side[:, 300 : 300 + TILE, 400 : 400 + TILE] for side in town)
    expected = estimate_shift(aerial, drawn)
    for a, b in [
        (255 - aerial, drawn),
        (aerial.astype(np.uint16) * 200, 255 - drawn),
        (aerial.astype(np.float32) / 255 - 7, drawn.astype(np.float64) * 1e30),
        (aerial.astype(np.int16) * 250 - 32000, drawn),
    ]:
        got = estimate_shift(a, b)
        assert (got.dx, got.dy) == pytest.approx((expected.dx, expected.dy), abs=0.02)
    one = estimate_shift(np.concatenate([aerial, aerial[:1]]), drawn[:1])
    assert (one.dx, one.dy) == pytest.approx((0, 0), abs=0.5)


def test_masked_parts_have_no_say(town):
    aerial, drawn = town
    y, x = 500, 300
    a, b = aerial[:, y : y + TILE, x : x + TILE].astype(np.float32), planted(drawn, y, x, 6, -3).astype(np.float32)
    mask = np.ones((TILE, TILE), np.bool_)
    mask[:, :140] = False
    b[:, :, :140] = a[:, :, :140]
    assert estimate_shift(a, b).dx == pytest.approx(0, abs=0.5)
    a[:, 10, 20] = np.nan
    shift = estimate_shift(a, b, mask)
    assert (shift.dx, shift.dy) == pytest.approx((6, -3), abs=0.5)
    assert shift.confidence >= MIN_CONFIDENCE
    assert estimate_shift(a, b, np.zeros_like(mask)) == Shift(0.0, 0.0, 0.0)


def test_common_shift_is_found_where_no_tile_shows_it(town):
    aerial, drawn = town
    rng = np.random.default_rng(10)
    surfaces, alone = [], []
    for y, x in places(rng, 16):
        noise = rng.normal(0, 70, (3, TILE, TILE))
        surfaces.append(correlate(aerial[:, y : y + TILE, x : x + TILE] * 0.5 + noise, planted(drawn, y, x, 5, -4)))
        alone.append(locate(surfaces[-1]))
    right = [max(abs(s.dx - 5), abs(s.dy + 4)) <= 0.5 for s in alone]
    common = locate_common(iter(surfaces))
    assert (common.dx, common.dy) == pytest.approx((5, -4), abs=0.5)
    assert np.mean(right) < 0.7
    assert common.confidence > np.median([s.confidence for s in alone])
    assert locate_common(surfaces + [np.zeros_like(surfaces[0])] * 50) == common
    assert locate_common([]) is UNKNOWN


def test_a_peak_at_the_rim_of_the_range_is_no_peak(town):
    aerial, drawn = town
    shift = estimate_shift(aerial[:, 200:456, 200:456], planted(drawn, 200, 200, 12, 0), max_shift=8)
    assert shift.confidence < MIN_CONFIDENCE
    surface = np.zeros((17, 17), np.float32)
    surface[5, 16] = 30
    assert locate(surface) == Shift(8.0, -3.0, 0.0)


def test_consistent_shift_is_the_one_most_agree_on():
    rng = np.random.default_rng(11)
    agreeing = [Shift(3 + e, -2 - e, 0.8) for e in rng.uniform(-0.4, 0.4, 12)]
    astray = [Shift(float(x), float(y), 0.7) for x, y in rng.uniform(-16, 16, (18, 2))]
    unsure = [Shift(9.0, 9.0, MIN_CONFIDENCE - 0.01)] * 40
    found = consistent_shift(astray + agreeing + unsure)
    assert found is not None
    assert (found.dx, found.dy) == pytest.approx((3, -2), abs=0.25)
    assert found.confidence == pytest.approx(12 / 30, abs=0.04)
    assert consistent_shift(astray) is None
    assert consistent_shift(unsure) is None
    assert consistent_shift([]) is None
    assert consistent_shift([Shift(1.0, 1.0, 0.9)] * 2) is None


def test_shifting_back_restores_whole_pixels_and_masks_the_rest():
    rng = np.random.default_rng(12)
    ground = rng.integers(0, 60000, (2, 50, 60)).astype(np.uint16)
    grid = Grid.pixels(40, 40)
    mask = np.ones((40, 40), np.bool_)
    mask[20, 10] = False
    back = shift_raster(Raster.from_pixels(ground[:, 5:45, 10:50], grid, mask), 4, -3)
    assert back.grid == grid
    assert back.dtype == np.uint16
    assert np.array_equal(back.pixels[:, 3:, :36], ground[:, 5:42, 14:50])
    expected = np.zeros((40, 40), np.bool_)
    expected[3:, :36] = True
    expected[23, 6] = False
    assert np.array_equal(back.mask, expected)
    assert not shift_raster(back, 100, 0).mask.any()


@pytest.mark.parametrize("by", [(5, -4), (2.5, 3.25)])
def test_shifting_by_the_estimate_leaves_no_shift(town, by):
    aerial, drawn = town
    moved = Raster.from_pixels(planted(drawn, 400, 400, *by))
    a = aerial[:, 400 : 400 + TILE, 400 : 400 + TILE]
    found = estimate_shift(a, moved.pixels)
    back = shift_raster(moved, found.dx, found.dy)
    assert back.mask.mean() > 0.9
    left = estimate_shift(a, back.pixels, back.mask)
    assert (left.dx, left.dy) == pytest.approx((0, 0), abs=0.3)


def test_shifting_by_parts_of_pixels_interpolates_and_never_spreads_nodata():
    rows, columns = np.mgrid[:40, :40].astype(np.float32)
    field = (3 * columns - 2 * rows)[None] + np.zeros((2, 1, 1), np.float32)
    mask = np.ones((40, 40), np.bool_)
    mask[15:18, 15:18] = False
    field[:, ~mask] = np.nan
    back = shift_raster(Raster.from_pixels(field, mask=mask), 1.5, -0.25)
    assert back.mask.sum() > 1100
    truth = 3 * (columns + 1.5) - 2 * (rows - 0.25)
    assert np.abs(back.pixels - truth)[:, back.mask].max() < 0.1
    step = Raster.from_pixels(np.where(columns > 20, 255, 0).astype(np.uint8)[None])
    moved = shift_raster(step, 0.5, 0).pixels[0]  # cubic overshoot must be clipped, not wrap around
    assert not moved[:, :18].any()
    assert (moved[:, 23:36] == 255).all()


def test_a_tile_takes_milliseconds(town):
    a, b = (side[:, :TILE, :TILE] for side in town)
    estimate_shift(a, b)
    start = time.process_time()
    for _ in range(10):
        estimate_shift(a, b)
    assert (time.process_time() - start) / 10 < 0.1


def test_a_correlation_does_not_depend_on_where_its_sides_lie_in_memory() -> None:
    generator = np.random.default_rng(0)
    for size in (64, 96):
        sides = generator.integers(0, 256, (2, 3, size, size), np.uint8)
        surfaces = set()
        for _ in range(40):
            junk = [np.empty(int(generator.integers(1, 1 << 16)), np.uint8) for _ in range(8)]
            surfaces.add(correlate(*sides).tobytes())
            del junk
        assert len(surfaces) == 1
