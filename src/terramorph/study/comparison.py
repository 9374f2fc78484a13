"""The figures of a study: every run, and the effect and verdict of every change on every metric, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph._version import __version__
from terramorph.errors import InputError
from terramorph.evaluation.statistics import holm
from terramorph.metrics import METRICS
from terramorph.study.compare_sentences import TRAINED_ON
from terramorph.study.definition import BASE, Study
from terramorph.study.record import SCORES, Record, read_record
from terramorph.study.run import Scores, flat_settings, read_scores, seconds_per_image
from terramorph.study.statistics import LEVEL, effects, verdict

Run = tuple[str, int, Path]


def make_comparison(study: Study, dataset: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """Puts together what the runs' folders hold; those that are not done are said to be so.

    Args:
        study: resolved.
        dataset: named in the result.
        runs: variant, number of the seed, folder.

    Returns:
        study, dataset, split, budget, seeds, level, finished, left_out; `runs` with state, scores and cost of each;
        `variants` with their settings and means; `metrics` with what is missing and why; `effects`, one for each change
        and metric that has figures, with its interval, its p before and after Holm's correction, and its verdict.

    Raises:
        InputError: if scores cannot be read, or are of other pairs than those of the base.
    """
    records = {run: read_record(run[2]) for run in runs}
    scores = {run: read_scores(run[2] / SCORES) for run in runs if records[run].state == "done"}
    _require_one_set(scores)
    listed = [_run(run, records[run], scores.get(run)) for run in runs]
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
        "metrics": [_metric(key, scores) for key in study.metrics],
        "variants": [_variant(study, number, listed) for number in range(len(study.variants))],
        "runs": listed,
        "effects": found,
    }


def _require_one_set(scores: dict[Run, Scores]) -> None:
    """Differences are paired by image, so all runs must have been scored on the same ones."""
    for run, found in scores.items():
        if found.ids != next(iter(scores.values())).ids:
            raise InputError(
                f"{run[2]} was scored on other pairs than the runs before it; delete its record.json, and it is scored "
                "again."
            )


def _run(run: Run, record: Record, scores: Scores | None) -> dict[str, Any]:
    variant, seed, folder = run
    return {
        "variant": variant,
        "seed": seed,
        "folder": f"runs/{folder.name}",
        **asdict(record),
        "seconds_per_image": record.seconds_per_image or seconds_per_image(folder),
        "scores": None if scores is None else scores.overall,
    }


def _variant(study: Study, number: int, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A row of the table: what it is, the means of its runs, and what they cost."""
    variant = study.variants[number]
    own = [run for run in runs if run["variant"] == variant.name]
    done = [run for run in own if run["state"] == "done"]
    base = flat_settings(study.variants[0].config)
    settings = {key: value for key, value in flat_settings(variant.config).items() if value != base[key]}
    settings = {key: value for key, value in settings.items() if key in variant.settings}
    return {
        "name": variant.name,
        "settings": settings,
        "adds_to": variant.adds_to or None,
        "share": variant.share,
        "source": variant.source or None,
        "done": len(done),
        "diverged": [
            {"seed": run["seed"], "step": run["step"], "reason": run["reason"]}
            for run in own
            if run["state"] == "diverged"
        ],
        "warned": [{"seed": run["seed"], "verdict": run["verdict"]} for run in own if run["verdict"]],
        "refused": next((run["reason"] for run in own if run["state"] == "refused"), None),
        "means": {key: _mean([run["scores"][key] for run in done]) for key in METRICS},
        "seconds_per_image": _mean([run["seconds_per_image"] for run in own]),
        "memory": max((run["memory"] for run in own if run["memory"] is not None), default=None),
        "parameters": next((run["parameters"] for run in own if run["parameters"]), None),
        "train_seconds": _mean([run["train_seconds"] for run in done]),
        "score_seconds": _mean([run["score_seconds"] for run in done]),
    }


def _metric(key: str, scores: dict[Run, Scores]) -> dict[str, Any]:
    some = any(found.overall[key] is not None for found in scores.values())
    reason = next((found.reasons[key] for found in scores.values() if key in found.reasons), None)
    missing = None if some else reason or ("Nothing is scored yet." if not scores else "It was not computed.")
    return {
        "key": key,
        "higher_is_better": METRICS[key].higher_is_better,
        "unit": METRICS[key].unit or None,
        "per_image": any(key in found.per_image for found in scores.values()),
        "missing": missing,
    }


def _effects(study: Study, scores: dict[Run, Scores]) -> list[dict[str, Any]]:
    """Every change on every metric; p is corrected over all of them that can have a verdict."""
    trained_on = _trained_on(study)
    rows = []
    for metric in study.metrics:
        arms = _arms(study, scores, metric)
        if BASE not in arms or len(arms) < 2:
            continue
        for name, effect in effects(arms, BASE, np.random.default_rng(0)).items():
            rows.append((name, metric, effect))
    judged = [
        i for i, (name, metric, effect) in enumerate(rows) if effect.p is not None and (name, metric) not in trained_on
    ]
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


def _arms(study: Study, scores: dict[Run, Scores], metric: str) -> dict[str, NDArray[np.float64]]:
    """Variant -> float64 (seeds, images), or (seeds, 1) for a metric of the set."""
    arms: dict[str, NDArray[np.float64]] = {}
    for variant in study.variants:
        own = [found for run, found in scores.items() if run[0] == variant.name and found.overall[metric] is not None]
        rows = [found.per_image[metric] if metric in found.per_image else [found.overall[metric]] for found in own]
        if rows:
            arms[variant.name] = np.array(rows, np.float64)
    return arms


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
