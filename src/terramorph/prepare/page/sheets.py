"""Sheets of pairs that deserve a look: the suspicion of each pair with its reasons, the choice, and pictures.

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

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas
from numpy.typing import NDArray

from terramorph.errors import DatasetError, InputError
from terramorph.pairs import PairFolder, open_pairs
from terramorph.pairs.manifest import Manifest
from terramorph.raster import Raster
from terramorph.raster.save import preview
from terramorph.report.numbers import distance, listed, percent
from terramorph.report.pages import picture_uri

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
_SIDE = 256
"""Largest side of a picture, pixels."""
_EMPTY = (226, 222, 213)
_LINE = (233, 30, 99)


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


class Images:
    """The images of a dataset: an index of their files, and pictures of some."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self._manifest = manifest
        self._folders: dict[str, PairFolder] = {}
        self._index: dict[str, dict[str, int]] = {}
        self.missing: dict[str, list[str]] = {}
        self.strangers: dict[str, list[str]] = {}
        for split, pairs in manifest.pairs.items():
            present: dict[str, int] = {}
            try:
                self._folders[split] = open_pairs(root, split, skip_bad=True)
                present = {name: i for i, name in enumerate(self._folders[split].ids)}
            except DatasetError:
                pass  # no folder, or an empty one: all its pairs are listed as missing
            self._index[split] = present
            self.missing[split] = [name for name in pairs if name not in present]
            self.strangers[split] = [name for name in present if name not in pairs]

    def pictures(self, split: str, name: str) -> list[tuple[str, str]] | str:
        """Return pictures of source, target, and the edges of the target on the source.

        Returns:
            (caption, data URI) of each, or a sentence with the reason why there are none.
        """
        if name not in self._index.get(split, {}):
            return f"The image of {name} is missing."
        try:
            pair = self._folders[split].read(self._index[split][name])
        except InputError as error:
            return str(error)
        area = self._manifest.areas[self._manifest.pairs[split][name][0]]
        source = viewable(pair.a, area.source.range)
        target = viewable(pair.b, area.target.range)
        shown = {"source": source, "target": target, "its edges": edges_over(source, target, pair.b.mask)}
        return [(name, picture_uri(image.transpose(2, 0, 1), quality=82)) for name, image in shown.items()]


def choose(table: Any, parts: Any, best: int, worst: int) -> tuple[list[int], list[int]]:
    """Choose the pairs to show.

    At most a third of the suspicious ones have the same main reason, as long as there are others: a dozen blank maps
    say no more than four. The best are the least suspicious, in steps of 0.1, and of equals those with the most
    confident shift.

    Args:
        table: DataFrame of `Footprints`.
        parts: Parts of the suspicion, see `parts_of`.
        best, worst: Largest number of each; no pair is both.

    Returns:
        Rows of the table of the best and of the most suspicious pairs, each in order.
    """
    suspicion = suspicion_of(parts)[table["kept"]]
    doubted = suspicion[suspicion > 0].sort_values(ascending=False, kind="stable")
    chief = parts.loc[doubted.index].fillna(0).to_numpy().argmax(axis=1)
    common = doubted.groupby(chief).cumcount() >= -(-worst // 3)
    chosen = doubted.iloc[np.argsort(common.to_numpy(), kind="stable")[:worst]]
    rest = suspicion.drop(chosen.index)
    surest = np.lexsort((-table.loc[rest.index, "confidence"].fillna(0), rest.round(1)))
    return rest.index[surest[:best]].tolist(), chosen.sort_values(ascending=False, kind="stable").index.tolist()


def viewable(raster: Raster, limits: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Convert a raster to a small picture: uint8 (h, w, 3), h and w at most 256; masked pixels are light grey."""
    layers = np.array(preview(raster, _SIDE, limits).convert("RGBA"))
    layers[layers[..., 3] < 128, :3] = _EMPTY
    return layers[..., :3]


def edges_over(source: NDArray[np.uint8], target: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Draw the edges of a target on a source, uint8 (h, w, 3) both, to show a shift."""
    strength = np.zeros(target.shape[:2], np.float32)
    smooth = cv2.GaussianBlur(target, (3, 3), 0)
    for band in cv2.split(smooth):
        gx, gy = cv2.Sobel(band, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(band, cv2.CV_32F, 0, 1, scale=1 / 8)
        strength = np.maximum(strength, cv2.magnitude(gx, gy))
    # Edges nearly as strong as any around them; the faintest ones are traces of compression.
    ridge = strength >= cv2.dilate(strength, np.ones((3, 3), np.uint8)) * 0.8
    height, width = target.shape[:2]
    valid = cv2.resize(mask.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_AREA) == 255
    inside = cv2.erode(valid.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    drawn = inside & ridge & (strength > max(2.0, float(np.percentile(strength, 80))))
    faded = source.astype(np.float32) * 0.75 + 40
    faded[drawn] = _LINE
    over: NDArray[np.uint8] = faded.clip(0, 255).astype(np.uint8)
    return over
