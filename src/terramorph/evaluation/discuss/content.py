"""Scores by content: which images are easy and which are hard, and what the worst tenth has in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph.evaluation.discuss.covariates import COVARIATES, Covariate
from terramorph.evaluation.discuss.section import Columns, Finding, Section
from terramorph.evaluation.pictures import Look
from terramorph.evaluation.statistics import FEW, Interval, mann_whitney, mean_interval, rank_correlation
from terramorph.metrics import METRICS, Metric
from terramorph.report.charts import chart, chart_svg, errorbars
from terramorph.report.numbers import counted, p_value, percent, signed
from terramorph.report.tables import Cell, Row, Table

SCORES: tuple[Metric, ...] = tuple(METRICS[key] for key in ("lpips", "rmse", "psnr", "class_accuracy", "miou"))
"""In the order in which they are preferred for ordering images by quality."""
NOT_TESTED = METRICS["psnr"]
"""It orders images as RMSE does, in reverse, so the tests of one would repeat those of the other."""
BINS = 5
_PER_BIN = 6  # images, at least
_CHARTED, _PICTURED = 6, 8  # covariates, images


@dataclass(frozen=True)
class Bin:
    """Images with similar covariates: least and largest, number, and mean score."""

    low: float
    high: float
    count: int
    score: Interval


Bins = Mapping[tuple[str, str], Sequence[Bin]]
"""By the keys of covariate and score."""


def score_columns(per_image: Mapping[str, Sequence[float]], confusions: Sequence[NDArray[np.int64]]) -> Columns:
    """Scores of each image by key of `SCORES`: columns of the evaluation, and figures of its confusions."""
    columns: Columns = {}
    matrices = torch.from_numpy(np.stack(confusions)) if confusions else None
    for score in SCORES:
        if score.figure is None and per_image.get(score.key):
            columns[score.key] = np.array(per_image[score.key])
        elif score.figure is not None and matrices is not None:
            columns[score.key] = np.asarray(score.figure(matrices))
    return columns


def leading(scores: Mapping[str, object]) -> Metric:
    """The score that orders images from good to bad: LPIPS where there is one, else RMSE."""
    return next(score for score in SCORES if score.key in scores)


def worst_first(scores: Columns) -> tuple[NDArray[np.int64], int]:
    """The images by the leading score, the worst first, int64 ``(N,)``, and how many are the worst tenth."""
    values = scores[leading(scores).key]
    order = np.argsort(values if leading(scores).higher_is_better else -values, kind="stable")
    return order, max(1, round(len(values) / 10))


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
    inner = np.quantile(rest, np.linspace(0, 1, bins - apart + 1)[1:-1])
    group = np.searchsorted(np.unique(inner), covariate, side="left")
    group = np.where(least, -1, group) if apart else group
    made = []
    for members in (group == number for number in np.unique(group)):
        low, high = float(covariate[members].min()), float(covariate[members].max())
        made.append(Bin(low, high, int(members.sum()), mean_interval(score[members], generator)))
    return made


def content_tests(covariates: Columns, scores: Columns, generator: np.random.Generator) -> tuple[list[Finding], Bins]:
    """Every score's rank correlation with every covariate, where both vary, and means over bins."""
    bins = {
        (name, key): binned(content, values, generator)
        for name, content in covariates.items()
        for key, values in scores.items()
    }
    tests = []
    for score in (one for one in SCORES if one.key in scores and one is not NOT_TESTED):
        for covariate in (one for one in COVARIATES if one.key in covariates):
            found = rank_correlation(covariates[covariate.key], scores[score.key])
            if found is None:
                continue
            rho, p = found
            first, last = (bins[covariate.key, score.key][place] for place in (0, -1))
            text = (
                f"Images with {covariate.more} score {'worse' if (rho > 0) != score.higher_is_better else 'better'} in "
                f"{score.name}: {first.score.said(score.said)} where it is least, {last.score.said(score.said)} where "
                f"it is most; rho {signed(rho)}"
            )
            tests.append(Finding("content", (covariate.key, score.key), rho, p, text))
    return tests, bins


