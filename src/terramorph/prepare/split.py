"""Splits by place: train, val and test share no ground and lie a distance apart."""

from __future__ import annotations

import csv
import hashlib
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS

from terramorph.errors import ConfigError, DatasetError, raised_as
from terramorph.pairs.manifest import SPLITS
from terramorph.prepare.plan import Tiles

NONE = -1
"""Code of a tile without a split."""
_CODE = {name: code for code, name in enumerate(SPLITS)}
_LARGEST_BLOCK = 8
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class SplitRule:
    """Rule by which tiles are split.

    Attributes:
        method: `blocks` of ground, drawn at random; `by-list`, a file of ids; `by-area`, a file of polygons.
        fractions: Shares of train, val and test for `blocks`.
        block: Tiles along the side of a block; None: one block makes the smaller of val and test, at most 8, as every
            block costs the tiles around it.
        buffer: Least distance between tiles of two splits in metres (CRS units where there is no CRS); None: any
            distance over 0 for blocks and polygons, while tiles of a list may touch. They never overlap.
        file: The list (CSV with the columns id and split) or the polygons (any vector file with an attribute split).
        seed: Seed of the random blocks.

    Raises:
        ConfigError: If a value is out of range, or `file` does not go with the method.
    """

    method: Literal["blocks", "by-list", "by-area"] = "blocks"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    block: int | None = None
    buffer: float | None = None
    file: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if any(not 0 <= f <= 1 for f in self.fractions) or abs(sum(self.fractions) - 1) > 1e-6:
            raise ConfigError(f"`fractions` must lie in 0 to 1 and add up to 1, got {self.fractions}.")
        if self.method != "blocks" and self.file is None:
            what = "a CSV file with the columns id and split" if self.method == "by-list" else "a file of polygons"
            raise ConfigError(f"A split {self.method} needs `split.file`, {what}.")
        if self.method == "blocks" and self.file is not None:
            raise ConfigError("`split.file` goes with a split by-list or by-area; blocks are drawn by the seed.")
        if self.seed < 0:
            raise ConfigError(f"`seed` must be >= 0, got {self.seed}.")
        if self.block is not None and self.block < 1:
            raise ConfigError(f"`block` must be >= 1 tile, got {self.block}.")
        if self.buffer is not None and not self.buffer >= 0:
            raise ConfigError(f"`buffer` must be >= 0 m, got {self.buffer}.")

    def content(self) -> str | None:
        """Return a hex digest of what `file` says; None without one.

        Raises:
            DatasetError: If it cannot be read.
        """
        if self.file is None:
            return None
        said: object
        if self.method == "by-list":
            said = sorted(read_list(self.file).items())
        else:
            polygons, codes, crs = read_polygons(self.file)
            said = (shapely.to_wkb(polygons).tolist(), codes.tolist(), None if crs is None else crs.to_wkt())
        return hashlib.blake2b(repr(said).encode(), digest_size=16).hexdigest()


