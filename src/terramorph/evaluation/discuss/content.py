"""The score by content: which images are easy, and which are hard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from terramorph.evaluation.discuss.covariates import COVARIATES, Covariate
from terramorph.evaluation.discuss.scores import NOT_TESTED, SCORES, leading
from terramorph.evaluation.discuss.section import (
    Cell,
    Figure,
    Section,
    Sentence,
    between,
    counted,
    listed,
    p_value,
    signed,
)
from terramorph.evaluation.statistics import (
    ALPHA,
    FEW,
    Interval,
    holm,
    mean_interval,
    rank_correlation,
    rank_correlation_p,
)
from terramorph.metrics import Metric
from terramorph.report.lines import Series, plot

BINS = 5
_PER_BIN = 6  # images, at least
_SAID, _CHARTED = 3, 6  # covariates a score

Columns = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Bin:
    """Images with alike covariates.

    Attributes:
        low, high: The least and the largest covariate among them.
        count: How many they are.
        score: Their mean score.
    """

    low: float
    high: float
    count: int
    score: Interval


@dataclass(frozen=True)
class Finding:
    """How a score goes with a covariate.

    Attributes:
        covariate, score: Which.
        rho: Spearman's rank correlation.
        p: Two-sided, corrected for all tests of the discussion's table (Holm).
        bins: Means of the score, the covariate rising.
    """

    covariate: Covariate
    score: Metric
    rho: float
    p: float
    bins: list[Bin]

    @property
    def shown(self) -> bool:
        """Whether it is more than a coincidence."""
        return self.p < ALPHA


def content_section(covariates: Columns, scores: Columns, generator: np.random.Generator) -> Section:
    """Correlations of every score with every covariate, and means over bins.

    Args:
        covariates: By key of `COVARIATES`, float64 ``(N,)`` each.
        scores: By key of `SCORES`, float64 ``(N,)`` each.
        generator: Draws the resamplings.
    """
    title = "The score by content"
    count = len(next(iter(scores.values())))
    if count < FEW:
        text = f"{counted(count, 'image')}, under {FEW}: no score is tested against what the images hold."
        return Section("content", title, [Sentence(text, {"n": count, "needed": FEW})])
    bins = {
        (name, key): binned(content, values, generator)
        for name, content in covariates.items()
        for key, values in scores.items()
    }
    findings = find(covariates, scores, bins)
    if not findings:
        text = f"All {count} images hold the same in every measure, or score the same: there is nothing to compare."
        return Section("content", title, [Sentence(text, {"n": count})])
    data = {
        "n": count,
        "tests": len(findings),
        "correction": "Holm",
        "findings": [
            {"covariate": f.covariate.key, "score": f.score.key, "rho": f.rho, "p": f.p, "shown": f.shown}
            for f in findings
        ],
        "bins": {
            name: {key: [asdict(one) for one in bins[name, key]] for key in scores}
            for name in dict.fromkeys(f.covariate.key for f in findings)
        },
    }
    figures = [_table(findings), *_charts(findings, scores)]
    return Section("content", title, _said(findings), figures, data)


def find(covariates: Columns, scores: Columns, bins: Mapping[tuple[str, str], list[Bin]]) -> list[Finding]:
    """All correlations that exist, corrected together.

    Args:
        covariates, scores: As above.
        bins: Means by the keys of covariate and score.
    """
    found = []
    for score in SCORES:
        if score.key not in scores or score is NOT_TESTED:
            continue
        for covariate in COVARIATES:
            if covariate.key not in covariates:
                continue
            rho = rank_correlation(covariates[covariate.key], scores[score.key])
            if rho is not None:
                found.append((covariate, score, rho))
    corrected = holm([rank_correlation_p(rho, len(scores[score.key])) for _, score, rho in found])
    return [
        Finding(covariate, score, rho, p, bins[covariate.key, score.key])
        for (covariate, score, rho), p in zip(found, corrected, strict=True)
    ]


def binned(
    covariate: NDArray[np.float64], score: NDArray[np.float64], generator: np.random.Generator, bins: int = BINS
) -> list[Bin]:
    """Means of a score over groups of about equal size, the covariate rising.

    Many images hold none of a class: where a fifth of them share the least value, they are the first group.

    Args:
        covariate, score: float64 ``(N,)``.
        generator: Draws the resamplings.
        bins: Groups, at most; equal values are never parted.
    """
    bins = max(1, min(bins, len(covariate) // _PER_BIN))
    least = covariate == covariate.min()
    apart = len(covariate) / bins <= least.sum() < len(covariate)
    rest = covariate[~least] if apart else covariate
    parts = bins - apart
    inner = np.quantile(rest, np.linspace(0, 1, parts + 1)[1:-1])
    group = np.searchsorted(np.unique(inner), covariate, side="left")
    group = np.where(least, -1, group) if apart else group
    made = []
    for number in np.unique(group):
        members = group == number
        low, high = float(covariate[members].min()), float(covariate[members].max())
        made.append(Bin(low, high, int(members.sum()), mean_interval(score[members], generator)))
    return made


def _said(findings: Sequence[Finding]) -> list[Sentence]:
    said = []
    tests = len(findings)
    for score in dict.fromkeys(f.score for f in findings):
        mine = [f for f in findings if f.score is score]
        shown = sorted((f for f in mine if f.shown), key=lambda f: -abs(f.rho))
        for f in shown[:_SAID]:
            verdict = "better" if (f.rho > 0) == score.higher_is_better else "worse"
            text = (
                f"Images with {f.covariate.more} score {verdict} in {score.name}: "
                f"{between(f.bins[0].score, score.said)} where it is least ({_ends(f, 0)}), "
                f"{between(f.bins[-1].score, score.said)} where it is most ({_ends(f, -1)}); Spearman's rho "
                f"{signed(f.rho)}, {p_value(f.p)} after Holm's correction for {tests} tests."
            )
            values = {"covariate": f.covariate.key, "score": score.key, "rho": f.rho, "p": f.p, "tests": tests}
            said.append(Sentence(text, values, f"content-{score.key}" if score in _charted(findings) else "content"))
        others = [f"{f.covariate.short} ({signed(f.rho)})" for f in shown[_SAID:]]
        if others:
            text = f"Less strongly, {score.name} also goes with {listed(others)}."
            values = {f.covariate.key: f.rho for f in shown[_SAID:]}
            said.append(Sentence(text, values, "content"))
        silent = [f for f in mine if not f.shown]
        if silent:
            most = max(silent, key=lambda f: abs(f.rho))
            text = (
                f"No dependence of {score.name} is shown on {listed([f.covariate.short for f in silent])}: the "
                f"strongest of these is rho {signed(most.rho)}, {p_value(most.p)}."
            )
            said.append(Sentence(text, {"strongest": most.covariate.key, "rho": most.rho, "p": most.p}, "content"))
    return said


def _table(findings: Sequence[Finding]) -> Figure:
    scores = list(dict.fromkeys(f.score for f in findings))
    found = {(f.covariate.key, f.score.key): f for f in findings}
    body = []
    for covariate in dict.fromkeys(f.covariate for f in findings):
        cells = [Cell(covariate.name, covariate.name)]
        for score in scores:
            f = found.get((covariate.key, score.key))
            cells.append(Cell("–", None) if f is None else Cell(signed(f.rho), f.rho, strong=f.shown))
        body.append(cells)
    caption = (
        f"Spearman's rank correlation of each score with what the images hold. Bold: p under {ALPHA} after Holm's "
        f"correction for all {len(findings)} tests. ↓ lower is better, ↑ higher is better. PSNR orders images as RMSE "
        "does, in reverse, and is not tested again."
    )
    head = ["Content", *(f"{_capital(score.name)} {score.arrow}" for score in scores)]
    return Figure("content", "table", caption, head=head, body=body)


def _charted(findings: Sequence[Finding]) -> list[Metric]:
    """The score that orders the images, and the class accuracy of maps."""
    scores = list(dict.fromkeys(f.score for f in findings))
    return [score for score in scores if score is scores[0] or score.key == "class_accuracy"]


def _charts(findings: Sequence[Finding], scores: Columns) -> list[Figure]:
    figures = []
    for score in _charted(findings):
        mine = sorted((f for f in findings if f.score is score), key=lambda f: -abs(f.rho))[:_CHARTED]
        charts = [(f"{f.covariate.name}: rho {signed(f.rho)}", _chart(f)) for f in mine]
        lead = ", which orders the images here," if score is leading(scores) else ""
        caption = (
            f"{_capital(score.name)}{lead} by the contents that go with it most: means over groups of about equal "
            f"size. Bars: 95 %, the images of a group resampled. {_better(score)}"
        )
        figures.append(Figure(f"content-{score.key}", "charts", caption, charts=charts))
    return figures


def _chart(finding: Finding) -> str:
    bins, write = finding.bins, finding.score.said
    places = list(range(len(bins)))
    one = Series(
        x=places,
        y=[b.score.mean for b in bins],
        low=[b.score.low for b in bins],
        high=[b.score.high for b in bins],
        titles=[
            f"{finding.covariate.write(b.low)} to {finding.covariate.write(b.high)}, {b.count} images: "
            f"{between(b.score, write)}"
            for b in bins
        ],
    )
    labels = [(float(x), finding.covariate.write((b.low + b.high) / 2)) for x, b in zip(places, bins, strict=True)]
    return plot([one], x_name="middle of the group", y_name=finding.score.name, write_y=write, x_labels=labels)


def _better(score: Metric) -> str:
    return "Higher is better." if score.higher_is_better else "Lower is better."


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]


def _ends(finding: Finding, place: int) -> str:
    group, write = finding.bins[place], finding.covariate.write
    return f"{write(group.low)} to {write(group.high)}" if group.high > group.low else write(group.low)
