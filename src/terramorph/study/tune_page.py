"""The page of a tuning study: best trial, confirmation, history, importance and slices in one HTML file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from terramorph._version import __version__
from terramorph.metrics import METRICS
from terramorph.raster import read_image
from terramorph.report import charts, duration
from terramorph.report.numbers import DASH, counted
from terramorph.report.pages import Cell, Row, Table, picture_uri, render_page
from terramorph.study.compare_page import CLASSES, effect_table
from terramorph.study.comparison import conclude, difference_of
from terramorph.study.conclusion import CONFIRM, SEEDS, TuneResult
from terramorph.study.plan import StudyPlan
from terramorph.study.run import flat_settings
from terramorph.study.trials import Trial

_ENOUGH = 8  # fewest trials from which importance is estimated
_ROWS = 4  # pairs shown from a sample sheet
_KINDS = {"best": charts.ACCENT, "preset": charts.SERIES[1], "complete": charts.SERIES[0], "pruned": charts.SERIES[3]}


def render_study(result: TuneResult) -> str:
    plan, document, sheets = result.plan, result.confirmation, _sheets(result)
    legend = {"best": "best", "preset": "the preset", "complete": "scored at the last rung",
              "pruned": "left before, at its last rung"}  # fmt: skip
    return render_page(
        "terramorph.study",
        "tune.html.j2",
        result=result,
        name=result.out.resolve().name,
        version=__version__,
        metric=METRICS[plan.objectives[0]],
        names=[METRICS[name].name for name in plan.objectives],
        seeds=SEEDS,
        confirm=CONFIRM,
        about=_about(result),
        lead=_lead(result),
        figures=_figures(result),
        sheets=sheets,
        settings=_settings(result),
        conclusions=[] if document is None else [(CLASSES[one.kind], one.text) for one in conclude(document)],
        confirmed=None if document is None else effect_table(document),
        legend=[(said, charts.css(_KINDS[kind])) for kind, said in legend.items()],
        history=_history(result),
        pareto=_pareto(result),
        importance=importance(result.trials, plan),
        slices=_slices(result),
        trials=_trials(result),
    )


def _about(result: TuneResult) -> str:
    states = Counter(trial.state for trial in result.trials)
    told = ", ".join(f"{number} {state}" for state, number in states.items())
    spent = duration(sum(trial.seconds for trial in result.trials))
    trials = f"{counted(len(result.trials), 'trial')} ({told})"
    return f"{result.plan.dataset.name}, {trials} in {spent} of training and scoring"


def _lead(result: TuneResult) -> str:
    """Return the result in one sentence."""
    best = result.best
    if best is None:
        return result.why_none or "No trial has come to the last rung yet."
    if best.is_preset:
        return "No trial is better than the preset itself, so there is nothing to confirm."
    if result.confirmation is None:
        return (
            f"Trial {best.number} is the best on the pairs it was chosen by, which flatters it; confirm it on "
            f"{result.plan.confirmed_on}."
        )
    document = result.confirmation
    effects = [row for row in document["effects"] if row["metric"] in result.plan.objectives]
    said = conclude({**document, "effects": effects})
    return said[0].text if said else "The confirmation is done."


def _figures(result: TuneResult) -> list[tuple[str, ...]]:
    plan, metric = result.plan, METRICS[result.plan.objectives[0]]
    figures: list[tuple[str, ...]] = []
    for name, trial in (("the best", result.best), ("the preset", result.default)):
        if trial is not None:
            at = f"after {counted(trial.at, 'image')}, trial {trial.number}"
            figures.append((f"{metric.label} of {name} {metric.arrow}", metric.said(trial.score(metric.key)), at))
    for row in result.confirmation["effects"] if result.confirmation else ():
        if row["metric"] == metric.key:
            kind = row["verdict"] if row["verdict"] in ("better", "worse") else ""
            figures.append((f"{metric.name} on {plan.confirmed_on}, unseen", difference_of(row), row["verdict"], kind))
    return [*figures, ("trials that have ended", str(result.ended), f"of {result.wanted}")]


def _settings(result: TuneResult) -> Table | None:
    """Return the settings in which the best trial differs from the preset."""
    if result.best is None:
        return None
    ours, theirs = (flat_settings(result.plan.config_of(values)) for values in (result.best.values, {}))
    # The schedule is left out: it follows from the batch size, for all trials see the same number of images.
    changed = [key for key in ours if ours[key] != theirs[key] and not key.startswith("schedule.")]
    body = [(key, _said(theirs[key]), Cell(_said(ours[key]), kind="strong")) for key in changed]
    return Table(("Setting", "Preset", "Best"), body)


def _sheets(result: TuneResult) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return source, output and truth of a few pairs, for the best trial and the preset, with titles."""
    metric, found = METRICS[result.plan.objectives[0]], []
    shown = {trial.number: trial for trial in (result.best, result.default) if trial is not None}
    for trial in shown.values():
        name = "the preset" if trial.is_preset else "best"
        at = f"{metric.name} {metric.said(trial.score(metric.key))} after {trial.at} images"
        run = result.out / "trials" / trial.folder / "run"
        found += [(f"{name}, trial {trial.number}: {at}", row) for row in _rows(run)]
    return found


