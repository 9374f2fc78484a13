"""What comes of a study: the best trial as a preset and a bundle, and the page."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terramorph.atomic import atomic
from terramorph.data import DEFAULT_CACHE
from terramorph.errors import StorageError
from terramorph.study.confirm import Confirmation, confirm, confirmation_of
from terramorph.study.plan import StudyPlan, keep_weights, load_plan
from terramorph.study.run import METRICS
from terramorph.study.trial import Trial
from terramorph.study.trials import Trials
from terramorph.study.tune_reporter import TuneReporter
from terramorph.training.loop import MODEL

PRESET, BUNDLE, PAGE = "best.toml", "best.safetensors", "report.html"
_NUMBER = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?")


@dataclass(frozen=True)
class TuneResult:
    """How a study stands.

    Attributes:
        out: its folder.
        plan: what it is about.
        trials: every trial that was begun.
        best: the best of those that were scored at the last rung, by the first objective; None so far.
        front: those that no other is better than in every objective.
        wanted: trials in all.
        confirmation: of the best against the preset on the split that tuning never saw; None so far.
    """

    out: Path
    plan: StudyPlan
    trials: tuple[Trial, ...]
    best: Trial | None
    front: tuple[Trial, ...]
    wanted: int
    confirmation: Confirmation | None

    @property
    def finished(self) -> bool:
        """Whether every trial has ended."""
        return len(self.trials) >= self.wanted and all(trial.state != "running" for trial in self.trials)

    @property
    def ended(self) -> int:
        """How many trials have ended, however they did."""
        return sum(trial.state != "running" for trial in self.trials)

    @property
    def why_none(self) -> str:
        """What became of the trials that ended, if none of them came to the last rung: their commonest reason."""
        reasons = [trial.reason for trial in self.trials if trial.state != "running"]
        if self.best is not None or not reasons:
            return ""
        kinds = [_NUMBER.sub("", reason) for reason in reasons]  # "At step 3 ..." and "At step 7 ..." are one
        kind, times = Counter(kinds).most_common(1)[0]
        often = f"the reason of {times}" if times < len(reasons) else "the reason"
        return (
            f"None of the {len(reasons)} trials that have ended came to the last rung of {self.plan.rungs.last} "
            f"images; {often}: {reasons[kinds.index(kind)]}"
        )

    @property
    def default(self) -> Trial | None:
        """The preset's own trial."""
        return next((trial for trial in self.trials if trial.is_preset), None)

    @property
    def worst(self) -> Trial | None:
        """The poorest of the trials that were scored at all, each at the last rung it came to."""
        return _best(self.trials, self.plan, sign=-1)


def conclude(out: Path, plan: StudyPlan, trials: Sequence[Trial], front: Sequence[int], wanted: int) -> TuneResult:
    """Writes `best.toml`, `best.safetensors` and `report.html` of what is known so far.

    Raises:
        StorageError: if they cannot be written, or the best trial's bundle is gone.
    """
    from terramorph.study.tune_report import render_study

    complete = [trial for trial in trials if trial.state == "complete"]
    best = _best(complete, plan)
    confirmation = None if best is None else confirmation_of(out, plan, trials, best)
    on_front = tuple(trial for trial in complete if trial.number in front)
    result = TuneResult(out, plan, tuple(trials), best, on_front, wanted, confirmation)
    if best is not None:
        with atomic(out / PRESET) as part:
            part.write_text(_as_toml(result, best), encoding="utf-8")
        model = out / "trials" / best.folder / "run" / MODEL
        if not model.is_file():
            raise StorageError(
                f"The bundle of the best trial, {model}, is not here; run this on the machine that has it, or let the "
                "machines share the study's folder."
            )
        with atomic(out / BUNDLE) as part:
            shutil.copyfile(model, part)
    with atomic(out / PAGE) as part:
        part.write_text(render_study(result), encoding="utf-8")
    return result


def confirm_study(
    out: str | Path,
    *,
    storage: str | None = None,
    weights: Path | None = None,
    reporter: TuneReporter | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache: str | Path = DEFAULT_CACHE,
) -> TuneResult:
    """Confirms the best trial of a study on the split that tuning never saw, and writes the page again.

    Args:
        out: the study's folder.
        storage, cache: as the study was begun with.
        weights: folder with the weights of LPIPS and FD, which is remembered; None for the one that was given last.
        reporter: told how it goes.
        should_stop: asked after every step; what is there then is kept, and the next call goes on.

    Raises:
        ConfigError: if there is no study, another process confirms it, or an objective cannot be computed.
        DatasetError, StorageError: as training and evaluation.
    """
    out = Path(out)
    plan = load_plan(out)
    if weights is not None:
        plan = keep_weights(out, weights)
    trials = Trials(out, plan, storage)
    known, front = trials.all(), trials.front()
    result = conclude(out, plan, known, front, len(known))
    if result.best is None or result.best.is_preset:
        return result
    confirm(out, plan, known, result.best, reporter=reporter, should_stop=should_stop, cache=cache)
    return conclude(out, plan, known, front, len(known))


def _best(trials: Sequence[Trial], plan: StudyPlan, sign: int = 1) -> Trial | None:
    name = plan.objectives[0]
    upward = sign if METRICS[name] else -sign
    known = [(value, trial) for trial in trials if (value := trial.score(name)) is not None]
    return max(known, key=lambda pair: (upward * pair[0], -pair[1].number))[1] if known else None


def _as_toml(result: TuneResult, best: Trial) -> str:
    plan, objective = result.plan, result.plan.objectives[0]
    default = result.default
    before = None if default is None else default.score(objective, plan.rungs.last)
    beside = "" if before is None else f" (the preset itself: {before:.4g})"
    lines = [
        f"# Found by terramorph tune: trial {best.number} of {len(result.trials)} of {result.out.resolve().name}.",
        f"# {objective} {best.score(objective):.4g}{beside} after {plan.rungs.last} images, on {plan.tuned_on}.",
    ]
    values = plan.config_of(best.values).model_dump(mode="json", exclude_none=True)
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines += [f"{key} = {_toml(value)}" for key, value in values.items() if key not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A plain value; TOML writes these as JSON does."""
    return json.dumps(value, ensure_ascii=False)
