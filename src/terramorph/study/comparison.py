"""The figures of a study: every run, and the effect and verdict of every change on every metric, as plain data; and
the sentences that are made from verdicts, each figure in which points at the row that it is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from terramorph._version import __version__
from terramorph.errors import InputError
from terramorph.evaluation.statistics import holm
from terramorph.metrics import METRICS
from terramorph.report.numbers import minus
from terramorph.study.definition import BASE, Study, Variant
from terramorph.study.run import Record, Scores, flat_settings, seconds_per_image
from terramorph.study.statistics import LEVEL, Effect, effects, verdict

if TYPE_CHECKING:
    from terramorph.study.compare import Job

TRAINED_ON = "trained on this metric"
"""In place of a verdict."""

Kind = Literal["better", "worse", "mixed", "none", "open"]


def make_comparison(study: Study, dataset: Path, records: Mapping[Job, Record]) -> dict[str, Any]:
    """Puts together what the runs came to; those that are not done are said to be so.

    Args:
        study: resolved.
        dataset: named in the result.
        records: of every run, in the order they are made.

    Returns:
        study, dataset, split, budget, seeds, level, finished, left_out; `runs` with state, scores and cost of each;
        `variants` with their settings and means; `metrics` with what is missing and why; `effects`, one for each change
        and metric that has figures, with its interval, its p before and after Holm's correction, and its verdict.

    Raises:
        InputError: if a run was scored on other pairs than those of the base.
    """
    scores = {job: record.scores for job, record in records.items() if record.state == "done" and record.scores}
    _require_one_set(scores)
    listed = [_run(job, record) for job, record in records.items()]
    found = _effects(study, scores)
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
        "variants": [_variant(study, variant, listed) for variant in study.variants],
        "runs": listed,
        "effects": found,
    }


def _require_one_set(scores: Mapping[Job, Scores]) -> None:
    """Differences are paired by image, so all runs must have been scored on the same ones."""
    for job, found in scores.items():
        if found.ids != next(iter(scores.values())).ids:
            raise InputError(
                f"{job.folder} was scored on other pairs than the runs before it; delete its record.json, and it is "
                "scored again."
            )


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
    """A row of the table: what it is, the means of its runs, and what they cost."""
    own = [run for run in runs if run["variant"] == variant.name]
    done = [run for run in own if run["state"] == "done"]
    base, settings = flat_settings(study.variants[0].config), flat_settings(variant.config)
    return {
        "name": variant.name,
        "settings": {k: v for k, v in settings.items() if k in variant.settings and v != base[k]},
        "adds_to": variant.adds_to or None,
        "share": variant.share,
        "source": variant.source or None,
        "done": len(done),
        "diverged": [
            {key: run[key] for key in ("seed", "step", "reason")} for run in own if run["state"] == "diverged"
        ],
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
    missing = None if some else reason or ("Nothing is scored yet." if not scores else "It was not computed.")
    return {
        "key": key,
        "higher_is_better": METRICS[key].higher_is_better,
        "unit": METRICS[key].unit or None,
        "per_image": any(key in found.per_image for found in scores.values()),
        "secondary": key in study.secondary,
        "missing": missing,
    }


def _effects(study: Study, scores: Mapping[Job, Scores]) -> list[dict[str, Any]]:
    """Every change on every metric; p is corrected over all of its family that can have a verdict."""
    return [row for family in (study.metrics, study.secondary) for row in _family(family, study, scores)]


def _family(metrics: Sequence[str], study: Study, scores: Mapping[Job, Scores]) -> list[dict[str, Any]]:
    trained_on = _trained_on(study)
    rows: list[tuple[str, str, Effect]] = []
    for metric in metrics:
        arms = _arms(study, scores, metric)
        if BASE in arms and len(arms) > 1:
            rows += [(name, metric, one) for name, one in effects(arms, BASE, np.random.default_rng(0)).items()]
    judged = [i for i, (name, metric, one) in enumerate(rows) if one.p is not None and (name, metric) not in trained_on]
    corrected = dict(zip(judged, holm([rows[i][2].p or 0.0 for i in judged]), strict=True))
    return [
        {
            "variant": name,
            "metric": metric,
            **asdict(effect),
            "corrected": corrected.get(i),
            "verdict": TRAINED_ON
            if (name, metric) in trained_on
            else verdict(effect, corrected.get(i), METRICS[metric].higher_is_better),
        }
        for i, (name, metric, effect) in enumerate(rows)
    ]


def _trained_on(study: Study) -> set[tuple[str, str]]:
    """Changes whose loss is the metric itself where that of the base is not, or the other way round: of them the metric
    says how well they learned for the examination."""
    weights = {variant.name: variant.config.loss.perceptual for variant in study.variants}
    return {(name, "lpips") for name, weight in weights.items() if weight != weights[BASE]}


def _arms(study: Study, scores: Mapping[Job, Scores], metric: str) -> dict[str, NDArray[np.float64]]:
    """Variant -> float64 (seeds, images), or (seeds, 1) for a metric of the set; of images that all runs have."""
    arms: dict[str, NDArray[np.float64]] = {}
    for variant in study.variants:
        own = [found for job, found in scores.items() if job.variant.name == variant.name]
        rows = [
            found.per_image.get(metric, [found.overall[metric]])
            for found in own
            if found.overall.get(metric) is not None
        ]
        if rows:
            arms[variant.name] = np.array(rows, np.float64)
    if not arms:
        return {}
    known = np.isfinite(np.concatenate(list(arms.values()))).all(axis=0)
    return {name: values[:, known] for name, values in arms.items()} if known.any() else {}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Conclusion:
    """One sentence.

    Attributes:
        variant: that it is about.
        kind: `mixed` is better on one metric and worse on another, `none` shows no difference, `open` has no verdict.
        pieces: text in order, each with the anchor of its evidence, or "".
    """

    variant: str
    kind: Kind
    pieces: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """Without the anchors."""
        return "".join(text for text, _ in self.pieces)

    @property
    def html(self) -> Markup:
        """With links to the evidence."""
        return Markup().join(
            Markup('<a href="#{}">{}</a>').format(place, text) if place else escape(text) for text, place in self.pieces
        )


def conclude(document: Mapping[str, Any]) -> list[Conclusion]:
    """A sentence for every change that has runs which are over: first those that are better, last those left open.

    Before all stands why there is nothing to compare with, if every run of the base that is over diverged.

    Args:
        document: from `make_comparison`.
    """
    base, *changes = document["variants"]
    first = []
    if base["diverged"] and not base["done"]:
        text = (
            f" diverged with every seed so far, so no change can be compared with it: {base['diverged'][0]['reason']}"
        )
        first.append(Conclusion(BASE, "open", (("The ", ""), (BASE, anchor(BASE)), (text, ""))))
    found = []
    for variant in changes:
        name = (variant["name"], anchor(variant["name"]))
        rows = [row for row in document["effects"] if row["variant"] == variant["name"]]
        if rows:
            found.append(_with_runs(variant, rows))
        elif variant["refused"]:
            said = f" could not be trained: {variant['refused']}"
            found.append(Conclusion(name[0], "open", (name, (said, ""))))
        elif variant["diverged"]:
            earliest = min(run["step"] for run in variant["diverged"])
            said = f" diverged with every seed so far, after step {earliest} at the earliest."
            found.append(Conclusion(name[0], "open", (name, (said, ""))))
    order: list[Kind] = ["better", "mixed", "worse", "none", "open"]
    return first + sorted(found, key=lambda conclusion: order.index(conclusion.kind))


def _with_runs(variant: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> Conclusion:
    name = (variant["name"], anchor(variant["name"]))
    better, worse, same, learned = (
        [row for row in rows if row["verdict"] == word]
        for word in ("better", "worse", "no difference shown", TRAINED_ON)
    )
    kind: Kind = "open"
    if better or worse:
        kind = "mixed" if better and worse else "better" if better else "worse"
        pieces = [name]
        for word, some, link in (("better", better, " is"), ("worse", worse, " and" if better else " is")):
            if some:
                pieces += [(f"{link} {word} than the base on ", ""), *_listed(some)]
        if same:
            pieces += [("; no difference is shown on ", ""), *_listed(same)]
    elif same:
        kind = "none"
        pieces = [("No difference is shown between the base and ", ""), name, (" on ", ""), *_listed(same)]
    elif len(learned) < len(rows):
        pieces = [("One seed, so no verdict on ", ""), name, (": beside the base it has ", "")]
        pieces += _listed([row for row in rows if row not in learned])
    else:
        pieces = [name, (" has no verdict", "")]
    if learned:
        pieces += [("; on ", ""), *_listed(learned), (f" it is {TRAINED_ON}", "")]
    if variant["diverged"]:
        seeds = ", ".join(f"seed {run['seed']} after step {run['step']}" for run in variant["diverged"])
        pieces.append((f"; not in these figures are the runs that diverged, {seeds}", ""))
    return Conclusion(name[0], kind, (*pieces, (".", "")))


def _listed(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Metrics with their differences and intervals, each pointing at its row."""
    pieces = []
    for number, row in enumerate(rows):
        comma = "" if number == 0 else " and " if number == len(rows) - 1 else ", "
        only = " over images alone" if row["over"] == "images" else ""
        interval = "" if row["over"] == "nothing" else f", {interval_of(row)}"
        text = f"{METRICS[row['metric']].name} ({difference_of(row)}{interval}{only})"
        pieces += [(comma, ""), (text, anchor(row["variant"], row["metric"]))]
    return pieces


def difference_of(row: Mapping[str, Any], key: str = "difference") -> str:
    """The difference of an effect with its sign, to three figures; of shares in points of a hundred."""
    share = METRICS[row["metric"]].format.endswith("%")
    return minus(f"{(100 if share else 1) * row[key]:+.3g}{' points' if share and key == 'difference' else ''}")


def interval_of(row: Mapping[str, Any]) -> str:
    """The interval of an effect."""
    return f"{difference_of(row, 'low')} to {difference_of(row, 'high')}"


def anchor(variant: str, metric: str = "") -> str:
    """Of the row of a variant, or of its effect on a metric."""
    return f"effect-{variant}-{metric}" if metric else f"variant-{variant}"
