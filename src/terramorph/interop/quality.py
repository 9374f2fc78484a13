"""Loss of quality of an exported file by small weights, measured and written into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from terramorph.interop.onnx import add_properties, write_model
from terramorph.metrics import METRICS


@dataclass(frozen=True)
class QualityLoss:
    """Quality lost by small weights, on pairs of source and truth.

    Attributes:
        metric: Key of `terramorph.metrics.METRICS`.
        before, after: Its value with float32 weights, and with those of the file.
        pairs: Number of pairs.
        of: Name of the pairs, for people.
        limit: Largest loss with which the file is kept.
    """

    metric: str
    before: float
    after: float
    pairs: int
    of: str
    limit: float

    @staticmethod
    def between(
        before: Mapping[str, Any], after: Mapping[str, Any], of: str, limits: Mapping[str, float]
    ) -> QualityLoss:
        """Compare two evaluations by the first metric of the limits that has a score."""
        metric = next(key for key in limits if before[key] is not None)
        return QualityLoss(metric, before[metric], after[metric], after["n"], of, limits[metric])

    @property
    def value(self) -> float:
        """The loss; negative where the file is better."""
        change = self.before - self.after
        return change if METRICS[self.metric].higher_is_better else -change

    @property
    def refused(self) -> bool:
        """Whether the loss is more than the limit."""
        return not self.value <= self.limit

    def __str__(self) -> str:
        name = METRICS[self.metric].name
        return f"{name} {self.before:.4f} to {self.after:.4f}, a loss of {self.value:.4f}, on {self.pairs} {self.of}"


def note_loss(path: str | Path, loss: QualityLoss) -> None:
    """Write into an exported file what its small weights cost, and whether it is kept or refused.

    Raises:
        StorageError: If the file cannot be written.
    """
    import onnx

    model = onnx.load(str(path))
    quality, scores = "refused" if loss.refused else "kept", {**asdict(loss), "value": loss.value}
    add_properties(model, quality=quality, quality_loss=str(loss), quality_scores=json.dumps(scores))
    write_model(model, path)
