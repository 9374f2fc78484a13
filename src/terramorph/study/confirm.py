"""The confirmation: the best trial against the preset, several seeds each, on a split that tuning never looked at.

Both train on the whole train split, for as long as the best trial did. `terramorph.study.statistics` says what the
difference is worth. The objectives are what was asked about: they are tested by themselves, so that no other metric
costs them power, and the others are secondary, a family of their own. A run that diverges is a result too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from terramorph.atomic import locked
from terramorph.data import DEFAULT_CACHE
from terramorph.errors import ConfigError, InputError, TrainingDivergedError
from terramorph.evaluation.statistics import holm
from terramorph.metrics import METRICS
from terramorph.study.objectives import require_objectives
from terramorph.study.plan import StudyPlan
from terramorph.study.record import SCORES, Record, read_record, write_record
from terramorph.study.run import Scores, read_scores, score, train_to
from terramorph.study.statistics import Effect, Verdict, effects, verdict
from terramorph.study.trial import Trial
from terramorph.study.tune_reporter import SilentTuning, TuneReporter
from terramorph.training import Plan, TrainConfig
from terramorph.training.reporter import Silent, StepReport

SEEDS = 3
"""Runs of each; none has the seed of the trials."""
_NAMES = {"default": "the preset", "best": "the best trial"}


@dataclass(frozen=True)
class Confirmed:
    """One metric.

    Attributes:
        default, best: a value per seed that came to its end.
        effect: best minus default; None if every run of one of them diverged.
        verdict: with Holm's correction over the objectives, or over the other metrics; None without an effect.
        is_objective: whether trials were ranked by it.
    """

    default: tuple[float, ...]
    best: tuple[float, ...]
    effect: Effect | None
    verdict: Verdict | None
    is_objective: bool


@dataclass(frozen=True)
class Confirmation:
    """The best trial against the preset.

    Attributes:
        split: the pairs it is scored on, and their count.
        metrics: what could be computed, the objectives first.
        diverged: a sentence for every run that came to no end.
        sheets: newest sample sheet of a run of each.
    """

    split: str
    pairs: int
    metrics: dict[str, Confirmed]
    diverged: tuple[str, ...] = ()
    sheets: dict[str, Path] = field(default_factory=dict)


def confirm(
    out: Path,
    plan: StudyPlan,
    trials: Sequence[Trial],
    best: Trial,
    *,
    reporter: TuneReporter | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache: str | Path = DEFAULT_CACHE,
) -> bool:
    """Trains and scores what is missing of the confirmation, and scores anew what was scored with other weights.

    Args:
        out, plan, trials, best: the study.
        reporter: told about runs, and which of them diverged.
        should_stop: asked after every step.
        cache: folder of the decoded pairs.

    Returns:
        Whether all of it is there; False if asked to stop.

    Raises:
        ConfigError: if another process is at it, the preset itself has no trial, or an objective cannot be computed.
        DatasetError, StorageError: as training and evaluation.
    """
    runs = _runs(out, plan, trials, best)
    todo = [(name, seed, folder) for (name, seed), folder in runs.items() if not _is_through(folder, plan)]
    if not todo:
        return True
    require_objectives(plan.objectives, plan.dataset, plan.confirmed_on, plan.preset, plan.weights)
    listener = reporter or SilentTuning()
    busy = ConfigError(f"Another process confirms the study {out}; wait until it is done.")
    (out / "confirm").mkdir(exist_ok=True)
    with locked(out / "confirm" / "lock", busy):
        for number, (name, seed, folder) in enumerate(todo):
            config = _seeded(plan, best if name == "best" else _default(trials), seed)
            said = f"confirming {_NAMES[name]}, seed {config.seed}"
            watch = _Watch(listener, len(runs) - len(todo) + number, len(runs), said)
            record = _run(folder, plan, config, watch, should_stop, cache)
            if record is None:
                return False
            write_record(folder, record)
            if record.state == "diverged":
                listener.message(f"{said}, diverged: {record.reason}")
    return True


def confirmation_of(out: Path, plan: StudyPlan, trials: Sequence[Trial], best: Trial) -> Confirmation | None:
    """Reads what `confirm` made; None if it is not all there, or the preset is the best."""
    if best.is_preset or not any(trial.is_preset for trial in trials):
        return None
    runs = _runs(out, plan, trials, best)
    arms: dict[str, list[Scores]] = {name: [] for name in _NAMES}
    diverged = []
    for (name, seed), folder in runs.items():
        record, scores = read_record(folder), _scores(folder, plan)
        if record.state == "diverged":
            diverged.append(f"{_NAMES[name]}, seed {_seeded(plan, best, seed).seed}, diverged: {record.reason}")
        elif scores is None:
            return None
        else:
            arms[name].append(scores)
    sheets = {name: sorted((runs[name, 0] / "run" / "samples").glob("*.png"))[-1:] for name in arms}
    return Confirmation(
        plan.confirmed_on,
        max((len(one.ids) for scored in arms.values() for one in scored), default=0),
        _judged(arms, plan.objectives),
        tuple(said[0].upper() + said[1:] for said in diverged),
        {name: files[0] for name, files in sheets.items() if files},
    )


def _is_through(folder: Path, plan: StudyPlan) -> bool:
    """Whether a run diverged, or has been scored with the weights of the study."""
    record = read_record(folder)
    if record.state == "diverged":
        return True
    return _scores(folder, plan) is not None and (plan.weights is None or record.weights == str(plan.weights))


def _scores(folder: Path, plan: StudyPlan) -> Scores | None:
    """What a run scored; None if that is not known of every objective."""
    try:
        scores = read_scores(folder / SCORES)
    except InputError:
        return None
    return None if any(scores.overall[name] is None for name in plan.objectives) else scores


def _run(
    folder: Path,
    plan: StudyPlan,
    config: TrainConfig,
    watch: _Watch,
    should_stop: Callable[[], bool] | None,
    cache: str | Path,
) -> Record | None:
    """Trains a run, if it has not been, and scores it; None if asked to stop."""
    images, run = plan.rungs.last, folder / "run"
    try:
        result = train_to(
            run, plan.dataset, config, images=images, reporter=watch, should_stop=should_stop, cache=cache
        )
    except TrainingDivergedError as error:
        return Record("diverged", watch.at, str(error))
    if not result.finished:
        return None
    part = folder / f"{SCORES}.part"
    score(run, plan.dataset, plan.confirmed_on, part, weights=plan.weights, device=config.device)
    shutil.rmtree(folder / SCORES, ignore_errors=True)
    part.rename(folder / SCORES)
    return Record("done", result.step, weights=None if plan.weights is None else str(plan.weights))


def _judged(arms: Mapping[str, Sequence[Scores]], objectives: Sequence[str]) -> dict[str, Confirmed]:
    """The metrics that all runs have, by family: the objectives, then the others."""
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for metric in (*objectives, *(name for name in METRICS if name not in objectives)):
        values = {name: _values(scores, metric) for name, scores in arms.items() if scores}
        known = {name: value for name, value in values.items() if value is not None}
        if known and len(known) == len(values):
            found[metric] = known
    judged: dict[str, Confirmed] = {}
    for is_objective in (True, False):
        family = {metric: known for metric, known in found.items() if (metric in objectives) is is_objective}
        judged |= _family(family, is_objective)
    return judged


def _family(found: Mapping[str, Mapping[str, NDArray[np.float64]]], is_objective: bool) -> dict[str, Confirmed]:
    """Metrics that are corrected for each other; an arm without a run leaves nothing to test."""
    tested = {
        metric: effects(arms, "default", np.random.default_rng(0))["best"]
        for metric, arms in found.items()
        if len(arms) > 1
    }
    chances = holm([1.0 if effect.p is None else effect.p for effect in tested.values()])
    corrected = dict(zip(tested, chances, strict=True))
    judged = {}
    for metric, arms in found.items():
        default, best = (tuple(arms[name].mean(axis=1).tolist()) if name in arms else () for name in _NAMES)
        effect = tested.get(metric)
        said = None
        if effect is not None:
            said = verdict(effect, None if effect.p is None else corrected[metric], METRICS[metric].higher_is_better)
        judged[metric] = Confirmed(default, best, effect, said, is_objective)
    return judged


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
    """Tells which step a run is at.

    Attributes:
        at: the last step that was reported.
    """

    def __init__(self, listener: TuneReporter, done: int, total: int, said: str) -> None:
        self._listener, self._done, self._total, self._said = listener, done, total, said
        self.at = 0

    def started(self, plan: Plan) -> None:
        """A run that goes on is further already."""
        self.at = plan.first_step

    def step(self, report: StepReport) -> None:
        """Passes it on."""
        self.at = report.step
        self._listener.progress(self._done, self._total, f"{self._said}, step {report.step} of {report.total}")