def content_section(tests: Sequence[Finding], bins: Bins, count: int, lead: Metric) -> Section:
    """Correlations of `content_tests`, corrected, as a table, and charts of the strongest with the leading score."""
    mine = {(test.subject[0], test.subject[1]): test for test in tests if test.section == "content"}
    title = "The score by content"
    if not mine:
        why = f"under {FEW}" if count < FEW else "all alike in what they hold or how they score"
        return Section("content", title, [f"{counted(count, 'image')}, {why}: no score is tested."])
    scores = [score for score in SCORES if any(key == score.key for _, key in mine)]
    known = [covariate for covariate in COVARIATES if any(name == covariate.key for name, _ in mine)]
    body = []
    for covariate in known:
        cells: Row = [covariate.name]
        for score in scores:
            test = mine.get((covariate.key, score.key))
            strong = "strong" if test is not None and test.shown else ""
            cells.append(None if test is None else Cell(signed(test.effect), test.effect, strong))
        body.append(cells)
    caption = (
        "Spearman's rank correlation of each score with what the images hold; bold where it holds after "
        "the correction. PSNR orders images as RMSE does, in reverse, and is not tested again."
    )
    strongest = sorted((one for one in mine.values() if one.subject[1] == lead.key), key=lambda one: -abs(one.effect))
    by_key = {covariate.key: covariate for covariate in known}
    charts = [
        (f"{by_key[test.subject[0]].name}: rho {signed(test.effect)}", _chart(by_key[test.subject[0]], lead, bins))
        for test in strongest[:_CHARTED]
    ]
    data = {
        "n": count,
        "findings": [
            {"covariate": name, "score": key, "rho": test.effect, "p": test.corrected, "shown": test.shown}
            for (name, key), test in mine.items()
        ],
        "bins": {
            name: {key: [asdict(one) for one in group] for (other, key), group in bins.items() if other == name}
            for name in by_key
        },
    }
    head = ["Content", *(f"{score.label} {score.arrow}" for score in scores)]
    about = f"{lead.label}, {'higher' if lead.higher_is_better else 'lower'} is better: means over groups of images of "
    return Section(
        "content", title, [], data, Table(head, body, caption), charts,
        chart_caption=f"{about}about equal size, by the middle of the group. Bars: 95 %, the images resampled.",
    )  # fmt: skip


def _chart(covariate: Covariate, score: Metric, bins: Bins) -> Markup:
    groups = bins[covariate.key, score.key]
    figure, axes = chart(310, 150)
    places = list(range(len(groups)))
    means = [one.score for one in groups]
    errorbars(axes, places, [one.mean for one in means], [one.low for one in means], [one.high for one in means])
    axes.set_xticks(places, [covariate.write((one.low + one.high) / 2) for one in groups])
    axes.yaxis.set_major_formatter(lambda value, _: score.said(value))
    return chart_svg(figure, f"{score.name} by {covariate.name}")


def worst_tests(covariates: Columns, scores: Columns) -> list[Finding]:
    """Each covariate of the worst tenth against the rest."""
    order, size = worst_first(scores)
    worst = np.isin(np.arange(len(order)), order[:size])
    tests = []
    for covariate in (one for one in COVARIATES if one.key in covariates and np.ptp(covariates[one.key]) > 0):
        values = covariates[covariate.key]
        superiority, p = mann_whitney(values[worst], values[~worst])
        medians = [covariate.write(float(np.median(values[side]))) for side in (worst, ~worst)]
        text = (
            f"The worst tenth has {'more' if superiority > 0.5 else 'less'} of {covariate.short}: median {medians[0]}, "
            f"the rest {medians[1]}"
        )
        tests.append(Finding("worst", (covariate.key,), 2 * superiority - 1, p, text))
    return tests


def worst_section(tests: Sequence[Finding], covariates: Columns, scores: Columns, look: Look) -> Section:
    """The worst tenth beside the rest by `worst_tests`, corrected, and the worst images."""
    score, (order, size) = leading(scores), worst_first(scores)
    values, worst = scores[score.key], np.isin(np.arange(len(order)), order[:size])
    gallery = []
    for row in order[: min(size, _PICTURED)].tolist():
        view = look(row)
        told = [f"{one.name} {one.said(float(scores[one.key][row]))}" for one in SCORES if one.key in scores]
        gallery.append((f"{view.id}: {', '.join(told)}", view.pictures()))
    limit, median = float(values[order[size - 1]]), float(np.median(values))
    way = "at most" if score.higher_is_better else "at least"
    fact = (
        f"The worst {size} of {counted(len(values), 'image')} in {score.name} have {way} {score.said(limit)}; the "
        f"median is {score.said(median)}."
    )
    mine, table, differences = {one.subject[0]: one for one in tests if one.section == "worst"}, None, {}
    if mine:
        rows: list[Row] = []
        for covariate in (one for one in COVARIATES if one.key in mine):
            test, content = mine[covariate.key], covariates[covariate.key]
            medians = [float(np.median(content[side])) for side in (worst, ~worst)]
            chance, strong = (test.effect + 1) / 2, "strong" if test.shown else ""
            differences[covariate.key] = {
                "worst": medians[0], "rest": medians[1], "superiority": chance, "p": test.corrected,
            }  # fmt: skip
            rows.append(
                [
                    covariate.name,
                    *(Cell(covariate.write(one), one) for one in medians),
                    Cell(percent(chance), chance, strong),
                    Cell(p_value(test.corrected).removeprefix("p = ").removeprefix("p "), test.corrected, strong),
                ]
            )
        caption = (
            "The worst tenth beside the rest. Effect: the chance that one of the worst has more of it than one of the "
            "rest, 50 % being no difference (Mann and Whitney); bold where it holds after the correction."
        )
        table = Table(["Content", "Median of the worst", "Of the rest", "Effect", "p"], rows, caption)
    data = {"n": len(values), "worst": size, "score": score.key, "limit": limit, "median": median,
            "differences": differences}  # fmt: skip
    return Section(
        "worst", "The worst tenth", [fact], data, table, gallery=gallery,
        gallery_caption="The worst images, the worst first; error as in report.html.",
    )  # fmt: skip
