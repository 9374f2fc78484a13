"""Suspicion: which pairs of a prepared dataset deserve a look, and the reasons.

There are seven reasons. Each has a part from 0 to 1, and the suspicion of a pair is the sum of its parts:

    misregistered   length of a confident shift, from 1.5 px (0) to 6 px (1)
    unmatched       0.5 where the sides share no structure although both show more of it than the median pair
    labelled        share of the target under text and icons, from 2 % (0) to 20 % (1)
    blank           share of the commonest colour on the plainer side, from 90 % (0) to 100 % (1)
    hazy            share of the source under haze or cloud, from 10 % (0) to 60 % (1)
    nodata          share without data, from 0 to 10 % (1)
    duplicate       1 with a look-alike in another split, 0.25 with one in its own

Measures that are missing do not count. A pair counts as misregistered, labelled and so on where that part is over 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas

from terramorph.report.numbers import distance, listed, percent

_RAMPS: dict[str, tuple[float, float]] = {
    "misregistered": (1.5, 6.0),
    "labelled": (0.02, 0.2),
    "blank": (0.9, 1.0),
    "hazy": (0.1, 0.6),
    "nodata": (0.0, 0.1),
}
"""Values by reason at which its part begins to rise and at which it is 1; pixels for the first, else shares."""
_UNMATCHED_BELOW = 0.1
_UNMATCHED, _LEAK, _TWIN = 0.5, 1.0, 0.25


def parts_of(table: Any) -> Any:
    """Return the parts of the suspicion of N tiles.

    Returns:
        DataFrame (N) of float64, 0 to 1, a column per reason; NaN where it was not measured. Tiles that were not kept
        have parts too, except for look-alikes.
    """
    values = {
        "misregistered": table["shift"],
        "labelled": table["labels"],
        "blank": table[["source_blank", "target_blank"]].max(axis=1),
        "hazy": table["haze"],
        "nodata": table["nodata"],
    }
    parts = pandas.DataFrame({n: ((values[n] - low) / (high - low)).clip(0, 1) for n, (low, high) in _RAMPS.items()})
    unmatched = table["confidence"] < _UNMATCHED_BELOW
    for side in ("source_detail", "target_detail"):
        known = table.loc[table["kept"], side].dropna()
        unmatched &= (table[side] >= known.median()) | known.empty
    parts["unmatched"] = np.where(unmatched, _UNMATCHED, 0.0)
    parts["unmatched"] = parts["unmatched"].where(table["dx"].notna())
    parts["duplicate"] = np.select([table["leak"], table["twin"]], [_LEAK, _TWIN], 0.0)
    return parts


def suspicion_of(parts: Any) -> Any:
    """Sum the parts, float64 Series (N)."""
    return sum(parts[name].fillna(0) for name in parts)


def in_words(table: Any, parts: Any, index: int, cleaned: bool) -> list[str]:
    """Return the reasons for suspicion of a pair, the strongest first; empty without one."""
    one, mine = table.loc[index], parts.loc[index].fillna(0)
    dx, dy = one["dx"], one["dy"]
    side, blank = max(("source", one["source_blank"]), ("target", one["target_blank"]), key=lambda s: s[1])
    words = {
        "misregistered": f"misregistered by {np.hypot(dx, dy):.1f} px ({direction(dx, dy)})",
        "unmatched": "the sides share no structure",
        "labelled": f"labels on {percent(one['labels'])} of the target{', painted over' if cleaned else ''}",
        "blank": f"{percent(blank)} of the {side} in one colour",
        "hazy": f"haze or cloud on {percent(one['haze'])} of the source",
        "nodata": f"{percent(one['nodata'])} without data",
        "duplicate": f"looks like {_look_alikes(table, index)}{', in another split' if one['leak'] else ''}",
    }
    return [words[name] for name in sorted(words, key=lambda name: -mine[name]) if mine[name] > 0]


def _look_alikes(table: Any, index: int) -> str:
    """Return the look-alikes of a pair, those of other splits first; '' for none."""
    group, split = table.loc[index, ["duplicates", "split"]]
    others = table[(table["duplicates"] == group) & (table["leak"] | table["twin"]) & (table.index != index)]
    others = others.sort_values("split", key=lambda splits: splits == split, kind="stable")
    return listed([f"{i} ({s})" for i, s in zip(others["id"], others["split"], strict=True)], 2) if len(others) else ""


def direction(dx: float, dy: float, metres: float | None = None) -> str:
    """Format a shift, such as `2.1 px right, 0.4 px down`; with metres per pixel, in metres too."""

    def one(value: float, ways: tuple[str, str]) -> str:
        ground = "" if metres is None else f" ({distance(abs(value) * metres)})"
        return f"{abs(value):.1f} px{ground} {ways[bool(value > 0)]}"

    parts = [one(v, w) for v, w in ((dx, ("left", "right")), (dy, ("up", "down"))) if abs(v) >= 0.05]
    return ", ".join(parts) or "not at all"
