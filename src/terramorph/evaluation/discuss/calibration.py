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

from terramorph.evaluation.statistics import ratio_intervals

BOUNDS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0)
"""Grey levels: where one group of disagreement ends and the next begins."""
GROUPS = len(BOUNDS) + 1
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
