"""Planning of tiles: one grid for both sides of an area, and the tiles on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geom import Geometry, box

from terramorph.errors import ConfigError, DatasetError, warn
from terramorph.geo import Grid, grid_at, project, project_extent
from terramorph.geo.crs import beside, meet, on_earth
from terramorph.geo.mercator import HALF_WORLD, pixel_size
from terramorph.raster.resample import north_up
from terramorph.raster.source import Source

MAX_TILES = 5_000_000
"""Most tiles of one area; with more, zoom or resolution is probably a mistake."""
_MERCATOR, _DEGREES = "EPSG:3857", "EPSG:4326"


@dataclass(frozen=True)
class Scale:
    """Scale of the pairs; with neither, the source's own pixels.

    Attributes:
        resolution: Metres on the ground per pixel, in the source's CRS if that is in metres (and not web mercator,
            whose metres shrink towards the poles), else in the UTM zone of the area.
        zoom: Web-mercator zoom for tiles of 256 px; the grid is in EPSG:3857, aligned to its tiles.

    Raises:
        ConfigError: If both are given, or one is out of range.
    """

    resolution: float | None = None
    zoom: int | None = None

    def __post_init__(self) -> None:
        if self.resolution is not None and self.zoom is not None:
            raise ConfigError("`resolution` and `zoom` are both given; give one of them.")
        if self.resolution is not None and not (math.isfinite(self.resolution) and self.resolution > 0):
            raise ConfigError(f"`resolution` must be > 0 m per pixel, got {self.resolution}.")
        if self.zoom is not None and not 0 <= self.zoom <= 24:
            raise ConfigError(f"`zoom` must be 0 to 24, got {self.zoom}.")


@dataclass(frozen=True, eq=False)
class Area:
    """A source and a target on one grid; the ids of its pairs begin with its name."""

    name: str
    source: Source
    target: Source
    grid: Grid


class Tiles(NamedTuple):
    """The tiles of a grid, row by row; int32 arrays (N,).

    Attributes:
        row, col: Position in the lattice of tiles.
        y, x: First pixel on the grid.
    """

    row: NDArray[np.int32]
    col: NDArray[np.int32]
    y: NDArray[np.int32]
    x: NDArray[np.int32]


def plan_tiles(grid: Grid, tile: int, overlap: int) -> Tiles:
    """Return all whole tiles of a grid; the rest at the right and at the bottom is not cut.

    Raises:
        DatasetError: If no tile fits, or more than `MAX_TILES` do.
    """
    step = tile - overlap
    rows, columns = ((side - tile) // step + 1 if side >= tile else 0 for side in grid.shape)
    if rows * columns < 1:
        raise DatasetError(
            f"The ground that both sides cover is {grid.width} x {grid.height} pixels, smaller than one tile of "
            f"{tile} px; use a smaller `tile` or a finer `resolution`."
        )
    if rows * columns > MAX_TILES:
        raise DatasetError(
            f"The area would make {rows * columns:,} tiles, over the limit of {MAX_TILES:,}; use a coarser "
            "`resolution` or `zoom`, or limit the area with `bounds`."
        )
    row, col = (part.ravel().astype(np.int32) for part in np.mgrid[0:rows, 0:columns])
    return Tiles(row, col, row * np.int32(step), col * np.int32(step))


def plan_grid(source: Source, target: Source, scale: Scale, tile: int, bounds: Geometry | None = None) -> Grid:
    """Return the grid on which both sides of an area are read, of the ground that they share.

    Raises:
        DatasetError: If the sides share no ground, only one has a georeference, or there is neither a scale nor a
            source with pixels of its own.
    """
    _check_places(source, target, scale, bounds)
    if scale.resolution is None and scale.zoom is None:
        return _pixel_grid(source, target, bounds)
    shared = _shared_ground(source, target, bounds)
    if scale.zoom is not None:
        return _zoom_grid(project(shared, _MERCATOR), scale.zoom, tile)
    assert scale.resolution is not None
    return grid_at(shared, scale.resolution)


def _check_places(source: Source, target: Source, scale: Scale, bounds: Geometry | None) -> None:
    """Refuse sides that cannot be laid on each other."""
    for side, other, option in ((source, target, "source_crs"), (target, source, "target_crs")):
        needed = other.extent.crs is not None or scale != Scale() or bounds is not None
        if side.extent.crs is None and needed:
            if side.grid is not None and not side.grid.is_georeferenced:
                raise DatasetError(
                    f"{side.name} has no place on Earth, so it cannot be laid on the ground; put its world file "
                    f"beside it (and name its CRS, `{option}`, if there is no .prj)."
                )
            raise DatasetError(
                f"{side.name} has a place but no CRS, so it cannot be laid on the ground; name it (`{option}`), "
                "such as EPSG:32633, or put a .prj beside it."
            )
    if scale == Scale() and source.grid is None:
        raise DatasetError(
            f"{source.name} has no pixels of its own to cut along; give `resolution` in metres or `zoom`."
        )


def _shared_ground(source: Source, target: Source, bounds: Geometry | None) -> Geometry:
    """Return the ground that both extents (and the bounds) cover, in the source's CRS."""
    shared = _intersection(source.extent, target.extent)
    if shared is None:
        raise DatasetError(_apart(source, target))
    if bounds is not None:
        shared = _intersection(shared, bounds)
        if shared is None:
            raise DatasetError(
                f"The ground that {source.name} and {target.name} share lies outside `bounds`; give west, south, "
                "east, north in degrees."
            )
    return shared


