"""The effect of a change, its confidence interval over seeds and images, and its verdict.

A metric has a value for every run (seed) and, in most cases, for every image. Seeds vary, and so do images, some of
which are easier for one variant than for another. The variance of seeds is as large as many published improvements
(Bouthillier et al. 2021, "Accounting for Variance in Machine Learning Benchmarks", MLSys 3), so an interval without it
is far too narrow. The effect is the mean over images and seeds of variant minus base. Its variance has two parts:

- *images*: the differences are paired by image and averaged over seeds, and images are resampled 2000 times for all
  runs together (Efron and Tibshirani 1993, chapter 6), corrected by the factor n/(n-1).
- *seeds*: seeds are not resampled, for three runs have ten different resamples with 2/3 of the variance, and a 95 %
  interval made of them would cover about 80 %. The variance of the runs' means is pooled over all variants of the study
  (Dunnett 1955, "A Multiple Comparison Procedure for Comparing Several Treatments with a Control", JASA 50), and the
  interval is Student's t with the pooled degrees of freedom. A variant with a larger variance than the pool has its
  own, or the noise of an unstable variant would count as an effect.

The parts are added, with degrees of freedom by Satterthwaite (1946). The interaction of images and seeds is in both,
which makes the interval slightly too wide. Metrics of the whole set (mIoU, FD) have one number per run: their intervals
are over seeds alone, for these images.

Holm's correction (1979, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statist. 6) over all
changes and metrics keeps the probability of any false verdict at 5 %. `tests/study/test_statistics.py` checks these
rates by simulation, for equal and unequal variances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.05
"""Probability of any false verdict in a study, and one minus the coverage of an interval."""
DRAWS = 2000
"""Number of resamples of the images."""
MOST_DEGREES = 1000.0
"""Upper bound on degrees of freedom, from which Student's t is practically a normal distribution."""

Verdict = Literal["better", "worse", "no difference shown", "one seed: no verdict"]


@dataclass(frozen=True)
class Effect:
    """A variant minus the base, in units of the metric.

    Attributes:
        difference: Mean over seeds and images.
        low, high: The 95 % confidence interval, without Holm's correction.
        p: Probability of a difference at least as large without an effect; None with one seed.
        over: Sources of variance that the interval covers.
        seeds: Number of runs of the base and of the variant.
    """

    difference: float
    low: float
    high: float
    p: float | None
    over: Literal["seeds and images", "seeds", "images", "nothing"]
    seeds: tuple[int, int]


def effects(
    arms: Mapping[str, NDArray[np.float64]], base: str, rng: np.random.Generator, draws: int = DRAWS
) -> dict[str, Effect]:
    """Return the effect of every variant on one metric.

    Args:
        arms: variant -> float64 (S, N): S runs by N images in one order, or (S, 1) for a metric of the whole set. S may
            differ.
        base: Variant that the others are compared with.
        rng: Random generator for resampling images.
        draws: Number of resamples of the images.

    Returns:
        Variant -> effect, without the base.
    """
    runs = {name: values.mean(axis=1) for name, values in arms.items()}
    repeated = [means for means in runs.values() if len(means) > 1]
    freedom = sum(len(means) - 1 for means in repeated)
    pooled = sum(float(((means - means.mean()) ** 2).sum()) for means in repeated) / freedom if freedom else 0.0
    count = arms[base].shape[1]
    weights = rng.multinomial(count, np.full(count, 1 / count), size=draws) / count if count > 1 else None
    found = {}
    for name in arms:
        if name == base:
            continue
        seeds = len(runs[base]), len(runs[name])
        judged = min(seeds) > 1
        by_image = arms[name].mean(axis=0) - arms[base].mean(axis=0)
        images = 0.0 if weights is None else float((weights @ by_image).var()) * count / (count - 1)
        of_seeds = 0.0
        if judged:
            of_seeds = sum(max(float(runs[arm].var(ddof=1)), pooled) / len(runs[arm]) for arm in (base, name))
        difference = float(by_image.mean())
        error = math.sqrt(images + of_seeds)
        degrees = _satterthwaite((of_seeds, freedom), (images, count - 1))
        reach = float(stats.t.ppf(1 - LEVEL / 2, degrees)) * error
        tail = 2 * float(stats.t.sf(abs(difference) / error, degrees)) if error else float(difference == 0)
        over: Literal["seeds and images", "seeds", "images", "nothing"]
        if judged:
            over = "seeds" if weights is None else "seeds and images"
        else:
            over = "nothing" if weights is None else "images"
        found[name] = Effect(difference, difference - reach, difference + reach, tail if judged else None, over, seeds)
    return found


def verdict(effect: Effect, corrected: float | None, higher_is_better: bool) -> Verdict:
    """Return the verdict on an effect, given its corrected p."""
    if corrected is None:
        return "one seed: no verdict"
    if corrected > LEVEL:
        return "no difference shown"
    return "better" if (effect.difference > 0) == higher_is_better else "worse"


def _satterthwaite(*parts: tuple[float, int]) -> float:
    """Return the degrees of freedom of a sum of variances, each with its own; 1 without any."""
    below = sum(value**2 / degrees for value, degrees in parts if value > 0)
    return min(float(sum(value for value, _ in parts) ** 2 / below), MOST_DEGREES) if below > 0 else 1.0
