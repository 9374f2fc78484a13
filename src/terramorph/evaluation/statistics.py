"""Ranks, tests and intervals: what separates a finding from a coincidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
"""A difference is shown when its p value, corrected for the number of tests, is under this."""
FEW = 30
"""Images; with fewer no test is made: the normal approximations below and a decile both want more."""
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


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, float64 ``(N,)``; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return shared


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    """Spearman's rho, the correlation of the ranks, -1 to 1; ``None`` where one side is constant.

    Args:
        x, y: float64 ``(N,)``.
    """
    a, b = ranks(x) - (len(x) + 1) / 2, ranks(y) - (len(y) + 1) / 2
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return None if scale == 0 else float(a @ b) / scale


def rank_correlation_p(rho: float, count: int) -> float:
    """Two-sided p value of Spearman's rho over ``count`` pairs, 2 or more.

    Under permutation the variance of rho is exactly ``1 / (count - 1)``, with ties or without; the distribution is
    taken as normal (Kendall, "Rank Correlation Methods", 1948, chapter 5).
    """
    return _two_sided(rho * math.sqrt(count - 1))


def mann_whitney(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Whether values of one group tend to be larger than those of another (Mann and Whitney, 1947).

    Args:
        a, b: float64 ``(N,)`` and ``(M,)``, neither empty.

    Returns:
        ``U / (N M)``, the probability that one of ``a`` exceeds one of ``b`` (ties count half), 0 to 1; and the
        two-sided p value of its normal approximation, with correction for ties and continuity.
    """
    n, m = len(a), len(b)
    both = np.concatenate((a, b))
    u = float(ranks(both)[:n].sum()) - n * (n + 1) / 2
    ties = np.unique(both, return_counts=True)[1].astype(np.float64)
    total = n + m
    variance = n * m / 12 * (total + 1 - float((ties**3 - ties).sum()) / (total * (total - 1)))
    if variance <= 0:
        return 0.5, 1.0
    distance = max(abs(u - n * m / 2) - 0.5, 0.0)
    return u / (n * m), _two_sided(distance / math.sqrt(variance))


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
    """The size of Spearman's rho that ``count`` pairs can just show when ``tests`` are made."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if tests * rank_correlation_p(middle, count) > ALPHA else (low, middle)
    return high


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
    """How often each image was drawn, int64 ``(R, count)``, in parts that together are `REPEATS` resamplings."""
    at_once = max(1, _CELLS // count)
    for first in range(0, REPEATS, at_once):
        yield generator.multinomial(count, np.full(count, 1 / count), size=min(at_once, REPEATS - first))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))
