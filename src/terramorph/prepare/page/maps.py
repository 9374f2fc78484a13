"""Maps of footprints, coloured by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas
import shapely
from affine import Affine
from markupsafe import Markup
from odc.geo.crs import CRS

from terramorph.geo import Grid
from terramorph.prepare.page.figures import Footprints
from terramorph.report.charts import BAD, CARD, SOFT, chart, chart_svg, style
from terramorph.report.numbers import distance

MOST_SHAPES = 5000
"""Most tiles on a map with a shape and a tooltip each; more are painted as a picture."""
COLOURS = {"apart": "#e3dfd6", "unfit": "#a8a297", "train": "#2c7d69", "val": "#e0a030", "test": "#6d56a8"}
"""Fill by kind of tile, in the order of drawing: left out by the split (`apart`) or for its content (`unfit`), or the
name of its split."""
_APART = ("buffer", "outside", "unlisted")
"""Reasons of the split; all others are about the content of the tile."""
_MOST_MAPS = 12
_FOOT, _LARGEST_TILE = 44.0, 60.0


class AreaMap(NamedTuple):
    """Map of an area: its name, number of tiles, and the tiles by split as SVG."""

    title: str
    tiles: int
    splits: Markup


def area_maps(found: Footprints, tips: Sequence[str], marks: Mapping[int, str]) -> tuple[list[AreaMap], int, int]:
    """Return the maps of a dataset, one per area, the largest first.

    Returns:
        At most 12 maps, the number of maps that were left out, and of tiles without a place on a map.
    """
    apart = found.table["dropped"].isin(_APART).map({True: "apart", False: "unfit"})
    table = found.table.assign(tip=list(tips), kind=found.table["split"].where(found.table["kept"], apart))
    table["mark"] = pandas.Series(dict(marks), dtype=object)
    table = table[table.geometry.notna()]
    areas = sorted((members for _, members in table.groupby("area")), key=len, reverse=True)
    room = (1080.0, 600.0) if len(areas) == 1 else (500.0, 400.0)
    grids = {area.name: area.grid for area in found.manifest.areas}
    drawn = []
    for tiles in areas[:_MOST_MAPS]:
        name = tiles["area"].iloc[0]
        record = grids.get(name)
        plain = record is None or not record.is_georeferenced
        drawn.append(AreaMap(name, len(tiles), _split_map(tiles, room, "px" if plain else "units")))
    return drawn, max(0, len(areas) - _MOST_MAPS), len(found.table) - len(table)


def _split_map(tiles: Any, room: tuple[float, float], unit: str) -> Markup:
    """Draw footprints (columns geometry, kind, tip, mark) coloured by kind, above a scale bar."""
    from matplotlib.collections import PolyCollection

    left, bottom, right, top = tiles.total_bounds.tolist()
    squeeze, per_unit = 1.0, 1.0
    if tiles.crs is not None:
        if tiles.crs.is_geographic:
            squeeze = max(float(np.cos(np.radians((bottom + top) / 2))), 0.01)
        middle = Affine(1e-4, 0, (left + right) / 2, 0, -1e-4, (bottom + top) / 2)
        side = Grid(1, 1, middle, CRS(tiles.crs.to_wkt())).ground_resolution
        if side is not None:
            # Bars are drawn along a parallel, on which a degree is shorter.
            per_unit, unit = side * 1e4 * np.sqrt(squeeze), "m"
    tile = float(np.sqrt(np.median(shapely.area(tiles.geometry)) * squeeze))
    across, along = (right - left) * squeeze, top - bottom
    scale = min(room[0] / across, room[1] / along, _LARGEST_TILE / tile)
    height = max(along * scale, 40.0)
    figure, axes = chart(max(across * scale, 240.0), height + _FOOT)
    axes.set_aspect(1 / squeeze)
    axes.axis("off")
    said = _rounded(per_unit * (right - left) / 3)
    foot = along * _FOOT / height / 2
    with style():
        axes.plot([left, left + said / per_unit], [bottom - foot] * 2, color=SOFT)
        text = distance(said) if unit == "m" else f"{said:g} {unit}"
        axes.text(left, bottom - 1.3 * foot, text, verticalalignment="top")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom - 2 * foot, top)
    many = len(tiles) > MOST_SHAPES
    tips = tiles["tip"].tolist()
    for kind, colour in COLOURS.items():
        chosen = np.flatnonzero(tiles["kind"] == kind)
        if not len(chosen):
            continue
        points, owner = shapely.get_coordinates(tiles.geometry.iloc[chosen], return_index=True)
        rings = np.split(points, np.flatnonzero(np.diff(owner)) + 1)
        shapes = PolyCollection(rings, facecolors=colour, edgecolors="none" if many else CARD, linewidths=0.7)
        shapes.set_rasterized(many)
        if not many:
            shapes.set_urls([f"tip:{i}" for i in chosen])
        axes.add_collection(shapes, autolim=False)
    marked = tiles[tiles["mark"].notna()]
    places = shapely.get_coordinates(shapely.centroid(marked.geometry.to_numpy()))
    for (x, y), text in zip(places.tolist(), marked["mark"], strict=True):
        box = {"boxstyle": "circle,pad=0.25", "facecolor": CARD, "edgecolor": BAD}
        axes.text(x, y, text, color=BAD, size=9.5, ha="center", va="center", bbox=box)
    return chart_svg(figure, "Tiles by split", tips)


def _rounded(value: float) -> float:
    """Round a positive value down to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(m * power for m in (0.5, 1, 2, 5) if m * power <= value * (1 + 1e-9)))
