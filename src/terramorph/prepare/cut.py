"""Cutting of an area: strips of tiles are read, from two sides on a grid or from a folder that is paired already; each
tile is measured, and written unless it is left out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from terramorph.atomic import make_folder
from terramorph.bands import band_order, default_bands
from terramorph.geo import Grid
from terramorph.pairs import PairFolder
from terramorph.pairs.manifest import AreaRecord
from terramorph.prepare.journal import Place, Row
from terramorph.prepare.labels import MARGIN, remove_labels
from terramorph.prepare.measure import MEASURE_NAMES, measure_pair
from terramorph.prepare.options import Options
from terramorph.prepare.plan import Area
from terramorph.prepare.registration import LEAST_SHIFT, UNKNOWN, correlate, locate, locate_common, shift_raster
from terramorph.raster import Raster, write_image
from terramorph.raster.source import Source

STRIP_PIXELS = 1 << 23
"""Approximate number of pixels of each side that are read at once: 24 MB of RGB. Several rows of tiles share one
margin, and a few strips in flight take little memory."""
SHIFT_BLOCK = 4
"""Tiles along the side of a block with a common shift."""


class Part(NamedTuple):
    """A pair as read: sides (C, H, W) on one grid, and where the target showed labels, bool (H, W), if looked for."""

    place: Place
    source: Raster
    target: Raster
    labels: NDArray[np.bool_] | None


class Cut(NamedTuple):
    """Result of cutting a tile.

    Attributes:
        row: Row of the journal.
        surface: Correlation of the sides, see `correlate`; None where there is nothing to correlate.
    """

    row: Row
    surface: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class MapLook:
    """Treatment of text and icons on a target.

    Attributes:
        palette: Flat colours of the map, uint8 (K, 3).
        clean: Whether text and icons are painted over.
    """

    palette: NDArray[np.uint8]
    clean: bool

    def apply(self, target: Raster) -> tuple[Raster, NDArray[np.bool_]]:
        """Return a target (3, H, W), painted over if `clean`, and where it showed labels, bool (H, W)."""
        # Masked pixels hold any value, often black, which must not be painted over their neighbours.
        ground = self.palette[0] if len(self.palette) else np.zeros(3, np.uint8)
        shown = np.where(target.mask, target.pixels, ground[:, None, None])
        found = remove_labels(shown, self.palette)
        labels = found.mask & target.mask
        if not self.clean:
            return target, labels
        return replace(target, pixels=np.where(labels, found.rgb, target.pixels)), labels


@dataclass(frozen=True, eq=False)
class GridJob:
    """Two sides that are cut on one grid, in reading order; without a `look` no labels are looked for."""

    record: AreaRecord
    places: list[Place]
    area: Area
    tile: int
    look: MapLook | None

    def strips(self) -> Iterator[list[Place]]:
        """Yield whole rows of tiles where a side must be decoded from the top, else near-square groups of tiles."""
        sequential = self.area.source.sequential or self.area.target.sequential
        square = _blocks(math.isqrt(STRIP_PIXELS) // self.tile)
        across = self.area.grid.width if sequential else square * self.tile
        high = _blocks(STRIP_PIXELS // (self.tile * across))
        wide = self.area.grid.width if sequential else square
        for _, rows in groupby(self.places, key=lambda place: place.row // high):
            members = sorted(rows, key=lambda place: place.col // wide)  # stable: still row by row
            yield from (list(strip) for _, strip in groupby(members, key=lambda place: place.col // wide))

    def load(self, strip: list[Place]) -> list[Part]:
        """Read both sides of a strip at once, each in its own thread."""
        y, x = min(place.y for place in strip), min(place.x for place in strip)
        height = max(place.y for place in strip) + self.tile - y
        width = max(place.x for place in strip) + self.tile - x
        # Labels reach over the edges of tiles: the target is read with a margin.
        halo = MARGIN if self.look else 0
        window = self.area.grid.crop(y - halo, x - halo, height + 2 * halo, width + 2 * halo)
        with ThreadPoolExecutor(1) as beside:
            source_read = beside.submit(self.area.source.read, self.area.grid.crop(y, x, height, width))
            target = self.record.target.fit(read_shifted(self.area.target, window, self.record.shift))
            labels = None
            if self.look:
                target, labels = self.look.apply(target)
            source = self.record.source.fit(source_read.result())
        return [
            Part(
                place,
                source.crop(place.y - y, place.x - x, self.tile, self.tile),
                target.crop(halo + place.y - y, halo + place.x - x, self.tile, self.tile),
                None
                if labels is None
                else labels[halo + place.y - y :, halo + place.x - x :][: self.tile, : self.tile],
            )
            for place in strip
        ]


def _blocks(tiles: int) -> int:
    """Round a number of tiles, at least one, down to whole blocks, if one fits."""
    return max(1, tiles - tiles % SHIFT_BLOCK if tiles >= SHIFT_BLOCK else tiles)


@dataclass(frozen=True, eq=False)
class FolderJob:
    """Pairs of a folder that is paired already; they keep split and size.

    Attributes:
        record: The journal's record of the area.
        places: All pairs, in reading order.
        folders: Pairs by split.
        skipped: Id of a place without a split -> why its file is no pair.
        look: Treatment of labels; None for targets on which no labels are looked for.
        categorical: Whether targets hold classes, which are shifted by whole pixels.
    """

    record: AreaRecord
    places: list[Place]
    folders: dict[str, PairFolder]
    skipped: dict[str, str]
    look: MapLook | None
    categorical: bool = False

    def strips(self) -> Iterator[list[Place]]:
        """Yield a few pairs of a split at a time."""
        for _, members in groupby(self.places, key=lambda place: place.split):
            pairs = list(members)
            yield from (pairs[begin : begin + 16] for begin in range(0, len(pairs), 16))

    def load(self, strip: list[Place]) -> list[Part | Cut]:
        """Read pairs, on all cores."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self._load, strip))

    def _load(self, place: Place) -> Part | Cut:
        if place.split is None:
            return unread(place, self.skipped[place.id])
        pair = self.folders[place.split].read(place.row)
        target, labels = self.record.target.fit(pair.b), None
        if self.record.shift is not None:
            dx, dy = self.record.shift
            target = shift_raster(target, *((round(dx), round(dy)) if self.categorical else (dx, dy)))
        if self.look:
            target, labels = self.look.apply(target)
        return Part(place, self.record.source.fit(pair.a), target, labels)


