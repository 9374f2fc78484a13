"""Disagreement between draws (samples of paper mode): its correlation with the error, and its calibration.

Calibration leaves out each draw in turn. If the truth were one more draw, its distance from the mean of the others
would on average be that of the draw left out, whatever the number and distribution of draws. The standard deviation of
a few draws is no such reference: it is too small on average (by 20 % for two, 6 % for five).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph.evaluation.discuss.section import Columns, Finding, Section
from terramorph.evaluation.pictures import ERROR_TOP, Look, Pictures, viewable
from terramorph.evaluation.statistics import FEW, SURE, mean_interval, rank_correlation, ratio_intervals
from terramorph.report.charts import SERIES, chart, chart_svg, colours, css, gradient
from terramorph.report.numbers import counted, percent, signed
from terramorph.report.pages import picture_uri

TITLE = "Where draws disagree"
REMOVED = tuple(k / 20 for k in range(20))
"""Shares of pixels removed along the sparsification curve."""
_PICTURED = 3
_EXCHANGES = 4000  # per p value


Disagreement = tuple[float, int, NDArray[np.float32], NDArray[np.float32]]
"""Mean disagreement of an image, its row, and maps of disagreement and error, float32 ``(H, W)``."""


def compare_draws(
    draws: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> tuple[dict[str, Any], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Compute disagreement and error of an image, grey levels.

    Args:
        draws: uint8 ``(N, C, H, W)``, N >= 2.
        truth: uint8 ``(C, H, W)``.
        mask: bool ``(H, W)``, True where pixels count.

    Returns:
        Numbers and maps. The maps, float32 ``(H, W)``: the disagreement, which is the standard deviation of the draws
        (``ddof = 1``, mean over bands), and the absolute error of their mean (mean over bands). The numbers:
        ``pixels`` that count; ``spread`` and ``error``, means over these; ``off``, from `changing_places`; ``rho``,
        Spearman's correlation over pixels, NaN where one side is constant; ``curves``, float64 ``(2, 20)``, the mean
        error after removing the pixels with most disagreement, and those with the largest error.
    """
    values = draws.astype(np.float32)
    maps = values.std(axis=0, ddof=1).mean(axis=0), np.abs(values.mean(axis=0) - truth).mean(axis=0)
    spread, error = (side[mask].astype(np.float64) for side in maps)
    correlation = rank_correlation(spread, error)
    numbers = {
        "pixels": len(spread),
        "spread": float(spread.mean()),
        "error": float(error.mean()),
        "off": changing_places(draws, truth, mask),
        "rho": np.nan if correlation is None else correlation[0],
        "curves": np.stack((sparsified(error, spread), sparsified(error, error))),
    }
    return numbers, maps


def most_disagreeing(images: list[Disagreement]) -> list[Disagreement]:
    """Return the images to show, those that disagree most first."""
    return sorted(images, key=lambda one: -one[0])[:_PICTURED]


def changing_places(draws: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute the distance of truth and draws from the mean of the others.

    Args:
        draws: uint8 ``(N, C, H, W)``, N >= 2.
        truth: uint8 ``(C, H, W)``.
        mask: bool ``(H, W)``, True where pixels count.

    Returns:
        float64 ``(N + 1, N + 1)``, the truth first: distance (a, b) is from a to the mean of all but a and b, grey
        levels, mean over bands, summed over pixels.
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

    The test is a permutation test: if the truth is one more draw, it can be exchanged with any draw in any image,
    however the differences are distributed. An interval from a few images would be too narrow, as one truth varies
    more than the mean of several draws.

    Args:
        off: `changing_places` of each image, float64 ``(I, N + 1, N + 1)``.
        pixels: Number of pixels that count in each image, float64 ``(I,)``.
        generator: Random generator of resamplings and exchanges.

    Returns:
        ``error`` of the truth and ``reference``, the error of the draw left out, means over pixels; the interval of
        their ``difference``; and ``p``, two-sided.
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
        "difference": difference,
        "p": min(1.0, 2 * (1 + tail) / (1 + _EXCHANGES)),
    }


