"""The scores of each image that a discussion explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from terramorph.metrics import METRICS, Metric

SCORES: tuple[Metric, ...] = tuple(METRICS[key] for key in ("lpips", "rmse", "psnr", "class_accuracy", "miou"))
"""In the order in which they are preferred for ordering images by quality."""
NOT_TESTED = METRICS["psnr"]
"""It orders images as RMSE does, in reverse, so the tests of one would repeat those of the other."""


def score_columns(
    per_image: Mapping[str, Sequence[float]], confusions: Sequence[NDArray[np.int64]]
) -> dict[str, NDArray[np.float64]]:
    """The scores that there are, by key of `SCORES`, each float64 ``(N,)``.

    Args:
        per_image: Columns of the evaluation; empty ones are left out.
        confusions: int64 ``(7, 7)`` an image, or none where the target is no map.
    """
    columns: dict[str, NDArray[np.float64]] = {}
    matrices = torch.from_numpy(np.stack(confusions)) if confusions else None
    for score in SCORES:
        if score.figure is None and per_image.get(score.key):
            columns[score.key] = np.array(per_image[score.key])
        elif score.figure is not None and matrices is not None:
            columns[score.key] = np.asarray(score.figure(matrices))
    return columns


def leading(scores: Mapping[str, object]) -> Metric:
    """What orders images from good to bad: LPIPS where there is one, else RMSE; as on the page of the evaluation."""
    return next(score for score in SCORES if score.key in scores)
