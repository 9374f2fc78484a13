"""The plan of a town: geometry of streets, blocks, buildings, parks and water.

Plan coordinates are metres from the north-west corner, x to the east and y to the south. All random numbers come from
one generator, so a seed determines the town.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString, MultiLineString, Polygon

Array = NDArray[np.float64]
HIGHWAY_M, ARTERIAL_M, STREET_M, RIVER_M, RAIL_M = 30.0, 18.0, 9.0, 44.0, 7.0
"""Widths in metres in a town of at least a kilometre; in smaller towns they are less."""

SCALES = 0.45, 1.0
"""Least and largest factor on widths: the root of the town's side in kilometres, clipped to this range."""
ARTERIAL_STEP_M = 560
"""Metres from one arterial to the next."""
WOBBLE, RAIL_WOBBLE = 0.018, 0.01
"""Standard deviation of the random shift of waypoints; as all places below, a fraction of the side."""
RIVER = [(0.10, -0.05), (0.21, 0.22), (0.16, 0.48), (0.30, 0.74), (0.56, 0.86), (0.80, 0.80), (1.05, 0.88)]
RAIL = [(0.93, -0.05), (0.87, 0.30), (0.62, 0.60), (0.38, 0.66), (-0.05, 0.58)]
HIGHWAYS = [
    [(-0.06, 0.24), (0.22, 0.27), (0.50, 0.47), (0.76, 0.68), (1.06, 0.72)],
    [(0.30, 1.06), (0.36, 0.80), (0.47, 0.52), (0.66, 0.26), (0.74, -0.06)],
]
"""Waypoints of highways, which cross near the centre and together visit every quarter."""
PARKS = [
    [(0.34, 0.12), (0.06, 0.42)],
    [(0.87, 0.13), (0.80, 0.42)],
    [(0.15, 0.86), (0.40, 0.93)],
    [(0.72, 0.92), (0.64, 0.71)],
]
"""Centres of parks, by quarter; the first of each is the larger one and has a pond."""
PARK_RADIUS = 135.0, 0.085
"""Largest radius of a park in metres, and as a share of the side."""
SQUARE_PARKS = 0.06
"""Share of the blocks that are parks."""
BLOCKS = {"downtown": (96.0, 72.0), "houses": (150.0, 74.0), "industry": (170.0, 120.0), "field": (330.0, 260.0)}
"""Spacing of streets by use of the district, metres (along, across)."""


class Lot(NamedTuple):
    """Rules of a lot and its building.

    Attributes:
        frontage: Metres along the street.
        setback: Metres between street and building.
        length, depth: Sides of the building as shares of the lot (least, largest).
        height: Height of the building in metres (least, largest).
        kept: Share of the lots that are built on.
    """

    frontage: float
    setback: float
    length: tuple[float, float]
    depth: tuple[float, float]
    height: tuple[float, float]
    kept: float


LOTS = {
    "downtown": Lot(27.0, 0.0, (0.74, 0.97), (0.66, 0.92), (12.0, 34.0), 0.93),
    "houses": Lot(18.5, 4.0, (0.56, 0.82), (0.40, 0.56), (5.0, 9.0), 0.95),
    "industry": Lot(62.0, 3.0, (0.62, 0.88), (0.55, 0.80), (7.0, 13.0), 0.84),
}


