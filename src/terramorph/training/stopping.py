"""Early stopping: a run ends when a held-out score has not improved for some validations."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from terramorph.errors import ConfigError
from terramorph.extensions import is_outside, resolve
from terramorph.metrics import METRICS, Metric, with_own
from terramorph.training.config import StopConfig


def stopping_metric(name: str, allowed: Collection[str] = ()) -> Metric:
    """Return the metric that `stop.metric` names."""
    if not is_outside(name):
        return METRICS[name]
    found = resolve(name, allowed)
    with_own([found])
    if not found.per_image or found.needs != "pixels":
        raise ConfigError(f"stop.metric must be a metric with one value per image, from pixels alone, got {found.key}.")
    metric: Metric = found
    return metric


class EarlyStopping:
    """Counts validations without a better score; its state is plain data for checkpoints.

    Args:
        config: Patience, and a metric of the catalogue.
        metric: From `stopping_metric`; by default the one that `config` names.

    Attributes:
        best: The best score so far; negated for a metric of which lower is better.
        waited: Validations since the best one.
    """

    def __init__(self, config: StopConfig, metric: Metric | None = None) -> None:
        self._config, self._metric = config, metric or METRICS[config.metric]
        self.best, self.waited = -math.inf, 0

    def improved(self, scores: Mapping[str, float]) -> bool:
        """Count a validation, and return whether it is the best so far."""
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
