"""The scores of each image that a discussion explains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from terramorph.evaluation.discuss.section import percent
from terramorph.metrics import class_accuracy, mean_iou


@dataclass(frozen=True)
class Score:
    """A figure of merit of one image.

    Attributes:
        key: In ``per_image.csv`` and ``discussion.json``.
        name: In sentences.
        higher: Whether higher is better.
        write: A value as text.
        tested: Whether it is tested against covariates. PSNR orders images as RMSE does, in reverse, so the tests of
            one would repeat those of the other.
    """

    key: str
    name: str
    higher: bool
    write: Callable[[float], str]
    tested: bool = True

    def worse_when(self, rho: float) -> bool:
        """Whether a correlation of this sign means that the score gets worse."""
        return (rho > 0) != self.higher


SCORES: tuple[Score, ...] = (
    Score("lpips", "LPIPS", False, "{:.3f}".format),
    Score("rmse", "RMSE", False, "{:.1f}".format),
    Score("psnr", "PSNR", True, "{:.2f}".format, tested=False),
    Score("class_accuracy", "class accuracy", True, percent),
    Score("miou", "mIoU", True, percent),
)
"""In the order in which they are preferred for ordering images by quality."""


def score_columns(
    per_image: Mapping[str, Sequence[float]], confusions: Sequence[NDArray[np.int64]]
) -> dict[str, NDArray[np.float64]]:
    """The scores that there are, by key of `SCORES`, each float64 ``(N,)``.

    Args:
        per_image: Columns of the evaluation; empty ones are left out.
        confusions: int64 ``(7, 7)`` an image, or none where the target is no map.
    """
    columns = {key: list(values) for key, values in per_image.items() if values}
    if confusions:
        matrices = [torch.from_numpy(matrix) for matrix in confusions]
        columns |= {"class_accuracy": [class_accuracy(m) for m in matrices], "miou": [mean_iou(m) for m in matrices]}
    return {score.key: np.array(columns[score.key]) for score in SCORES if score.key in columns}


def leading(scores: Mapping[str, NDArray[np.float64]]) -> Score:
    """What orders images from good to bad: LPIPS where there is one, else RMSE; as on the page of the evaluation."""
    return next(score for score in SCORES if score.key in scores)
