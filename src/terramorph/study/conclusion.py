"""What comes of a study: the best trial as a preset and a bundle, and the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from terramorph.atomic import atomic
from terramorph.data import DEFAULT_CACHE
from terramorph.errors import StorageError
from terramorph.study.confirm import confirm, confirmation_of
from terramorph.study.plan import StudyPlan, keep_weights, load_plan
from terramorph.study.trial import Trial
from terramorph.study.trials import Trials
from terramorph.study.tune_report import render_study
from terramorph.study.tune_reporter import TuneReporter
from terramorph.study.tune_result import TuneResult, best_of
from terramorph.training.loop import MODEL

PRESET, BUNDLE, PAGE = "best.toml", "best.safetensors", "report.html"


def conclude(out: Path, plan: StudyPlan, trials: Sequence[Trial], front: Sequence[int], wanted: int) -> TuneResult:
    """Writes `best.toml`, `best.safetensors` and `report.html` of what is known so far.

    Raises:
        StorageError: if they cannot be written, or the best trial's bundle is gone.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    best = best_of(complete, plan)
    confirmation = None if best is None else confirmation_of(out, plan, best)
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
    confirm(out, plan, result.best, reporter=reporter, should_stop=should_stop, cache=cache)
    return conclude(out, plan, known, front, len(known))


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
