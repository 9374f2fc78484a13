"""Content of images as numbers (covariates), scores by it, and what the worst tenth has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph.cartography import CLASSES
from terramorph.evaluation.discuss.section import Columns, Finding, Section
from terramorph.evaluation.pictures import Look
from terramorph.evaluation.statistics import FEW, mann_whitney, mean_interval, rank_correlation
from terramorph.metrics import METRICS, Metric
from terramorph.report.charts import chart, chart_svg, errorbars
from terramorph.report.numbers import Interval, counted, p_value, percent, signed
from terramorph.report.pages import Cell, Row, Table

EDGE = 24.0
"""Gradient of an edge, grey levels per pixel."""
THIN = 2
"""Number of `GROUPS` of widths that are thin roads, 1 to 4 px."""
SCORES: tuple[Metric, ...] = tuple(METRICS[key] for key in ("lpips", "rmse", "psnr", "class_accuracy", "miou"))
"""Scores that are tested; the first that exists orders images by quality."""
NOT_TESTED = METRICS["psnr"]
"""Orders images as RMSE does, in reverse, so its tests would be the same."""
BINS = 5
_PER_BIN = 6  # least number of images
_CHARTED, _PICTURED = 6, 8  # covariates with a chart, worst images with pictures


@dataclass(frozen=True)
class Covariate:
    """A property of an image.

    Attributes:
        key: Key in ``discussion.json``.
        name: Name in tables.
        more: End of the phrase "images with ..." for images with much of it.
        write: Format of a value.
    """

    key: str
    name: str
    more: str
    write: Callable[[float], str]

    @property
    def short(self) -> str:
        """Name within a sentence."""
        return self.name.removeprefix("Share of ").removeprefix("Density of ").lower()


COVARIATES: tuple[Covariate, ...] = (
    *(Covariate(name, f"Share of {name}", f"more {name}", percent) for name in CLASSES),
    Covariate("thin_roads", "Share of thin roads", "more roads of 4 px or narrower", percent),
    Covariate("borders", "Density of class borders", "more class borders", percent),
    Covariate("edges", "Density of edges", "more edges in the source", percent),
    Covariate("brightness", "Brightness", "a brighter source", "{:.0f}".format),
    Covariate("contrast", "Contrast", "more contrast in the source", "{:.0f}".format),
)


def source_covariates(source: NDArray[np.uint8], mask: NDArray[np.bool_]) -> dict[str, float]:
    """Compute the covariates of a source image.

    Args:
        source: uint8 ``(C, H, W)``.
        mask: bool ``(H, W)``, True where valid, somewhere.

    Returns:
        ``edges``: share of valid pixels whose gradient (Sobel, of the mean over bands) is steeper than `EDGE`;
        ``brightness`` and ``contrast``: mean and standard deviation of the mean over bands, grey levels.
    """
    grey = source.mean(axis=0, dtype=np.float32)
    steep = [cv2.Sobel(grey, cv2.CV_32F, dx, dy, ksize=3, scale=1 / 8) for dx, dy in ((1, 0), (0, 1))]
    slope = np.hypot(steep[0], steep[1])[mask]
    return {
        "edges": float((slope > EDGE).mean()),
        "brightness": float(grey[mask].mean(dtype=np.float64)),
        "contrast": float(grey[mask].std(dtype=np.float64)),
    }


def map_covariates(classes: NDArray[np.uint8], mask: NDArray[np.bool_], roads: NDArray[np.int64]) -> dict[str, float]:
    """Compute the covariates of a map's classes.

    Args:
        classes: uint8 ``(H, W)``, indices into `CLASSES`.
        mask: bool ``(H, W)``, True where valid, somewhere.
        roads: `road_widths` of the classes, int64 ``(H, W)``.

    Returns:
        Shares of the valid pixels: of each class; of ``thin_roads``; of ``borders``, pixels on a border of classes.
    """
    shares = np.bincount(classes[mask], minlength=len(CLASSES)) / mask.sum()
    return {
        **{name: float(share) for name, share in zip(CLASSES, shares, strict=True)},
        "thin_roads": float(((roads >= 0) & (roads < THIN)).sum() / mask.sum()),
        "borders": float(on_border(classes)[mask].mean()),
    }


def on_border(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels with another class among their eight neighbours, bool ``(H, W)``."""
    near = np.ones((3, 3), np.uint8)
    border: NDArray[np.bool_] = cv2.dilate(classes, near) != cv2.erode(classes, near)
    return border


