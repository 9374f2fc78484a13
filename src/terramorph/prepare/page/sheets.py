"""Sheets of pairs: which ones are shown, and their pictures as data that stands in a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.errors import DatasetError, InputError
from terramorph.pairs import PairFolder, open_pairs
from terramorph.pairs.manifest import AreaRecord, Manifest
from terramorph.raster import Raster
from terramorph.report.numbers import listed
from terramorph.report.pages import picture_uri

_SIDE = 256
"""Most pixels along a side of a picture."""
_EMPTY = (226, 222, 213)
_LINE = (233, 30, 99)


class Images:
    """The images of a dataset: which are there, and pictures of those that are asked for.

    Args:
        root: of the dataset.
        manifest: names its pairs.

    Attributes:
        missing: split -> ids that the manifest names and that have no image.
        strangers: split -> ids of images that the manifest does not name.
    """

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
                pass  # no folder, or nothing in it: all its pairs are missing, which is said
            self._index[split] = present
            self.missing[split] = [name for name in pairs if name not in present]
            self.strangers[split] = [name for name in present if name not in pairs]

    def pictures(self, split: str, name: str) -> list[tuple[str, str]] | str:
        """Source, target, and the edges of the target on the source.

        Returns:
            (caption, data URI) of each, or a sentence why there are none.
        """
        if name not in self._index.get(split, {}):
            return f"The image of {name} is missing."
        try:
            pair = self._folders[split].read(self._index[split][name])
        except InputError as error:
            return str(error)
        area = self._area(split, name)
        source = viewable(pair.a, None if area is None else area.source.range)
        target = viewable(pair.b, None if area is None else area.target.range)
        shown = {"source": source, "target": target, "its edges": edges_over(source, target, pair.b.mask)}
        return [(name, picture_uri(image.transpose(2, 0, 1), quality=82)) for name, image in shown.items()]

    def _area(self, split: str, name: str) -> AreaRecord | None:
        number = self._manifest.pairs[split][name][0]
        return self._manifest.areas[number] if 0 <= number < len(self._manifest.areas) else None


def choose(
    table: Mapping[str, NDArray[Any]], parts: Mapping[str, NDArray[np.float64]], best: int, worst: int
) -> tuple[list[int], list[int]]:
    """The pairs to be shown.

    Of the suspicious ones at most a third have the same chief ground, as long as there are others: a dozen blank maps
    tell no more than four. The best are the least suspicious, in steps of 0.1, and of equals those that lie surest.

    Args:
        table: columns (N,) of the footprints, with `kept` bool.
        parts: of the suspicion, see `parts_of`.
        best, worst: how many of each at most; none is both.

    Returns:
        Places in the table of the best and of the most suspicious, each in order.
    """
    names = list(parts)
    suspicion = np.sum([parts[name] for name in names], axis=0)
    chief = np.argmax([parts[name] for name in names], axis=0)
    kept = np.flatnonzero(table["kept"])
    doubted = kept[suspicion[kept] > 0]
    doubted = doubted[np.argsort(-suspicion[doubted], kind="stable")]
    rank = np.zeros(len(doubted), np.int64)
    for ground in range(len(names)):
        mine = chief[doubted] == ground
        rank[mine] = np.arange(mine.sum())
    common = rank >= -(-worst // 3)
    chosen = doubted[np.argsort(common, kind="stable")][:worst]
    chosen = chosen[np.argsort(-suspicion[chosen], kind="stable")]
    rest = np.setdiff1d(kept, chosen)
    rest = rest[np.lexsort((-np.nan_to_num(table["confidence"][rest]), np.round(suspicion[rest], 1)))]
    return rest[:best].tolist(), chosen.tolist()


def viewable(raster: Raster, limits: tuple[float, float] | None) -> NDArray[np.uint8]:
    """A raster as a small picture: uint8 (h, w, 3), h and w at most 256; pixels without data are light grey.

    Args:
        raster: (C, H, W), any dtype; red, green, blue are shown if it has them, else its first bands or band.
        limits: stored values that become black and white where the dtype is not uint8; None: its 1st and 99th
            percentile.
    """
    names = [name.lower() for name in raster.bands]
    colours = {"red", "green", "blue"} <= set(names)
    chosen = [names.index(n) for n in ("red", "green", "blue")] if colours else [0, 1, 2] if raster.count >= 3 else [0]
    # Thinned before anything else: what is left is small whatever the tile.
    step = max(1, max(raster.height, raster.width) // (2 * _SIDE))
    pixels, mask = raster.pixels[chosen, ::step, ::step], raster.mask[::step, ::step]
    if raster.dtype != np.uint8:
        pixels = _stretched(pixels, mask, limits)
    picture = np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels
    picture = np.ascontiguousarray(picture.transpose(1, 2, 0))
    if not mask.all():
        picture[~mask] = _EMPTY
    scale = _SIDE / max(picture.shape[:2])
    if scale < 1:
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    small: NDArray[np.uint8] = picture
    return small


def edges_over(source: NDArray[np.uint8], target: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The edges of one picture drawn on another, uint8 (h, w, 3) both: a target out of place shows at once.

    Args:
        source: drawn on.
        target: whose edges are drawn.
        mask: bool (H, W), of any size, True where the target holds data.
    """
    strength = np.zeros(target.shape[:2], np.float32)
    smooth = cv2.GaussianBlur(target, (3, 3), 0)
    for band in cv2.split(smooth):
        gx, gy = cv2.Sobel(band, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(band, cv2.CV_32F, 0, 1, scale=1 / 8)
        strength = np.maximum(strength, cv2.magnitude(gx, gy))
    # Where it is nearly as strong as anything around it; the faintest edges are traces of compression.
    ridge = strength >= cv2.dilate(strength, np.ones((3, 3), np.uint8)) * 0.8
    height, width = target.shape[:2]
    valid = cv2.resize(mask.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_AREA) == 255
    inside = cv2.erode(valid.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    drawn = inside & ridge & (strength > max(2.0, float(np.percentile(strength, 80))))
    faded = source.astype(np.float32) * 0.75 + 40
    faded[drawn] = _LINE
    over: NDArray[np.uint8] = faded.clip(0, 255).astype(np.uint8)
    return over


def look_alikes(table: Mapping[str, NDArray[Any]], members: Sequence[int], index: int) -> str:
    """The other members of a group of look-alikes as words, those of other splits first."""
    ids, splits = table["id"], table["split"]
    others = sorted((i for i in members if i != index), key=lambda i: bool(splits[i] == splits[index]))
    return listed([f"{ids[i]} ({splits[i]})" for i in others], 2) if others else ""


def _stretched(pixels: NDArray[Any], mask: NDArray[np.bool_], limits: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Values (C, H, W) of any dtype as uint8 between limits."""
    valid = pixels[:, mask]
    if valid.size == 0:
        return np.zeros(pixels.shape, np.uint8)
    low, high = np.percentile(valid, (1, 99)) if limits is None else limits
    scale = 255 / (high - low) if high > low else 0.0
    filled = np.where(mask, pixels, low).astype(np.float64)
    levels: NDArray[np.uint8] = np.rint(((filled - low) * scale).clip(0, 255)).astype(np.uint8)
    return levels
