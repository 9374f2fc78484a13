"""The charts of a study's page, as inline SVG."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from terramorph.metrics import METRICS
from terramorph.study.plan import StudyPlan
from terramorph.study.space import Choices, Parameter
from terramorph.study.trial import Trial

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 34
_ENOUGH = 8  # trials that tell something of a parameter


@dataclass(frozen=True)
class Axis:
    """A scale from values to [0, 1], and its labelled ticks."""

    place: Callable[[Any], float]
    ticks: tuple[tuple[float, str], ...]

    @staticmethod
    def linear(values: Sequence[float]) -> Axis:
        """From the least to the greatest value, and a little beyond."""
        low, high = min(values), max(values)
        room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        low, high = low - room, high + room
        step = 10.0 ** math.floor(math.log10((high - low) / 3))
        step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if (high - low) / s <= 5)
        first = math.ceil(low / step)
        marks = [n * step for n in range(first, math.floor(high / step) + 1)]
        return Axis(
            lambda value: (value - low) / (high - low),
            tuple(((mark - low) / (high - low), f"{mark:.6g}") for mark in marks),
        )

    @staticmethod
    def logarithmic(low: float, high: float) -> Axis:
        """Between two positive numbers, a tick at each power of ten and at the ends where there are few."""
        bottom, top = math.log10(low) - 0.05, math.log10(high) + 0.05
        powers = [10.0**n for n in range(math.ceil(bottom), math.floor(top) + 1)]
        marks = powers if len(powers) > 1 else [low, *powers, high]
        return Axis(
            lambda value: (math.log10(value) - bottom) / (top - bottom),
            tuple(((math.log10(mark) - bottom) / (top - bottom), f"{mark:.3g}") for mark in marks),
        )

    @staticmethod
    def of_choices(values: Sequence[Any]) -> Axis:
        """A place for each."""
        places = {repr(value): (n + 0.5) / len(values) for n, value in enumerate(values)}
        return Axis(lambda value: places[repr(value)], tuple((places[repr(v)], _word(v)) for v in values))


@dataclass(frozen=True)
class Dot:
    """A trial on a chart: where (x, y in [0, 1]), how it is drawn, and what the pointer is told."""

    x: float
    y: float
    kind: str
    title: str


def dots_chart(x: Axis, y: Axis, dots: Sequence[Dot], size: tuple[int, int], lines: str = "", note: str = "") -> str:
    """Dots over two axes; `lines` is SVG in the units of `at`."""
    width, height = size
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(note)}">']
    right, bottom = width - _RIGHT, height - _BOTTOM
    for place, text in y.ticks:
        level = at(0, place, size)[1]
        parts.append(f'<path class="rule" d="M{_LEFT} {level:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for place, text in x.ticks:
        across = at(place, 0, size)[0]
        parts.append(f'<path class="rule" d="M{across:.1f} {bottom}v4"/>')
        parts.append(f'<text x="{across:.1f}" y="{bottom + 17}" text-anchor="middle">{escape(text)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>{lines}')
    # What matters most is drawn last.
    for dot in sorted(dots, key=lambda dot: ("pruned", "complete", "preset", "best").index(dot.kind)):
        across, level = at(dot.x, dot.y, size)
        radius = 5.5 if dot.kind in ("best", "preset") else 4
        parts.append(
            f'<circle class="{dot.kind}" cx="{across:.1f}" cy="{level:.1f}" r="{radius}">'
            f"<title>{escape(dot.title)}</title></circle>"
        )
    return "".join((*parts, "</svg>"))


def at(x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
    """Pixels of a place in [0, 1] x [0, 1], y upwards."""
    width, height = size
    return _LEFT + x * (width - _LEFT - _RIGHT), height - _BOTTOM - y * (height - _TOP - _BOTTOM)


def history(trials: Sequence[Trial], plan: StudyPlan, best: Trial | None) -> str:
    """Score of each trial at the last rung it came to, by number, and the best so far at the last rung."""
    objective, size = plan.objectives[0], (1040, 300)
    scored = [(trial, value) for trial in trials if (value := trial.score(objective)) is not None]
    if not scored:
        return ""
    x, y = Axis.linear([trial.number for trial, _ in scored]), Axis.linear([value for _, value in scored])
    x = Axis(x.place, tuple(tick for tick in x.ticks if "." not in tick[1]))
    dots = [_dot(trial, value, x.place(trial.number), y, plan, best) for trial, value in scored]
    better, so_far, path = (max if METRICS[objective].higher_is_better else min), None, ""
    for trial, value in scored:
        if trial.state == "complete":
            so_far = value if so_far is None else better(so_far, value)
            across, level = at(x.place(trial.number), y.place(so_far), size)
            path += f"H{across:.1f}V{level:.1f}" if path else f"M{across:.1f} {level:.1f}"
    line = f'<path class="best-line" d="{path}H{size[0] - _RIGHT}"/>' if path else ""
    return dots_chart(x, y, dots, size, line, f"{objective} by trial")


def slices(trials: Sequence[Trial], plan: StudyPlan, best: Trial | None) -> list[tuple[str, str]]:
    """For each parameter that was tried: its key, and the scores over its values."""
    objective, size, found = plan.objectives[0], (340, 220), []
    for parameter in plan.space.parameters:
        tried = [
            (trial, value, _setting(trial, parameter, plan))
            for trial in trials
            if (value := trial.score(objective)) is not None
        ]
        shown = [(trial, value, tested) for trial, value, tested in tried if tested is not None]
        if len(shown) < 2:
            continue
        x, y = _axis(parameter, [tested for *_, tested in shown]), Axis.linear([value for _, value, _ in shown])
        dots = [_dot(trial, value, x.place(tested), y, plan, best) for trial, value, tested in shown]
        found.append((parameter.key, dots_chart(x, y, dots, size, note=f"{objective} over {parameter.key}")))
    return found


def pareto(trials: Sequence[Trial], plan: StudyPlan, front: Sequence[Trial], best: Trial | None) -> str:
    """The first two objectives of the trials that came to the last rung; the front is joined."""
    if len(plan.objectives) < 2:
        return ""
    one, other, size = *plan.objectives[:2], (520, 320)
    shown = [
        (trial, a, b)
        for trial in trials
        if trial.state == "complete" and (a := trial.score(one)) is not None and (b := trial.score(other)) is not None
    ]
    if not shown:
        return ""
    x, y = Axis.linear([a for _, a, _ in shown]), Axis.linear([b for *_, b in shown])
    dots = [_dot(trial, b, x.place(a), y, plan, best) for trial, a, b in shown]
    edge = sorted((x.place(a), y.place(b)) for trial, a, b in shown if trial in front)
    corners = " ".join("{:.1f},{:.1f}".format(*at(*place, size)) for place in edge)
    return dots_chart(x, y, dots, size, f'<polyline class="best-line" points="{corners}"/>', f"{other} over {one}")


def importance(trials: Sequence[Trial], plan: StudyPlan) -> list[tuple[str, float]]:
    """How much each parameter decided whether a trial was among the better ones at the first rung, which all trials
    come to; shares of 1, greatest first. PED-ANOVA (Watanabe, Bansal, Hutter 2023, arXiv:2304.10255); fewer than eight
    trials tell nothing.
    """
    import optuna

    objective, first = plan.objectives[0], plan.rungs.images[0]
    scored = [
        ({p.key: tried for p in plan.space.parameters if (tried := _setting(trial, p, plan)) is not None}, value)
        for trial in trials
        if (value := trial.score(objective, first)) is not None
    ]
    study = optuna.create_study(direction="maximize" if METRICS[objective].higher_is_better else "minimize")
    for values, value in scored:
        distributions = {p.key: _distribution(p) for p in plan.space.parameters if p.key in values}
        study.add_trial(optuna.create_trial(params=plan.space.labels(values), distributions=distributions, value=value))
    found: dict[str, float] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # The page says that with few trials this is a hint.
        warnings.filterwarnings("ignore", "Some regimes for parameter")
        # Two fifths are "better": with tens of trials a tenth would be a handful.
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.4)
        for parameter in plan.space.parameters:
            tried = [repr(values[parameter.key]) for values, _ in scored if parameter.key in values]
            if len(tried) >= _ENOUGH and len(set(tried)) > 1:
                found |= evaluator.evaluate(study, params=[parameter.key])
    total = sum(found.values())
    return sorted(((key, value / total) for key, value in found.items()), key=lambda row: -row[1]) if total else []


def _distribution(parameter: Parameter) -> Any:
    import optuna

    domain = parameter.domain
    if isinstance(domain, Choices):
        return optuna.distributions.CategoricalDistribution([domain.label(value) for value in domain.values])
    if isinstance(domain.low, int) and isinstance(domain.high, int):
        return optuna.distributions.IntDistribution(domain.low, domain.high, log=domain.log)
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.log)


def _dot(trial: Trial, value: float, x: float, y: Axis, plan: StudyPlan, best: Trial | None) -> Dot:
    kind = "complete" if trial.state == "complete" else "pruned"
    kind = "preset" if trial.is_preset else kind
    kind = "best" if best is not None and trial.number == best.number else kind
    title = f"trial {trial.number}: {plan.objectives[0]} {value:.4g} after {trial.at} images, {trial.state}"
    return Dot(x, y.place(value), kind, title)


def _setting(trial: Trial, parameter: Parameter, plan: StudyPlan) -> Any:
    """What a parameter was in a trial; None where it did not matter or the preset lies outside."""
    if trial.is_preset:
        return plan.space.values_of(plan.preset).get(parameter.key)
    return trial.values.get(parameter.key)


def _axis(parameter: Parameter, values: Sequence[Any]) -> Axis:
    domain = parameter.domain
    if isinstance(domain, Choices):
        return Axis.of_choices(domain.values)
    low, high = min(domain.low, *values), max(domain.high, *values)
    return Axis.logarithmic(low, high) if domain.log and low > 0 else Axis.linear([low, high])


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value == "" else str(value)
