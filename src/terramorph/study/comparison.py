"""Figures of a comparison as plain data: runs, and effect and verdict of every change on every metric; and one sentence
per change, whose figures link to their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph._version import __version__
from terramorph.errors import InputError
from terramorph.evaluation.statistics import holm
from terramorph.metrics import METRICS
from terramorph.report.numbers import listed, minus
from terramorph.study.definition import BASE, Job, Study, Variant
from terramorph.study.run import Record, Scores, flat_settings, seconds_per_image
from terramorph.study.statistics import LEVEL, Effect, effects, verdict

TRAINED_ON = "trained on this metric"
"""Value in place of a verdict."""

Kind = Literal["better", "mixed", "worse", "none", "open"]
_ORDER: tuple[Kind, ...] = ("better", "mixed", "worse", "none", "open")


def make_comparison(study: Study, dataset: Path, records: Mapping[Job, Record]) -> dict[str, Any]:
    """Return the comparison of a study's finished runs.

    Returns:
        study, dataset, split, budget, seeds, level, finished, left_out; `runs` with state, scores and cost of each;
        `variants` with their settings and means; `metrics` with reasons for missing values; `effects`, one per change
        and metric with figures: interval, p before and after Holm's correction, and verdict.

    Raises:
        InputError: If a run was scored on other pairs than the base.
    """
    scores = {job: record.scores for job, record in records.items() if record.state == "done" and record.scores}
    for job, one in scores.items():  # differences are paired by image
        if one.ids != next(iter(scores.values())).ids:
            raise InputError(
                f"The run {job.folder} was scored on other pairs than the runs before it; delete its record.json to "
                "score it again."
            )
    runs = [_run(job, record) for job, record in records.items()]
    found = [row for family in (study.metrics, study.secondary) for row in _family(family, study, scores)]
    return {
        "terramorph": __version__,
        "study": study.name,
        "dataset": str(dataset),
        "split": study.split,
        "pairs": len(next(iter(scores.values())).ids) if scores else None,
        "budget": study.budget,
        "seeds": study.seeds,
        "level": LEVEL,
        "comparisons": sum(effect["corrected"] is not None for effect in found),
        "finished": all(record.is_over for record in records.values()),
        "over": sum(record.is_over for record in records.values()),
        "left_out": list(study.left_out),
        "metrics": [_metric(key, study, scores) for key in (*study.metrics, *study.secondary)],
        "variants": [_variant(study, variant, runs) for variant in study.variants],
        "runs": runs,
        "effects": found,
    }


def _run(job: Job, record: Record) -> dict[str, Any]:
    return {
        "variant": job.variant.name,
        "seed": job.seed,
        "folder": f"runs/{job.name}",
        **record.model_dump(exclude={"scores"}),
        "seconds_per_image": record.seconds_per_image or seconds_per_image(job.folder),
        "scores": None if record.scores is None else record.scores.overall,
    }


def _variant(study: Study, variant: Variant, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a variant's settings, means over its runs, and costs."""
    own = [run for run in runs if run["variant"] == variant.name]
    done = [run for run in own if run["state"] == "done"]
    diverged = [run for run in own if run["state"] == "diverged"]
    base, settings = flat_settings(study.variants[0].config), flat_settings(variant.config)
    return {
        "name": variant.name,
        "settings": {k: v for k, v in settings.items() if k in variant.settings and v != base.get(k)},
        "adds_to": variant.adds_to or None,
        "share": variant.share,
        "source": variant.source or None,
        "done": len(done),
        "diverged": [{key: run[key] for key in ("seed", "step", "reason")} for run in diverged],
        "warned": [{key: run[key] for key in ("seed", "verdict")} for run in own if run["verdict"]],
        "refused": next((run["reason"] for run in own if run["state"] == "refused"), None),
        "means": {key: _mean([run["scores"].get(key) for run in done]) for key in METRICS},
        "seconds_per_image": _mean([run["seconds_per_image"] for run in own]),
        "memory": max((run["memory"] for run in own if run["memory"] is not None), default=None),
        "parameters": next((run["parameters"] for run in own if run["parameters"]), None),
        "train_seconds": _mean([run["train_seconds"] for run in done]),
        "score_seconds": _mean([run["score_seconds"] for run in done]),
    }


def _metric(key: str, study: Study, scores: Mapping[Job, Scores]) -> dict[str, Any]:
    some = any(found.overall.get(key) is not None for found in scores.values())
    reason = next((found.reasons[key] for found in scores.values() if key in found.reasons), None)
    return {
        "key": key,
        "higher_is_better": METRICS[key].higher_is_better,
        "unit": METRICS[key].unit or None,
        "per_image": any(key in found.per_image for found in scores.values()),
        "secondary": key in study.secondary,
        "missing": None if some else reason or ("It was not computed." if scores else "Nothing is scored yet."),
    }


def _family(metrics: Sequence[str], study: Study, scores: Mapping[Job, Scores]) -> list[dict[str, Any]]:
    """Return the effect of every change on every metric, with p corrected over all rows that can have a verdict."""
    weights = {variant.name: variant.config.loss.perceptual for variant in study.variants}
    # A change whose loss is the metric, where that of the base is not, gets no verdict on it.
    learned = {(name, "lpips") for name, weight in weights.items() if weight != weights[BASE]}
    rows: list[tuple[str, str, Effect]] = []
    for metric in metrics:
        arms = _arms(study, scores, metric)
        if BASE in arms and len(arms) > 1:
            rows += [(name, metric, one) for name, one in effects(arms, BASE, np.random.default_rng(0)).items()]
    judged = [i for i, (name, metric, one) in enumerate(rows) if one.p is not None and (name, metric) not in learned]
    corrected = dict(zip(judged, holm([rows[i][2].p or 0.0 for i in judged]), strict=True))
    return [
        {
            "variant": name,
            "metric": metric,
            **asdict(effect),
            "corrected": corrected.get(i),
            "verdict": TRAINED_ON
            if (name, metric) in learned
            else verdict(effect, corrected.get(i), METRICS[metric].higher_is_better),
        }
        for i, (name, metric, effect) in enumerate(rows)
    ]


