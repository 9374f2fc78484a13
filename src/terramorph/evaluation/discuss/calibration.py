"""Whether draws are as far from the truth as from one another: each draw stands in for the truth in turn.

Were the truth one more draw, it would be to all draws but one what the draw left out is to them, whatever their number
and however they are distributed. A standard deviation of a few draws is no such measure: it is too small on average (by
20 % for two, 6 % for five), and pixels that are sorted by it are sorted by its noise too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.evaluation.discuss.section import Figure, Sentence, between, counted, p_value, percent, signed
from terramorph.evaluation.statistics import ALPHA, SURE, Interval, ratio_intervals
from terramorph.report.lines import COLOURS, Series, plot

BOUNDS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0)
"""Grey levels: where one group of disagreement ends and the next begins."""
GROUPS = len(BOUNDS) + 1
_LEAST = 0.0005  # share of the pixels of a group that is drawn
_EXCHANGES = 4000  # behind a p value
_ONE_OUT = 3  # draws of which all but one can disagree

Plane = NDArray[np.float32]


def seen_from_the_others(draws: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Iterator[tuple[Plane, Plane, Plane]]:
    """For each draw what the other draws say of it and of the truth.

    Args:
        draws: uint8 ``(N, C, H, W)``, N >= 2.
        truth: uint8 ``(C, H, W)``.

    Yields:
        float32 ``(H, W)`` each, grey levels, means over bands: standard deviation of the others (0 if there is one),
        how far the truth is off their mean, and how far the draw is.
    """
    values, count = draws.astype(np.float32), len(draws)
    mean = values.mean(axis=0)
    away, off = values - mean, truth - mean
    squares = (away**2).sum(axis=0)
    grown = count / (count - 1)  # a draw is that much farther from the mean of the others than from that of all
    for own in away:
        variance = np.maximum(squares - grown * own**2, 0) / max(count - 2, 1)
        if count < _ONE_OUT:
            variance = np.zeros_like(variance)  # of one value: nothing but rounding
        yield (
            np.sqrt(variance).mean(axis=0),
            np.abs(off + own / (count - 1)).mean(axis=0),
            np.abs(own).mean(axis=0) * grown,
        )


def count_image(draws: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sums of `seen_from_the_others` over an image's pixels and draws.

    Args:
        draws, truth: As there.
        mask: bool ``(H, W)``, True where pixels count.

    Returns:
        float64 ``(4, 13)``, by groups of disagreement: pixels (each as often as there are draws), and the three sums.
    """
    sums = np.zeros((4, GROUPS))
    for planes in seen_from_the_others(draws, truth):
        kept = [plane[mask].astype(np.float64) for plane in planes]
        group = np.searchsorted(BOUNDS, kept[0], side="right")
        sums += [np.bincount(group, one, minlength=GROUPS) for one in (np.ones(len(group)), *kept)]
    return sums


