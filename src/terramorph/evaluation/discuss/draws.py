"""Where draws of paper mode disagree, whether that says where they are wrong, and whether they are too sure.

Were the truth one more draw, it would be to all draws but one what the draw left out is to them, whatever their number
and however they are distributed: each draw stands in for the truth in turn. A standard deviation of a few draws is no
such measure, for it is too small on average (by 20 % for two, 6 % for five).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph.evaluation.discuss.section import Finding, Section
from terramorph.evaluation.pictures import ERROR_TOP, Look, Pictures, viewable
from terramorph.evaluation.statistics import (
    FEW,
    SURE,
    Interval,
    mean_interval,
    plain,
    rank_correlation,
    ratio_intervals,
)
from terramorph.report.charts import SERIES, chart, chart_svg, colours, css, gradient
from terramorph.report.numbers import counted, percent, signed
from terramorph.report.pages import picture_uri

REMOVED = tuple(k / 20 for k in range(20))
"""Shares of the pixels that the sparsification curve leaves out."""
_PICTURED = 3
_EXCHANGES = 4000  # behind a p value


@dataclass
class DrawCounts:
    """Disagreement and error of each image.

    The disagreement of a pixel is the standard deviation of its draws (``ddof = 1``, mean over bands); its error is
    the absolute error of their mean (mean over bands). Both are grey levels.

    Attributes:
        draws: How many there are of each image.
        pixels: Number of pixels of each image.
        spread, error: Their means over the pixels of each image.
        off: float64 ``(N + 1, N + 1)`` an image, from `changing_places`.
        rho: Spearman's correlation over the pixels of an image; NaN where the draws agree or the error is the same
            everywhere.
        curves: float64 ``(2, 20)`` an image: mean error of what is left where the most disagreeing pixels, and where
            the most wrong ones, are left out.
        most: The images whose draws disagree most, at most three: mean disagreement, place in the rows, and float32
            ``(H, W)`` of disagreement and error.
    """

    draws: int
    pixels: list[int] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    off: list[NDArray[np.float64]] = field(default_factory=list)
    rho: list[float] = field(default_factory=list)
    curves: list[NDArray[np.float64]] = field(default_factory=list)
    most: list[tuple[float, int, NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)

    def add(self, draws: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
        """Count one image.

        Args:
            draws: uint8 ``(N, C, H, W)``, N >= 2.
            truth: uint8 ``(C, H, W)``.
            mask: bool ``(H, W)``, True where pixels count.
        """
        spread, error = spread_and_error(draws, truth)
        s, e = spread[mask].astype(np.float64), error[mask].astype(np.float64)
        self.pixels.append(len(s))
        self.spread.append(float(s.mean()))
        self.error.append(float(e.mean()))
        self.off.append(changing_places(draws, truth, mask))
        found = rank_correlation(s, e)
        self.rho.append(np.nan if found is None else found[0])
        self.curves.append(np.stack((sparsified(e, s), sparsified(e, e))))
        self.most.append((float(s.mean()), len(self.rho) - 1, spread, error))
        self.most = sorted(self.most, key=lambda item: -item[0])[:_PICTURED]


def spread_and_error(
    draws: NDArray[np.uint8], truth: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Disagreement and error of every pixel, float32 ``(H, W)`` each; shapes as in `DrawCounts.add`."""
    values = draws.astype(np.float32)
    error: NDArray[np.float32] = np.abs(values.mean(axis=0) - truth).mean(axis=0)
    return values.std(axis=0, ddof=1).mean(axis=0), error


