"""Cutting of one tile: it is measured, and written unless it is left out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from terramorph.atomic import make_folder
from terramorph.bands import band_order, default_bands
from terramorph.pairs.manifest import AreaRecord
from terramorph.prepare.journal import Place, Row
from terramorph.prepare.measure import MEASURE_NAMES, Measures, measure_pair
from terramorph.prepare.options import Options
from terramorph.prepare.registration import LEAST_SHIFT, UNKNOWN, correlate, locate, locate_common
from terramorph.raster import Raster, write_image

SHIFT_BLOCK = 4
"""Tiles along the side of a block with a common shift."""


def side_by_side(source: Raster, target: Raster) -> bool:
    """Return whether both sides fit into one A|B image: uint8, of 1 band (grey) or 3 (red, green, blue)."""
    same = source.dtype == target.dtype == np.uint8 and source.count == target.count and source.count in (1, 3)
    return same and all(
        side.units is None and band_order(side.bands, default_bands(side.count)) == list(range(side.count))
        for side in (source, target)
    )


class Cut(NamedTuple):
    """Result of cutting a tile.

    Attributes:
        row: Row of the journal.
        surface: Correlation of the sides, see `correlate`; None where there is nothing to correlate.
    """

    row: Row
    surface: NDArray[np.float32] | None


def cut(
    place: Place,
    source: Raster,
    target: Raster,
    labels: NDArray[np.bool_] | None,
    area: AreaRecord,
    out: Path,
    options: Options,
) -> Cut:
    """Measure a pair, both sides (C, H, W) on one grid, and write it unless the options leave it out.

    ``labels`` is bool (H, W), True where the target showed text or icons before cleaning; None if not looked for.
    """
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
    if place.dropped is None:
        row.dropped = _unwanted(measures, options)
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


def _unwanted(measures: Measures, options: Options) -> str | None:
    """Return the reason to leave out a measured pair; None if it is kept."""
    if measures.nodata > options.max_nodata:
        return "nodata"
    limit = options.drop_blank
    if limit is not None and max(measures.source_blank, measures.target_blank) > limit:
        return "blank"
    return None


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