@dataclass(frozen=True, eq=False)
class District:
    """The land between main roads.

    Attributes:
        area: Its polygon, plan metres.
        use: downtown, houses, industry or field.
        angle: Direction of its streets, radians.
        block: (along, across) the streets: spacing of its street grid, metres.
    """

    area: Polygon
    use: str
    angle: float
    block: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Rects:
    """Rotated rectangles (buildings, lots) as columns of float64 (N,).

    Attributes:
        x, y: Centre, plan metres.
        length: Side along ``angle``, metres.
        depth: Side across it, metres.
        angle: Radians.
        height: Metres above ground (0 for lots).
        use: 0 downtown, 1 houses, 2 industry.
    """

    x: Array
    y: Array
    length: Array
    depth: Array
    angle: Array
    height: Array
    use: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)

    def take(self, keep: NDArray[Any]) -> Rects:
        return Rects(*(getattr(self, n)[keep] for n in self.__dataclass_fields__))

    def corners(self, grow: float = 0.0) -> Array:
        """Return corners in order, float64 (N, 4, 2), with each side moved out by ``grow`` metres."""
        half_l, half_d = self.length / 2 + grow, self.depth / 2 + grow
        along = np.stack([-half_l, half_l, half_l, -half_l], 1)
        across = np.stack([-half_d, -half_d, half_d, half_d], 1)
        return self.points(along, across)

    def points(self, along: Array, across: Array) -> Array:
        """Convert offsets (N, K) in metres along and across each rectangle to plan coordinates (N, K, 2)."""
        cos, sin = np.cos(self.angle)[:, None], np.sin(self.angle)[:, None]
        px = self.x[:, None] + along * cos - across * sin
        py = self.y[:, None] + along * sin + across * cos
        return np.stack([px, py], 2)

    @staticmethod
    def flat(x: Array, y: Array, length: Array, depth: Array, angle: Array) -> Rects:
        """Make rectangles of height 0, without a use."""
        return Rects(x, y, length, depth, angle, np.zeros(len(x)), np.zeros(len(x), np.int64))

    @staticmethod
    def join(parts: list[Rects]) -> Rects:
        parts = [*parts, Rects.flat(*[np.zeros(0)] * 5)]
        return Rects(*(np.concatenate([getattr(p, n) for p in parts]) for n in Rects.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Plan:
    """All geometry of a town, in plan metres.

    Attributes:
        extent: Side of the square town, metres.
        scale: Factor on widths: 1 for a kilometre and more, less for small towns.
        highways, arterials, rail: Centre lines.
        streets: Centre lines, cut at highways, parks and water.
        water: River and ponds.
        parks: Parks without their ponds.
        districts: Land between main roads.
        buildings: Footprints.
        lots: Lots of buildings.
    """

    extent: float
    scale: float
    highways: list[LineString]
    arterials: list[LineString]
    streets: list[LineString]
    rail: LineString
    water: list[Polygon]
    parks: list[Polygon]
    districts: list[District]
    buildings: Rects
    lots: Rects


def make_plan(extent: float, rng: np.random.Generator) -> Plan:
    """Lay out a town.

    Args:
        extent: Side of the square, metres.
        rng: Random generator.
    """
    scale = float(np.clip(np.sqrt(extent / 1000.0), *SCALES))
    highways = [_curve(points, extent) for points in [_wobble(points, rng) for points in HIGHWAYS]]
    arterials = _arterials(extent, rng)
    river = _curve(_wobble(RIVER, rng), extent).buffer(RIVER_M * scale / 2)
    rail = _curve(_wobble(RAIL, rng, RAIL_WOBBLE), extent)
    greens, ponds = _parks_with_ponds(extent, rng)
    main = shapely.union_all(
        [line.buffer(HIGHWAY_M * scale / 2 + 5 * scale) for line in highways]
        + [line.buffer(ARTERIAL_M * scale / 2 + 3 * scale) for line in arterials]
    )
    green = shapely.union_all(greens).difference(main).difference(river.buffer(6 * scale))
    bank = main.buffer(2 * scale)
    water = shapely.union_all([river, *(pond.difference(bank).intersection(green) for pond in ponds)])
    blocked = shapely.union_all([main, green, river.buffer(9 * scale), rail.buffer(8 * scale)])
    districts = _districts(extent, scale, highways + arterials, rng)
    streets, parts, lots, squares = [], [], [], []
    highway_zone = shapely.union_all([h.buffer((HIGHWAY_M / 2 + 6) * scale) for h in highways])
    street_blocked = shapely.union_all([highway_zone, *greens, river.buffer(6 * scale)])
    for district in districts:
        cells, lines = _street_grid(district)
        inside = shapely.intersection(lines, district.area.buffer(2.0))
        streets += _line_parts(shapely.difference(inside, street_blocked), 22 * scale)
        if district.use == "field":
            continue
        is_square = rng.random(len(cells)) < SQUARE_PARKS
        free = district.area.difference(blocked)
        squares += _square_parks(cells.take(is_square), free, scale)
        built, plots = _buildings(cells.take(~is_square), district, scale, rng)
        parts.append(_inside(built, free))
        lots.append(_inside(plots, free))
    parks = _polygons(green.difference(water)) + squares
    return Plan(
        extent, scale, highways, arterials, streets, rail, _polygons(water), parks, districts,
        Rects.join(parts), Rects.join(lots),
    )  # fmt: skip


def _wobble(
    points: list[tuple[float, float]], rng: np.random.Generator, amount: float = WOBBLE
) -> list[tuple[float, float]]:
    """Shift waypoints (fractions of the extent) at random."""
    moved = np.asarray(points) + rng.normal(0, amount, (len(points), 2))
    return [(float(x), float(y)) for x, y in moved]


def _curve(points: list[tuple[float, float]], extent: float) -> LineString:
    """Return a smooth line (Catmull-Rom) through waypoints, which are fractions of the extent."""
    p = np.asarray(points, np.float64)
    p = np.concatenate([[2 * p[0] - p[1]], p, [2 * p[-1] - p[-2]]])
    t = np.linspace(0, 1, 24, endpoint=False)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i][:, None, :] for i in range(4))
    xy = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return LineString(np.concatenate([xy.reshape(-1, 2), p[-2:-1]]) * extent)


