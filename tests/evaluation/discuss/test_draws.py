from __future__ import annotations

import numpy as np
import pytest

from terramorph.evaluation.discuss.draws import (
    calibration,
    changing_places,
    compare_draws,
    draw_data,
    draw_tests,
    draws_section,
    most_disagreeing,
    sparsified,
)
from terramorph.evaluation.discuss.section import Finding, Section, correct
from terramorph.evaluation.pictures import View

SIDE = 32
EVERYWHERE = np.ones((SIDE, SIDE), bool)


def look(row: int) -> View:
    image = np.zeros((3, SIDE, SIDE), np.uint8)
    return View(f"p{row}", image, image, image, EVERYWHERE)


def draws_of(rng: np.random.Generator, told: bool) -> tuple[np.ndarray, np.ndarray]:
    """Five draws and their truth, whose errors grow with the disagreement, or have nothing to do with it."""
    truth = np.full((3, SIDE, SIDE), 120, np.uint8)
    scale = rng.uniform(1, 12, (1, SIDE, SIDE))
    wrong = rng.normal(0, 1, (1, SIDE, SIDE)) * (scale if told else rng.permutation(scale.ravel()).reshape(scale.shape))
    draws = truth + 2 * wrong + rng.normal(0, 1, (5, 3, SIDE, SIDE)) * scale
    return draws.clip(0, 255).astype(np.uint8), truth


Pairs = list[tuple[np.ndarray, np.ndarray]]
"""Draws and truth of each image."""


def gathered(images: int, told: bool) -> Pairs:
    rng = np.random.default_rng(0)
    return [draws_of(rng, told) for _ in range(images)]


def test_spread_and_error_by_hand() -> None:
    draws = np.array([[[[10]], [[50]]], [[[14]], [[50]]]], np.uint8)
    _, (spread, error) = compare_draws(draws, np.array([[[10]], [[40]]], np.uint8), np.ones((1, 1), bool))
    assert spread.item() == pytest.approx(np.sqrt(8) / 2)
    assert error.item() == pytest.approx((2 + 10) / 2)


def told(pairs: Pairs, seed: int = 0) -> tuple[Section, Finding | None]:
    """The section, and the test of the calibration if it holds."""
    rows = [compare_draws(draws, truth, EVERYWHERE) for draws, truth in pairs]
    columns = {key: np.stack([numbers[key] for numbers, _ in rows]) for key in rows[0][0]}
    data = draw_data(columns, len(pairs[0][0]), np.random.default_rng(seed))
    tests = draw_tests(data)
    correct(tests)
    shown = [test for test in tests if test.subject == ("calibration",) and test.shown]
    most = most_disagreeing([(numbers["spread"], row, *maps) for row, (numbers, maps) in enumerate(rows)])
    return draws_section(data, tests, most, look), shown[0] if shown else None


def spoken(draws: int, farther: float, images: int = 12, off: float = 0.0) -> tuple[Section, Finding | None]:
    """A section of draws whose truth has so many times their standard deviation, which itself differs by place."""
    rng, pairs = np.random.default_rng(draws), []
    for _ in range(images):
        scale = rng.uniform(4, 16, (1, SIDE, SIDE))
        made = 128 + rng.normal(0, 1, (draws, 1, SIDE, SIDE)) * scale
        truth = 128 + off + rng.normal(0, farther, (1, SIDE, SIDE)) * scale
        pairs.append((made.round().clip(0, 255).astype(np.uint8), truth.round().clip(0, 255).astype(np.uint8)))
    return told(pairs)


@pytest.mark.parametrize("draws", [2, 3, 5, 10])
def test_draws_that_the_truth_could_be_one_of_are_neither_too_sure_nor_too_unsure(draws: int) -> None:
    section, shown = spoken(draws, farther=1)
    data = section.data["calibration"]
    assert shown is None
    assert "not shown to be too sure" in section.facts[0]
    assert data["error"] == pytest.approx(data["reference"], rel=0.02)


@pytest.mark.parametrize("draws", [2, 3, 5, 10])
@pytest.mark.parametrize(
    ("farther", "off", "verdict"), [(1.3, 0.0, "too sure"), (1.0, 8.0, "too sure"), (0.7, 0.0, "too unsure")]
)
def test_draws_that_are_too_sure_or_too_unsure(draws: int, farther: float, off: float, verdict: str) -> None:
    section, shown = spoken(draws, farther, off=off)
    assert shown is not None
    assert (shown.effect > 0) == (verdict == "too sure")
    assert section.facts[0].endswith(f"they are {verdict}.")
    difference = section.data["calibration"]["difference"]
    assert difference.low > 0 if verdict == "too sure" else difference.high < 0


