"""The worst tenth of the images, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from terramorph.evaluation.discuss.content import Columns
from terramorph.evaluation.discuss.covariates import COVARIATES, Covariate
from terramorph.evaluation.discuss.scores import SCORES, leading
from terramorph.evaluation.discuss.section import (
    Cell,
    Figure,
    Pictured,
    Section,
    Sentence,
    counted,
    listed,
    p_value,
    percent,
)
from terramorph.evaluation.discuss.views import Look
from terramorph.evaluation.pictures import error_map, viewable
from terramorph.evaluation.statistics import ALPHA, FEW, holm, mann_whitney
from terramorph.report.pages import picture_uri

_SAID, _PICTURED = 3, 8  # covariates, images


@dataclass(frozen=True)
class Difference:
    """One covariate in the worst tenth and in the rest.

    Attributes:
        worst, rest: Medians.
        superiority: The chance that one of the worst has more of it than one of the rest; 0.5 is no difference.
        p: Of Mann and Whitney's test, two-sided, corrected for the number of covariates (Holm).
    """

    worst: float
    rest: float
    superiority: float
    p: float


def worst_section(covariates: Columns, scores: Columns, look: Look) -> Section:
    """Test each covariate between the worst tenth and the rest, and show the worst.

    Args:
        covariates: By key of `COVARIATES`, float64 ``(N,)`` each.
        scores: By key of `SCORES`; the first that there is orders the images.
        look: Shows a pair again.
    """
    title, score = "The worst tenth", leading(scores)
    values = scores[score.key]
    order = np.argsort(values if score.higher_is_better else -values, kind="stable")
    count = len(values)
    size = max(1, round(count / 10))
    pictures = _pictures([int(i) for i in order[: min(size, _PICTURED)]], scores, look)
    if count < FEW:
        text = (
            f"{counted(count, 'image')}, under {FEW}: nothing is said about what the worst tenth has in "
            f"common; the worst in {score.name} is shown."
        )
        return Section("worst", title, [Sentence(text, {"n": count, "needed": FEW}, "worst-pictures")], [pictures])
    worst = np.zeros(count, np.bool_)
    worst[order[:size]] = True
    known = [c for c in COVARIATES if c.key in covariates and np.ptp(covariates[c.key]) > 0]
    tests = [mann_whitney(covariates[c.key][worst], covariates[c.key][~worst]) for c in known]
    differences = {
        c: Difference(
            float(np.median(covariates[c.key][worst])), float(np.median(covariates[c.key][~worst])), superiority, p
        )
        for c, (superiority, _), p in zip(known, tests, holm([p for _, p in tests]), strict=True)
    }
    limit = float(values[order[size - 1]])
    data = {
        "n": count,
        "worst": size,
        "score": score.key,
        "limit": limit,
        "correction": "Holm",
        "tests": len(known),
        "differences": {c.key: asdict(one) for c, one in differences.items()},
    }
    way = "at most" if score.higher_is_better else "at least"
    text = f"The worst {size} of {count} images in {score.name} have {way} {score.said(limit)}; the median is "
    first = Sentence(
        f"{text}{score.said(float(np.median(values)))}.",
        {"worst": size, "limit": limit, "median": float(np.median(values))},
        "worst-pictures",
    )
    figures = [_table(differences), pictures] if differences else [pictures]
    return Section("worst", title, [first, *_said(differences)], figures, data)


def _said(differences: dict[Covariate, Difference]) -> list[Sentence]:
    tests = len(differences)
    shown = sorted(
        (item for item in differences.items() if item[1].p < ALPHA), key=lambda item: -abs(item[1].superiority - 0.5)
    )
    said = []
    for covariate, one in shown[:_SAID]:
        way, chance = _way(one)
        text = (
            f"{covariate.name}: the worst have {way} of it (median {covariate.write(one.worst)}, the rest "
            f"{covariate.write(one.rest)}); of a pair of images, one from each, the worse one has {way} in "
            f"{percent(chance)} of cases ({p_value(one.p)} after Holm's correction for {tests} tests)."
        )
        said.append(Sentence(text, {"covariate": covariate.key, **asdict(one)}, "worst"))
    if others := shown[_SAID:]:
        named = [f"{way} {c.short} ({percent(chance)})" for c, one in others for way, chance in [_way(one)]]
        text = f"They also have {listed(named)}, with p under {ALPHA} each."
        said.append(Sentence(text, {c.key: asdict(one) for c, one in others}, "worst"))
    silent = [c.short for c, one in differences.items() if one.p >= ALPHA]
    if silent:
        least = min(one.p for one in differences.values() if one.p >= ALPHA)
        text = f"No difference is shown in {listed(silent)} (smallest corrected {p_value(least)})."
        said.append(Sentence(text, {"smallest_p": least, "tests": tests}, "worst"))
    return said


def _way(one: Difference) -> tuple[str, float]:
    """Whether the worst have more or less of something, and in what share of pairs of images."""
    return ("more", one.superiority) if one.superiority > 0.5 else ("less", 1 - one.superiority)


def _table(differences: dict[Covariate, Difference]) -> Figure:
    body = [
        [
            Cell(c.name, c.name),
            Cell(c.write(one.worst), one.worst),
            Cell(c.write(one.rest), one.rest),
            Cell(percent(one.superiority), one.superiority, strong=one.p < ALPHA),
            Cell(p_value(one.p).removeprefix("p = ").removeprefix("p "), one.p, strong=one.p < ALPHA),
        ]
        for c, one in differences.items()
    ]
    caption = (
        "The worst tenth beside the rest. Effect: the chance that one of the worst has more of it than one of the "
        f"rest, 50 % being no difference. p: Mann and Whitney, corrected for {len(differences)} tests (Holm); bold "
        f"under {ALPHA}."
    )
    return Figure(
        "worst", "table", caption, head=["Content", "Median of the worst", "Of the rest", "Effect", "p"], body=body
    )


def _pictures(rows: Sequence[int], scores: Columns, look: Look) -> Figure:
    gallery = []
    for row in rows:
        view = look(row)
        told = [f"{s.name} {s.said(float(scores[s.key][row]))}" for s in SCORES if s.key in scores]
        pictures = [
            ("source", picture_uri(viewable(view.source))),
            ("prediction", picture_uri(viewable(view.prediction))),
            ("truth", picture_uri(viewable(view.truth))),
            ("error", picture_uri(error_map(view.prediction, view.truth, view.mask))),
        ]
        gallery.append(Pictured(f"{view.id}: {', '.join(told)}", pictures))
    return Figure(
        "worst-pictures", "gallery", "The worst images, the worst first; error as in report.html.", gallery=gallery
    )