def _intersection(a: Geometry, b: Geometry) -> Geometry | None:
    """Return the intersection of two extents, in the CRS of the first; None where it is empty.

    The smaller is projected to the CRS of the larger: the whole Earth has no shape in a UTM zone.
    """
    if a.crs is None or b.crs is None or a.crs == b.crs:
        shared = a & b if a.crs is None or b.crs is None else meet(a, b)
    elif project(a, _DEGREES).area <= project(b, _DEGREES).area:
        moved = project_extent(meet(project_extent(a, b.crs), b), a.crs)
        shared = moved if moved.is_empty else Geometry(beside(np.array([moved.geom], dtype=object), a)[0], a.crs)
    else:
        shared = meet(a, project_extent(b, a.crs))
    return None if shared.is_empty or not shared.area > 0 else shared


def _apart(source: Source, target: Source) -> str:
    """Return the message for sides that share no ground, with the likely reason if there is one."""
    placed = all(on_earth(side.extent.crs) for side in (source, target))
    boxes = [side.extent for side in (source, target)]
    ours, theirs = (project(b, _DEGREES).boundingbox if placed else b.boundingbox for b in boxes)
    where = (
        f"{source.name} covers x {ours.left:.6g} to {ours.right:.6g}, y {ours.bottom:.6g} to {ours.top:.6g} and "
        f"{target.name} x {theirs.left:.6g} to {theirs.right:.6g}, y {theirs.bottom:.6g} to {theirs.top:.6g}"
    )
    if placed:
        for side, fixed, moved in ((source, target.extent, source.extent), (target, source.extent, target.extent)):
            if moved.crs.geographic and _touches_swapped(moved, fixed):
                return (
                    f"The sides share no ground ({where}), but would if x and y of {side.name} were exchanged: its "
                    "longitude and latitude are swapped; write longitude first."
                )
    return f"The sides share no ground: {where}; give files of the same place, or name the right CRS of each."


def _touches_swapped(moved: Geometry, fixed: Geometry) -> bool:
    """Return whether a box in degrees meets another extent once its axes are swapped."""
    b = moved.boundingbox
    if max(abs(b.left), abs(b.right)) > 90:
        return False
    swapped = box(b.bottom, b.left, b.top, b.right, moved.crs)
    return _intersection(swapped, fixed) is not None