def test_a_few_images_do_not_say_whether_draws_are_too_sure() -> None:
    section, shown = spoken(5, farther=3, images=5)
    assert shown is None
    assert "it takes 6 images" in section.facts[0]


@pytest.mark.parametrize(("images", "draws"), [(6, 2), (6, 5), (15, 5)])
def test_few_calibrated_sets_in_a_hundred_get_a_verdict(images: int, draws: int) -> None:
    # Noise that all pixels of a draw share, so that an image is one sample of it: an interval alone is wrong in 15 %.
    rng, given, whole = np.random.default_rng(1), 0, np.ones((8, 8), bool)
    for _ in range(100):
        off = []
        for _ in range(images):
            values = 128 + rng.normal(0, 6, (draws + 1, 1, 8, 8)) + rng.normal(0, 9, (draws + 1, 1, 1, 1))
            truth, *made = values.round().clip(0, 255).astype(np.uint8)
            off.append(changing_places(np.stack(made), truth, whole))
        found = calibration(np.stack(off), np.full(images, 64.0), rng)
        data = {"draws": draws, "images": images, "calibration": found, "rho_across_images": None}
        given += sum(test.p < 0.05 for test in draw_tests(data))
    assert given <= 10  # 5 are expected at most, and over 10 in 1 % of all hundreds


def test_the_truth_changes_places_with_the_draws() -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 3, SIDE, SIDE), dtype=np.uint8)
    found = changing_places(values[1:], values[0], EVERYWHERE)
    again = changing_places(values[[0, 2, 3, 4]], values[1], EVERYWHERE)
    order = [1, 0, 2, 3, 4]
    assert again == pytest.approx(found[np.ix_(order, order)], rel=1e-5)


def test_what_all_but_one_say_by_hand() -> None:
    draws = np.array([[[[10]]], [[[14]]], [[[30]]]], np.uint8)
    off = changing_places(draws, np.array([[[20]]], np.uint8), np.ones((1, 1), bool))
    assert off[0, 1:] == pytest.approx([2, 0, 8], abs=1e-4)
    assert off[1:, 0] == pytest.approx([12, 6, 18], rel=1e-5)
    found = calibration(off[None], np.ones(1), np.random.default_rng(0))
    assert (found["error"], found["reference"]) == (pytest.approx(10 / 3, abs=1e-4), pytest.approx(12))


def test_a_sparsification_curve() -> None:
    error = np.arange(100.0)
    best = sparsified(error, error)
    assert best[0] == error.mean()
    assert best[10] == error[:50].mean()
    assert (np.diff(best) < 0).all()
    assert sparsified(error, -error)[10] == error[50:].mean()
    assert np.isfinite(sparsified(np.array([3.0]), np.array([1.0]))).all()


def test_disagreement_that_tells_the_error_is_found() -> None:
    section, _ = told(gathered(8, told=True))
    assert "goes with error" in section.facts[1]
    assert "not shown" not in section.facts[1]
    assert section.data["rho"].low > 0.2
    assert 0.3 < section.data["sparsification"]["gain"] < 1
    assert len(section.gallery) == 3
    assert len(section.charts) == 1
    section, _ = told(gathered(3, told=True))
    assert "not shown" in section.facts[1]


def test_what_the_draws_agree_on_may_be_wrong() -> None:
    truth = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
    section, _ = told([(np.full((3, 3, SIDE, SIDE), 9, np.uint8), truth)])
    assert section.data["rho"] is None
    assert section.data["mean_disagreement"] == 0
    assert len(section.facts) == 1


def test_masked_pixels_do_not_count() -> None:
    draws, truth = draws_of(np.random.default_rng(0), told=True)
    mask = EVERYWHERE.copy()
    mask[:, 8:] = False
    numbers, _ = compare_draws(draws, truth, mask)
    assert numbers["pixels"] == 8 * SIDE
    assert numbers["off"] == pytest.approx(changing_places(draws[..., :8], truth[..., :8], EVERYWHERE[:, :8]))
