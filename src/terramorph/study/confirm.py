"""The confirmation: the best trial against the preset, several seeds each, on a split that tuning never looked at.

Both train on the whole train split, for as long as the best trial did. `terramorph.study.statistics` says what the
difference is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from terramorph.atomic import locked
from terramorph.data import DEFAULT_CACHE
from terramorph.errors import ConfigError, InputError
from terramorph.study.plan import StudyPlan
from terramorph.study.run import METRICS, Scores, read_scores, score, train_to
from terramorph.study.statistics import Effect, Verdict, effects, holm, verdict
from terramorph.study.trial import Trial
from terramorph.training import TrainConfig
from terramorph.training.reporter import Silent, StepReport

SEEDS = 3
"""Runs of each; none has the seed of the trials."""


@dataclass(frozen=True)
class Confirmed:
    """One metric.

    Attributes:
        default, best: a value per seed.
        effect: best minus default.
        verdict: with Holm's correction over all metrics.
    """

    default: tuple[float, ...]
    best: tuple[float, ...]
    effect: Effect
    verdict: Verdict


@dataclass(frozen=True)
class Confirmation:
    """The best trial against the preset.

    Attributes:
        split: the pairs it is scored on, and their count.
        metrics: what could be computed.
        sheets: newest sample sheet of a run of each.
    """

    split: str
    pairs: int
    metrics: dict[str, Confirmed]
    sheets: dict[str, Path] = field(default_factory=dict)


def confirm(
    out: Path,
    plan: StudyPlan,
    trials: Sequence[Trial],
    best: Trial,
    *,
    weights: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache: str | Path = DEFAULT_CACHE,
) -> bool:
    """Trains and scores what is missing of the confirmation.

    Args:
        out, plan, trials, best: the study.
        weights: folder with the weights of LPIPS and FD.
        progress: called with (runs done, runs in all, what is being done).
        should_stop: asked after every step.
        cache: folder of the decoded pairs.

    Returns:
        Whether all of it is there; False if asked to stop.

    Raises:
        ConfigError: if another process is at it, or the preset itself has no trial.
        TrainingDivergedError: if a run comes to no end.
        DatasetError, StorageError: as training and evaluation.
    """
    runs = _runs(out, plan, trials, best)
    todo = [(name, seed, folder) for (name, seed), folder in runs.items() if not (folder / "scores").is_dir()]
    busy = ConfigError(f"Another process confirms the study {out}; wait until it is done.")
    (out / "confirm").mkdir(exist_ok=True)
    with locked(out / "confirm" / "lock", busy):
        for number, (name, seed, folder) in enumerate(todo):
            trial = best if name == "best" else _default(trials)
            config = _seeded(plan, trial, seed)
            said = f"confirming {'the best trial' if name == 'best' else 'the preset'}, seed {config.seed}"
            result = train_to(
                folder / "run",
                plan.dataset,
                config,
                images=plan.rungs.last,
                reporter=_Watch(progress, len(runs) - len(todo) + number, len(runs), said),
                should_stop=should_stop,
                cache=cache,
            )
            if not result.finished:
                return False
            part = folder / "scores.part"
            score(folder / "run", plan.dataset, plan.confirmed_on, part, weights=weights, device=config.device)
            part.rename(folder / "scores")
    return True


def confirmation_of(out: Path, plan: StudyPlan, trials: Sequence[Trial], best: Trial) -> Confirmation | None:
    """Reads what `confirm` made; None if it is not all there, or the preset is the best."""
    if best.is_preset or not any(trial.is_preset for trial in trials):
        return None
    runs = _runs(out, plan, trials, best)
    try:
        scores = {key: read_scores(folder / "scores") for key, folder in runs.items()}
    except InputError:
        return None
    arms = {name: [scores[key] for key in scores if key[0] == name] for name in ("default", "best")}
    found = {}
    for metric in METRICS:
        values = {name: _values(runs_of, metric) for name, runs_of in arms.items()}
        if all(value is not None for value in values.values()):
            found[metric] = {name: value for name, value in values.items() if value is not None}
    sheets = {name: sorted((runs[name, 0] / "run" / "samples").glob("*.png"))[-1:] for name in arms}
    return Confirmation(
        plan.confirmed_on,
        len(arms["best"][0].ids),
        _judged(found),
        {name: files[0] for name, files in sheets.items() if files},
    )


def _judged(found: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> dict[str, Confirmed]:
    each = {metric: effects(arms, "default", np.random.default_rng(0))["best"] for metric, arms in found.items()}
    corrected = holm([1.0 if effect.p is None else effect.p for effect in each.values()])
    return {
        metric: Confirmed(
            tuple(found[metric]["default"].mean(axis=1).tolist()),
            tuple(found[metric]["best"].mean(axis=1).tolist()),
            effect,
            verdict(effect, None if effect.p is None else chance, METRICS[metric]),
        )
        for (metric, effect), chance in zip(each.items(), corrected, strict=True)
    }


def _values(scores: Sequence[Scores], metric: str) -> NDArray[np.float64] | None:
    """Float64 (S, N) of S runs, N = 1 for a metric of the whole set; None where one is missing."""
    rows: list[list[float | None]] = [[*one.per_image.get(metric, ())] or [one.overall[metric]] for one in scores]
    return None if any(value is None for row in rows for value in row) else np.array(rows, np.float64)


def _runs(out: Path, plan: StudyPlan, trials: Sequence[Trial], best: Trial) -> dict[tuple[str, int], Path]:
    arms = {"default": _default(trials), "best": best}
    return {
        (name, seed): out / "confirm" / f"trial-{trial.folder}-seed-{_seeded(plan, trial, seed).seed}"
        for seed in range(SEEDS)
        for name, trial in arms.items()
    }


def _default(trials: Sequence[Trial]) -> Trial:
    found = next((trial for trial in trials if trial.is_preset), None)
    if found is None:
        raise ConfigError("The preset itself has no trial yet, so nothing can be compared with it; run tune again.")
    return found


def _seeded(plan: StudyPlan, trial: Trial, seed: int) -> TrainConfig:
    return plan.config_of(trial.values).model_copy(update={"seed": (plan.preset.seed + 1 + seed) % 2**63})


class _Watch(Silent):
    """Tells which step a run is at."""

    def __init__(self, tell: Callable[[int, int, str], None] | None, done: int, total: int, said: str) -> None:
        self._tell, self._done, self._total, self._said = tell, done, total, said

    def step(self, report: StepReport) -> None:
        """Passes it on."""
        if self._tell is not None:
            self._tell(self._done, self._total, f"{self._said}, step {report.step} of {report.total}")