def changing_places(draws: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much farther off the truth is than a draw, and what that would be were each draw the truth and that a draw.

    Args:
        draws, truth, mask: As in `count_image`.

    Returns:
        float64 ``(N + 1,)``: error minus reference, summed over pixels, first of the truth and then of the draws.
    """
    values = np.concatenate((truth[None], draws))[:, :, mask].astype(np.float32)
    count, total = len(draws), values.sum(axis=0)
    off = np.zeros((count + 1, count + 1))
    for a in range(count + 1):
        for b in range(count + 1):
            if a != b:  # from a to the mean of all but a and b
                distance = np.abs(count * values[a] + values[b] - total) / (count - 1)
                off[a, b] = float(distance.mean(axis=0).sum(dtype=np.float64))
    farther: NDArray[np.float64] = (off.sum(axis=1) - off.sum(axis=0)) / count
    return farther


def chance(farther: NDArray[np.float64], generator: np.random.Generator) -> float:
    """Two-sided p value of the truth's being farther off or nearer than a draw.

    A truth that is one more draw may change places with any of them in any image. That holds however the differences
    are distributed, where an interval from a few images is too narrow, the more so as one truth varies more than the
    mean of several draws.

    Args:
        farther: float64 ``(N, D + 1)``, from `changing_places`.
        generator: Draws the places.
    """
    images, places = farther.shape
    chosen = generator.integers(places, size=(_EXCHANGES, images))
    sums = farther[np.arange(images), chosen].sum(axis=1)
    seen = float(farther[:, 0].sum())
    slack = 1e-9 * float(np.abs(farther).sum())
    tails = ((sums >= seen - slack).sum(), (sums <= seen + slack).sum())
    return min(1.0, 2 * (1 + int(min(tails))) / (1 + _EXCHANGES))


def calibration(
    draws: int, counted_images: NDArray[np.float64], farther: NDArray[np.float64], generator: np.random.Generator
) -> dict[str, Any]:
    """Plain data of the error of all draws but one, and of its reference.

    Args:
        draws: Of each image.
        counted_images: float64 ``(N, 4, 13)``, from `count_image`.
        farther: float64 ``(N, draws + 1)``, from `changing_places`.
        generator: Draws the resamplings.

    Returns:
        ``error`` and ``reference`` over all pixels; ``difference``, the interval of one minus the other, and its ``p``
        by `chance`; and ``groups``
        of `disagreement`, `share` of the pixels, `error` with its interval, and `reference`; with two draws none, for
        one draw disagrees with nothing.
    """
    pixels, spread, error, reference = counted_images.transpose(1, 0, 2)
    whole = pixels.sum(axis=1, keepdims=True)
    difference = ratio_intervals((error - reference).sum(axis=1, keepdims=True), whole, generator)[0]
    intervals = ratio_intervals(error, pixels, generator) if draws >= _ONE_OUT else []
    total = float(whole.sum())
    assert difference is not None
    return {
        "error": float(error.sum()) / total,
        "reference": float(reference.sum()) / total,
        "difference": asdict(difference),
        "p": chance(farther, generator),
        "groups": [
            {
                "disagreement": float(spread[:, k].sum() / pixels[:, k].sum()),
                "share": float(pixels[:, k].sum() / total),
                "error": asdict(one),
                "reference": float(reference[:, k].sum() / pixels[:, k].sum()),
            }
            for k, one in enumerate(intervals)
            if one is not None
        ],
    }


def calibration_sentence(draws: int, images: int, spread: float, error: float, data: dict[str, Any]) -> Sentence:
    """Whether the draws are too sure, or too unsure; neither unless the interval of the difference leaves out 0 and its
    p value is small.

    Args:
        draws: Of each image.
        images: How many there are.
        spread, error: Of all draws, means over pixels.
        data: From `calibration`.
    """
    difference = Interval(**data["difference"])
    if images < SURE or difference.low is None or difference.high is None:
        verdict = f"; for a verdict on whether they are too sure it takes {SURE} images, not {images}"
    elif difference.low > 0 and data["p"] < ALPHA:
        verdict = f", {p_value(data['p'])}: the draws are too sure"
    elif difference.high < 0 and data["p"] < ALPHA:
        verdict = f", {p_value(data['p'])}: the draws are too unsure"
    else:
        verdict = f", {p_value(data['p'])}: they are not shown to be too sure or too unsure"
    text = (
        f"{draws} draws of an image differ by {spread:.2f} grey levels (standard deviation, mean over pixels and "
        f"bands), and their mean is off by {error:.2f}. The mean of all draws but one is {data['error']:.2f} from the "
        f"truth and {data['reference']:.2f} from the draw left out, a difference of {between(difference, signed)} over "
        f"{counted(images, 'image')}{verdict}."
    )
    values = {"draws": draws, "disagreement": spread, "error": error, "images": images}
    values |= {"error_from_others": data["error"], "reference": data["reference"], "difference": data["difference"]}
    values["p"] = data["p"]
    return Sentence(text, values, "calibration")


def calibration_figure(data: dict[str, Any]) -> Figure | None:
    """Error by disagreement, for the truth and for draws in its place; ``None`` where there are no groups."""
    groups = [group for group in data["groups"] if group["share"] >= _LEAST]
    if not groups:
        return None
    errors = [Interval(**group["error"]) for group in groups]
    places = [group["disagreement"] for group in groups]
    truth = Series(
        x=places,
        y=[one.mean for one in errors],
        low=[one.low for one in errors],
        high=[one.high for one in errors],
        titles=[
            f"{group['disagreement']:.1f}: error {between(one, '{:.1f}'.format)}, a draw {group['reference']:.1f}, "
            f"{percent(group['share'])} of pixels"
            for group, one in zip(groups, errors, strict=True)
        ],
    )
    reference = Series(x=places, y=[group["reference"] for group in groups], marks=False)
    svg = plot(
        [truth, reference],
        x_name="disagreement, grey levels",
        y_name="mean absolute error",
        write_y="{:g}".format,
        x_labels=_ticks(max(places)),
        from_zero=True,
    )
    caption = (
        "Calibration: how far the truth is from the mean of all draws but one, by how much these disagree (bars: 95 %, "
        "images resampled); and how far the draw left out is. Where the truth is farther, the draws are too sure."
    )
    names = [("the truth", COLOURS[0]), ("the draw left out", COLOURS[1])]
    return Figure("calibration", "charts", caption, charts=[("", svg)], legend=names)


def _ticks(last: float) -> list[tuple[float, str]]:
    step = next((s for s in (1, 2, 5, 10, 20, 50) if last / s <= 6), 100)
    return [(float(x), f"{x:g}") for x in range(0, int(last) + 1, step)]
