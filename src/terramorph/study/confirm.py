"""The confirmation: a comparison of the best trial with the preset, several seeds each, on a split that tuning never
looked at.

Both train on the whole train split, for as long as the best trial did. The objectives are what was asked about: they
are tested by themselves, so that no other metric costs them power, and the others are secondary, a family of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from terramorph.data import DEFAULT_CACHE
from terramorph.metrics import METRICS
from terramorph.study.compare import compare, read_comparison
from terramorph.study.definition import BASE, Study, Variant
from terramorph.study.objectives import require_objectives
from terramorph.study.plan import StudyPlan
from terramorph.study.run import Record
from terramorph.study.trial import Trial
from terramorph.study.tune_reporter import SilentTuning, TuneReporter
from terramorph.training.reporter import Silent, StepReport

CONFIRM = "confirm"
"""Folder of the comparison, in the study's."""
SEEDS = 3
"""Runs of each; none has the seed of the trials."""


def confirm(
    out: Path,
    plan: StudyPlan,
    best: Trial,
    *,
    reporter: TuneReporter | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache: str | Path = DEFAULT_CACHE,
) -> None:
    """Trains and scores what is missing of the confirmation, and scores anew what was scored with other weights.

    Args:
        out, plan, best: the study.
        reporter: told about runs, and which of them diverged.
        should_stop: asked after every step.
        cache: folder of the decoded pairs.

    Raises:
        ConfigError: if another process is at it, or an objective cannot be computed.
        DatasetError, StorageError: as training and evaluation.
    """
    require_objectives(plan.objectives, plan.dataset, plan.confirmed_on, plan.preset, plan.weights)
    told = _Told(reporter or SilentTuning())
    study, folder = _study(plan, best), out / CONFIRM
    compare(plan.dataset, study, folder, weights=plan.weights, cache=cache, reporter=told, should_stop=should_stop)


def confirmation_of(out: Path, plan: StudyPlan, best: Trial) -> dict[str, Any] | None:
    """What `confirm` found, as `terramorph.study.compare` returns it; None if it is not all there."""
    if best.is_preset:
        return None
    document = read_comparison(_study(plan, best), plan.dataset, out / CONFIRM)
    return document if document["finished"] else None


def _study(plan: StudyPlan, best: Trial) -> Study:
    """Two variants: the preset as it is, and the best trial."""
    configs = {
        name: plan.config_of(values).model_copy(update={"seed": (plan.preset.seed + 1) % 2**63})
        for name, values in ((BASE, {}), (f"trial-{best.number}", best.values))
    }
    return Study(
        name="confirmation",
        variants=tuple(Variant(name, config, best.values if name != BASE else {}) for name, config in configs.items()),
        images=plan.rungs.last,
        minutes=None,
        seeds=SEEDS,
        split=plan.confirmed_on,
        metrics=plan.objectives,
        secondary=tuple(metric for metric in METRICS if metric not in plan.objectives),
    )


class _Told(Silent):
    """Passes on what a comparison tells."""

    def __init__(self, listener: TuneReporter) -> None:
        self._listener, self._at = listener, (0, 0, "")

    def run(self, name: str, number: int, total: int) -> None:
        """A run begins."""
        self._at = number - 1, total, f"confirming: {name}"

    def step(self, report: StepReport) -> None:
        """Tells where it is."""
        done, total, said = self._at
        self._listener.progress(done, total, f"{said}, step {report.step} of {report.total}")

    def scoring(self, done: int, total: int) -> None:
        """Nothing: it takes a moment."""

    def ended(self, name: str, record: Record) -> None:
        """Says why, where a run came to nothing."""
        if record.reason:
            self._listener.message(f"confirming: {name} {record.state}: {record.reason}")
