"""Footprints drawn as maps: coloured by split, and with an arrow a block for the shift found there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely
from affine import Affine
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph.geo import Grid
from terramorph.prepare.cut import SHIFT_BLOCK
from terramorph.prepare.page.footprints import Footprints
from terramorph.prepare.page.suspicion import direction
from terramorph.prepare.registration import MIN_CONFIDENCE
from terramorph.report.charts import BAD, CARD, LINE, SOFT, chart, chart_svg, style
from terramorph.report.numbers import distance, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SHAPES = 5000
"""Over so many tiles on a map they are painted as a picture, without a shape and a tooltip each."""
COLOURS = {"apart": "#e3dfd6", "unfit": "#a8a297", "train": "#2f8570", "val": "#e0a030", "test": "#6d56a8"}
"""Fill by kind of tile, in the order of drawing: left out by the division (`apart`) or for what it shows (`unfit`), or
a split."""
_APART = ("buffer", "outside", "unlisted")
"""Reasons of the division; all others say something of the tile itself."""
_MOST_ARROWS, _MOST_MAPS = 500, 12
_FOOT, _LARGEST_TILE = 44.0, 60.0


class AreaMap(NamedTuple):
    """What is drawn of areas that lie close together: their names, how many tiles they have, the tiles by split, and
    the shifts of blocks (``None`` where there are none)."""

    title: str
    tiles: int
    splits: Markup
    field: Markup | None


def area_maps(found: Footprints, tips: Sequence[str], marks: Mapping[int, str]) -> tuple[list[AreaMap], int, int]:
    """The maps of a dataset: one for areas that lie close together, the largest first.

    Args:
        found: the dataset, N tiles.
        tips: what a tile says under the pointer, (N,).
        marks: place in the table -> text to mark it with.

    Returns:
        At most 12 maps, the number of maps that were left out, and of tiles that have no place on one.
    """
    table = found.table
    placed = np.array([p is not None for p in found.polygons], np.bool_)
    clusters = _clusters(found, placed)
    clusters.sort(key=lambda names: -int(np.isin(table["area"][placed], names).sum()))
    room = (1080.0, 600.0) if len(clusters) == 1 else (500.0, 400.0)
    apart = np.isin(table["dropped"], _APART)
    kinds = np.where(table["kept"], table["split"], np.where(apart, "apart", "unfit")).astype(object)
    drawn = []
    for names in clusters[:_MOST_MAPS]:
        chosen = np.flatnonzero(placed & np.isin(table["area"], names))
        ground = _Ground.of(found, chosen, room, plain=not _has_place(found, names))
        splits = _split_map(ground, kinds[chosen], [tips[i] for i in chosen.tolist()],
                            [(n, marks[i]) for n, i in enumerate(chosen.tolist()) if i in marks])  # fmt: skip
        field = _shift_field(ground, *_block_shifts(table, chosen), _metres_per_pixel(found, names[0]))
        drawn.append(AreaMap(listed(names, 6), len(chosen), splits, field))
    return drawn, max(0, len(clusters) - _MOST_MAPS), int((~placed).sum())


@dataclass(frozen=True)
class _Ground:
    """Polygons (N,) in one CRS, and how they are drawn: ``size`` in CSS pixels, ``aspect`` of the axes, ``unit`` metres
    or whatever ``per_unit`` of them a CRS unit is long."""

    polygons: NDArray[np.object_]
    size: tuple[float, float]
    aspect: float
    per_unit: float
    unit: str

    @classmethod
    def of(cls, found: Footprints, chosen: NDArray[np.intp], room: tuple[float, float], plain: bool) -> _Ground:
        polygons, crs = found.polygons[chosen], found.crs
        left, bottom, right, top = (float(v) for v in shapely.total_bounds(polygons))
        squeeze, per_unit, unit = 1.0, 1.0, "px" if plain else "units"
        if crs is not None and crs.geographic:
            squeeze = max(float(np.cos(np.radians((bottom + top) / 2))), 0.01)
        if crs is not None:
            middle = Affine(1e-4, 0, (left + right) / 2, 0, -1e-4, (bottom + top) / 2)
            side = Grid(1, 1, middle, crs).ground_resolution
            if side is not None:
                # A degree is shorter along a parallel; bars are drawn along one.
                per_unit, unit = side * 1e4 * np.sqrt(squeeze), "m"
        tile = float(np.sqrt(np.median(shapely.area(polygons)) * squeeze))
        across, along = (right - left) * squeeze, top - bottom
        scale = min(room[0] / across, room[1] / along, _LARGEST_TILE / tile)
        size = max(across * scale, 240.0), max(along * scale, 40.0) + _FOOT
        return cls(polygons, size, 1 / squeeze, per_unit, unit)

    def start(self) -> tuple[Figure, Axes]:
        """Axes with a scale bar below the ground."""
        figure, axes = chart(*self.size)
        left, bottom, right, top = (float(v) for v in shapely.total_bounds(self.polygons))
        axes.set_aspect(self.aspect)
        axes.axis("off")
        said = _rounded(self.per_unit * (right - left) / 3)
        foot = (top - bottom) * _FOOT / (self.size[1] - _FOOT) / 2
        with style():
            axes.plot([left, left + said / self.per_unit], [bottom - foot] * 2, color=SOFT)
            text = distance(said) if self.unit == "m" else f"{said:g} {self.unit}"
            axes.text(left, bottom - 1.3 * foot, text, verticalalignment="top")
        axes.set_xlim(left, right)
        axes.set_ylim(bottom - 2 * foot, top)
        return figure, axes

    def draw(self, axes: Axes, chosen: NDArray[np.intp], colour: str, tips: Sequence[str] | None) -> None:
        """Some of the polygons in a colour; ``tips``: tooltip URLs."""
        from matplotlib.collections import PolyCollection

        if len(chosen) == 0:
            return
        points, owner = shapely.get_coordinates(self.polygons[chosen], return_index=True)
        rings = np.split(points, np.flatnonzero(np.diff(owner)) + 1)
        many = len(self.polygons) > MOST_SHAPES
        shapes = PolyCollection(rings, facecolors=colour, edgecolors="none" if many else CARD, linewidths=0.7)
        shapes.set_rasterized(many)
        if tips is not None and not many:
            shapes.set_urls(tips)
        axes.add_collection(shapes, autolim=False)


def _split_map(
    ground: _Ground, kinds: NDArray[np.object_], tips: Sequence[str], marks: Sequence[tuple[int, str]]
) -> Markup:
    """Footprints coloured by kind, some of them marked (index, text)."""
    figure, axes = ground.start()
    for kind, colour in COLOURS.items():
        chosen = np.flatnonzero(kinds == kind)
        ground.draw(axes, chosen, colour, [f"tip:{i}" for i in chosen])
    for index, text in marks:
        x, y = shapely.get_coordinates(shapely.centroid(ground.polygons[index]))[0].tolist()
        box = {"boxstyle": "circle,pad=0.25", "facecolor": CARD, "edgecolor": BAD}
        axes.text(x, y, text, color=BAD, size=9.5, ha="center", va="center", bbox=box)
    return chart_svg(figure, "Tiles by split", tips)


def _shift_field(
    ground: _Ground, blocks: NDArray[np.int64], shifts: NDArray[np.float64], metres: float | None
) -> Markup | None:
    """An arrow a block of tiles, in the direction in which the target lies off the source, much enlarged.

    Args:
        ground: polygons are boxes whose first edge runs along a row of pixels and whose last one up a column.
        blocks: int64 (N, 2), row and column of each tile's block.
        shifts: float64 (N, 2), dx and dy of each tile's block in pixels; NaN where there is none.
        metres: per pixel; None if not known.
    """
    known = np.flatnonzero(np.isfinite(shifts).all(axis=1))
    if len(known) == 0:
        return None
    while True:
        _, first, member = np.unique(blocks[known], axis=0, return_index=True, return_inverse=True)
        if len(first) <= _MOST_ARROWS:
            break
        blocks = blocks // 2
    polygons = ground.polygons[known]
    centres = shapely.get_coordinates(shapely.centroid(polygons))
    count = np.bincount(member.ravel())
    middle, mean = (
        np.stack([np.bincount(member.ravel(), column) / count for column in values.T], axis=1)
        for values in (centres, shifts[known])
    )
    corners = [
        shapely.get_coordinates(shapely.get_point(shapely.get_exterior_ring(polygons[first]), i)) for i in (0, 1, -2)
    ]
    along, down = (side / np.hypot(*side.T)[:, None] for side in (corners[1] - corners[0], corners[2] - corners[0]))
    longest = max(1.0, float(np.percentile(np.hypot(*mean.T), 95)))
    enlarged = 0.8 * float(np.sqrt(np.median(count) * shapely.area(polygons).mean())) / longest
    arrows = enlarged * (mean[:, :1] * along + mean[:, 1:] * down)
    figure, axes = ground.start()
    ground.draw(axes, np.arange(len(ground.polygons)), LINE, None)
    with style():
        drawn = axes.quiver(*middle.T, *arrows.T, color=BAD, pivot="mid", angles="xy", scale_units="xy", scale=1,
                            width=1.6, units="dots", headwidth=5, headlength=6)  # fmt: skip
        drawn.set_urls([f"tip:{i}" for i in range(len(mean))])
        said = _rounded(longest)
        text = f"{said:g} px" + ("" if metres is None else f", {distance(said * metres)}")
        axes.quiverkey(drawn, 0.85, 0.5 * _FOOT / ground.size[1], enlarged * said, text, labelpos="W")
    return chart_svg(figure, "Shifts of blocks", [direction(dx, dy, metres) for dx, dy in mean.tolist()])


def _block_shifts(
    table: Mapping[str, NDArray[Any]], chosen: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Blocks, int64 (N, 2), and their shifts, float64 (N, 2), NaN where they cannot be told, of some tiles."""
    area = np.unique(table["area"][chosen], return_inverse=True)[1].astype(np.int64)
    # Far apart, so that halving block numbers never joins areas.
    rows, columns = (table[name][chosen] // SHIFT_BLOCK for name in ("row", "col"))
    shifts = np.stack([table["block_dx"][chosen], table["block_dy"][chosen]], axis=1)
    shifts[~(table["block_confidence"][chosen] >= MIN_CONFIDENCE)] = np.nan
    return np.stack([(area << 40) + rows, columns], axis=1), shifts


def _clusters(found: Footprints, placed: NDArray[np.bool_]) -> list[list[str]]:
    """Names of areas that share a map: near each other on the ground. Each plain image has a plane of its own."""
    names, boxes, alone = [], [], []
    for name in dict.fromkeys(found.table["area"][placed].tolist()):
        if not _has_place(found, [name]):
            alone.append([name])
            continue
        left, bottom, right, top = shapely.total_bounds(found.polygons[placed & (found.table["area"] == name)])
        reach = max(right - left, top - bottom) / 2
        names.append(name)
        boxes.append(shapely.box(left - reach, bottom - reach, right + reach, top + reach))
    if not boxes:
        return alone
    pieces = shapely.get_parts(shapely.union_all(boxes))
    owner = [int(np.flatnonzero(shapely.covers(pieces, shapely.centroid(b)))[0]) for b in boxes]
    return [[n for n, o in zip(names, owner, strict=True) if o == piece] for piece in range(len(pieces))] + alone


def _has_place(found: Footprints, names: Sequence[str]) -> bool:
    """Whether areas have a place, be it in a plane without a name."""
    grids = [area.grid for area in found.manifest.areas if area.name in names]
    return any(grid is not None and grid.grid().is_georeferenced for grid in grids)


def _metres_per_pixel(found: Footprints, name: str) -> float | None:
    return next((a.grid.grid().ground_resolution for a in found.manifest.areas if a.name == name and a.grid), None)


def _rounded(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is no larger than a positive value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(m * power for m in (0.5, 1, 2, 5) if m * power <= value * (1 + 1e-9)))
