"""Sheets of pairs: the choice of pairs, and their pictures as data URIs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.errors import DatasetError, InputError
from terramorph.pairs import PairFolder, open_pairs
from terramorph.pairs.manifest import Manifest
from terramorph.prepare.page.suspicion import suspicion_of
from terramorph.raster import Raster
from terramorph.raster.export import preview
from terramorph.report.pages import picture_uri

_SIDE = 256
"""Largest side of a picture, pixels."""
_EMPTY = (226, 222, 213)
_LINE = (233, 30, 99)


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
