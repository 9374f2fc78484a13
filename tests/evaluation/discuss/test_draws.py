from __future__ import annotations

import numpy as np
import pytest

from terramorph.evaluation.discuss.draws import (
    DrawCounts,
    draws_section,
    no_draws_section,
    sparsified,
    spread_and_error,
)
from terramorph.evaluation.discuss.views import View

SIDE = 32
EVERYWHERE = np.ones((SIDE, SIDE), bool)


def look(row: int) -> View:
    image = np.zeros((3, SIDE, SIDE), np.uint8)
    return View(f"p{row}", image, image, image, EVERYWHERE, None, None)


def draws_of(rng: np.random.Generator, told: bool) -> tuple[np.ndarray, np.ndarray]:
    """Five draws and their truth, whose errors grow with the disagreement, or have nothing to do with it."""
    truth = np.full((3, SIDE, SIDE), 120, np.uint8)
    scale = rng.uniform(1, 12, (1, SIDE, SIDE))
    wrong = rng.normal(0, 1, (1, SIDE, SIDE)) * (scale if told else rng.permutation(scale.ravel()).reshape(scale.shape))
    draws = truth + 2 * wrong + rng.normal(0, 1, (5, 3, SIDE, SIDE)) * scale
    return draws.clip(0, 255).astype(np.uint8), truth


def gathered(images: int, told: bool) -> DrawCounts:
    rng, counts = np.random.default_rng(0), DrawCounts(5)
    for _ in range(images):
        counts.add(*draws_of(rng, told), EVERYWHERE)
    return counts


def test_spread_and_error_by_hand() -> None:
    draws = np.array([[[[10]], [[50]]], [[[14]], [[50]]]], np.uint8)
    spread, error = spread_and_error(draws, np.array([[[10]], [[40]]], np.uint8))
    assert spread.item() == pytest.approx(np.sqrt(8) / 2)
    assert error.item() == pytest.approx((2 + 10) / 2)


def test_a_truth_that_is_one_more_draw_is_as_far_off_as_expected() -> None:
    rng, counts = np.random.default_rng(0), DrawCounts(4)
    for _ in range(6):
        *draws, truth = rng.normal(128, 12, (5, 1, SIDE, SIDE)).round().clip(0, 255).astype(np.uint8)
        counts.add(np.stack(draws), truth, EVERYWHERE)
    sentence = draws_section(counts, look, np.random.default_rng(0)).sentences[0]
    # Four draws underestimate a standard deviation by 8 % on average (the c4 of control charts).
    assert sentence.values["error"] == pytest.approx(sentence.values["expected"] / 0.921, rel=0.03)


def test_a_sparsification_curve() -> None:
    error = np.arange(100.0)
    best = sparsified(error, error)
    assert best[0] == error.mean()
    assert best[10] == error[:50].mean()
    assert (np.diff(best) < 0).all()
    assert sparsified(error, -error)[10] == error[50:].mean()
    assert np.isfinite(sparsified(np.array([3.0]), np.array([1.0]))).all()


def test_disagreement_that_tells_the_error_is_found() -> None:
    section = draws_section(gathered(8, told=True), look, np.random.default_rng(0))
    assert "predicts error within an image" in " ".join(s.text for s in section.sentences)
    assert section.data["rho"]["low"] > 0.2
    assert 0.3 < section.data["sparsification"]["gain"] < 1
    errors = [group["error"]["mean"] for group in section.data["calibration"]]
    assert errors[-1] > 3 * errors[0]
    assert len(section.figures[-1].gallery) == 3


def test_what_the_draws_agree_on_may_be_wrong() -> None:
    truth = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
    counts = DrawCounts(3)
    counts.add(np.full((3, 3, SIDE, SIDE), 9, np.uint8), truth, EVERYWHERE)
    section = draws_section(counts, look, np.random.default_rng(0))
    assert "In 0 images the draws differ" in section.sentences[1].text


def test_a_few_images_are_no_verdict() -> None:
    section = draws_section(gathered(3, told=True), look, np.random.default_rng(0))
    said = " ".join(s.text for s in section.sentences)
    assert "for a verdict on whether one predicts the other it takes 6" in said
    assert "predicts error" not in said


def test_masked_pixels_do_not_count() -> None:
    draws, truth = draws_of(np.random.default_rng(0), told=True)
    mask = EVERYWHERE.copy()
    mask[:, 8:] = False
    counts = DrawCounts(5)
    counts.add(draws, truth, mask)
    assert counts.pixels[0].sum() == 8 * SIDE


@pytest.mark.parametrize(
    ("mode", "noisy", "word"),
    [("raster", True, "--mode paper --samples 5"), ("paper", True, "--samples 5"), ("paper", False, "no live dropout")],
)
def test_why_there_are_no_draws(mode: str, noisy: bool, word: str) -> None:
    assert word in no_draws_section(mode, 1, noisy).sentences[0].text
