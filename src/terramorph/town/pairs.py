"""Cutting of a town into a folder of A|B pairs, split by place."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from terramorph.errors import DatasetError
from terramorph.raster import Raster, write_image
from terramorph.town.town import Town


class PairCounts(NamedTuple):
    """Number of pairs per split."""

    train: int
    val: int


def write_town_pairs(
    town: Town,
    out: str | Path,
    tile: int = 256,
    stride: int | None = None,
    limit: tuple[int, int] | None = None,
    aerial: Raster | None = None,
    drawn: Raster | None = None,
) -> PairCounts:
    """Write ``out/train`` and ``out/val``: PNG tiles, aerial left and map right, named by row and column in pixels.

    The south-east quarter is held out: val tiles lie wholly inside it and do not overlap; train tiles lie wholly
    outside it. No ground is shared.

    Args:
        town: The town.
        out: A folder, made if missing.
        tile: Side of a tile in pixels; an image is ``2 * tile`` wide.
        stride: Step between train tiles in pixels; less than ``tile`` makes them overlap. Default ``tile``.
        limit: Largest number of (train, val) pairs, spread evenly over the town. Default: all.
        aerial: The town's aerial image, if it exists already.
        drawn: The town's map, if it exists already.

    Returns:
        Numbers of train and val pairs.

    Raises:
        DatasetError: If the tile does not fit into a quarter of the town, or the stride is under 1.
        StorageError: If a tile cannot be written.
    """
    top, left, height, width = town.heldout_window
    stride = tile if stride is None else stride
    if tile < 1 or tile > min(top, left) or stride < 1:
        raise DatasetError(
            f"Tiles must fit into a quarter of the town ({height} x {width} px), and their stride must be >= 1 px, "
            f"got tiles of {tile} px at a stride of {stride} px; make a larger town or smaller tiles."
        )
    aerial = town.aerial() if aerial is None else aerial
    drawn = town.map() if drawn is None else drawn
    side = town.grid.height
    steps = range(0, side - tile + 1, stride)
    train = [(y, x) for y in steps for x in steps if y + tile <= top or x + tile <= left]
    val = [(y, x) for y in range(top, side - tile + 1, tile) for x in range(left, side - tile + 1, tile)]
    counts = []
    for name, places, most in zip(("train", "val"), (train, val), limit or (None, None), strict=True):
        folder = Path(out) / name
        folder.mkdir(parents=True, exist_ok=True)
        chosen = places if most is None or most >= len(places) else _spread(places, most)
        for y, x in chosen:
            halves = [r.crop(y, x, tile, tile).pixels for r in (aerial, drawn)]
            pair = Raster.from_pixels(np.concatenate(halves, axis=2))
            write_image(pair, folder / f"{y:05d}_{x:05d}.png")
        counts.append(len(chosen))
    return PairCounts(*counts)


def _spread(places: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return ``most`` of the places, evenly spread over the list."""
    return [places[i] for i in np.linspace(0, len(places) - 1, most).round().astype(int)]