def sparsified(error: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sparsification curve (Ilg et al., arXiv:1802.07095): the mean error after removing each share of
    `REMOVED` of the pixels, those with the largest ``by`` first.

    Args:
        error, by: float64 ``(N,)``, N >= 1.

    Returns:
        float64 ``(20,)``.
    """
    rising = np.cumsum(error[np.argsort(by, kind="stable")])
    left = np.maximum(1, np.rint(len(error) * (1 - np.array(REMOVED))).astype(np.int64))
    curve: NDArray[np.float64] = rising[left - 1] / left
    return curve


def draw_data(columns: Columns, draws: int, generator: np.random.Generator) -> dict[str, Any]:
    """Sum up disagreement and error over all images, from the numbers of `compare_draws`."""
    pixels, spread, error = (columns[key].astype(np.float64) for key in ("pixels", "spread", "error"))
    calibrated = calibration(columns["off"], pixels, generator)
    rho, curves = columns["rho"][np.isfinite(columns["rho"])], columns["curves"].mean(axis=0)
    across = rank_correlation(spread, error) if len(spread) >= FEW else None
    areas = (curves[:, :1] - curves).sum(axis=1)
    return {
        "draws": draws,
        "images": len(spread),
        "mean_disagreement": float(np.average(spread, weights=pixels)),
        "mean_error": float(np.average(error, weights=pixels)),
        "calibration": calibrated,
        "rho_per_image": [value if np.isfinite(value) else None for value in columns["rho"].tolist()],
        "rho": mean_interval(rho, generator) if len(rho) else None,
        "rho_across_images": None if across is None else across[0],
        "p_across_images": None if across is None else across[1],
        "sparsification": {
            "removed": list(REMOVED),
            "by_disagreement": curves[0].tolist(),
            "by_error": curves[1].tolist(),
            # As a share of the gain of ordering by error over a random order.
            "gain": float(areas[0] / areas[1]) if areas[1] > 1e-9 else None,
        },
    }


def draw_tests(data: dict[str, Any]) -> list[Finding]:
    """Test calibration, and disagreement against error across images."""
    tests, calibrated = [], data["calibration"]
    if data["images"] >= SURE:
        way, sign = ("sure", 1.0) if calibrated["difference"].mean > 0 else ("unsure", -1.0)
        # Both must agree: the interval, and the permutation test.
        p = calibrated["p"] if calibrated["difference"].beyond_zero() else 1.0
        size = min(1.0, abs(calibrated["difference"].mean) / max(calibrated["reference"], 1e-9))
        text = (
            f"The {data['draws']} draws are too {way}: the truth is {calibrated['error']:.2f} grey "
            f"levels from the mean of all draws but one, the draw left out {calibrated['reference']:.2f}"
        )
        tests.append(Finding("draws", ("calibration",), sign * size, p, text))
    if (rho := data["rho_across_images"]) is not None:
        text = f"Images with more disagreement are the {'worse' if rho > 0 else 'better'} ones: rho {signed(rho)}"
        tests.append(Finding("draws", ("across",), rho, data["p_across_images"], text))
    return tests


def draws_section(data: dict[str, Any], tests: list[Finding], most: list[Disagreement], look: Look) -> Section:
    """Make the section of draws: calibration, sparsification, and the images whose draws disagree most."""
    images, curve, rho = data["images"], data["sparsification"]["by_disagreement"], data["rho"]
    verdict = next((test for test in tests if test.subject == ("calibration",)), None)
    if verdict is None:
        surely = f"for a verdict on whether they are too sure it takes {SURE} images, not {images}"
    elif not verdict.shown:
        surely = "they are not shown to be too sure or too unsure"
    else:
        surely = f"they are too {'sure' if verdict.effect > 0 else 'unsure'}"
    facts = [
        f"{data['draws']} draws of an image differ by {data['mean_disagreement']:.2f} grey levels, their mean is off "
        f"by {data['mean_error']:.2f}; the truth is farther off than a draw by "
        f"{data['calibration']['difference'].said(signed)}: {surely}."
    ]
    if rho is not None:
        shown = "" if images >= SURE and rho.beyond_zero() else ", which is not shown to be other than 0"
        facts.append(
            f"Within an image, disagreement goes with error by rho {rho.said(signed)}, mean of "
            f"{counted(images, 'image')}{shown}; without the half that disagrees most the error is "
            f"{curve[REMOVED.index(0.5)]:.1f} instead of {curve[0]:.1f}."
        )
    caption = (
        "Mean error of what is left when pixels are left out: most disagreement first, largest error first, or at "
        "random. What every draw gets wrong alike does not show."
    )
    charts = [("Error of what is left, by the share left out", _sparsification(data["sparsification"]))]
    return Section(
        "draws", TITLE, facts, data, charts=charts, chart_caption=caption, gallery=_gallery(most, look),
        gallery_caption="The images whose draws disagree most, each on a scale of its own; errors on one scale.",
        legend=[("by disagreement", css(SERIES[0])), ("by error", css(SERIES[1])), ("at random", css(SERIES[3])),
                ("none to much", gradient())],
    )  # fmt: skip


def _sparsification(curves: dict[str, Any]) -> Markup:
    figure, axes = chart(340, 200, x="left out")
    start = curves["by_disagreement"][0]
    for values, colour in ((curves["by_disagreement"], SERIES[0]), (curves["by_error"], SERIES[1])):
        axes.plot(REMOVED, values, color=colour)
    axes.plot((REMOVED[0], REMOVED[-1]), (start, start), color=SERIES[3])
    axes.xaxis.set_major_formatter(lambda value, _: percent(value))
    axes.set_ylim(bottom=0)
    return chart_svg(figure, "Error of what is left")


def _gallery(most: list[Disagreement], look: Look) -> list[tuple[str, Pictures]]:
    gallery = []
    for mean, row, spread, error in most:
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
