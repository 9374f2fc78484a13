"""Whether a model is better than the floor: only where an interval of the difference, over images, leaves out zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from terramorph.evaluation.scoring import LOWER, PER_IMAGE_KEYS, Tally
from terramorph.evaluation.statistics import SURE, Interval, mean_interval, set_interval

NOT_SHOWN = "not shown"


def against_floor(model: Tally, floor: Tally, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Model minus floor of every score that has an interval: paired by image, images resampled (bootstrap, 95 %).

    Distances between sets (FD, KD, FID) have none: their bias depends on the number of images.

    Args:
        model, floor: Scores of the same images.
        seed: Of the resampling.

    Returns:
        Score key -> ``difference``, ``low``, ``high`` and ``verdict``: better, worse or not shown (as it is with fewer
        than six images).
    """
    generator = np.random.default_rng(seed)
    found: dict[str, Interval] = {}
    for key in PER_IMAGE_KEYS:
        own, other = np.array(model.per_image[key]), np.array(floor.per_image[key])
        if len(own) and len(own) == len(other):
            found[key] = mean_interval(own - other, generator)
    if model.confusions:
        own, other = (torch.stack(tally.confusions).numpy() for tally in (model, floor))
        for key, figure in (("class_accuracy", _accuracy), ("miou", _mean_iou)):

            def difference(often: NDArray[np.int64], figure: Any = figure) -> NDArray[np.float64]:
                gain: NDArray[np.float64] = figure(often, own) - figure(often, other)
                return gain

            found[key] = set_interval(difference, len(own), generator)
    count = len(model.per_image["rmse"])
    return {
        key: {
            "difference": one.mean,
            "low": one.low,
            "high": one.high,
            "verdict": _verdict(one, key not in LOWER) if count >= SURE else NOT_SHOWN,
        }
        for key, one in found.items()
    }


def _verdict(interval: Interval, higher_is_better: bool) -> str:
    if interval.low is None or interval.high is None or interval.low <= 0 <= interval.high:
        return NOT_SHOWN
    return "better" if (interval.mean > 0) == higher_is_better else "worse"


def _summed(often: NDArray[np.int64], confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Confusions of resampled sets, float64 ``(R, K, K)``."""
    count, classes = confusions.shape[:2]
    flat: NDArray[np.float64] = often.astype(np.float64) @ confusions.reshape(count, -1)
    return flat.reshape(len(often), classes, classes)


def _accuracy(often: NDArray[np.int64], confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    summed = _summed(often, confusions)
    right: NDArray[np.float64] = np.trace(summed, axis1=1, axis2=2) / summed.sum(axis=(1, 2))
    return right


def _mean_iou(often: NDArray[np.int64], confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    """As `metrics.mean_iou`, over the classes that occur in truth or prediction."""
    summed = _summed(often, confusions)
    hit = np.diagonal(summed, axis1=1, axis2=2)
    union = summed.sum(axis=1) + summed.sum(axis=2) - hit
    shares = np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)
    mean: NDArray[np.float64] = np.nanmean(shares, axis=1)
    return mean