@dataclass(frozen=True)
class Bin:
    """Images with similar values of a covariate: least and largest value, number, and mean score."""

    low: float
    high: float
    count: int
    score: Interval


Bins = Mapping[str, Mapping[str, Sequence[Bin]]]
"""Bins by key of covariate and key of score."""


def score_columns(per_image: Mapping[str, Sequence[float]], confusions: NDArray[np.int64] | None) -> Columns:
    """Return the scores of each image by key of `SCORES`, from the evaluation's columns and from confusions."""
    columns: Columns = {}
    for score in SCORES:
        if score.figure is None and per_image.get(score.key):
            columns[score.key] = np.array(per_image[score.key])
        elif score.figure is not None and confusions is not None:
            columns[score.key] = np.asarray(score.figure(torch.from_numpy(confusions)))
    return columns


def leading(scores: Mapping[str, object]) -> Metric:
    """Return the score that orders images by quality: LPIPS where there is one, else RMSE."""
    return next(score for score in SCORES if score.key in scores)


def worst_first(scores: Columns) -> tuple[NDArray[np.int64], int]:
    """Return the images by the leading score, the worst first, int64 ``(N,)``, and the size of the worst tenth."""
    values = scores[leading(scores).key]
    order = np.argsort(values if leading(scores).higher_is_better else -values, kind="stable")
    return order, max(1, round(len(values) / 10))


