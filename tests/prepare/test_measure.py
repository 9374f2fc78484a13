from __future__ import annotations

import dataclasses
import io
import math

import cv2
import numpy as np
import pytest
from PIL import Image

from terramorph.prepare.measure import MEASURE_NAMES, Measures, measure_pair, near_duplicates
from terramorph.prepare.registration import Shift
from terramorph.raster import Raster


@pytest.fixture(scope="module")
def pair(small_town_sides: tuple[Raster, Raster]) -> tuple[Raster, Raster]:
    """Aerial and map of 256 x 256 px."""
    aerial, drawn = (side.crop(128, 128, 256, 256) for side in small_town_sides)
    return aerial, drawn


def jpeg(pixels: np.ndarray, quality: int = 60) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


def measured(source: Raster, target: Raster | None = None) -> Measures:
    return measure_pair(source, source if target is None else target)


def test_a_pair_of_a_town(pair):
    found = measure_pair(*pair, labels=0.125, shift=Shift(0.5, -0.25, 0.75))
    assert tuple(found.model_dump()) == MEASURE_NAMES
    assert found.nodata == 0
    assert found.labels == 0.125
    assert found.source_blank < 0.4 < found.target_blank < 0.9
    assert found.source_detail > 2 * found.target_detail > 1
    assert found.haze < 0.15
    assert (found.dx, found.dy, found.confidence) == (0.5, -0.25, 0.75)
    assert 0 < found.hash < 2**64
    assert math.isnan(measured(*pair).labels)


def test_blankness_is_the_share_of_the_commonest_colour_even_in_jpeg():
    rng = np.random.default_rng(0)
    for level in (15, 16, 31, 32, 128, 250):  # beside and on the borders between coarse levels
        noisy = np.clip(level + rng.normal(0, 2, (3, 256, 256)), 0, 255).astype(np.uint8)
        assert measured(Raster.from_pixels(noisy)).source_blank > 0.97
        noisy[:, :64] = rng.integers(0, 256, (3, 64, 256))
        assert measured(Raster.from_pixels(noisy)).source_blank == pytest.approx(0.75, abs=0.03)
    flat = np.full((3, 256, 256), 200, np.uint8)
    flat[:, 100:228] = 90
    flat[:, 228:] = 20
    assert measured(Raster.from_pixels(jpeg(flat))).target_blank == pytest.approx(0.5, abs=0.03)


def test_detail_is_the_mean_gradient():
    ramp = np.ascontiguousarray(np.broadcast_to((np.arange(100) * 2).astype(np.uint8), (3, 100, 100)))
    assert measured(Raster.from_pixels(ramp)).source_detail == pytest.approx(2, rel=0.03)
    mask = np.zeros((100, 100), np.bool_)
    mask[:, :50] = True
    half = np.where(mask, ramp, np.uint8(0))  # the step at the rim of the data is no detail
    assert measured(Raster.from_pixels(half, mask=mask)).source_detail == pytest.approx(2, rel=0.03)


def test_nodata_is_what_either_side_lacks(pair):
    one, other = (np.ones((256, 256), np.bool_) for _ in range(2))
    one[:64] = False
    other[:, :128] = False
    source, target = (dataclasses.replace(r, mask=m) for r, m in zip(pair, (one, other), strict=True))
    assert measure_pair(source, target).nodata == pytest.approx(1 - 0.75 * 0.5)
    nothing = dataclasses.replace(pair[0], mask=np.zeros((256, 256), np.bool_))
    found = measure_pair(nothing, target)
    assert (found.nodata, found.source_blank, found.source_detail, found.confidence) == (1, 1, 0, 0)
    assert math.isnan(found.haze)


