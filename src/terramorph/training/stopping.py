"""Early stopping: a run ends once a held-out score has not got better for a while."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from terramorph.errors import ConfigError
from terramorph.extensions import is_outside, resolve
from terramorph.metrics import METRICS, Metric, with_own
from terramorph.training.config import StopConfig


def stopping_metric(name: str, allowed: Collection[str] = ()) -> Metric:
    """The metric of `stop.metric`."""
    if not is_outside(name):
        return METRICS[name]
    found = resolve(name, allowed)
    with_own([found])
    if not found.per_image or found.needs != "pixels":
        raise ConfigError(f"The metric {found.key} cannot stop a run: that takes a value an image, from pixels alone.")
    metric: Metric = found
    return metric


class EarlyStopping:
    """Counts validations without a better score. Plain state, so that it survives in checkpoints.

    Args:
        config: patience, and the metric where it is one of the catalogue.
        metric: from `stopping_metric`.

    Attributes:
        best: the best score so far; of a metric that is better when lower, with its sign turned.
        waited: validations since.
    """

    def __init__(self, config: StopConfig, metric: Metric | None = None) -> None:
        self._config, self._metric = config, metric or METRICS[config.metric]
        self.best, self.waited = -math.inf, 0

    def improved(self, scores: Mapping[str, float]) -> bool:
        """Count a validation in; whether it is the best so far."""
        value = scores.get(self._metric.key, math.nan)
        score = -math.inf if math.isnan(value) else value if self._metric.higher_is_better else -value
        better = score > self.best
        self.best, self.waited = max(score, self.best), 0 if better else self.waited + 1
        return better

    @property
    def over(self) -> bool:
        return 0 < self._config.patience <= self.waited

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited} if self._config.patience and self.best > -math.inf else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = float(state.get("best", -math.inf)), int(state.get("waited", 0))