def _arterials(extent: float, rng: np.random.Generator) -> list[LineString]:
    """Return gently curved arterials that span the town in both directions, about `ARTERIAL_STEP_M` apart."""
    count = max(1, round(extent / ARTERIAL_STEP_M))
    lines = []
    for across in (False, True):
        for i in range(count):
            base = (i + 0.5) / count + rng.normal(0, 0.05 / count)
            if count == 1:
                base = 0.72 if across else 0.3
            t = np.linspace(-0.05, 1.05, 6)
            sway = 0.16 / count * np.sin(2 * np.pi * (t * rng.uniform(0.5, 1.1) + rng.random()))
            points = [(float(a), float(base + s)) for a, s in zip(t, sway, strict=True)]
            lines.append(_curve([(y, x) for x, y in points] if across else points, extent))
    return lines


def _blob(x: float, y: float, radius: float, stretch: float, rng: np.random.Generator) -> Polygon:
    """Return a smooth round shape, plan metres."""
    t = np.linspace(0, 2 * np.pi, 56, endpoint=False)
    r = np.ones_like(t)
    for k in (2, 3, 4):
        r += rng.normal(0, 0.22 / k) * np.cos(k * t + rng.uniform(0, 2 * np.pi))
    turn = rng.uniform(0, np.pi)
    px, py = radius * r * np.cos(t) * stretch, radius * r * np.sin(t) / stretch
    east, south = px * np.cos(turn) - py * np.sin(turn), px * np.sin(turn) + py * np.cos(turn)
    return Polygon(np.stack([x + east, y + south], 1)).buffer(0)


def _parks_with_ponds(extent: float, rng: np.random.Generator) -> tuple[list[Polygon], list[Polygon]]:
    """Return one or two large parks in every quarter, and the ponds of the first ones."""
    greens, ponds = [], []
    most, share = PARK_RADIUS
    for quarter in PARKS:
        for i, (fx, fy) in enumerate(quarter):
            x, y = (np.asarray([fx, fy]) + rng.normal(0, 0.012, 2)) * extent
            radius = float(min(most, share * extent) * (1.0 if i == 0 else 0.75) * rng.uniform(0.95, 1.15))
            greens.append(_blob(x, y, radius, rng.uniform(1.0, 1.35), rng))
            if i == 0:
                ponds.append(_blob(x, y, radius * 0.50, rng.uniform(1.0, 1.3), rng))
    return greens, ponds


def _districts(extent: float, scale: float, lines: list[LineString], rng: np.random.Generator) -> list[District]:
    """Return the faces between main roads, each with its own use and street direction."""
    frame = shapely.box(-20, -20, extent + 20, extent + 20)
    noded = shapely.union_all([*(line.intersection(frame) for line in lines), frame.exterior])
    faces = shapely.polygonize(list(noded.geoms))
    districts = []
    for face in faces.geoms:
        if face.area < 900 * scale:
            continue
        centre = face.centroid
        reach = float(np.hypot(centre.x / extent - 0.5, centre.y / extent - 0.5))
        draw = rng.random()
        if reach < 0.2:
            use = "downtown"
        elif reach > 0.45 and draw < 0.28:
            use = "field"
        else:
            use = "industry" if draw > 0.84 else "houses"
        along, across = BLOCKS[use]
        shrink = max(scale, 0.6)
        block = (along * shrink * rng.uniform(0.9, 1.1), across * shrink * rng.uniform(0.95, 1.08))
        edge = np.diff(shapely.get_coordinates(face.minimum_rotated_rectangle)[:2], axis=0)[0]
        angle = float(np.arctan2(edge[1], edge[0]) + rng.normal(0, 0.12))
        districts.append(District(face, use, angle, block))
    return districts


