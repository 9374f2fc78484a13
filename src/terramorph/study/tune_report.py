"""The page of a study: one HTML file with everything inside, readable in light and dark, offline."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from terramorph._version import __version__
from terramorph.metrics import METRICS
from terramorph.report.pages import page_environment, picture_uri
from terramorph.study import tune_charts as charts
from terramorph.study.compare_page import effect_table
from terramorph.study.comparison import conclude
from terramorph.study.confirm import SEEDS
from terramorph.study.run import flat_settings
from terramorph.study.trial import Trial
from terramorph.study.tune_result import TuneResult

_ROWS = 4
"""Pairs that are shown of a sample sheet."""


def render_study(result: TuneResult) -> str:
    """The page as one string of HTML, without any reference to the network."""
    environment = page_environment("terramorph.study")
    plan, trials, best = result.plan, result.trials, result.best
    objective = plan.objectives[0]
    states = Counter(trial.state for trial in trials)
    return environment.get_template("tune.html.j2").render(
        name=result.out.resolve().name,
        version=__version__,
        plan=plan,
        objective=objective,
        arrow="↑" if METRICS[objective].higher_is_better else "↓",
        best=best,
        default=result.default,
        at_last=lambda trial: _number(trial.score(objective, plan.rungs.last)),
        states=[(state, states[state]) for state in ("complete", "pruned", "failed", "running") if states[state]],
        count=len(trials),
        seconds=sum(trial.seconds for trial in trials),
        settings=_settings(result),
        confirmation=result.confirmation,
        confirmed=None if result.confirmation is None else effect_table(result.confirmation),
        said=[one.text for one in conclude(result.confirmation)] if result.confirmation else [],
        why_none=result.why_none,
        seeds=SEEDS,
        charts={
            "history": Markup(charts.history(trials, plan, best)),
            "pareto": Markup(charts.pareto(trials, plan, result.front, best)),
            "slices": [(key, Markup(svg)) for key, svg in charts.slices(trials, plan, best)],
        },
        importance=charts.importance(trials, plan),
        front=[[trial.number, *(_number(trial.score(name)) for name in plan.objectives)] for trial in result.front],
        sheets=_sheets(result),
        rows=[_row(trial, result) for trial in trials],
    )


def _settings(result: TuneResult) -> list[tuple[str, str, str]]:
    if result.best is None:
        return []
    ours, theirs = (flat_settings(result.plan.config_of(values)) for values in (result.best.values, {}))
    # The schedule follows from the batch size: all see the same number of images.
    changed = [key for key in ours if ours[key] != theirs[key] and not key.startswith("schedule.")]
    return [(key, _said(theirs[key]), _said(ours[key])) for key in changed]


def _sheets(result: TuneResult) -> list[tuple[str, str, str]]:
    """Title, note and picture of the newest sample sheets of the best trial, the preset and the worst trial."""
    shown: dict[int, tuple[str, Trial]] = {}
    for title, trial in (("best", result.best), ("the preset", result.default), ("worst", result.worst)):
        if trial is not None:
            before = shown.get(trial.number, ("", trial))[0]
            shown[trial.number] = (f"{before} and {title}" if before else title, trial)
    objective, found = result.plan.objectives[0], []
    for title, trial in shown.values():
        sheet = _newest(result.out / "trials" / trial.folder / "run")
        if sheet is not None:
            said = f"trial {trial.number}, {objective} {_number(trial.score(objective))} after {trial.at} images"
            found.append((title.capitalize(), said, sheet))
    return found


def _newest(run: Path) -> str | None:
    """The last sample sheet of a run, its first rows, as a data URI."""
    for path in sorted((run / "samples").glob("*.png"))[-1:]:
        with Image.open(path) as image:
            side = image.width // 3
            part = image.convert("RGB").crop((0, 0, image.width, min(image.height, _ROWS * side)))
            return picture_uri(np.asarray(part).transpose(2, 0, 1))
    return None


def _row(trial: Trial, result: TuneResult) -> dict[str, Any]:
    changes = ", ".join(f"{key} {_said(value)}" for key, value in trial.values.items())
    return {
        "number": trial.number,
        "state": trial.state,
        "kind": "best" if result.best is not None and trial.number == result.best.number else trial.state,
        "images": trial.at,
        "scores": [_number(trial.score(name)) for name in result.plan.objectives],
        "minutes": f"{trial.seconds / 60:.1f}",
        "values": "the preset itself" if trial.is_preset else changes,
        "reason": trial.reason,
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else "–" if value in (None, "") else str(value)