def binned(covariate: NDArray[np.float64], score: NDArray[np.float64], generator: np.random.Generator) -> list[Bin]:
    """Average a score over up to five groups of about equal size, in order of the covariate; equal values share one.

    Where a fifth of the images share the least value, as images without a class do, they are the first group.

    Args:
        covariate, score: float64 ``(N,)``.
        generator: Random generator of the resamplings.
    """
    bins = max(1, min(BINS, len(covariate) // _PER_BIN))
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
    """Test the rank correlation of every score with every covariate, where both vary; return bins too."""
    bins = {
        name: {key: binned(content, values, generator) for key, values in scores.items()}
        for name, content in covariates.items()
    }
    tests = []
    for score in (one for one in SCORES if one.key in scores and one is not NOT_TESTED):
        for covariate in (one for one in COVARIATES if one.key in covariates):
            found = rank_correlation(covariates[covariate.key], scores[score.key])
            if found is None:
                continue
            rho, p = found
            groups = bins[covariate.key][score.key]
            text = (
                f"Images with {covariate.more} score {'worse' if (rho > 0) != score.higher_is_better else 'better'} in "
                f"{score.name}: {groups[0].score.said(score.said)} where it is least, "
                f"{groups[-1].score.said(score.said)} where it is most; rho {signed(rho)}"
            )
            data = {"covariate": covariate.key, "score": score.key, "rho": rho}
            tests.append(Finding("content", (covariate.key, score.key), rho, p, text, data))
    return tests, bins


def content_section(tests: Sequence[Finding], bins: Bins, count: int, lead: Metric) -> Section:
    """Make the section of `content_tests`: a table, and charts of the strongest with the leading score."""
    title, by_subject = "The score by content", {test.subject: test for test in tests}
    if not tests:
        why = f"under {FEW}" if count < FEW else "all alike in what they hold or how they score"
        return Section("content", title, [f"{counted(count, 'image')}, {why}: no score is tested."])
    scores = [score for score in SCORES if any(test.subject[1] == score.key for test in tests)]
    known = {one.key: one for one in COVARIATES if any(test.subject[0] == one.key for test in tests)}
    body: list[Row] = []
    for key, covariate in known.items():
        tested = [by_subject.get((key, score.key)) for score in scores]
        cells = [None if one is None else Cell(signed(one.effect), one.effect, one.kind) for one in tested]
        body.append([covariate.name, *cells])
    caption = (
        "Spearman's rank correlation of each score with what the images hold; bold where it holds after "
        "the correction. PSNR orders images as RMSE does, in reverse, and is not tested again."
    )
    strongest = sorted((one for one in tests if one.subject[1] == lead.key), key=lambda one: -abs(one.effect))
    charts = []
    for test in strongest[:_CHARTED]:
        covariate = known[test.subject[0]]
        charts.append((f"{covariate.name}: rho {signed(test.effect)}", _chart(covariate, lead, bins)))
    data = {
        "n": count,
        "findings": [{**test.data, "p": test.corrected, "shown": test.shown} for test in tests],
        "bins": {key: bins[key] for key in known},
    }
    head = ["Content", *(f"{score.label} {score.arrow}" for score in scores)]
    about = f"{lead.label}, {'higher' if lead.higher_is_better else 'lower'} is better: means over groups of images of "
    return Section(
        "content", title, [], data, Table(head, body, caption), charts,
        chart_caption=f"{about}about equal size, by the middle of the group. Bars: 95 %, the images resampled.",
    )  # fmt: skip


def _chart(covariate: Covariate, score: Metric, bins: Bins) -> Markup:
    groups = bins[covariate.key][score.key]
    figure, axes = chart(310, 150)
    places = range(len(groups))
    errorbars(axes, places, [one.score for one in groups])
    axes.set_xticks(places, [covariate.write((one.low + one.high) / 2) for one in groups])
    axes.yaxis.set_major_formatter(lambda value, _: score.said(value))
    return chart_svg(figure, f"{score.name} by {covariate.name}")


def worst_tests(covariates: Columns, scores: Columns) -> list[Finding]:
    """Test each covariate of the worst tenth against the rest."""
    order, size = worst_first(scores)
    worst = np.isin(np.arange(len(order)), order[:size])
    tests = []
    for covariate in (one for one in COVARIATES if one.key in covariates and np.ptp(covariates[one.key]) > 0):
        sides = [covariates[covariate.key][side] for side in (worst, ~worst)]
        superiority, p = mann_whitney(*sides)
        medians = [float(np.median(side)) for side in sides]
        text = (
            f"The worst tenth has {'more' if superiority > 0.5 else 'less'} of {covariate.short}: median "
            f"{covariate.write(medians[0])}, the rest {covariate.write(medians[1])}"
        )
        data = {"worst": medians[0], "rest": medians[1], "superiority": superiority}
        tests.append(Finding("worst", (covariate.key,), 2 * superiority - 1, p, text, data))
    return tests


def worst_section(tests: Sequence[Finding], scores: Columns, look: Look) -> Section:
    """Make the section of `worst_tests`: a table, and the worst images."""
    score, (order, size) = leading(scores), worst_first(scores)
    values, gallery = scores[score.key], []
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
    by_key = {one.key: one for one in COVARIATES}
    rows: list[Row] = []
    for test in tests:
        covariate, data = by_key[test.subject[0]], test.data
        medians = [Cell(covariate.write(data[side]), data[side]) for side in ("worst", "rest")]
        chance = Cell(percent(data["superiority"]), data["superiority"], test.kind)
        p = Cell(p_value(test.corrected).removeprefix("p = ").removeprefix("p "), test.corrected, test.kind)
        rows.append([covariate.name, *medians, chance, p])
    caption = (
        "The worst tenth beside the rest. Effect: the chance that one of the worst has more of it than one of the "
        "rest, 50 % being no difference (Mann and Whitney); bold where it holds after the correction."
    )
    head = ["Content", "Median of the worst", "Of the rest", "Effect", "p"]
    data = {
        "n": len(values), "worst": size, "score": score.key, "limit": limit, "median": median,
        "differences": {test.subject[0]: {**test.data, "p": test.corrected} for test in tests},
    }  # fmt: skip
    return Section(
        "worst", "The worst tenth", [fact], data, Table(head, rows, caption) if rows else None, gallery=gallery,
        gallery_caption="The worst images, the worst first; error as in report.html.",
    )  # fmt: skip
