"""End of a preparation: duplicates, footprints and manifest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
from affine import Affine
from odc.geo.crs import CRS
from pyarrow import ArrowException

from terramorph._version import __version__
from terramorph.atomic import atomic
from terramorph.errors import DatasetError
from terramorph.geo import Grid, project_shapes
from terramorph.geo.crs import cut_at_line, on_earth
from terramorph.pairs import warn_if_few
from terramorph.pairs.manifest import FOOTPRINTS, SPLITS, AreaRecord, Manifest
from terramorph.prepare.journal import Journal, Place, Row
from terramorph.prepare.measure import MEASURE_NAMES, near_duplicates
from terramorph.prepare.options import Options
from terramorph.prepare.plan import Tiles, tile_boxes

_BLANK = 0.98
"""Share of one colour above which a tile counts as blank: all blank tiles look alike and are no duplicates."""

_BLOCK = ("block_dx", "block_dy", "block_confidence")
_ADVICE = {
    "nodata": "a side has no data there: check its zoom or URL and `bounds`, or raise `max_nodata`",
    "blank": "raise `drop_blank`",
    "buffer": "the ground is too small for its splits: use a smaller `tile`, `buffer` 0, or other `fractions`",
    "unlisted": "the list of the split names none of them",
    "outside": "the polygons of the split do not cover this ground",
    "unreadable": "a file is damaged",
}


def finish(out: Path, journal: Journal, options: Options, tell: Callable[[str, int, int], None]) -> Manifest:
    """Write `footprints.parquet` and `manifest.json` of all areas of a journal."""
    tell("writing the manifest", 0, 1)
    rows = [row for area in journal.areas for row in journal.rows(area.name)]
    _mark_duplicates(rows)
    if options.drop_duplicates:
        _drop_duplicates(rows, out)
    kept = [row for row in rows if row.split is not None]
    splits = sorted((str(row.split) for row in kept), key=SPLITS.index)
    counts = Counter([*splits, *(f"left out: {row.dropped}" for row in rows if row.dropped is not None)])
    if not kept:
        raise DatasetError(_nothing_kept(counts))
    numbers = {area.name: number for number, area in enumerate(journal.areas)}
    placed = all(area.grid is not None for area in journal.areas)
    known = [side for area in journal.areas if area.grid and (side := area.grid.ground_resolution)]
    manifest = Manifest(
        terramorph=__version__,
        settings=options.plain(),
        ground_resolution=float(np.median(known)) if known else None,
        tile=options.tile if placed else None,
        areas=tuple(journal.areas),
        counts=dict(counts),
        pairs={
            split: {row.id: (numbers[row.area], row.y, row.x) for row in kept if row.split == split}
            for split in SPLITS
            if counts[split]
        },
    )
    _write_footprints(out, rows, journal.areas, options.tile)
    manifest.save(out)
    tell("writing the manifest", 1, 1)
    warn_if_few(counts["train"], _more(options, placed))
    return manifest


def _more(options: Options, placed: bool) -> str:
    """Return advice on how to get more pairs."""
    if not placed:
        return "Some hundred are usual; put more of them into the folder."
    finer = "a finer `resolution`" if options.scale.zoom is None else f"`zoom` {options.scale.zoom + 1}"
    overlap = "" if options.overlap else f", `overlap` {options.tile // 2} about 4 times as many"
    smaller = f"`tile` {options.tile // 2} about 4 times as many" if options.tile >= 128 else ""
    tiles = f"{smaller}{overlap}".removeprefix(", ")
    return f"Some hundred are usual; more ground gives more, {tiles + ', ' if tiles else ''}and so does {finer}."


def _nothing_kept(counts: Counter[str]) -> str:
    """Return the message for a dataset without pairs."""
    reasons = ", ".join(f"{count} {name}" for name, count in counts.items())
    commonest = counts.most_common(1)[0][0].removeprefix("left out: ") if counts else ""
    return f"No pair was kept ({reasons}); {_ADVICE.get(commonest, 'look at what was left out')}."


def _mark_duplicates(rows: list[Row]) -> None:
    """Number the groups of pairs whose sources look alike, from 1; None for pairs without a look-alike."""
    candidates = [row for row in rows if row.split is not None and row.source_blank < _BLANK]
    groups = near_duplicates(np.array([row.hash for row in candidates], np.uint64))
    members = np.bincount(groups, minlength=1) if len(groups) else np.zeros(1, np.int64)
    numbers = np.cumsum(members > 1)
    for row, group in zip(candidates, groups.tolist(), strict=True):
        if members[group] > 1:
            row.duplicates = int(numbers[group])


def _drop_duplicates(rows: list[Row], out: Path) -> None:
    """Keep one pair per group, of test before val before train, so that scored pairs are not trained on."""
    groups: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row.duplicates is not None:
            groups[row.duplicates].append(row)
    for members in groups.values():
        for row in sorted(members, key=lambda r: -SPLITS.index(str(r.split)))[1:]:
            for file in (*row.files(out, True), *row.files(out, False)):
                file.unlink(missing_ok=True)
            row.split, row.dropped = None, "duplicate"


def _write_footprints(out: Path, rows: list[Row], areas: Sequence[AreaRecord], tile: int) -> None:
    """Write one row per tile, kept or not, with its polygon and its measures."""
    by_area: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_area[row.area].append(row)
    systems = {str(area.grid.crs) if area.grid and area.grid.crs else None for area in areas}
    common = systems.pop() if len(systems) == 1 else "EPSG:4326"
    frames = [_frame(area, by_area[area.name], tile, common) for area in areas if by_area[area.name]]
    frame = geopandas.GeoDataFrame(pandas.concat(frames, ignore_index=True), geometry="geometry", crs=common)
    path = out / FOOTPRINTS
    with atomic(path, failures=(ArrowException,)) as part:
        frame.to_parquet(part, index=False, compression="zstd")


def _frame(area: AreaRecord, rows: list[Row], tile: int, common: str | None) -> geopandas.GeoDataFrame:
    """Make the table of an area, in the common CRS."""
    columns = [*Place.model_fields, *MEASURE_NAMES, *_BLOCK, "duplicates", "note"]
    table = pandas.DataFrame([[getattr(row, key) for key in columns] for row in rows], columns=columns)
    numbers = {key: np.float64 for key in (*MEASURE_NAMES, *_BLOCK) if key != "hash"}
    table = table.astype({**dict.fromkeys(Tiles._fields, np.int32), **numbers, "duplicates": "Int32"})
    table["hash"] = [f"{row.hash:016x}" for row in rows]
    grid = area.grid
    metres = np.nan if grid is None or grid.ground_resolution is None else grid.ground_resolution
    table["dx_m"], table["dy_m"] = table["dx"] * metres, table["dy"] * metres
    if grid is None:
        geometry: Any = geopandas.GeoSeries([None] * len(rows), crs=common)
        return geopandas.GeoDataFrame(table, geometry=geometry, crs=common)
    if not grid.is_georeferenced:
        # Rows of an image without a georeference run down.
        grid = Grid(grid.height, grid.width, Affine.scale(1, -1), None)
    tiles = Tiles(*(table[key].to_numpy() for key in Tiles._fields))
    shapes = tile_boxes(grid, tiles, tile)
    own, to = grid.crs, None if common is None else CRS(common)
    if own is not None and to is not None and (own == to or on_earth(own)):
        shapes = cut_at_line(project_shapes(shapes, own, to), to)
    elif own is not None or to is not None:
        shapes = np.full(len(rows), None, dtype=object)
    return geopandas.GeoDataFrame(table, geometry=shapes, crs=common)
