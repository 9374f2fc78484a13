"""Places of an area's tiles: their splits, and the tiles that are left out to keep splits apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geom import Geometry

from terramorph.errors import DatasetError
from terramorph.geo import Grid, project, project_shapes
from terramorph.geo.crs import beside, degrees_in_metres, on_earth, point_scale, unit_in_degrees, unit_in_metres
from terramorph.pairs.manifest import SPLITS, AreaRecord
from terramorph.prepare.journal import Journal, Place
from terramorph.prepare.options import Options
from terramorph.prepare.plan import Area, Tiles, covered_share, plan_tiles, tile_boxes
from terramorph.prepare.split import (
    NONE,
    SplitRule,
    assign_polygons,
    draw_blocks,
    keep_apart,
    read_list,
    read_polygons,
)


def area_places(area: Area, options: Options, journal: Journal) -> list[Place]:
    """Return the tiles of an area with their splits, row by row."""
    rule, tile = options.split, options.tile
    tiles = plan_tiles(area.grid, tile, options.overlap)
    digits = max(2, len(str(max(int(tiles.row.max()), int(tiles.col.max())) + 1)))
    ids = [
        f"{area.name}_{row + 1:0{digits}d}_{col + 1:0{digits}d}"
        for row, col in zip(tiles.row.tolist(), tiles.col.tolist(), strict=True)
    ]
    boxes = tile_boxes(area.grid, tiles, tile)
    # A block without ground would be a split without pairs.
    on_ground = covered_share(area, boxes) >= 1 - options.max_nodata - 1e-3
    names = [record.name for record in journal.areas]
    before = journal.areas[: names.index(area.name)] if area.name in names else journal.areas
    codes, reasons = np.full(len(ids), NONE, np.int8), np.full(len(ids), "nodata", dtype=object)
    if on_ground.any():
        chosen = [i for i, on in zip(ids, on_ground.tolist(), strict=True) if on]
        some = Tiles(*(part[on_ground] for part in tiles))
        codes[on_ground], reasons[on_ground] = _divided(area, chosen, some, boxes[on_ground], rule, len(before))
    earlier, earlier_codes = _earlier(area.grid, before, journal, tile)
    # Tiles of a list may touch, as its author chose them; they never overlap.
    buffer = 0.0 if rule.method == "by-list" and rule.buffer is None else rule.buffer
    laid, metre = _measurable(np.concatenate([earlier, boxes]), area.grid)
    close = keep_apart(
        laid,
        np.concatenate([earlier_codes, codes]),
        None if buffer is None else buffer * metre,
        np.arange(len(earlier) + len(boxes)) < len(earlier),
    )[len(earlier) :]
    reasons[close & (codes != NONE)] = "buffer"
    codes[close] = NONE
    return [
        Place(
            id=i,
            area=area.name,
            split=None if code == NONE else SPLITS[code],
            dropped=why or None,
            **dict(zip(Tiles._fields, tile, strict=True)),
        )
        for i, code, why, tile in zip(ids, codes.tolist(), reasons.tolist(), np.stack(tiles, 1).tolist(), strict=True)
    ]


def _divided(
    area: Area, ids: list[str], tiles: Tiles, boxes: NDArray[np.object_], rule: SplitRule, number: int
) -> tuple[NDArray[np.int8], NDArray[np.object_]]:
    """Return the split of every tile by the rule alone, and the reason where a tile has none (else '')."""
    reasons = np.full(len(ids), "", dtype=object)
    if rule.file is None:
        return draw_blocks(tiles, rule, area.name, number), reasons
    if rule.method == "by-list":
        listed = read_list(rule.file)
        codes = np.array([listed.get(i, NONE) for i in ids], np.int8)
        if (codes == NONE).all():
            raise DatasetError(
                f"The list {rule.file} names none of the tiles of {area.name}; its ids look like {ids[0]}."
            )
        reasons[codes == NONE] = "unlisted"
        return codes, reasons
    polygons, of, crs = read_polygons(rule.file)
    codes, across = assign_polygons(boxes, _projected(polygons, crs, area.grid), of)
    reasons[codes == NONE] = "outside"
    reasons[across] = "buffer"
    return codes, reasons


def _measurable(boxes: NDArray[np.object_], grid: Grid) -> tuple[NDArray[np.object_], float]:
    """Return footprints in a plane that never makes a distance look longer, and its units per metre on the ground.

    Without a CRS a buffer is in the grid's units.
    """
    if grid.crs is None:
        return boxes, 1.0
    if not grid.crs.proj.is_geographic:
        scale = point_scale(grid.crs, *grid.centre)
        return boxes, (scale.largest if scale else 1.0) / unit_in_metres(grid.crs)
    # A degree of longitude is shortest at the end towards the pole, one of latitude at the equator.
    extent, unit = grid.geobox.extent.boundingbox, unit_in_degrees(grid.crs)
    east, _ = degrees_in_metres(grid.crs, 0, max(abs(extent.bottom), abs(extent.top)) * unit)
    _, north = degrees_in_metres(grid.crs, 0, 0)
    squeezed: NDArray[np.object_] = shapely.transform(boxes, lambda xy: xy * (east / north, 1.0))
    return squeezed, 1 / north / unit


def _projected(polygons: NDArray[np.object_], crs: CRS | None, to: Grid) -> NDArray[np.object_]:
    """Project polygons to a grid's CRS, on its side of 180 degrees; unchanged where either has no CRS."""
    if crs is None or to.crs is None:
        return polygons
    return beside(project_shapes(polygons, crs, to.crs), to.geobox.extent)


def _earlier(
    grid: Grid, before: Sequence[AreaRecord], journal: Journal, tile: int
) -> tuple[NDArray[np.object_], NDArray[np.int8]]:
    """Return footprints (N,) in a grid's CRS and splits (N,) of tiles of earlier areas that may share its ground."""
    boxes: list[NDArray[np.object_]] = []
    codes: list[int] = []
    for record in before:
        other = record.grid
        if other is None or not _one_plane(grid, other):
            continue
        rows = [row for row in journal.rows(record.name) if row.split is not None]
        if not rows:
            continue
        place = [np.array([getattr(row, key) for row in rows], np.int32) for key in Tiles._fields]
        boxes.append(_projected(tile_boxes(other, Tiles(*place), tile), other.crs, grid))
        codes.extend(SPLITS.index(str(row.split)) for row in rows)
    joined = np.concatenate(boxes) if boxes else np.empty(0, dtype=object)
    return joined, np.array(codes, np.int8)


def _one_plane(a: Grid, b: Grid) -> bool:
    """Return whether two grids may share ground: near each other on Earth, or in the same plane without a CRS."""
    if a.crs is None or b.crs is None:
        # World files without a CRS share one plane; images without a georeference each have their own.
        return a.crs is None and b.crs is None and a.is_georeferenced and b.is_georeferenced
    if not (on_earth(a.crs) and on_earth(b.crs)):
        return bool(a.crs == b.crs)
    places = [project(g.geobox.extent, "EPSG:4326") for g in (a, b)]
    near = [places[0].boundingbox, Geometry(beside(np.array([places[1].geom]), places[0])[0], "EPSG:4326").boundingbox]
    boxes = [shapely.box(n.left - 0.1, n.bottom - 0.1, n.right + 0.1, n.top + 0.1) for n in near]
    return bool(boxes[0].intersects(boxes[1]))
