"""Footprints drawn as a map: coloured by split, or with an arrow a block for the shift found there."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import cv2
import numpy as np
import shapely
from affine import Affine
from markupsafe import Markup
from numpy.typing import NDArray
from odc.geo.crs import CRS
from PIL import Image

from terramorph.geo import Grid
from terramorph.prepare.cut import SHIFT_BLOCK
from terramorph.prepare.page.charts import nice_floor
from terramorph.prepare.page.footprints import Footprints
from terramorph.prepare.page.suspicion import direction, length
from terramorph.prepare.registration import MIN_CONFIDENCE

MOST_SHAPES = 5000
"""Over so many tiles on a map they are painted as a picture, without a shape and a tooltip each."""
COLOURS = {
    "train": "#2f8570",
    "val": "#e0a030",
    "test": "#6d56a8",
    "apart": "#e3dfd6",
    "unfit": "#a8a297",
    "ground": "#ebe7de",
}
"""Fill by kind of tile: a split; left out by the division (`apart`) or for what it shows (`unfit`)."""
_ORDER = ("ground", "apart", "unfit", "train", "val", "test")
_MOST_ARROWS = 500
_MOST_MAPS = 12
_APART = ("buffer", "outside", "unlisted")
"""Reasons of the division; all others say something of the tile itself."""
_PAD, _FOOT = 10.0, 34.0
_LARGEST_TILE = 60.0


class AreaMap(NamedTuple):
    """What is drawn of areas that lie close together.

    Attributes:
        title: their names.
        tiles: how many they have.
        splits: SVG of the tiles by split.
        field: SVG of the shifts of blocks; None where there are none.
    """

    title: str
    tiles: int
    splits: Markup
    field: Markup | None


@dataclass(frozen=True)
class View:
    """How CRS units become SVG units; y runs down.

    Attributes:
        left, top: CRS units of the first corner.
        sx, sy: SVG units per CRS unit.
        width, height: of the picture without its foot.
        metres: on the ground per SVG unit; None without a CRS.
        unit: what a plane without a CRS is measured in.
    """

    left: float
    top: float
    sx: float
    sy: float
    width: float
    height: float
    metres: float | None
    unit: str = "units"

    @classmethod
    def of(
        cls, polygons: NDArray[np.object_], crs: CRS | None, width: float, height: float, unit: str = "units"
    ) -> View:
        """The view in which polygons (N,), N >= 1, fill up to `width` x `height` SVG units in their true proportions.

        Args:
            polygons: shapely, in one CRS, with data.
            crs: theirs; None for a plane without a name.
            width, height: SVG units that there are.
            unit: of a plane without a CRS.
        """
        left, bottom, right, top = (float(v) for v in shapely.total_bounds(polygons))
        middle_x, middle_y = (left + right) / 2, (bottom + top) / 2
        squeeze = 1.0
        if crs is not None and crs.geographic:
            squeeze = max(float(np.cos(np.radians(middle_y))), 0.01)
        across, along = (right - left) * squeeze, top - bottom
        tile = float(np.sqrt(np.median(shapely.area(polygons)) * squeeze))
        scale = min((width - 2 * _PAD) / across, (height - 2 * _PAD) / along, _LARGEST_TILE / tile)
        metres = None
        if crs is not None:
            side = Grid(1, 1, Affine(1e-4, 0, middle_x, 0, -1e-4, middle_y), crs).ground_resolution
            metres = None if side is None else side * 1e4 / np.sqrt(squeeze) / scale
        pad_x, pad_y = _PAD / (scale * squeeze), _PAD / scale
        size = (max(across * scale, 160.0) + 2 * _PAD, along * scale + 2 * _PAD)
        return cls(left - pad_x, top + pad_y, scale * squeeze, scale, size[0], size[1], metres, unit)

    def place(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (..., 2) in CRS units as SVG units."""
        placed: NDArray[np.float64] = np.stack(
            [(points[..., 0] - self.left) * self.sx, (self.top - points[..., 1]) * self.sy], axis=-1
        )
        return placed