def changing_places(draws: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance of truth and draws from the mean of the others.

    Args:
        draws: uint8 ``(N, C, H, W)``, N >= 2.
        truth: uint8 ``(C, H, W)``.
        mask: bool ``(H, W)``, True where pixels count.

    Returns:
        float64 ``(N + 1, N + 1)``, the truth first: from a to the mean of all but a and b, grey levels, mean over
        bands, summed over pixels.
    """
    values = np.concatenate((truth[None], draws))[:, :, mask].astype(np.float32)
    count, total = len(draws), values.sum(axis=0)
    off = np.zeros((count + 1, count + 1))
    for a in range(count + 1):
        for b in range(count + 1):
            if a != b:
                distance = np.abs(count * values[a] + values[b] - total) / (count - 1)
                off[a, b] = float(distance.mean(axis=0).sum(dtype=np.float64))
    return off


def calibration(
    off: NDArray[np.float64], pixels: NDArray[np.float64], generator: np.random.Generator
) -> dict[str, Any]:
    """Test whether the truth is farther from the draws than they are from one another.

    A truth that is one more draw may change places with any of them in any image. That holds however the differences
    are distributed, where an interval from a few images is too narrow, the more so as one truth varies more than the
    mean of several draws.

    Args:
        off: float64 ``(I, N + 1, N + 1)``, from `changing_places`, of each image.
        pixels: float64 ``(I,)``, that count in each image.
        generator: Draws the resamplings and the places.

    Returns:
        ``error`` of the truth and ``reference``, that of the draw left out, means over pixels; the interval of their
        ``difference``; and ``p``, two-sided, by exchange of truth and draws.
    """
    images, places = off.shape[:2]
    error, reference = (off.sum(axis=axis) / (places - 1) for axis in (2, 1))
    farther = error - reference
    difference = ratio_intervals(farther[:, :1], pixels[:, None], generator)[0]
    chosen = generator.integers(places, size=(_EXCHANGES, images))
    sums, seen = farther[np.arange(images), chosen].sum(axis=1), float(farther[:, 0].sum())
    slack = 1e-9 * float(np.abs(farther).sum())
    tail = min(int((sums >= seen - slack).sum()), int((sums <= seen + slack).sum()))
    return {
        "error": float(error[:, 0].sum() / pixels.sum()),
        "reference": float(reference[:, 0].sum() / pixels.sum()),
        "difference": plain(difference),
        "p": min(1.0, 2 * (1 + tail) / (1 + _EXCHANGES)),
    }


def sparsified(error: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean error of what is left when the pixels with the largest ``by`` are left out, for each of `REMOVED` (the
    sparsification curve of Ilg et al., arXiv:1802.07095).

    Args:
        error, by: float64 ``(N,)``, N >= 1.

    Returns:
        float64 ``(20,)``.
    """
    rising = np.cumsum(error[np.argsort(by, kind="stable")])
    left = np.maximum(1, np.rint(len(error) * (1 - np.array(REMOVED))).astype(np.int64))
    curve: NDArray[np.float64] = rising[left - 1] / left
    return curve


def no_draws_section(mode: str, noisy: bool) -> Section:
    """Section that says why there is only one draw of each image."""
    text = "There is one draw of each image, and it takes 2 or more samples to disagree."
    if mode != "paper":
        text = f"Mode {mode} has no noise and one draw of each image; in mode paper several draws can be compared."
    elif not noisy:
        text = "This model has no noise, so there is one draw of each image and nothing that could disagree."
    return Section("draws", "Where draws disagree", [text])


def draw_data(counts: DrawCounts, generator: np.random.Generator) -> dict[str, Any]:
    """Plain data of disagreement and error over all images."""
    calibrated = calibration(np.stack(counts.off), np.array(counts.pixels, np.float64), generator)
    rho = np.array([value for value in counts.rho if np.isfinite(value)])
    curves = np.stack(counts.curves).mean(axis=0)
    spread, error = (float(np.average(side, weights=counts.pixels)) for side in (counts.spread, counts.error))
    across = rank_correlation(np.array(counts.spread), np.array(counts.error)) if len(counts.spread) >= FEW else None
    areas = (curves[:, :1] - curves).sum(axis=1)
    return {
        "draws": counts.draws,
        "images": len(counts.spread),
        "mean_disagreement": spread,
        "mean_error": error,
        "calibration": calibrated,
        "rho_per_image": [None if np.isnan(value) else value for value in counts.rho],
        "rho": plain(mean_interval(rho, generator) if len(rho) else None),
        "rho_across_images": None if across is None else across[0],
        "p_across_images": None if across is None else across[1],
        "sparsification": {
            "removed": list(REMOVED),
            "by_disagreement": curves[0].tolist(),
            "by_error": curves[1].tolist(),
            # Of what the order of the errors gains over a random one.
            "gain": float(areas[0] / areas[1]) if areas[1] > 1e-9 else None,
        },
    }


def draw_tests(data: dict[str, Any]) -> list[Finding]:
    """Tests of calibration, and of disagreement against error across images."""
    tests, difference = [], Interval(**data["calibration"]["difference"])
    if data["images"] >= SURE:
        way, sign = ("sure", 1.0) if difference.mean > 0 else ("unsure", -1.0)
        # Both must say so: the interval, and the exchange of truth and draws.
        p = data["calibration"]["p"] if difference.beyond_zero() else 1.0
        size = min(1.0, abs(difference.mean) / max(data["calibration"]["reference"], 1e-9))
        text = (
            f"The {data['draws']} draws are too {way}: the truth is {data['calibration']['error']:.2f} grey "
            f"levels from the mean of all draws but one, the draw left out {data['calibration']['reference']:.2f}"
        )
        tests.append(Finding("draws", ("calibration",), sign * size, p, text))
    if (rho := data["rho_across_images"]) is not None:
        text = f"Images with more disagreement are the {'worse' if rho > 0 else 'better'} ones: rho {signed(rho)}"
        tests.append(Finding("draws", ("across",), rho, data["p_across_images"], text))
    return tests


def draws_section(counts: DrawCounts, data: dict[str, Any], tests: list[Finding], look: Look) -> Section:
    """Calibration by `draw_tests`, corrected; sparsification; and the images whose draws disagree most."""
    difference, images = Interval(**data["calibration"]["difference"]), data["images"]
    verdict = next((t for t in tests if t.section == "draws" and t.subject == ("calibration",) and t.shown), None)
    surely = (
        f"for a verdict on whether they are too sure it takes {SURE} images, not {images}"
        if images < SURE
        else "they are not shown to be too sure or too unsure"
        if verdict is None
        else f"they are too {'sure' if verdict.effect > 0 else 'unsure'}"
    )
    facts = [
        f"{data['draws']} draws of an image differ by {data['mean_disagreement']:.2f} grey levels, their mean is off "
        f"by {data['mean_error']:.2f}; the truth is farther off than a draw by {difference.said(signed)}: {surely}.",
        _within(data, images),
    ]
    caption = (
        "Mean error of what is left when pixels are left out: most disagreement first, largest error first, or at "
        "random. What every draw gets wrong alike does not show."
    )
    charts = [("Error of what is left, by the share left out", _sparsification(data["sparsification"]))]
    return Section(
        "draws", "Where draws disagree", facts, data, charts=charts, chart_caption=caption, gallery=_most(counts, look),
        gallery_caption="The images whose draws disagree most, each on a scale of its own; errors on one scale.",
        legend=[("by disagreement", css(SERIES[0])), ("by error", css(SERIES[1])), ("at random", css(SERIES[3])),
                ("none to much", gradient())],
    )  # fmt: skip


def _within(data: dict[str, Any], images: int) -> str:
    """Sentence on whether disagreement predicts error within an image."""
    if data["rho"] is None:
        return "The draws do not differ, so nothing can be predicted from them."
    rho = Interval(**data["rho"])
    said = f"rho {rho.said(signed)}, mean of {counted(images, 'image')}"
    if images < SURE:
        return f"Within an image, disagreement goes with error by {said}; a verdict takes {SURE} images."
    how = "predicts error" if rho.mean > 0 else "predicts the absence of error"
    verdict = how if rho.beyond_zero() else "is not shown to predict error"
    gain, curve = data["sparsification"]["gain"], data["sparsification"]["by_disagreement"]
    text = f"Within an image, disagreement {verdict}: {said}"
    if gain is None:
        return f"{text}."
    half = curve[REMOVED.index(0.5)]
    return f"{text}; without the half that disagrees most the error is {half:.1f} instead of {curve[0]:.1f}."


def _sparsification(curves: dict[str, Any]) -> Markup:
    figure, axes = chart(340, 200, x="left out")
    start = curves["by_disagreement"][0]
    for values, colour in ((curves["by_disagreement"], SERIES[0]), (curves["by_error"], SERIES[1])):
        axes.plot(REMOVED, values, color=colour)
    axes.plot((REMOVED[0], REMOVED[-1]), (start, start), color=SERIES[3])
    axes.xaxis.set_major_formatter(lambda value, _: percent(value))
    axes.set_ylim(bottom=0)
    return chart_svg(figure, "Error of what is left")


def _most(counts: DrawCounts, look: Look) -> list[tuple[str, Pictures]]:
    gallery = []
    for mean, row, spread, error in counts.most:
        view, top = look(row), max(float(np.percentile(spread, 99)), 1.0)
        shown = {
            "input": viewable(view.source),
            "one draw": viewable(view.prediction),
            f"disagreement, 0 to {top:.1f}": colours(spread / top),
            f"error of the mean, 0 to {ERROR_TOP}": colours(error / ERROR_TOP),
        }
        pictures = [(name, picture_uri(image)) for name, image in shown.items()]
        gallery.append((f"{view.id}: disagreement {mean:.1f} grey levels", pictures))
    return gallery
