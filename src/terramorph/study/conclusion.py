"""The result of a tuning study: the best trial as a preset and a bundle, its confirmation, and the page.

The confirmation compares the best trial with the preset, several seeds each, on a split that tuning never saw. Both
train on the whole train split, for as long as the best trial did. The objectives are tested as one family, so that no
other metric costs them power; the other metrics are a second family.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terramorph.atomic import atomic, write_text
from terramorph.data import DEFAULT_CACHE
from terramorph.documents import parse_json
from terramorph.errors import StorageError
from terramorph.metrics import METRICS
from terramorph.study.compare import FIGURES, compare
from terramorph.study.definition import BASE, Study, Variant
from terramorph.study.plan import StudyPlan, choose_objectives, keep_plan, load_plan
from terramorph.study.reporter import StudyReporter
from terramorph.study.trials import Trial, Trials
from terramorph.training.loop import MODEL

PRESET, BUNDLE, PAGE, CONFIRM = "best.toml", "best.safetensors", "report.html", "confirm"
"""Names in the study's folder: best trial as a preset, its bundle, the page, the folder of the comparison."""
SEEDS = 3
"""Runs of each variant in the confirmation; none has the seed of the trials."""
_NUMBER = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?")


@dataclass(frozen=True)
class TuneResult:
    """The state of a study.

    Attributes:
        out: Folder of the study.
        plan: Plan of the study.
        trials: Every trial that was begun.
        best: Best trial by the first objective at the last rung; None if none was scored there.
        front: Pareto front, the trials that no other beats in every objective.
        wanted: Total number of trials.
        confirmation: Comparison of the best trial with the preset on held-out pairs, as `compare` returns it; None if
            there is none.
    """

    out: Path
    plan: StudyPlan
    trials: tuple[Trial, ...]
    best: Trial | None
    front: tuple[Trial, ...]
    wanted: int
    confirmation: dict[str, Any] | None

    @property
    def finished(self) -> bool:
        """Whether every trial has ended."""
        return len(self.trials) >= self.wanted and self.ended == len(self.trials)

    @property
    def ended(self) -> int:
        """Number of trials that have ended, in whatever state."""
        return sum(trial.state != "running" for trial in self.trials)

    @property
    def why_none(self) -> str:
        """Commonest reason of the ended trials, if none reached the last rung."""
        reasons = [trial.reason for trial in self.trials if trial.state != "running"]
        if self.best is not None or not reasons:
            return ""
        kinds = [_NUMBER.sub("", reason) for reason in reasons]  # "At step 3 ..." and "At step 7 ..." are one
        kind, times = Counter(kinds).most_common(1)[0]
        often = f"the reason of {times}" if times < len(reasons) else "the reason"
        return (
            f"None of the {len(reasons)} trials that have ended came to the last rung of {self.plan.rungs[-1]} "
            f"images; {often}: {reasons[kinds.index(kind)]}"
        )

    @property
    def default(self) -> Trial | None:
        """Trial of the preset itself."""
        return next((trial for trial in self.trials if trial.is_preset), None)


def standing(out: Path, plan: StudyPlan, trials: Trials, wanted: int | None = None) -> TuneResult:
    """Return the state of a study; nothing is written."""
    known, numbers = trials.all(), trials.front()
    complete = [trial for trial in known if trial.state == "complete"]
    best, front = best_of(complete, plan.objectives[0]), tuple(one for one in complete if one.number in numbers)
    return TuneResult(out, plan, tuple(known), best, front, wanted or len(known), _confirmation(out, best))


def _confirmation(out: Path, best: Trial | None) -> dict[str, Any] | None:
    """Return the finished comparison of the best trial with the preset; None if there is none."""
    try:
        document: dict[str, Any] = parse_json((out / CONFIRM / FIGURES).read_text(encoding="utf-8"))
        ours = best is not None and document["variants"][1]["name"] == _variant_name(best)
        return document if ours and document["finished"] else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _variant_name(best: Trial) -> str:
    return f"trial-{best.number}"


