"""Where draws of paper mode disagree, and whether that says where they are wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from terramorph.evaluation.discuss.calibration import (
    calibration,
    calibration_figure,
    calibration_sentence,
    changing_places,
    count_image,
)
from terramorph.evaluation.discuss.section import (
    Figure,
    Pictured,
    Section,
    Sentence,
    between,
    counted,
    p_value,
    percent,
    percent_tick,
    signed,
)
from terramorph.evaluation.discuss.views import Look
from terramorph.evaluation.pictures import ERROR_TOP, viewable
from terramorph.evaluation.statistics import (
    ALPHA,
    FEW,
    SURE,
    Interval,
    mean_interval,
    rank_correlation,
    rank_correlation_p,
)
from terramorph.report.charts import colours, gradient
from terramorph.report.lines import COLOURS, Series, plot
from terramorph.report.pages import picture_uri

REMOVED = tuple(k / 20 for k in range(20))
"""Shares of the pixels that the sparsification curve leaves out."""
_PICTURED = 3


@dataclass
class DrawCounts:
    """Disagreement and error of each image.

    The disagreement of a pixel is the standard deviation of its draws (``ddof = 1``, mean over bands); its error is
    the absolute error of their mean (mean over bands). Both are grey levels.

    Attributes:
        draws: How many there are of each image.
        pixels: Number of pixels of each image.
        spread, error: Their means over the pixels of each image.
        others: float64 ``(4, 13)`` an image, from `terramorph.evaluation.discuss.calibration.count_image`.
        farther: float64 ``(N + 1,)`` an image, from `terramorph.evaluation.discuss.calibration.changing_places`.
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
    others: list[NDArray[np.float64]] = field(default_factory=list)
    farther: list[NDArray[np.float64]] = field(default_factory=list)
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
        self.others.append(count_image(draws, truth, mask))
        self.farther.append(changing_places(draws, truth, mask))
        rho = rank_correlation(s, e)
        self.rho.append(np.nan if rho is None else rho)
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


def no_draws_section(mode: str, draws: int, noisy: bool) -> Section:
    """Why nothing is said about disagreement, and how to get it."""
    if mode != "paper":
        text = f"Mode {mode} has no noise: there is {draws} draw of each image, and nothing that could disagree; with "
        text += "--mode paper --samples 5 draws are compared."
    elif not noisy:
        text = (
            f"This model has no live dropout, so there is {draws} draw of each image and nothing that could disagree."
        )
    else:
        text = f"There is {draws} draw of each image, and it takes 2 to disagree; give --samples 5."
    return Section("draws", "Where draws disagree", [Sentence(text, {"draws": draws})])


def draws_section(counts: DrawCounts, look: Look, generator: np.random.Generator) -> Section:
    """Calibration, sparsification, correlations, and a verdict.

    Args:
        counts: Of all images.
        look: Shows a pair again.
        generator: Draws the resamplings.
    """
    calibrated = calibration(counts.draws, np.stack(counts.others), np.stack(counts.farther), generator)
    rho = np.array([value for value in counts.rho if np.isfinite(value)])
    curves = np.stack(counts.curves)
    gain = _gain(curves.mean(axis=0))
    spread, error = (float(np.average(side, weights=counts.pixels)) for side in (counts.spread, counts.error))
    within = mean_interval(rho, generator) if len(rho) else None
    data = {
        "draws": counts.draws,
        "mean_disagreement": spread,
        "mean_error": error,
        "calibration": calibrated,
        "rho_per_image": [None if np.isnan(value) else value for value in counts.rho],
        "rho": None if within is None else asdict(within),
        "sparsification": {"removed": list(REMOVED), "by_disagreement": curves.mean(axis=0)[0].tolist(),
                           "by_error": curves.mean(axis=0)[1].tolist(), "gain": gain},
    }  # fmt: skip
    said = [
        calibration_sentence(counts.draws, len(counts.others), spread, error, calibrated),
        *_verdict(within, len(rho)),
        *_across(counts, data),
    ]
    if gain is not None:
        half = REMOVED.index(0.5)
        start, left, best = (
            float(v) for v in (curves[:, 0, 0].mean(), curves[:, 0, half].mean(), curves[:, 1, half].mean())
        )
        text = (
            "Leaving out the half of the pixels that the draws disagree on most lowers the mean error from "
            f"{start:.1f} to {left:.1f}; knowing the truth it would be {best:.1f}. Over the whole curve that is "
            f"{percent(gain)} of what can be gained."
        )
        said.append(Sentence(text, {"all": start, "half_left": left, "oracle": best, "gain": gain}, "sparsification"))
    calibrated_figure = calibration_figure(calibrated)
    figures = [_sparsification(curves.mean(axis=0)), _pictures(counts, look)]
    if calibrated_figure is not None:
        figures.insert(0, calibrated_figure)
    return Section("draws", "Where draws disagree", said, figures, data)


