"""Which pairs of a prepared dataset deserve a look, and why, in words.

A pair is doubted on seven grounds. Each gives a part from 0 to 1, and the suspicion of a pair is the sum of its parts:

    misregistered   its shift, where one can be told, from 1.5 px (0) to 6 px (1)
    unmatched       0.5 where the sides share no structure although both show more of it than the median pair
    labelled        share of the target under text and icons, from 2 % (0) to 20 % (1)
    blank           share of the commonest colour on the plainer side, from 90 % (0) to 100 % (1)
    hazy            share of the source under haze or cloud, from 10 % (0) to 60 % (1)
    nodata          share without data, from 0 to 10 % (1)
    duplicate       1 with a look-alike in another split, 0.25 with one in its own

What cannot be measured is not doubted. A pair counts as misregistered, labelled and so on where that part is over 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.prepare.registration import MIN_CONFIDENCE
from terramorph.report.numbers import distance, percent

RAMPS: Mapping[str, tuple[float, float]] = {
    "misregistered": (1.5, 6.0),
    "labelled": (0.02, 0.2),
    "blank": (0.9, 1.0),
    "hazy": (0.1, 0.6),
    "nodata": (0.0, 0.1),
}
"""Ground -> the values at which its part begins to rise and at which it is 1; pixels for the first, else shares."""
_UNMATCHED_BELOW = 0.1
_UNMATCHED, _LEAK, _TWIN = 0.5, 1.0, 0.25


def parts_of(table: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """The parts of the suspicion of every tile.

    Args:
        table: columns (N,) of `footprints.parquet`: the measures as float64 with NaN for unknown, `kept` bool, `leak`
            and `twin` bool (a look-alike among the kept in another split, in the same).

    Returns:
        Ground -> float64 (N,), 0 to 1. Tiles that were not kept have parts too, but for look-alikes.
    """
    values = {
        "misregistered": confident_shift(table),
        "labelled": table["labels"],
        "blank": np.fmax(table["source_blank"], table["target_blank"]),
        "hazy": table["haze"],
        "nodata": table["nodata"],
    }
    parts = {}
    for name, (low, high) in RAMPS.items():
        parts[name] = np.nan_to_num(np.clip((values[name] - low) / (high - low), 0, 1))
    unmatched = np.isfinite(table["dx"]) & (table["confidence"] < _UNMATCHED_BELOW)
    for side in ("source_detail", "target_detail"):
        known = table[side][table["kept"] & np.isfinite(table[side])]
        if len(known):
            unmatched &= table[side] >= np.median(known)
    parts["unmatched"] = np.where(unmatched, _UNMATCHED, 0.0)
    parts["duplicate"] = np.where(table["leak"], _LEAK, np.where(table["twin"], _TWIN, 0.0))
    return parts


def confident_shift(table: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Length of the shift in pixels, float64 (N,); NaN where none could be told."""
    length: NDArray[np.float64] = np.hypot(table["dx"], table["dy"])
    return np.where(table["confidence"] >= MIN_CONFIDENCE, length, np.nan)


def in_words(
    table: Mapping[str, NDArray[Any]],
    parts: Mapping[str, NDArray[np.float64]],
    index: int,
    look_alikes: str,
    cleaned: bool,
) -> list[str]:
    """Why a pair is doubted, the strongest reason first; empty if it is not.

    Args:
        table, parts: as for `parts_of`.
        index: of the tile.
        look_alikes: the ids that it resembles.
        cleaned: whether labels were painted over after they were measured.
    """
    value = {name: float(table[name][index]) for name in ("labels", "haze", "nodata", "source_blank", "target_blank")}
    dx, dy = float(table["dx"][index]), float(table["dy"][index])
    side, blank = max(("source", value["source_blank"]), ("target", value["target_blank"]), key=lambda s: s[1])
    words = {
        "misregistered": f"misregistered by {np.hypot(dx, dy):.1f} px ({direction(dx, dy)})",
        "unmatched": "the sides share no structure",
        "labelled": f"labels on {percent(value['labels'])} of the target{', painted over' if cleaned else ''}",
        "blank": f"{percent(blank)} of the {side} in one colour",
        "hazy": f"haze or cloud on {percent(value['haze'])} of the source",
        "nodata": f"{percent(value['nodata'])} without data",
        "duplicate": f"looks like {look_alikes}{', in another split' if table['leak'][index] else ''}",
    }
    given = [name for name in words if parts[name][index] > 0]
    return [words[name] for name in sorted(given, key=lambda name: -parts[name][index])]


def direction(dx: float, dy: float, metres: float | None = None) -> str:
    """A shift as words, such as `2.1 px right, 0.4 px down`; with metres per pixel, those too."""

    def one(value: float, ways: tuple[str, str]) -> str:
        ground = "" if metres is None else f" ({distance(abs(value) * metres)})"
        return f"{abs(value):.1f} px{ground} {ways[value > 0]}"

    parts = [one(v, w) for v, w in ((dx, ("left", "right")), (dy, ("up", "down"))) if abs(v) >= 0.05]
    return ", ".join(parts) or "not at all"
