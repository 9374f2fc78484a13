"""Early stopping: a run ends once a held-out score has not got better for a while."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from terramorph.metrics import METRICS
from terramorph.training.config import StopConfig


class EarlyStopping:
    """Counts validations without a better score. Plain state, so that it survives in checkpoints.

    Attributes:
        best: the best score so far; of a metric that is better when lower, with its sign turned.
        waited: validations since.
    """

    def __init__(self, config: StopConfig) -> None:
        self._config = config
        self.best, self.waited = -math.inf, 0

    def improved(self, scores: Mapping[str, float]) -> bool:
        """Count a validation in; whether it is the best so far."""
        value = scores.get(self._config.metric, math.nan)
        score = -math.inf if math.isnan(value) else value if METRICS[self._config.metric].higher_is_better else -value
        better = score > self.best
        self.best, self.waited = max(score, self.best), 0 if better else self.waited + 1
        return better

    @property
    def over(self) -> bool:
        """Whether the run should end."""
        return 0 < self._config.patience <= self.waited

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {"best": self.best, "waited": self.waited} if self._config.patience and self.best > -math.inf else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier `state`."""
        self.best, self.waited = float(state.get("best", -math.inf)), int(state.get("waited", 0))