def _street_grid(district: District) -> tuple[Rects, MultiLineString]:
    """Return blocks and street lines of a district: a rotated grid, not yet cut to its area."""
    centre = district.area.centroid
    xy = shapely.get_coordinates(district.area) - [centre.x, centre.y]
    cos, sin = np.cos(district.angle), np.sin(district.angle)
    along, across = xy[:, 0] * cos + xy[:, 1] * sin, -xy[:, 0] * sin + xy[:, 1] * cos
    us = np.arange(along.min() - district.block[0], along.max() + district.block[0], district.block[0])
    vs = np.arange(across.min() - district.block[1], across.max() + district.block[1], district.block[1])

    def plan(u: Array, v: Array) -> Array:
        return np.stack([centre.x + u * cos - v * sin, centre.y + u * sin + v * cos], -1)

    ends_u, ends_v = np.array([us[0], us[-1]]), np.array([vs[0], vs[-1]])
    lines = [plan(np.full(2, u), ends_v) for u in us] + [plan(ends_u, np.full(2, v)) for v in vs]
    u, v = (g.ravel() for g in np.meshgrid(us[:-1] + district.block[0] / 2, vs[:-1] + district.block[1] / 2))
    at = plan(u, v)
    cells = Rects.flat(at[:, 0], at[:, 1], *(np.full(len(u), one) for one in (*district.block, district.angle)))
    return cells, MultiLineString([LineString(line) for line in lines])


def _buildings(cells: Rects, district: District, scale: float, rng: np.random.Generator) -> tuple[Rects, Rects]:
    """Return buildings of all blocks of a district, and their lots; not yet cut to its area."""
    margin = STREET_M * scale / 2 + 2.5 * scale
    length, depth = district.block[0] - 2 * margin, district.block[1] - 2 * margin
    lot = LOTS[district.use]
    frontage = lot.frontage * max(scale, 0.6)
    columns = max(1, int(length / frontage))
    rows = 2 if district.use != "industry" or depth > 80 else 1
    lot_l, lot_d = length / columns, depth / rows
    i, j = (g.ravel() for g in np.meshgrid(np.arange(columns), np.arange(rows)))
    u = np.tile((i + 0.5) * lot_l - length / 2, len(cells))
    v = np.tile((j + 0.5) * lot_d - depth / 2, len(cells))
    side = np.tile(np.where(j == 0, -1.0, 1.0), len(cells))
    n = len(u)
    code = list(LOTS).index(district.use)
    size_l, size_d = lot_l * rng.uniform(*lot.length, n), lot_d * rng.uniform(*lot.depth, n)
    shift = side * np.maximum(0.0, (lot_d - size_d) / 2 - lot.setback * scale)
    keep = rng.random(n) < lot.kept
    cell = np.repeat(np.arange(len(cells)), columns * rows)
    base = cells.take(cell)

    def rects(u: Array, v: Array, size_l: Array, size_d: Array, height: Array) -> Rects:
        at = base.points(u[:, None], v[:, None])[:, 0] if n else np.zeros((0, 2))
        return Rects(at[:, 0], at[:, 1], size_l, size_d, base.angle, height, np.full(n, code, np.int64)).take(keep)

    heights = rng.uniform(*lot.height, n) * max(scale, 0.6)
    return (
        rects(u, v + shift, size_l, size_d, heights),
        rects(u, v, np.full(n, lot_l), np.full(n, lot_d), np.zeros(n)),
    )


def _inside(rects: Rects, area: Any) -> Rects:
    """Return the rectangles that lie wholly in an area."""
    if len(rects) == 0 or area.is_empty:
        return rects.take(np.zeros(len(rects), np.bool_))
    shapely.prepare(area)
    return rects.take(shapely.contains_properly(area, shapely.polygons(rects.corners())))


def _square_parks(cells: Rects, free: Any, scale: float) -> list[Polygon]:
    """Return blocks that are parks, cut to the free area."""
    inset = STREET_M * scale / 2 + 2.0 * scale
    found = []
    for corners in cells.corners(-inset):
        found += [p for p in _polygons(Polygon(corners).intersection(free)) if p.area > 400 * scale]
    return found


def _polygons(geometry: Any) -> list[Polygon]:
    """Return the polygons of any geometry."""
    return [g for g in shapely.get_parts(geometry).tolist() if g.geom_type == "Polygon" and not g.is_empty]


def _line_parts(geometry: Any, shortest: float) -> list[LineString]:
    """Return the lines of any geometry that have at least a length in metres."""
    parts = shapely.get_parts(geometry)
    return [g for g in parts.tolist() if g.geom_type == "LineString" and g.length >= shortest]