def _arms(study: Study, scores: Mapping[Job, Scores], metric: str) -> dict[str, NDArray[np.float64]]:
    """Return variant -> float64 (seeds, images), or (seeds, 1) for a metric of the set; only images of all runs."""
    arms: dict[str, NDArray[np.float64]] = {}
    for variant in study.variants:
        own = [found for job, found in scores.items() if job.variant.name == variant.name]
        known = [found for found in own if found.overall.get(metric) is not None]
        if known:
            arms[variant.name] = np.array(
                [found.per_image.get(metric, [found.overall[metric]]) for found in known], np.float64
            )
    if not arms:
        return {}
    valid = np.isfinite(np.concatenate(list(arms.values()))).all(axis=0)
    return {name: values[:, valid] for name, values in arms.items()} if valid.any() else {}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Conclusion:
    """One sentence about a variant, with links to its rows.

    Attributes:
        variant: Name of the variant.
        kind: `mixed` is better on one metric and worse on another, `none` has no difference, `open` has no verdict.
        html: The sentence as HTML.
    """

    variant: str
    kind: Kind
    html: Markup

    @property
    def text(self) -> str:
        return self.html.striptags()


def conclude(document: Mapping[str, Any]) -> list[Conclusion]:
    """Return a sentence for every change with runs that are over: better ones first, open ones last.

    If every run of the base that is over diverged, a sentence about that comes first.
    """
    base, *changes = document["variants"]
    first, found = [], []
    if base["diverged"] and not base["done"]:
        said = "The {} diverged with every seed so far, so no change can be compared with it: {}"
        first = [Conclusion(BASE, "open", Markup(said).format(_link(BASE), base["diverged"][0]["reason"]))]
    for variant in changes:
        name, rows = variant["name"], [row for row in document["effects"] if row["variant"] == variant["name"]]
        if rows:
            found.append(_with_runs(variant, rows))
        elif variant["refused"]:
            text = Markup("{} could not be trained: {}").format(_link(name), variant["refused"])
            found.append(Conclusion(name, "open", text))
        elif variant["diverged"]:
            earliest = min(run["step"] for run in variant["diverged"])
            said = "{} diverged with every seed so far, after step {} at the earliest."
            found.append(Conclusion(name, "open", Markup(said).format(_link(name), earliest)))
    return first + sorted(found, key=lambda conclusion: _ORDER.index(conclusion.kind))


def _with_runs(variant: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> Conclusion:
    """Return the sentence of a change with figures."""

    def on(*verdicts: str) -> Markup:
        """Return the metrics with one of these verdicts, with their figures."""
        return Markup(listed([_figures(row) for row in rows if row["verdict"] in verdicts] or [Markup("")]))

    kind: Kind = "open"
    name = _link(variant["name"])
    better, worse, same, learned = (on(word) for word in ("better", "worse", "no difference shown", TRAINED_ON))
    if better or worse:
        kind = "mixed" if better and worse else "better" if better else "worse"
        clauses = [Markup("{} than the base on {}").format(word, said) for word, said in
                   (("better", better), ("worse", worse)) if said]  # fmt: skip
        text = name + Markup(" is ") + Markup(" and ").join(clauses)
        text += Markup("; no difference is shown on {}").format(same) if same else ""
    elif same:
        kind, text = "none", Markup("No difference is shown between the base and {} on {}").format(name, same)
    elif one := on("one seed: no verdict"):
        text = Markup("One seed, so no verdict on {}: beside the base it has {}").format(name, one)
    else:
        text = name + " has no verdict"
    if learned:
        text += Markup("; on {} it is {}").format(learned, TRAINED_ON)
    if variant["diverged"]:
        seeds = ", ".join(f"seed {run['seed']} after step {run['step']}" for run in variant["diverged"])
        text += f"; not in these figures are the runs that diverged, {seeds}"
    return Conclusion(variant["name"], kind, text + ".")


def _link(variant: str) -> Markup:
    return Markup('<a href="#{}">{}</a>').format(anchor(variant), variant)


def _figures(row: Mapping[str, Any]) -> Markup:
    """Return a metric with its difference and interval, linked to its row."""
    only = " over images alone" if row["over"] == "images" else ""
    interval = "" if row["over"] == "nothing" else f", {interval_of(row)}"
    text = f"{METRICS[row['metric']].name} ({difference_of(row)}{interval}{only})"
    return Markup('<a href="#{}">{}</a>').format(anchor(row["variant"], row["metric"]), text)


def difference_of(row: Mapping[str, Any], key: str = "difference") -> str:
    """Return the difference of an effect with its sign, to three digits; percentage points for shares."""
    share = METRICS[row["metric"]].format.endswith("%")
    return minus(f"{(100 if share else 1) * row[key]:+.3g}{' points' if share and key == 'difference' else ''}")


def interval_of(row: Mapping[str, Any]) -> str:
    return f"{difference_of(row, 'low')} to {difference_of(row, 'high')}"


def anchor(variant: str, metric: str = "") -> str:
    """Return the id of the row of a variant, or of its effect on a metric."""
    return f"effect-{variant}-{metric}" if metric else f"variant-{variant}"