def area_maps(
    found: Footprints, titles: Sequence[str] | None, marks: Mapping[int, str]
) -> tuple[list[AreaMap], int, int]:
    """The maps of a dataset: one for areas that lie close together, the largest first.

    Args:
        found: the dataset, N tiles.
        titles: tooltips (N,); None to paint pictures.
        marks: place in the table -> text to mark it with.

    Returns:
        At most 12 maps, the number of maps that were left out, and of tiles that have no place on one.
    """
    placed = np.array([p is not None for p in found.polygons], np.bool_)
    clusters = _clusters(found, placed)
    clusters.sort(key=lambda c: -int(np.isin(found.table["area"][placed], c).sum()))
    width, height = (1040.0, 620.0) if len(clusters) == 1 else (500.0, 420.0)
    metres = {a.name: None if a.grid is None else a.grid.grid().ground_resolution for a in found.manifest.areas}
    apart = np.isin(found.table["dropped"], _APART)
    kinds = np.where(found.table["kept"], found.table["split"], np.where(apart, "apart", "unfit")).astype(object)
    drawn = []
    for names in clusters[:_MOST_MAPS]:
        chosen = np.flatnonzero(placed & np.isin(found.table["area"], names))
        polygons, local = found.polygons[chosen], {int(i): n for n, i in enumerate(chosen)}
        plain = not _record_grids(found, names)
        view = View.of(polygons, found.crs, width, height, "px" if plain else "units")
        table = {
            key: found.table[key][chosen] for key in ("area", "row", "col", "block_dx", "block_dy", "block_confidence")
        }
        blocks = np.stack([np.unique(table["area"], return_inverse=True)[1] << 24 | table["row"] // SHIFT_BLOCK,
                           table["col"] // SHIFT_BLOCK], axis=1)  # fmt: skip
        shifts = np.stack([table["block_dx"], table["block_dy"]], axis=1)
        shifts[~(table["block_confidence"] >= MIN_CONFIDENCE)] = np.nan
        field = shift_field(view, polygons, blocks, shifts, metres.get(names[0]))
        svg = split_map(
            view,
            polygons,
            kinds[chosen],
            None if titles is None else [titles[i] for i in chosen.tolist()],
            [(local[i], text) for i, text in marks.items() if i in local],
        )
        title = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        drawn.append(AreaMap(title, len(chosen), Markup(svg), None if field is None else Markup(field)))
    return drawn, max(0, len(clusters) - _MOST_MAPS), int((~placed).sum())


def split_map(
    view: View,
    polygons: NDArray[np.object_],
    kinds: NDArray[np.object_],
    titles: Sequence[str] | None,
    marks: Sequence[tuple[int, str]] = (),
) -> str:
    """Footprints coloured by kind.

    Args:
        view: of these polygons.
        polygons: shapely (N,).
        kinds: keys of `COLOURS`, (N,).
        titles: tooltips, plain text (N,); None to paint a picture, whatever the number.
        marks: (index, text) of tiles to be marked, such as the number on a sheet.

    Returns:
        An SVG element.
    """
    svg = [_open(view)]
    if titles is None or len(polygons) > MOST_SHAPES:
        svg.append(_painted(view, polygons, kinds))
    else:
        rings = _rings(view, polygons)
        for kind in _ORDER:
            members = np.flatnonzero(kinds == kind).tolist()
            if members:
                shapes = (f'<path d="{rings[i]}"><title>{escape(titles[i])}</title></path>' for i in members)
                svg.append(f'<g class="tiles" fill="{COLOURS[kind]}">{"".join(shapes)}</g>')
    for index, text in marks:
        x, y = view.place(shapely.get_coordinates(shapely.centroid(polygons[index])))[0]
        svg.append(f'<g class="mark"><circle cx="{x:.1f}" cy="{y:.1f}" r="8.5"/>'
                   f'<text x="{x:.1f}" y="{y + 3.8:.1f}" text-anchor="middle">{escape(text)}</text></g>')  # fmt: skip
    return "".join([*svg, _scale_bar(view), "</svg>"])


def shift_field(
    view: View,
    polygons: NDArray[np.object_],
    blocks: NDArray[np.int64],
    shifts: NDArray[np.float64],
    metres: float | None,
) -> str | None:
    """An arrow a block of tiles, in the direction in which the target lies off the source, much enlarged.

    Args:
        view: of these polygons.
        polygons: shapely boxes (N,), whose first edge runs along a row of pixels and whose last one up a column.
        blocks: int64 (N, 2), row and column of each tile's block.
        shifts: float64 (N, 2), dx and dy of each tile's block in pixels; NaN where there is none.
        metres: per pixel; None if not known.

    Returns:
        An SVG element; None if no block has a shift.
    """
    known = np.flatnonzero(np.isfinite(shifts).all(axis=1))
    if len(known) == 0:
        return None
    while True:
        _, first, member = np.unique(blocks[known], axis=0, return_index=True, return_inverse=True)
        if len(first) <= _MOST_ARROWS:
            break
        blocks = blocks // 2
    centres = view.place(shapely.get_coordinates(shapely.centroid(polygons[known])))
    count = np.bincount(member.ravel())
    middle, mean = (
        np.stack([np.bincount(member.ravel(), column) / count for column in values.T], axis=1)
        for values in (centres, shifts[known])
    )
    rings = shapely.get_exterior_ring(polygons[known[first]])
    corner, right, below = (view.place(shapely.get_coordinates(shapely.get_point(rings, i))) for i in (0, 1, -2))
    along, down = _unit(right - corner), _unit(below - corner)
    size = float(np.sqrt(np.median(count) * shapely.area(polygons[known]).mean() * view.sx * view.sy))
    longest = max(1.0, float(np.percentile(np.hypot(*mean.T), 95)))
    enlarged = max(0.8 * size, 14.0) / longest
    arrows = enlarged * (mean[:, :1] * along + mean[:, 1:] * down)
    svg = [_open(view)]
    if len(polygons) > MOST_SHAPES:
        svg.append(_painted(view, polygons, np.full(len(polygons), "ground", dtype=object)))
    else:
        svg.append(f'<path class="tiles" fill="{COLOURS["ground"]}" d="{"".join(_rings(view, polygons))}"/>')
    for (x, y), (u, v), (dx, dy) in zip(middle.tolist(), arrows.tolist(), mean.tolist(), strict=True):
        svg.append(f'<path class="arrow" d="{_arrow(x - u / 2, y - v / 2, u, v)}">'
                   f"<title>{escape(direction(dx, dy, metres))}</title></path>")  # fmt: skip
    said = nice_floor(longest)
    ground = "" if metres is None else f", {length(said * metres)}"
    x, y = view.width - _PAD - enlarged * said, view.height + 18
    svg.append(f'<path class="arrow" d="{_arrow(x, y, enlarged * said, 0)}"/>')
    svg.append(f'<text x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{said:g} px{ground}</text>')
    return "".join([*svg, _scale_bar(view), "</svg>"])


def _block_shifts(found: Footprints, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Blocks, int64 (N, 2), and their shifts, float64 (N, 2), NaN where they cannot be told, of some tiles."""
    table = {key: found.table[key][chosen] for key in ("area", "row", "col")}
    area = np.unique(table["area"], return_inverse=True)[1].astype(np.int64)
    # Far apart, so that halving block numbers never joins areas.
    blocks = np.stack([(area << 40) + table["row"] // SHIFT_BLOCK, table["col"] // SHIFT_BLOCK], axis=1)
    shifts = np.stack([found.table["block_dx"][chosen], found.table["block_dy"][chosen]], axis=1)
    shifts[~(found.table["block_confidence"][chosen] >= MIN_CONFIDENCE)] = np.nan
    return blocks, shifts


def _clusters(found: Footprints, placed: NDArray[np.bool_]) -> list[list[str]]:
    """Names of areas that share a map: near each other on the ground. Each plain image has a plane of its own."""
    names, boxes = [], []
    alone: list[list[str]] = []
    for name in dict.fromkeys(found.table["area"][placed].tolist()):
        if not _record_grids(found, [name]):
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


def _record_grids(found: Footprints, names: Sequence[str]) -> bool:
    """Whether areas have a place, be it in a plane without a name."""
    grids = [area.grid for area in found.manifest.areas if area.name in names]
    return any(grid is not None and grid.grid().is_georeferenced for grid in grids)


def _open(view: View) -> str:
    width, height = view.width, view.height + _FOOT
    return f'<svg class="map" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width: {width:.0f}px" role="img">'


def _rings(view: View, polygons: NDArray[np.object_]) -> list[str]:
    """The path of each polygon."""
    points, owner = shapely.get_coordinates(shapely.get_exterior_ring(polygons), return_index=True)
    placed = view.place(points)
    begins = np.searchsorted(owner, np.arange(len(polygons) + 1))
    return [
        "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in placed[begin : end - 1].tolist()) + "Z"
        for begin, end in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True)
    ]


def _painted(view: View, polygons: NDArray[np.object_], kinds: NDArray[np.object_]) -> str:
    """All polygons as one picture, two pixels per SVG unit."""
    canvas = np.zeros((round(2 * view.height), round(2 * view.width)), np.uint8)
    points, owner = shapely.get_coordinates(shapely.get_exterior_ring(polygons), return_index=True)
    placed = np.rint(2 * 16 * view.place(points)).astype(np.int32)
    begins = np.searchsorted(owner, np.arange(len(polygons) + 1))
    outlined = np.sqrt(np.median(shapely.area(polygons)) * view.sx * view.sy) > 5
    for number, kind in enumerate(_ORDER, start=1):
        for i in np.flatnonzero(kinds == kind).tolist():
            ring = placed[begins[i] : begins[i + 1]]
            cv2.fillConvexPoly(canvas, ring, number, shift=4)
            if outlined:
                cv2.polylines(canvas, [ring], True, 0, shift=4)
    image = Image.fromarray(canvas)
    palette = [255, 255, 255, *(int(COLOURS[kind][i : i + 2], 16) for kind in _ORDER for i in (1, 3, 5))]
    image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, transparency=0)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<image href="{uri}" width="{view.width:.1f}" height="{view.height:.1f}"/>'


def _scale_bar(view: View) -> str:
    """A bar of a round number of metres; without a CRS, of pixels or whatever the plane is measured in."""
    per_unit = 1 / view.sx if view.metres is None else view.metres
    said = nice_floor(per_unit * min(view.width / 3, 220.0))
    size, y = said / per_unit, view.height + 22
    text = f"{said:g} {view.unit}" if view.metres is None else length(said)
    bar = f'<path class="axis" d="M{_PAD} {y - 5:.1f}V{y:.1f}H{_PAD + size:.1f}V{y - 5:.1f}"/>'
    return f'{bar}<text x="{_PAD + size + 7:.1f}" y="{y:.1f}">{text}</text>'


def _arrow(x: float, y: float, u: float, v: float) -> str:
    """A path from (x, y) by (u, v) with a head."""
    size = float(np.hypot(u, v))
    head = min(5.0, 0.45 * size) / max(size, 1e-9)
    path = f"M{x:.1f} {y:.1f}l{u:.1f} {v:.1f}"
    for side in (1, -1):
        path += f"M{x + u:.1f} {y + v:.1f}l{-head * (u + 0.6 * side * v):.1f} {-head * (v - 0.6 * side * u):.1f}"
    return path


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Vectors (N, 2) at length 1."""
    unit: NDArray[np.float64] = vectors / np.hypot(*vectors.T)[:, None].clip(1e-9)
    return unit