def _rows(run: Path) -> list[list[tuple[str, str]]]:
    """Return the first rows of the last sample sheet of a run, cut into pictures."""
    sheets = sorted((run / "samples").glob("*.png"))
    if not sheets:
        return []
    sheet = read_image(sheets[-1]).pixels
    side = sheet.shape[2] // 3
    return [
        [
            (name, picture_uri(sheet[:, top : top + side, at * side : (at + 1) * side]))
            for at, name in enumerate(("input", "output", "truth"))
        ]
        for top in range(0, min(sheet.shape[1] - side + 1, _ROWS * side), side)
    ]


def _kind(trial: Trial, result: TuneResult) -> str:
    if result.best is not None and trial.number == result.best.number:
        return "best"
    return "preset" if trial.is_preset else "complete" if trial.state == "complete" else "pruned"


def _scatter(result: TuneResult, axes: Any, points: Sequence[tuple[Trial, float, float]], name: str) -> Markup:
    """Return the trials as points of a chart, as SVG; each has a tooltip."""
    metric, tips = METRICS[result.plan.objectives[0]], list[str]()
    for trial, x, y in sorted(points, key=lambda point: list(_KINDS)[::-1].index(_kind(point[0], result))):
        dot = axes.scatter([x], [y], color=_KINDS[_kind(trial, result)], s=30, zorder=3)
        dot.set_urls([f"tip:{len(tips)}"])
        value = metric.said(trial.score(metric.key))
        tips.append(f"trial {trial.number}: {metric.name} {value} after {trial.at} images, {trial.state}")
    return charts.chart_svg(axes.figure, name, tips)


def _scored(result: TuneResult, state: str = "") -> list[tuple[Trial, float]]:
    """Return the trials with a score by the first objective, of any or one state."""
    known = [(trial, trial.score(result.plan.objectives[0])) for trial in result.trials]
    return [(trial, value) for trial, value in known if value is not None and state in ("", trial.state)]


def _history(result: TuneResult) -> Markup | None:
    """Return a chart of each trial's score at its last rung, by number, and the best so far at the last rung."""
    metric, scored = METRICS[result.plan.objectives[0]], _scored(result)
    if not scored:
        return None
    _, axes = charts.chart(900, 260, x="trial", y=metric.label)
    with charts.style():
        if complete := _scored(result, "complete"):
            best = (np.maximum if metric.higher_is_better else np.minimum).accumulate([value for _, value in complete])
            axes.step([trial.number for trial, _ in complete], best, color=charts.ACCENT, where="post", alpha=0.6)
        axes.locator_params(axis="x", integer=True)
        points = [(trial, trial.number, value) for trial, value in scored]
        return _scatter(result, axes, points, f"{metric.name} by trial")


