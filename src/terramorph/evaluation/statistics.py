"""Tests of SciPy, Holm's correction, and bootstrap intervals over images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.report.numbers import between, number

ALPHA = 0.05
"""A difference is shown when its p value, corrected for the number of tests, is under this."""
FEW = 30
"""Images; with fewer no test is made: the approximations below and a decile both want more."""
SURE = 6
"""Images for a verdict: with fewer, even one sign in all of them may be chance at 5 %."""
REPEATS = 1000
"""Resamplings behind an interval."""
_CELLS = 2**22  # weights held at once while resampling


@dataclass(frozen=True)
class Interval:
    """A mean and what resampling the images leaves open.

    Attributes:
        mean: Over the images.
        low, high: The middle 95 % of the means of resamplings; ``None`` with fewer than two images.
    """

    mean: float
    low: float | None
    high: float | None

    def said(self, write: Callable[[float], str] = number) -> str:
        """``0.31 [0.28, 0.34]``."""
        return between(self.mean, self.low, self.high, write)

    def beyond_zero(self) -> bool:
        """Whether it excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def plain(interval: Interval | None) -> dict[str, Any] | None:
    """An interval as plain data."""
    return None if interval is None else asdict(interval)


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float] | None:
    """Spearman's rho, -1 to 1, and its two-sided p value; ``None`` where one side is constant.

    Args:
        x, y: float64 ``(N,)``.
    """
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    from scipy import stats

    found = stats.spearmanr(x, y)
    return float(found.statistic), float(found.pvalue)


def mann_whitney(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Mann-Whitney test of two groups.

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
    """p values corrected for their number (Holm, "A simple sequentially rejective multiple test procedure", 1979).

    Under a corrected value of 0.05, the chance that any of the tests is a coincidence is at most 5 %, however the tests
    depend on one another.
    """
    corrected, largest = [0.0] * len(p), 0.0
    for place, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - place) * p[index]))
        corrected[index] = largest
    return corrected


def smallest_shown(count: int, tests: int) -> float:
    """The size of Spearman's rho that ``count`` pairs, 3 or more, can just show when ``tests`` are made."""
    from scipy import stats

    t = float(stats.t.ppf(1 - ALPHA / tests / 2, count - 2))
    return t / math.sqrt(count - 2 + t**2)


def mean_interval(values: NDArray[np.float64], generator: np.random.Generator) -> Interval:
    """The mean of float64 ``(N,)``, N >= 1, with its bootstrap interval (Efron, 1979; percentiles)."""
    found = ratio_intervals(values[:, None], np.ones((len(values), 1)), generator)[0]
    assert found is not None
    return found


def ratio_intervals(
    part: NDArray[np.float64], whole: NDArray[np.float64], generator: np.random.Generator
) -> list[Interval | None]:
    """``sum part / sum whole`` over images for each of K columns, with intervals from resampling whole images.

    Pixels of one image resemble each other, so it is the images that are drawn anew.

    Args:
        part, whole: float64 ``(N, K)``, ``whole`` 0 or more.
        generator: Draws the resamplings.

    Returns:
        K intervals; ``None`` where a column of ``whole`` is all 0.
    """
    drawn = [_ratio(often @ part, often @ whole) for often in _resampled(len(part), generator)]
    ratios, mean = np.concatenate(drawn), _ratio(part.sum(axis=0), whole.sum(axis=0))
    found: list[Interval | None] = []
    for column in range(part.shape[1]):
        if np.isnan(mean[column]):
            found.append(None)
            continue
        low = high = None
        if np.count_nonzero(whole[:, column]) > 1:
            low, high = (float(v) for v in np.nanpercentile(ratios[:, column], (2.5, 97.5)))
        found.append(Interval(float(mean[column]), low, high))
    return found


def set_interval(
    figure: Callable[[NDArray[np.int64]], NDArray[np.float64]], count: int, generator: np.random.Generator
) -> Interval:
    """A figure of a whole set with its bootstrap interval (Efron, 1979; percentiles).

    Args:
        figure: How often each image counts, int64 ``(R, count)`` -> the figure of each of R resamplings, ``(R,)``.
        count: Images, 1 or more.
        generator: Draws the resamplings.
    """
    mean = float(figure(np.ones((1, count), np.int64))[0])
    if count < 2:
        return Interval(mean, None, None)
    figures = np.concatenate([figure(often) for often in _resampled(count, generator)])
    low, high = (float(v) for v in np.nanpercentile(figures, (2.5, 97.5)))
    return Interval(mean, low, high)


def _resampled(count: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Counts of each image in `REPEATS` resamplings, in parts int64 ``(R, count)``."""
    at_once = max(1, _CELLS // count)
    for first in range(0, REPEATS, at_once):
        yield generator.multinomial(count, np.full(count, 1 / count), size=min(at_once, REPEATS - first))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio
