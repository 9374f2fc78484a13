"""Verdicts against the floor: better or worse where the interval of the difference, over images, excludes zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from terramorph.evaluation.scoring import Tally
from terramorph.evaluation.statistics import SURE, Interval, mean_interval, set_interval
from terramorph.metrics import Metric

NOT_SHOWN = "not shown"


def against_floor(model: Tally, floor: Tally, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Model minus floor of every score that has an interval: paired by image, images resampled (bootstrap, 95 %).

    Distances between sets of features have none: their bias depends on the number of images.

    Args:
        model, floor: Scores of the same images.
        seed: Of the resampling.

    Returns:
        Score key -> ``difference``, ``low``, ``high`` and ``verdict``: better, worse or not shown (as it is with fewer
        than six images).
    """
    generator = np.random.default_rng(seed)
    found: dict[str, dict[str, Any]] = {}
    for key, metric in model.metrics.items():
        interval = _interval(metric, model.kept(metric), floor.kept(metric), generator)
        if interval is not None:
            verdict = _verdict(interval, metric.higher_is_better) if model.count >= SURE else NOT_SHOWN
            found[key] = {"difference": interval.mean, "low": interval.low, "high": interval.high, "verdict": verdict}
    return found


def _interval(
    metric: Metric, own: torch.Tensor | None, other: torch.Tensor | None, generator: np.random.Generator
) -> Interval | None:
    """Interval of the difference; ``None`` where there is no figure or no interval."""
    figure = metric.figure
    if own is None or other is None or not (metric.per_image or metric.summed):
        return None
    if figure is None:
        differences = (own.double() - other.double()).numpy()
        differences = differences[np.isfinite(differences)]
        return mean_interval(differences, generator) if len(differences) else None

    def difference(often: NDArray[np.int64]) -> NDArray[np.float64]:
        weights = torch.from_numpy(often).double()
        sums = [
            (weights @ kept.double().reshape(len(kept), -1)).reshape(len(often), *kept.shape[1:])
            for kept in (own, other)
        ]
        gain: NDArray[np.float64] = torch.sub(*(torch.as_tensor(figure(one)) for one in sums)).numpy()
        return gain

    if not np.isfinite(difference(np.ones((1, len(own)), np.int64))).all():
        return None
    return set_interval(difference, len(own), generator)


def _verdict(interval: Interval, higher_is_better: bool) -> str:
    if interval.low is None or interval.high is None or interval.low <= 0 <= interval.high:
        return NOT_SHOWN
    return "better" if (interval.mean > 0) == higher_is_better else "worse"