def _pixel_grid(source: Source, target: Source, bounds: Geometry | None) -> Grid:
    """Return the window of the source's own pixels that the target covers too.

    Pixels that are stored mirrored or turned by right angles are read north up, which moves them and changes none.
    """
    assert source.grid is not None
    own = source.grid if source.grid.crs is None else north_up(source.grid)
    if not own.is_georeferenced:
        if target.grid is None or target.grid.shape != own.shape:
            size = "none" if target.grid is None else f"{target.grid.width} x {target.grid.height}"
            raise DatasetError(
                f"{source.name} ({own.width} x {own.height} px) and {target.name} ({size} px) have no place on Earth "
                "and differ in size, so they cannot be laid on each other; give world files, or images of one size."
            )
        return own
    if own.crs is None:
        warn(
            f"{source.name} and {target.name} have a place but no CRS: their coordinates are assumed to be in the same "
            "one, and the ground resolution stays unknown; give their CRS."
        )
    shared = _shared_ground(source, target, bounds)
    columns, rows = ~own.affine @ tuple(shapely.get_coordinates(shared.geom).T)
    # Whole pixels inside; a thousandth of a pixel is rounding, not ground.
    left, top = (max(0, math.ceil(v.min() - 1e-3)) for v in (columns, rows))
    right = min(own.width, math.floor(columns.max() + 1e-3))
    bottom = min(own.height, math.floor(rows.max() + 1e-3))
    if right <= left or bottom <= top:
        raise DatasetError(f"{source.name} and {target.name} share less than a pixel of ground.")
    return own.crop(top, left, bottom - top, right - left)


def _zoom_grid(shared: Geometry, zoom: int, tile: int) -> Grid:
    """Return the web-mercator grid that covers an area, extended to multiples of a tile from the world's corner."""
    size, edge = pixel_size(zoom), HALF_WORLD
    b, side = shared.boundingbox, 256 << zoom
    left, top = (math.floor((v + edge) / size / tile + 1e-6) * tile for v in (b.left, -b.top))
    right, bottom = (math.ceil((v + edge) / size / tile - 1e-6) * tile for v in (b.right, -b.bottom))
    top, right, bottom = max(top, 0), min(right, left + side), min(bottom, side)
    affine = Affine(size, 0.0, left * size - edge, 0.0, -size, edge - top * size)
    if right <= left or bottom <= top:
        raise DatasetError(f"At zoom {zoom} the area is smaller than a pixel; use a larger `zoom`.")
    return Grid(bottom - top, right - left, affine, CRS(_MERCATOR))


def covered_share(area: Area, boxes: NDArray[np.object_]) -> NDArray[np.float64]:
    """Return the share of each tile on ground that both sides may cover.

    Returns:
        Shares 0 to 1, float64 (N,); 1 for an area without a georeference.
    """
    shared = _intersection(area.source.extent, area.target.extent)
    crs = area.grid.crs
    if shared is None or crs is None or shared.crs is None:
        return np.ones(len(boxes))
    ground = shared if shared.crs == crs else project_extent(shared, crs)
    ground = Geometry(beside(np.array([ground.geom], dtype=object), area.grid.geobox.extent)[0], crs)
    shares: NDArray[np.float64] = shapely.area(shapely.intersection(boxes, ground.geom)) / shapely.area(boxes)
    return shares


def tile_boxes(grid: Grid, tiles: Tiles, tile: int) -> NDArray[np.object_]:
    """Return the footprints of tiles, of side ``tile`` in pixels: shapely polygons (N,) in the grid's CRS."""
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)], np.float64) * tile
    x = tiles.x[:, None] + corners[None, :, 0]
    y = tiles.y[:, None] + corners[None, :, 1]
    boxes: NDArray[np.object_] = shapely.polygons(np.stack(grid.affine @ (x, y), axis=-1))
    return boxes