def _slices(result: TuneResult) -> list[tuple[str, Markup]]:
    """Return charts of the scores over the values of each parameter."""
    metric, plan, drawn = METRICS[result.plan.objectives[0]], result.plan, []
    for key, parameter in plan.space.parameters.items():
        points = [(trial, value, score) for trial, score in _scored(result)
                  if (value := _tried(trial, plan).get(key)) is not None]  # fmt: skip
        if len(points) < 2:
            continue
        _, axes = charts.chart(310, 190, y=metric.label)
        with charts.style():
            if parameter.choices is not None:
                choices = parameter.choices  # 10 among them is the preset's 10.0
                axes.set_xticks(range(len(choices)), [_said(value) for value in choices])
                axes.set_xlim(-0.6, len(choices) - 0.4)
                points = [(trial, choices.index(value), score) for trial, value, score in points]
            elif parameter.log:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.xaxis.set_minor_formatter(lambda value, _: "")
            drawn.append((key, _scatter(result, axes, points, f"{metric.name} over {key}")))
    return drawn


def _pareto(result: TuneResult) -> Markup | None:
    """Return a chart of the first two objectives of the trials at the last rung; a line joins the front."""
    if len(result.plan.objectives) < 2:
        return None
    one, other = (METRICS[key] for key in result.plan.objectives[:2])
    points = [(trial, value, second) for trial, value in _scored(result, "complete")
              if (second := trial.score(other.key)) is not None]  # fmt: skip
    if not points:
        return None
    _, axes = charts.chart(520, 300, x=one.label, y=other.label)
    with charts.style():
        if edge := sorted((a, b) for trial, a, b in points if trial in result.front):
            axes.plot(*zip(*edge, strict=True), color=charts.ACCENT, alpha=0.6)
        return _scatter(result, axes, points, f"{other.name} over {one.name}")


def importance(trials: Sequence[Trial], plan: StudyPlan) -> list[tuple[str, float]]:
    """Return the importance of each parameter for being among the better trials at the first rung, greatest first.

    PED-ANOVA (Watanabe, Bansal, Hutter 2023, arXiv:2304.10255); nothing is returned for fewer than eight trials.
    """
    import optuna

    objective, first = plan.objectives[0], plan.rungs[0]
    study = optuna.create_study(direction="maximize" if METRICS[objective].higher_is_better else "minimize")
    tried: dict[str, list[Any]] = {}
    for trial in trials:
        score = trial.score(objective, first)
        if score is None:
            continue
        values = _tried(trial, plan)
        labels = plan.space.labels(values)
        for key, label in labels.items():
            tried.setdefault(key, []).append(label)
        domains = {key: one.distribution() for key, one in plan.space.parameters.items() if key in values}
        study.add_trial(optuna.create_trial(params=labels, distributions=domains, value=score))
    found: dict[str, float] = {}
    # Two fifths are "better": of tens of trials a tenth would be too few.
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.4)
    for key, values_of_it in tried.items():
        if len(values_of_it) >= _ENOUGH and len(set(values_of_it)) > 1:
            found |= evaluator.evaluate(study, params=[key])
    total = sum(found.values())
    return sorted(((key, value / total) for key, value in found.items()), key=lambda row: -row[1]) if total else []


def _tried(trial: Trial, plan: StudyPlan) -> dict[str, Any]:
    """Return the values of the parameters that apply to a trial, where they lie in the space."""
    return plan.space.values_of(plan.preset) if trial.is_preset else trial.values


def _trials(result: TuneResult) -> Table:
    metrics = [METRICS[name] for name in result.plan.objectives]
    body: list[Row] = []
    for trial in result.trials:
        changes = ", ".join(f"{key} {_said(value)}" for key, value in trial.values.items())
        kind = "strong" if _kind(trial, result) == "best" else ""
        body.append(
            [
                Cell(str(trial.number), trial.number, kind),
                trial.state,
                trial.at,
                *(Cell(one.said(trial.score(one.key)), trial.score(one.key), kind) for one in metrics),
                Cell(duration(trial.seconds), trial.seconds),
                Cell("the preset itself" if trial.is_preset else changes, kind="note", below=trial.reason),
            ]
        )
    return Table(("Trial", "State", "Images", *(one.label for one in metrics), "Time", "What was changed"), body)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else DASH if value in (None, "") else str(value)
