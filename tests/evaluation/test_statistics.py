from __future__ import annotations

import numpy as np
import pytest

from terramorph.evaluation.statistics import (
    holm,
    mann_whitney,
    mean_interval,
    rank_correlation,
    ratio_intervals,
    smallest_shown,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_what_is_constant_has_no_correlation(rng: np.random.Generator) -> None:
    x = rng.integers(0, 6, 80).astype(float)
    rho, p = rank_correlation(x, x**3) or (0, 1)
    assert (rho, p) == (pytest.approx(1), pytest.approx(0))
    assert rank_correlation(x, np.ones(80)) is None
    assert rank_correlation(x[:1], x[:1]) is None


def test_mann_whitney_tells_how_often_one_exceeds_the_other(rng: np.random.Generator) -> None:
    a, b = rng.integers(4, 9, 12).astype(float), rng.integers(0, 7, 50).astype(float)
    superiority, p = mann_whitney(a, b)
    assert superiority == pytest.approx((a[:, None] > b).mean() + (a[:, None] == b).mean() / 2)
    assert p < 0.01


def test_holm_by_hand() -> None:
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, each no smaller than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_finds_nothing_in_noise_19_times_of_20(rng: np.random.Generator) -> None:
    found = sum(min(holm(list(rng.uniform(size=20)))) < 0.05 for _ in range(400))
    assert 5 <= found <= 35


def test_what_can_just_be_shown(rng: np.random.Generator) -> None:
    least = smallest_shown(120, 36)
    for noise in rng.uniform(0.5, 10, 100):
        x = rng.normal(size=120)
        rho, p = rank_correlation(x, x + rng.normal(0, noise, 120)) or (0, 1)
        assert (abs(rho) > least) == (36 * p < 0.05)
    assert smallest_shown(1000, 36) < least < smallest_shown(120, 360)


def test_intervals_cover_and_are_those_of_the_normal_law(rng: np.random.Generator) -> None:
    values = rng.normal(5, 2, 200)
    found = mean_interval(values, rng)
    assert found.mean == pytest.approx(values.mean())
    wide = 1.96 * values.std(ddof=1) / np.sqrt(200)
    assert found.low == pytest.approx(values.mean() - wide, abs=0.06)
    assert found.high == pytest.approx(values.mean() + wide, abs=0.06)
    assert mean_interval(np.array([3.0]), rng).low is None


def test_ratios_are_resampled_by_image_and_unknown_where_there_is_nothing(rng: np.random.Generator) -> None:
    part = np.array([[1.0, 0, 0], [3, 0, 0], [2, 4, 0]])
    whole = np.array([[2.0, 0, 0], [4, 0, 0], [4, 8, 0]])
    first, lone, none = ratio_intervals(part, whole, rng)
    assert first is not None
    assert first.mean == pytest.approx(0.6)
    assert first.low is not None
    assert 0.5 <= first.low < 0.6
    assert lone is not None
    assert (lone.mean, lone.low) == (0.5, None)
    assert none is None