Job = GridJob | FolderJob
"""An area that is being prepared; `strips` yields tiles that are best read together, `load` reads one strip."""


def read_shifted(target: Source, grid: Grid, shift: tuple[float, float] | None) -> Raster:
    """Read a target on a grid, corrected by its known shift in pixels."""
    if shift is None:
        return target.read(grid)
    moved = Grid(grid.height, grid.width, grid.affine @ Affine.translation(*shift), grid.crs)
    return replace(target.read(moved), grid=grid)


def side_by_side(source: Raster, target: Raster) -> bool:
    """Return whether both sides fit into one A|B image: uint8, of 1 band (grey) or 3 (red, green, blue)."""
    same = source.dtype == target.dtype == np.uint8 and source.count == target.count and source.count in (1, 3)
    return same and all(
        side.units is None and band_order(side.bands, default_bands(side.count)) == list(range(side.count))
        for side in (source, target)
    )


def cut(part: Part, area: AreaRecord, out: Path, options: Options) -> Cut:
    """Measure a pair, and write it unless the options leave it out."""
    place, source, target, labels = part
    surface = correlation(source, target)
    measures = measure_pair(
        source,
        target,
        shift=UNKNOWN if surface is None else locate(surface),
        labels=math.nan if labels is None else float(labels.mean()),
        source_range=area.source.range,
        target_range=area.target.range,
    )
    row = Row(**place.model_dump(), **_rounded(measures.model_dump()))
    if row.dropped is None:
        if measures.nodata > options.max_nodata:
            row.dropped = "nodata"
        elif options.drop_blank is not None and max(measures.source_blank, measures.target_blank) > options.drop_blank:
            row.dropped = "blank"
    if row.dropped is None:
        write_pair(place, source, target, out)
    else:
        row.split = None
    return Cut(row, surface)


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Round measures to four decimals."""
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def correlation(source: Raster, target: Raster) -> NDArray[np.float32] | None:
    """Correlate two sides; None where they are too small or mostly without data."""
    mask = source.mask & target.mask
    reach = min(16, min(mask.shape) // 4)
    if reach < LEAST_SHIFT or mask.mean() < 0.5:
        return None
    return correlate(source.pixels, target.pixels, None if mask.all() else mask, reach)


def add_block_shifts(cuts: Sequence[Cut]) -> list[Row]:
    """Return the rows of tiles that were read together, with the common shift of each block, in pixels.

    The sum of correlations may show a shift that single tiles do not. A block is `SHIFT_BLOCK` tiles wide and high.
    """
    blocks: defaultdict[tuple[int, int], list[Cut]] = defaultdict(list)
    for one in cuts:
        blocks[one.row.row // SHIFT_BLOCK, one.row.col // SHIFT_BLOCK].append(one)
    for members in blocks.values():
        surfaces = [one.surface for one in members if one.surface is not None]
        shift = locate_common(surfaces)
        for one in members:
            row, near = one.row, _rounded(asdict(shift))
            row.block_dx, row.block_dy, row.block_confidence = near["dx"], near["dy"], near["confidence"]
    return [one.row for one in cuts]


def write_pair(place: Place, source: Raster, target: Raster, out: Path) -> None:
    """Write a pair's images: A|B as PNG, or two GeoTIFFs where one image cannot hold both."""
    twins = not side_by_side(source, target)
    files = place.files(out, twins)
    for file in files:
        make_folder(file.parent)
    if twins:
        write_image(source, files[0])
        write_image(target, files[1])
        return
    pixels = np.concatenate([source.pixels, target.pixels], axis=2)
    mask = np.concatenate([source.mask, target.mask], axis=1)
    write_image(Raster.from_pixels(pixels, mask=mask), files[0])


def unread(place: Place, why: str) -> Cut:
    """Return the result of a tile that cannot be read and is skipped."""
    measures = {name: 0 if name == "hash" else math.nan for name in MEASURE_NAMES}
    left_out = {**place.model_dump(), "split": None, "dropped": "unreadable", "note": why}
    return Cut(Row(**left_out, **measures, block_confidence=math.nan), None)


def value_range(sides: Sequence[Raster]) -> tuple[float, float] | None:
    """Return the 1st and 99th percentile of valid values; None for uint8, whose range is known."""
    values = [side.pixels[:, side.mask].ravel() for side in sides if side.dtype != np.uint8]
    if not values or not sum(v.size for v in values):
        return None
    low, high = np.percentile(np.concatenate(values), (1, 99))
    return float(low), float(high)