def _verdict(rho: Interval | None, images: int) -> list[Sentence]:
    """Within an image."""
    if rho is None:
        text = f"In {images} images the draws differ, so nothing can be predicted from them."
        return [Sentence(text, {"images": images}, "calibration")]
    if images < SURE or rho.low is None or rho.high is None:
        text = (
            f"Spearman's rho of disagreement and error over the pixels of an image is {signed(rho.mean)}, mean of "
            f"{counted(images, 'image')}; for a verdict on whether one predicts the other it takes {SURE}."
        )
        return [Sentence(text, {"images": images, **asdict(rho)}, "calibration")]
    size = abs(rho.mean)
    how = "weakly" if size < 0.3 else "moderately" if size < 0.6 else "strongly"
    verdict = (
        f"predicts error within an image, {how}"
        if rho.low > 0
        else "predicts the absence of error within an image"
        if rho.high < 0
        else "is not shown to predict error within an image"
    )
    text = (
        f"Disagreement {verdict}: Spearman's rho over the pixels of an image is {between(rho, signed)}, mean "
        f"of {images} images (1 would be a perfect order, 0 none)."
    )
    return [Sentence(text, {"images": images, **asdict(rho)}, "calibration")]


def _across(counts: DrawCounts, data: dict[str, object]) -> list[Sentence]:
    """From image to image."""
    count = len(counts.spread)
    rho = rank_correlation(np.array(counts.spread), np.array(counts.error))
    if count < FEW or rho is None:
        text = (
            f"Whether the images with more disagreement are the worse ones is not tested: that takes {FEW} "
            f"images, not {count}."
        )
        return [Sentence(text, {"n": count, "needed": FEW}, "calibration")]
    p = rank_correlation_p(rho, count)
    data |= {"rho_across_images": rho, "p_across_images": p}
    verdict = "are" if p < ALPHA and rho > 0 else "are not shown to be"
    text = (
        f"Images with more disagreement {verdict} the worse ones: rho {signed(rho)} over {count} images, {p_value(p)}."
    )
    return [Sentence(text, {"rho": rho, "p": p, "n": count}, "calibration")]


def _gain(curves: NDArray[np.float64]) -> float | None:
    """What disagreement gains over a random order, of what the order of the errors would; ``None`` where that is 0."""
    areas = (curves[:, :1] - curves).sum(axis=1)
    return float(areas[0] / areas[1]) if areas[1] > 1e-9 else None


def _pictures(counts: DrawCounts, look: Look) -> Figure:
    gallery = []
    for mean, row, spread, error in counts.most:
        view, top = look(row), max(float(np.percentile(spread, 99)), 1.0)
        pictures = [
            ("source", picture_uri(viewable(view.source))),
            ("one draw", picture_uri(viewable(view.prediction))),
            (f"disagreement, 0 to {top:.1f}", picture_uri(colours(spread / top))),
            (f"error of the mean, 0 to {ERROR_TOP}", picture_uri(colours(error / ERROR_TOP))),
        ]
        gallery.append(Pictured(f"{view.id}: disagreement {mean:.1f} grey levels", pictures))
    caption = "The images whose draws disagree most, each on a scale of its own; errors on one scale; grey levels."
    return Figure("draws-pictures", "gallery", caption, gallery=gallery, legend=[("none to much", gradient())])


def _sparsification(curves: NDArray[np.float64]) -> Figure:
    series = [
        *(Series(x=REMOVED, y=curve.tolist(), marks=False) for curve in curves),
        Series(x=(REMOVED[0], REMOVED[-1]), y=(float(curves[0, 0]), float(curves[0, 0])), marks=False),
    ]
    svg = plot(
        series,
        x_name="left out",
        y_name="mean error of the rest",
        write_y="{:g}".format,
        x_labels=[(x, percent_tick(x)) for x in (0.0, 0.25, 0.5, 0.75)],
        from_zero=True,
    )
    caption = "Sparsification: the mean error of what is left when pixels are left out, mean over images."
    names = list(zip(("most disagreement first", "largest error first", "at random"), COLOURS, strict=False))
    return Figure("sparsification", "charts", caption, charts=[("", svg)], legend=names)