def test_planted_clouds_are_seen(pair):
    source, target = pair
    rng = np.random.default_rng(4)
    noise = cv2.GaussianBlur(rng.normal(size=(256, 256)).astype(np.float32), (0, 0), 20)
    alpha = np.clip((noise / noise.std() - 0.3) * 4, 0, 0.95)
    cloudy = (source.pixels * (1 - alpha) + 245 * alpha).astype(np.uint8)
    clear = measured(source, target).haze
    veiled = measured(dataclasses.replace(source, pixels=cloudy), target).haze
    share = (alpha > 0.6).mean()
    assert share > 0.15
    assert veiled - clear == pytest.approx(share, abs=0.12)
    assert math.isnan(measured(dataclasses.replace(source, bands=("a", "b", "c"))).haze)
    infrared = Raster.from_pixels(np.concatenate([cloudy[:1] * 0, cloudy]), bands=("nir", "Red", "Green", "Blue"))
    assert measured(infrared).haze == veiled


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_any_dtype_gives_about_the_same_numbers(pair, dtype):
    source, target = pair
    offset = 0 if dtype == "uint16" else -3000
    stored = dataclasses.replace(source, pixels=(source.pixels.astype(np.float64) * 40 + offset).astype(dtype))
    expected = measure_pair(source, target)
    given = measure_pair(stored, target, source_range=(offset, 255 * 40 + offset))
    for name in MEASURE_NAMES[:6]:
        assert getattr(given, name) == pytest.approx(getattr(expected, name), abs=0.01), name
    assert (given.hash ^ expected.hash).bit_count() <= 1
    assert measured(stored, target).source_detail > expected.source_detail  # stretched to its own range


def test_constant_and_small_tiles_have_measures():
    flat = Raster.from_pixels(np.full((1, 256, 256), 7.5, np.float32))
    found = measure_pair(flat, flat)
    assert (found.source_blank, found.source_detail, found.confidence, found.hash) == (1, 0, 0, 0)
    small = Raster.from_pixels(np.random.default_rng(1).integers(0, 255, (5, 20, 20)).astype(np.uint8))
    found = measure_pair(small, small)
    assert math.isnan(found.dx)
    assert math.isnan(found.dy)
    assert found.confidence == 0


def test_hashes_tell_near_duplicates_from_other_places(small_town_sides):
    aerial = small_town_sides[0]
    tiles = [aerial.crop(y, x, 128, 128) for y in range(0, 512, 128) for x in range(0, 512, 128)]
    again = [Raster.from_pixels(jpeg(t.pixels, 80)) for t in tiles]
    groups = near_duplicates(np.array([measured(t).hash for t in tiles + again], np.uint64))
    assert np.array_equal(groups[:16], np.arange(16))
    assert np.mean(groups[16:] == np.arange(16)) > 0.9


def searched(hashes: np.ndarray, distance: int) -> list[int]:
    """The groups by comparing all with all."""
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= distance
    group = np.full(len(hashes), -1)
    for i in range(len(hashes)):
        if group[i] < 0:
            front = [i]
            group[i] = group.max() + 1
            while front:
                reached = np.flatnonzero(near[front.pop()] & (group < 0)).tolist()
                group[reached] = group[i]
                front += reached
    return group.tolist()


def test_groups_are_exact():
    rng = np.random.default_rng(3)
    hashes = rng.integers(0, 2**63, 300, dtype=np.uint64)
    for i in range(100, 300):  # variants of earlier ones, in chains
        flips = rng.choice(64, rng.integers(0, 12), replace=False)
        hashes[i] = hashes[rng.integers(0, i)] ^ np.uint64(sum(1 << int(f) for f in flips))
    groups = near_duplicates(hashes).tolist()
    assert groups == searched(hashes, 3)
    assert 100 < len(set(groups)) < 300
    assert near_duplicates(np.empty(0, np.uint64)).tolist() == []


def test_a_hundred_thousand_are_grouped_at_once():
    rng = np.random.default_rng(5)
    hashes = rng.integers(0, 2**63, 100_000, dtype=np.uint64)
    hashes[50_000:60_000] = hashes[:10_000] ^ np.uint64(1 << 63 | 1 << 31 | 1)
    hashes[60_000:70_000] = 0
    groups = near_duplicates(hashes)
    assert np.array_equal(groups[50_000:60_000], groups[:10_000])
    assert groups.max() + 1 == 80_001
