"""Statistical tests (SciPy), Holm's correction, and bootstrap intervals over images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from terramorph.report.numbers import Interval

ALPHA = 0.05
"""Level of significance for p values that are corrected for the number of tests."""
FEW = 30
"""Least number of images for a test: the approximations below and a decile need as many."""
SURE = 6
"""Least number of images for a verdict: with fewer, even the same sign in all of them may be chance at 5 %."""
REPEATS = 1000
"""Resamplings per interval."""
_CELLS = 2**22  # weights held at once while resampling


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return Spearman's rho, -1 to 1, and its two-sided p value; ``None`` where one side is constant.

    Args:
        x, y: float64 ``(N,)``.
    """
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    from scipy import stats

    found = stats.spearmanr(x, y)
    return float(found.statistic), float(found.pvalue)


def mann_whitney(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Test two groups by Mann and Whitney.

    Args:
        a, b: float64 ``(N,)`` and ``(M,)``, neither empty, not all equal.

    Returns:
        ``U / (N M)``, the probability that one of ``a`` exceeds one of ``b`` (ties count half), 0 to 1; and the
        two-sided p value.
    """
    from scipy import stats

    found = stats.mannwhitneyu(a, b, method="asymptotic")
    return float(found.statistic) / (len(a) * len(b)), float(found.pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm, "A simple sequentially rejective multiple test procedure", 1979).

    If tests with a corrected value under 0.05 are taken for significant, the probability of any false one is at most
    5 %, however the tests depend on one another.
    """
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.arange(len(p), 0, -1) * np.asarray(p)[order])
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(stepped)
    return [float(value) for value in corrected]


def smallest_shown(count: int, tests: int) -> float:
    """Return the smallest significant size of Spearman's rho for ``count`` pairs, 3 or more, in ``tests`` tests."""
    from scipy import stats

    t = float(stats.t.ppf(1 - ALPHA / tests / 2, count - 2))
    return t / math.sqrt(count - 2 + t**2)


def bootstrap(
    figures: Callable[[NDArray[np.int64]], NDArray[np.float64]], count: int, generator: np.random.Generator
) -> list[Interval | None]:
    """Return statistics of a set of images with 95 % intervals (percentile bootstrap, Efron 1979).

    Images are resampled, not pixels, as pixels of one image are not independent.

    Args:
        figures: Function of how often each image counts, int64 ``(R, count)``, that returns K statistics of each of R
            resamplings, ``(R, K)``.
        count: Number of images, 1 or more; one has no interval.
        generator: Random generator of the resamplings.

    Returns:
        K intervals; ``None`` where a statistic of the set is not finite.
    """
    mean, drawn = figures(np.ones((1, count), np.int64))[0], []
    at_once = max(1, _CELLS // count)
    for first in range(0, REPEATS if count > 1 else 0, at_once):
        size = min(at_once, REPEATS - first)
        drawn.append(figures(generator.multinomial(count, np.full(count, 1 / count), size=size)))
    found: list[Interval | None] = []
    for column, value in enumerate(mean.tolist()):
        ends: list[float] | None = None
        if drawn and math.isfinite(value):
            ends = np.nanpercentile(np.concatenate([one[:, column] for one in drawn]), (2.5, 97.5)).tolist()
        found.append(Interval(value, *(ends or (None, None))) if math.isfinite(value) else None)
    return found


def ratio_intervals(
    part: NDArray[np.float64], whole: NDArray[np.float64], generator: np.random.Generator
) -> list[Interval | None]:
    """Return ``sum part / sum whole`` over images for each of K columns, with intervals.

    Args:
        part, whole: float64 ``(N, K)``, ``whole`` 0 or more.
        generator: Random generator of the resamplings.

    Returns:
        K intervals; ``None`` where a column of ``whole`` is all 0, without ends where only one image is not 0.
    """

    def ratios(often: NDArray[np.int64]) -> NDArray[np.float64]:
        below = often @ whole
        found: NDArray[np.float64] = np.divide(often @ part, below, out=np.full(below.shape, np.nan), where=below > 0)
        return found

    lone = np.count_nonzero(whole, axis=0) < 2
    found = bootstrap(ratios, len(part), generator)
    return [Interval(one.mean, None, None) if one and alone else one for one, alone in zip(found, lone, strict=True)]


def mean_interval(values: NDArray[np.float64], generator: np.random.Generator) -> Interval:
    """Return the mean of float64 ``(N,)``, N >= 1, all finite, with its interval."""
    found = ratio_intervals(values[:, None], np.ones((len(values), 1)), generator)[0]
    assert found is not None
    return found