def conclude(result: TuneResult) -> TuneResult:
    """Write `best.toml`, `best.safetensors` and `report.html` of a study; return its state."""
    from terramorph.study.tune_page import render_study

    out, best = result.out, result.best
    if best is not None:
        write_text(out / PRESET, _as_toml(result, best))
        model = out / "trials" / best.folder / "run" / MODEL
        if not model.is_file():
            raise StorageError(
                f"The bundle {model} of the best trial is missing; run this on the machine that has it, or share the "
                "study's folder between machines."
            )
        with atomic(out / BUNDLE) as part:
            shutil.copyfile(model, part)
    write_text(out / PAGE, render_study(result))
    return result


def best_of(trials: Sequence[Trial], objective: str) -> Trial | None:
    """Return the best trial with a score, the earlier of equals."""
    sign = 1 if METRICS[objective].higher_is_better else -1
    known = [(value, trial) for trial in trials if (value := trial.score(objective)) is not None]
    return max(known, key=lambda pair: (sign * pair[0], -pair[1].number))[1] if known else None


def confirm_study(
    out: str | Path,
    *,
    storage: str | None = None,
    weights: Path | None = None,
    reporter: StudyReporter | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache: str | Path = DEFAULT_CACHE,
    allowed: Collection[str] = (),
) -> TuneResult:
    """Confirm the best trial of a study on held-out pairs, and rewrite the page.

    Args:
        out: Folder of the study.
        storage, cache: As in `tune`.
        weights: Folder with the weights of LPIPS and FD, which is remembered; None for the one given last.
        reporter: Receives progress.
        should_stop: Called after every step; on True the call ends, and the next one resumes.
        allowed: As in `tune`.

    Raises:
        ConfigError: If there is no study, another process confirms it, or an objective cannot be computed.
        DatasetError, StorageError: As in training and evaluation.
    """
    out = Path(out)
    plan = load_plan(out)
    if weights is not None:
        plan = plan.model_copy(update={"weights": weights.resolve()})
        keep_plan(out, plan)
    trials = Trials(out, plan, storage)
    result = standing(out, plan, trials)
    if result.best is None or result.best.is_preset:
        return conclude(result)
    choose_objectives(plan.objectives, plan.dataset, plan.confirmed_on, plan.preset, plan.weights, allowed)
    compare(
        plan.dataset,
        _comparison(plan, result.best),
        out / CONFIRM,
        weights=plan.weights,
        cache=cache,
        reporter=reporter,
        should_stop=should_stop,
        allowed=allowed,
    )
    return conclude(standing(out, plan, trials))


def _comparison(plan: StudyPlan, best: Trial) -> Study:
    """Return the study of two variants, the preset and the best trial."""
    seed = {"seed": (plan.preset.seed + 1) % 2**63}
    variants = [
        Variant(name, plan.config_of(values).model_copy(update=seed), values)
        for name, values in ((BASE, {}), (_variant_name(best), best.values))
    ]
    return Study(
        name="confirmation",
        variants=tuple(variants),
        images=plan.rungs[-1],
        minutes=None,
        seeds=SEEDS,
        split=plan.confirmed_on,
        metrics=plan.objectives,
        secondary=tuple(metric for metric in METRICS if metric not in plan.objectives),
    )


def _as_toml(result: TuneResult, best: Trial) -> str:
    plan, objective, default = result.plan, result.plan.objectives[0], result.default
    before = None if default is None else default.score(objective, plan.rungs[-1])
    beside = "" if before is None else f" (the preset itself: {before:.4g})"
    lines = [
        f"# Found by terramorph tune: trial {best.number} of {len(result.trials)} of {result.out.resolve().name}.",
        f"# {objective} {best.score(objective):.4g}{beside} after {plan.rungs[-1]} images, on {plan.tuned_on}.",
    ]
    values = plan.config_of(best.values).model_dump(mode="json", exclude_none=True)
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines += [f"{key} = {_toml(value)}" for key, value in values.items() if key not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Return a plain value as TOML, which is JSON except for tables."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
