"""Footprints drawn as maps, coloured by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely
from affine import Affine
from markupsafe import Markup
from numpy.typing import NDArray

from terramorph.geo import Grid
from terramorph.prepare.page.footprints import Footprints
from terramorph.report.charts import BAD, CARD, SOFT, chart, chart_svg, style
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
_MOST_MAPS = 12
_FOOT, _LARGEST_TILE = 44.0, 60.0


class AreaMap(NamedTuple):
    """What is drawn of areas that lie close together: their names, how many tiles they have, and the tiles by split."""

    title: str
    tiles: int
    splits: Markup


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
        drawn.append(AreaMap(listed(names, 6), len(chosen), splits))
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

    def draw(self, axes: Axes, chosen: NDArray[np.intp], colour: str) -> None:
        """Some of the polygons in a colour, each with the tooltip of its number where they are not painted."""
        from matplotlib.collections import PolyCollection

        if len(chosen) == 0:
            return
        points, owner = shapely.get_coordinates(self.polygons[chosen], return_index=True)
        rings = np.split(points, np.flatnonzero(np.diff(owner)) + 1)
        many = len(self.polygons) > MOST_SHAPES
        shapes = PolyCollection(rings, facecolors=colour, edgecolors="none" if many else CARD, linewidths=0.7)
        shapes.set_rasterized(many)
        if not many:
            shapes.set_urls([f"tip:{i}" for i in chosen])
        axes.add_collection(shapes, autolim=False)


def _split_map(
    ground: _Ground, kinds: NDArray[np.object_], tips: Sequence[str], marks: Sequence[tuple[int, str]]
) -> Markup:
    """Footprints coloured by kind, some of them marked (index, text)."""
    figure, axes = ground.start()
    for kind, colour in COLOURS.items():
        ground.draw(axes, np.flatnonzero(kinds == kind), colour)
    for index, text in marks:
        x, y = shapely.get_coordinates(shapely.centroid(ground.polygons[index]))[0].tolist()
        box = {"boxstyle": "circle,pad=0.25", "facecolor": CARD, "edgecolor": BAD}
        axes.text(x, y, text, color=BAD, size=9.5, ha="center", va="center", bbox=box)
    return chart_svg(figure, "Tiles by split", tips)


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


def _rounded(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is no larger than a positive value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(m * power for m in (0.5, 1, 2, 5) if m * power <= value * (1 + 1e-9)))
