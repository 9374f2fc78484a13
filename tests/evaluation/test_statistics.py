from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from terramorph.evaluation.statistics import (
    holm,
    mann_whitney,
    mean_interval,
    rank_correlation,
    rank_correlation_p,
    ranks,
    ratio_intervals,
    smallest_shown,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_ranks_and_their_correlation_are_those_of_scipy(rng: np.random.Generator) -> None:
    x = rng.integers(0, 6, 80).astype(float)  # many ties
    y = x + rng.normal(0, 3, 80)
    assert ranks(x) == pytest.approx(stats.rankdata(x))
    wanted = stats.spearmanr(x, y)
    rho = rank_correlation(x, y)
    assert rho == pytest.approx(wanted.statistic)
    assert rank_correlation_p(rho or 0, 80) == pytest.approx(wanted.pvalue, abs=0.002)
    assert rank_correlation(x, np.ones(80)) is None


def test_the_p_value_of_a_correlation_is_that_of_permutations(rng: np.random.Generator) -> None:
    x, y = rng.integers(0, 3, 40).astype(float), rng.normal(size=40)
    rho = 0.3
    drawn = [abs(rank_correlation(x, rng.permutation(y)) or 0) for _ in range(4000)]
    assert rank_correlation_p(rho, 40) == pytest.approx(np.mean(np.array(drawn) >= rho), abs=0.02)


def test_mann_whitney_is_that_of_scipy(rng: np.random.Generator) -> None:
    a, b = rng.integers(2, 9, 12).astype(float), rng.integers(0, 7, 50).astype(float)
    wanted = stats.mannwhitneyu(a, b, method="asymptotic")
    superiority, p = mann_whitney(a, b)
    assert superiority == pytest.approx(wanted.statistic / (12 * 50))
    assert p == pytest.approx(wanted.pvalue)
    assert mann_whitney(np.ones(3), np.ones(4)) == (0.5, 1.0)


def test_holm_by_hand() -> None:
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, each no smaller than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_finds_nothing_in_noise_19_times_of_20(rng: np.random.Generator) -> None:
    found = sum(min(holm(list(rng.uniform(size=20)))) < 0.05 for _ in range(400))
    assert 5 <= found <= 35


def test_what_can_just_be_shown() -> None:
    least = smallest_shown(120, 36)
    assert 36 * rank_correlation_p(least, 120) == pytest.approx(0.05, rel=1e-3)
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
