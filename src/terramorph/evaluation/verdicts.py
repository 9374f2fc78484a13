"""Verdicts against the floor: better or worse where the interval of the difference excludes zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from terramorph.evaluation.scoring import Tally
from terramorph.evaluation.statistics import SURE, bootstrap, mean_interval
from terramorph.metrics import Metric
from terramorph.report.numbers import Interval

NOT_SHOWN = "not shown"


def against_floor(model: Tally, floor: Tally) -> dict[str, dict[str, Any]]:
    """Compare model and floor in every score: the difference, paired by image, with its 95 % interval (bootstrap).

    Distances between sets of features are left out: their bias depends on the number of images.

    Returns:
        By key of score: ``difference`` (model minus floor), ``low``, ``high`` and ``verdict``: better, worse or not
        shown (always with fewer than six images).
    """
    generator = np.random.default_rng(0)
    found: dict[str, dict[str, Any]] = {}
    for key, metric in model.metrics.items():
        interval, verdict = _interval(metric, model.kept(metric), floor.kept(metric), generator), NOT_SHOWN
        if interval is None:
            continue
        if model.count >= SURE and interval.beyond_zero():
            verdict = "better" if (interval.mean > 0) == metric.higher_is_better else "worse"
        found[key] = {"difference": interval.mean, "low": interval.low, "high": interval.high, "verdict": verdict}
    return found


def _interval(
    metric: Metric, own: torch.Tensor | None, other: torch.Tensor | None, generator: np.random.Generator
) -> Interval | None:
    """Return the interval of the difference; ``None`` where there is no score or no interval."""
    figure = metric.figure
    if own is None or other is None or not (metric.per_image or metric.summed):
        return None
    sides = own.double(), other.double()
    if figure is None:
        differences = (sides[0] - sides[1]).numpy()
        differences = differences[np.isfinite(differences)]
        return mean_interval(differences, generator) if len(differences) else None

    def difference(often: NDArray[np.int64]) -> NDArray[np.float64]:
        sums = [torch.tensordot(torch.from_numpy(often).double(), kept, dims=1) for kept in sides]
        gain: NDArray[np.float64] = torch.sub(*(torch.as_tensor(figure(one)) for one in sums)).numpy()
        return gain[:, None]

    return bootstrap(difference, len(own), generator)[0]