def draw_blocks(tiles: Tiles, rule: SplitRule, name: str, number: int = 0) -> NDArray[np.int8]:
    """Assign whole blocks of tiles to test, val and train.

    The order of the blocks depends on the seed and the area's name only, so areas that are added later change nothing.
    An area of so few tiles that one is more than the share of val or test is given whole to one split.

    Args:
        tiles: N tiles of one area.
        rule: Shares, block and seed.
        name: Name of the area.
        number: Areas before it.

    Returns:
        int8 (N,), indices into `SPLITS`.
    """
    count = len(tiles.row)
    held_out = min((share for share in rule.fractions[1:] if share > 0), default=1.0)
    if rule.block is None and held_out * count < 1:
        # Multiples of the golden ratio lie evenly: few areas meet the shares. The first one is trained on.
        drawn = (number + rule.seed) * _GOLDEN_RATIO % 1 if number else 0.0
        order = ("train", "test", "val")
        edges = np.cumsum([rule.fractions[_CODE[split]] for split in order[:2]])
        return np.full(count, _CODE[order[int(np.searchsorted(edges, drawn, side="right"))]], np.int8)
    block = rule.block or int(np.clip(round(math.sqrt(held_out * count)), 1, _LARGEST_BLOCK))
    places, member = np.unique(np.stack([tiles.row // block, tiles.col // block]), axis=1, return_inverse=True)
    sizes = np.bincount(member)
    left = np.random.default_rng([rule.seed, zlib.crc32(name.encode())]).permutation(len(sizes))
    codes = np.full(len(sizes), _CODE["train"], np.int8)
    last = next(name for name in SPLITS if rule.fractions[_CODE[name]] > 0)  # of test, val, train
    for split in ("test", "val"):
        share = rule.fractions[_CODE[split]]
        if share <= 0 or len(left) == 0:
            continue
        # Blocks beside a block of another held-out split would lose a side to the buffer: they come last.
        taken = places[:, codes != _CODE["train"]]
        beside = (np.abs(places[:, left, None] - taken[:, None, :]).max(axis=0) <= 1).any(axis=1)
        left = left[np.argsort(beside, kind="stable")]
        filled = np.cumsum(sizes[left])
        count_of = max(1, int(np.searchsorted(filled, share * count - 0.5 * sizes.mean())) + 1)
        count_of = len(left) if split == last else min(count_of, len(left) - 1)  # the last gets at least one
        codes[left[:count_of]] = _CODE[split]
        left = left[count_of:]
    return codes[member]


def read_list(path: Path) -> Mapping[str, int]:
    """Read the ids of a list and their splits."""
    kinds = (OSError, UnicodeDecodeError, csv.Error)
    with (
        raised_as(DatasetError, f"The list {path} cannot be read", "give a CSV of id,split", *kinds),
        path.open(newline="", encoding="utf-8-sig") as file,
    ):
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    if rows and [cell.lower() for cell in rows[0][:2]] == ["id", "split"]:
        rows = rows[1:]
    found: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or row[1] not in _CODE:
            raise DatasetError(
                f"The list {path} has {','.join(row)!r} as entry {number}; write an id and one of {', '.join(SPLITS)}."
            )
        if found.setdefault(row[0], _CODE[row[1]]) != _CODE[row[1]]:
            raise DatasetError(f"The list {path} gives {row[0]} to two splits; keep one of the lines.")
    if not found:
        raise DatasetError(f"The list {path} is empty; write one id,split per line.")
    return found


def read_polygons(path: Path) -> tuple[NDArray[np.object_], NDArray[np.int8], CRS | None]:
    """Read polygons and their splits.

    Returns:
        Shapely polygons (N,), int8 (N,) indices into `SPLITS`, and their CRS.
    """
    import geopandas

    # Of any class: pyogrio's and fiona's errors share no base.
    with raised_as(DatasetError, f"The polygons {path} cannot be read", "give GeoJSON or GeoPackage"):
        frame = geopandas.read_file(path)
    if not isinstance(frame, geopandas.GeoDataFrame) or "split" not in frame.columns or frame.empty:
        raise DatasetError(f"{path} has no polygons with an attribute split; add it, one of {', '.join(SPLITS)}.")
    wrong = [str(s) for s in frame["split"] if s not in _CODE]
    if wrong:
        raise DatasetError(f"{path} gives a polygon to the split {wrong[0]!r}; use one of {', '.join(SPLITS)}.")
    frame = frame.set_geometry(frame.make_valid())  # GEOS joins no polygons that cross themselves
    for a, b in combinations(frame["split"].unique(), 2):
        shared = frame[frame["split"] == a].union_all().intersection(frame[frame["split"] == b].union_all())
        if shared.area > 0:
            raise DatasetError(
                f"{path}: polygons of {a} and of {b} overlap; separate them, as ground belongs to one split."
            )
    crs = None if frame.crs is None else CRS(frame.crs.to_wkt())
    codes = np.array([_CODE[s] for s in frame["split"]], np.int8)
    return np.asarray(frame.geometry.values, dtype=object), codes, crs


def assign_polygons(
    boxes: NDArray[np.object_], polygons: NDArray[np.object_], codes: NDArray[np.int8]
) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Assign tiles to the polygons that contain them.

    Tiles that touch no polygon go to train if no polygon is named train, else to no split. Tiles that lie partly in a
    polygon go to no split.

    Args:
        boxes: N footprints.
        polygons: M polygons in the same CRS.
        codes: Splits of the polygons, int8 (M,).

    Returns:
        int8 (N,), indices into `SPLITS` or `NONE`; and bool (N,), True where a tile lies across the edge of a polygon.
    """
    fallback = NONE if (codes == _CODE["train"]).any() else _CODE["train"]
    found = np.full(len(boxes), fallback, np.int8)
    tree = shapely.STRtree(boxes)
    across = np.zeros(len(boxes), np.bool_)
    for code in np.unique(codes):
        whole = shapely.union_all(shapely.make_valid(polygons[codes == code]))
        touched = tree.query(whole, predicate="intersects")
        touched = touched[
            shapely.area(shapely.intersection(boxes[touched], whole)) > 1e-9 * shapely.area(boxes[touched])
        ]
        inside = touched[shapely.covered_by(boxes[touched], shapely.buffer(whole, 1e-9))]
        found[inside] = code
        across[np.setdiff1d(touched, inside)] = True
    found[across] = NONE
    return found, across


def keep_apart(
    boxes: NDArray[np.object_],
    codes: NDArray[np.int8],
    buffer: float | None,
    fixed: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Return the tiles to leave out so that no two splits lie closer than a buffer.

    Of two tiles that are too close, the one of train is left out before one of val, and of val before one of test.
    Tiles that are `fixed` stay.

    Args:
        boxes: N footprints in one plane; metres, or CRS units.
        codes: Indices into `SPLITS`, or `NONE`, int8 (N,).
        buffer: Least distance; with 0, tiles may touch and not overlap; with None, they may not touch.
        fixed: bool (N,), tiles that are never left out.

    Returns:
        bool (N,), True for tiles to be left out.
    """
    fixed = np.zeros(len(boxes), np.bool_) if fixed is None else fixed
    close = np.zeros(len(boxes), np.bool_)
    # A margin off each side: neighbours whose edges differ by rounding would overlap.
    side = np.sqrt(shapely.area(boxes))
    shrunk = shapely.buffer(boxes, -1e-6 * side, join_style="mitre")
    reach = 1e-5 * float(side.max(initial=0.0)) if buffer is None else buffer
    kept = fixed & (codes != NONE)
    for split in ("test", "val", "train"):
        mine = (codes == _CODE[split]) & ~fixed
        others = kept & (codes != _CODE[split])
        if mine.any() and others.any():
            candidates = np.flatnonzero(mine)
            pairs = shapely.STRtree(shrunk[others]).query(shrunk[candidates], predicate="dwithin", distance=reach)
            close[candidates[np.unique(pairs[0])]] = True
        kept |= mine & ~close
    return close
