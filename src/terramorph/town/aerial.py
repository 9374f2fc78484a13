"""The aerial image of a town.

The same shapes are painted on two canvases: one of colours, one of texture strengths (red: plants, green: mineral
surfaces, blue: tree crowns). Noise of these strengths is added, then haze, the blur of a lens and sensor noise.
"""

from __future__ import annotations

import numpy as np
import shapely
import skia
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry import Polygon

from terramorph.town.layout import ARTERIAL_M, HIGHWAY_M, RAIL_M, STREET_M, Array, District, Plan, Rects
from terramorph.town.painter import Painter, beside, ink, lines_of, path_of, ring_of

SHADOW = (-0.62, -0.70)
"""Metres of shadow (east, south) per metre of height: the sun stands in the south-east, 47 degrees high."""

_SATURATION = 0.86
_PLANTS, _MINERAL, _CROWN, _STILL, _FIELD = (140, 20, 0), (0, 120, 0), (40, 0, 220), (0, 14, 0), (105, 50, 0)
_ROOFS = np.array([(156, 92, 72), (142, 84, 68), (120, 88, 76), (104, 94, 88), (88, 86, 88), (136, 126, 116),
                   (168, 110, 84)])  # fmt: skip
_FLAT_ROOFS = np.array([(178, 174, 168), (150, 148, 146), (196, 194, 190), (128, 124, 122), (164, 152, 138)])
_MACHINE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
_CARS = ((236, 236, 238), (40, 42, 46), (150, 154, 160), (160, 40, 38), (46, 70, 122), (206, 206, 200))


def paint_aerial(plan: Plan, size: int, resolution: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Paint the aerial image of a town.

    Args:
        plan: The town.
        size: Side in pixels.
        resolution: Metres per pixel.
        rng: Random generator.

    Returns:
        uint8 (3, size, size) RGB.
    """
    painter = Painter(size, resolution)
    painter.clear((134, 132, 108), _PLANTS)
    _paint_ground(painter, plan, rng)
    _paint_lots(painter, plan, rng)
    _paint_parks_and_water(painter, plan, rng)
    _paint_ways(painter, plan)
    _paint_cars(painter, plan, rng)
    trees = _plant_trees(plan, rng)
    _paint_shadows(painter, plan, trees)
    _paint_roofs(painter, plan.buildings, plan.scale, rng)
    _paint_trees(painter, trees, rng)
    return _expose(painter, size, resolution, rng)


def _paint_ground(painter: Painter, plan: Plan, rng: np.random.Generator) -> None:
    """Paint districts: dull lawns and yards in town, crops outside."""
    tones = {
        "downtown": (142, 138, 128),
        "houses": (128, 130, 100),
        "industry": (146, 140, 126),
        "field": (150, 144, 92),
    }
    for district in plan.districts:
        tone = np.asarray(tones[district.use]) + rng.normal(0, 4, 3)
        texture = _FIELD if district.use == "field" else _PLANTS if district.use == "houses" else _MINERAL
        painter.fill(path_of([ring_of(district.area)]), tone, texture)
        if district.use == "field":
            _paint_crops(painter, district, rng)


def _paint_crops(painter: Painter, district: District, rng: np.random.Generator) -> None:
    """Paint strips of crops with furrows, clipped to a district."""
    outline = path_of([ring_of(district.area)])
    for canvas in (painter.canvas, painter.texture):
        canvas.save()
        canvas.clipPath(outline, skia.ClipOp.kIntersect, True)
    kinds = np.array([(172, 158, 104), (150, 148, 84), (186, 172, 124), (158, 132, 96), (136, 140, 84)])
    centre, reach = district.area.centroid, float(np.sqrt(district.area.area)) * 1.3
    cos, sin = np.cos(district.angle), np.sin(district.angle)
    at = -reach
    while at < reach:
        wide = float(rng.uniform(50, 110))
        colour = kinds[rng.integers(len(kinds))] + rng.normal(0, 5, 3)
        for step, (offset, width) in enumerate([(wide / 2, wide), *((o, 1.6) for o in np.arange(3.0, wide, 6.0))]):
            u = at + float(offset)
            ends = [(centre.x + u * cos - v * sin, centre.y + u * sin + v * cos) for v in (-reach, reach)]
            tone = colour if step == 0 else colour * 0.9
            painter.stroke(path_of([np.asarray(ends)], closed=False), width, tone, _FIELD if step == 0 else None)
        at += wide
    for canvas in (painter.canvas, painter.texture):
        canvas.restore()


def _paint_lots(painter: Painter, plan: Plan, rng: np.random.Generator) -> None:
    """Paint lots: gardens that differ a little, paved yards, a driveway beside most houses."""
    lots = plan.lots
    gardens = np.array([(122, 128, 92), (134, 132, 98), (112, 122, 84), (146, 140, 112), (128, 124, 94)])
    yards = np.array([(152, 146, 134), (138, 134, 126), (160, 154, 142)])
    pick, shade = rng.random(len(lots)), rng.normal(0, 6, (len(lots), 1))
    garden, yard = (tones[(pick * len(tones)).astype(int)] + shade for tones in (gardens, yards))
    corners = lots.corners(-0.4)
    for ring, use, green, grey in zip(corners, lots.use.tolist(), garden, yard, strict=True):
        painter.fill(path_of([ring]), green if use == 1 else grey, _PLANTS if use == 1 else _MINERAL)
    houses = plan.buildings.take(plan.buildings.use == 1)
    left, right = houses.length / 2 + 0.6 * plan.scale, houses.length / 2 + 3.2 * plan.scale
    half = houses.depth / 2 + 4.0 * plan.scale
    drive = houses.points(np.stack([left, right, right, left], 1), np.stack([-half, -half, half, half], 1))
    for ring in drive[rng.random(len(houses)) < 0.7]:
        painter.fill(path_of([ring]), (162, 158, 150), _MINERAL)


def _paint_parks_and_water(painter: Painter, plan: Plan, rng: np.random.Generator) -> None:
    """Paint parks in fresh green with paths and pitches, and water with a sandy edge and depth."""
    for park in plan.parks:
        tone = np.array([88, 126, 62]) + rng.normal(0, 5, 3)
        rings = [ring_of(park), *(np.asarray(i.coords) for i in park.interiors)]
        painter.fill(path_of(rings), tone, (130, 10, 0))
        inner = park.buffer(-9 * plan.scale)
        for part in shapely.get_parts(inner):
            if part.area > 300:
                painter.stroke(path_of([ring_of(part)]), 2.2, (176, 166, 136), _MINERAL)
        if park.area > 9000:
            spot = shapely.get_coordinates(shapely.point_on_surface(park))[0] + rng.uniform(-20, 20, 2)
            turn = np.full(1, rng.uniform(0, np.pi))
            pitch = Rects.flat(spot[:1], spot[1:], np.full(1, 46.0), np.full(1, 30.0), turn)
            ring = pitch.corners()[0]
            if park.contains(Polygon(ring)):
                painter.fill(path_of([ring]), (104, 142, 70), (60, 10, 0))
                painter.stroke(path_of([pitch.corners(-2)[0]]), 0.6, (206, 214, 196), None)
    for body in plan.water:
        rings = [ring_of(body), *(np.asarray(i.coords) for i in body.interiors)]
        painter.stroke(path_of(rings), 5 * plan.scale, (150, 140, 110), _MINERAL)
        painter.fill(path_of(rings), (62, 86, 92), _STILL)
        for inset, depth in ((5.0, (54, 80, 90)), (11.0, (46, 73, 86))):
            for part in shapely.get_parts(body.buffer(-inset * plan.scale)):
                if not part.is_empty:
                    painter.fill(path_of([ring_of(part)]), depth, None)


def _paint_ways(painter: Painter, plan: Plan) -> None:
    """Paint streets with pavements, rail, arterials with lanes, highways with two carriageways."""
    s = plan.scale
    streets, arterials = [[lines_of(way) for way in ways] for ways in (plan.streets, plan.arterials)]
    for path in streets:
        painter.stroke(path, (STREET_M + 2.6) * s, (166, 160, 150), _MINERAL)
    for path in streets:
        painter.stroke(path, (STREET_M - 0.8) * s, (122, 121, 120), _MINERAL)
    rail = lines_of(plan.rail)
    painter.stroke(rail, RAIL_M * s, (122, 110, 98), (0, 200, 0))
    painter.stroke(rail, 2.8 * s, (96, 86, 78), None, dash=(1.2, 1.4))
    for side in (-0.8, 0.8):
        painter.stroke(lines_of(beside(plan.rail, side * s)), 0.5 * s, (158, 152, 148), None)
    for path in arterials:
        painter.stroke(path, (ARTERIAL_M + 2.6) * s, (172, 166, 156), _MINERAL)
    for path in arterials:
        painter.stroke(path, (ARTERIAL_M - 0.6) * s, (76, 77, 82), (0, 80, 0))
    for line, path in zip(plan.arterials, arterials, strict=True):
        painter.stroke(path, 1.0 * s, (214, 186, 96), None)
        for side in (-4.3, 4.3):
            painter.stroke(lines_of(beside(line, side * s)), 0.8 * s, (206, 206, 202), None, dash=(6 * s, 7 * s))
    for line in plan.highways:
        path = lines_of(line)
        painter.stroke(path, (HIGHWAY_M + 5) * s, (132, 138, 96), _PLANTS)
        painter.stroke(path, HIGHWAY_M * s, (104, 102, 100), _MINERAL)
        for side in (-7.8, 7.8):
            way = beside(line, side * s)
            painter.stroke(lines_of(way), 11.2 * s, (186, 180, 170), (0, 70, 0))
            for lane in (-1.9, 1.9):
                mark = lines_of(beside(way, lane * s))
                painter.stroke(mark, 0.6 * s, (236, 234, 228), None, dash=(5 * s, 8 * s))
        painter.stroke(path, 3.0 * s, (102, 122, 74), _PLANTS)


def _paint_cars(painter: Painter, plan: Plan, rng: np.random.Generator) -> None:
    """Paint cars along their lanes: parked by streets, driving on arterials and highways."""
    s = plan.scale
    lanes = [(plan.streets, 55.0, 2.7), (plan.arterials, 42.0, 6.4), (plan.arterials, 42.0, 2.2),
             (plan.highways, 38.0, 5.9), (plan.highways, 46.0, 9.7)]  # fmt: skip
    for ways, gap, lane in lanes:
        for line in ways:
            count = int(rng.poisson(line.length / gap * s))
            along = rng.uniform(2, max(line.length - 2, 2.1), count)
            here = shapely.get_coordinates(shapely.line_interpolate_point(line, along))
            ahead = shapely.get_coordinates(shapely.line_interpolate_point(line, along + 1.0))
            angle = np.arctan2(ahead[:, 1] - here[:, 1], ahead[:, 0] - here[:, 0])
            side = np.where(rng.random(count) < 0.5, -1.0, 1.0) * lane * s
            length = np.where(rng.random(count) < 0.1, 9.0, 4.6) * max(s, 0.7)
            x, y = here[:, 0] - side * np.sin(angle), here[:, 1] + side * np.cos(angle)
            cars = Rects.flat(x, y, length, np.full(count, 2.1 * max(s, 0.7)), angle)
            for ring, kind in zip(cars.corners(), rng.integers(len(_CARS), size=count).tolist(), strict=True):
                painter.fill(path_of([ring - [0.9, 1.0]]), (58, 58, 62), None)
                painter.fill(path_of([ring]), _CARS[kind], _STILL)


def _plant_trees(plan: Plan, rng: np.random.Generator) -> Array:
    """Place trees in parks and gardens, none on roofs, water or roads: float64 (N, 3), x, y, radius in metres."""
    s = max(plan.scale, 0.6)
    found = []
    for park in plan.parks:
        left, top, right, bottom = park.bounds
        tries = int((right - left) * (bottom - top) / (62 * s * s))
        xy = rng.uniform((left, top), (right, bottom), (tries, 2))
        density = np.sin(xy[:, 0] / 21 + xy[:, 1] / 37) + np.sin(xy[:, 1] / 17 - xy[:, 0] / 45)
        grove = density > rng.normal(0.1, 0.7, tries)
        inside = shapely.contains_xy(park.buffer(-3 * s), xy[:, 0], xy[:, 1])
        found.append(np.column_stack([xy, rng.uniform(2.4, 5.2, tries) * s])[grove & inside])
    lots = plan.lots.take(plan.lots.use == 1)
    for _ in range(2):
        u = (rng.random(len(lots)) - 0.5)[:, None] * lots.length[:, None]
        v = (rng.random(len(lots)) - 0.5)[:, None] * lots.depth[:, None]
        at = lots.points(u, v)[:, 0]
        found.append(np.column_stack([at, rng.uniform(1.6, 3.6, len(lots)) * s])[rng.random(len(lots)) < 0.8])
    trees = np.concatenate(found) if found else np.zeros((0, 3))
    taken = [shapely.polygons(plan.buildings.corners()), np.asarray(plan.water, dtype=object)]
    for ways, width in ((plan.streets, STREET_M), (plan.arterials, ARTERIAL_M), (plan.highways, HIGHWAY_M)):
        taken.append(shapely.buffer(np.asarray(ways, dtype=object), width * plan.scale / 2))
    index = shapely.STRtree(np.concatenate(taken))
    crowns = shapely.points(trees[:, :2])
    hit = index.query(crowns, predicate="dwithin", distance=trees[:, 2] * 0.8)[0]
    free = np.ones(len(trees), np.bool_)
    free[hit] = False
    return np.asarray(trees[free])


def _paint_shadows(painter: Painter, plan: Plan, trees: Array) -> None:
    """Paint all shadows equally dark: solid, into one layer that is blended once."""
    canvas = painter.canvas
    canvas.saveLayerAlpha(None, 116)
    dark = ink((18, 22, 40))
    buildings = plan.buildings
    corners = buildings.corners()
    moved = corners + buildings.height[:, None, None] * np.asarray(SHADOW)
    hulls = shapely.convex_hull(shapely.multipoints(np.concatenate([corners, moved], 1)))
    for hull in hulls.tolist():
        canvas.drawPath(path_of([ring_of(hull)]), dark)
    for x, y, r in (trees + trees[:, 2:] * [1.0 * SHADOW[0], 1.0 * SHADOW[1], 0.0]).tolist():
        canvas.drawCircle(x, y, r, dark)
    canvas.restore()


def _paint_roofs(painter: Painter, buildings: Rects, scale: float, rng: np.random.Generator) -> None:
    """Paint roofs: gabled on houses, one side lit; flat with a parapet and machines on other buildings."""
    n = len(buildings)
    gable = _ROOFS[rng.integers(len(_ROOFS), size=n)] + rng.normal(0, 6, (n, 1))
    flat = _FLAT_ROOFS[rng.integers(len(_FLAT_ROOFS), size=n)] + rng.normal(0, 6, (n, 1))
    half_l, half_d = buildings.length / 2, buildings.depth / 2
    zero = np.zeros(n)
    along = np.stack([-half_l, half_l, half_l, -half_l], 1)
    upper = buildings.points(along, np.stack([-half_d, -half_d, zero, zero], 1))
    lower = buildings.points(along, np.stack([zero, zero, half_d, half_d], 1))
    # How much a slope that falls towards (east, south) faces the sun, which stands opposite the shadows.
    faces = -(SHADOW[0] * -np.sin(buildings.angle) + SHADOW[1] * np.cos(buildings.angle))
    light = 1.0 + 0.20 * faces / float(np.hypot(*SHADOW))
    outline, inner = buildings.corners(), buildings.corners(-1.1 * scale)
    machine_at = rng.uniform(-0.3, 0.3, (n, 3, 2))
    for i in range(n):
        if buildings.use[i] == 1:
            painter.fill(path_of([upper[i]]), gable[i] * (2.0 - light[i]), (0, 50, 0))
            painter.fill(path_of([lower[i]]), gable[i] * light[i], (0, 50, 0))
            continue
        painter.fill(path_of([outline[i]]), flat[i] * 1.12, (0, 60, 0))
        painter.fill(path_of([inner[i]]), flat[i] * 0.96, (0, 60, 0))
        one = buildings.take(np.array([i]))
        spots = one.points(machine_at[i, :, 0][None] * one.length[0], machine_at[i, :, 1][None] * one.depth[0])[0]
        for x, y in spots.tolist():
            painter.fill(path_of([_MACHINE * 4.0 + [x - 3, y - 3]]), flat[i] * 0.6, None)
            painter.fill(path_of([_MACHINE * 3.5 + [x - 1.5, y - 1.5]]), flat[i] * 1.1, None)


def _paint_trees(painter: Painter, trees: Array, rng: np.random.Generator) -> None:
    """Paint crowns with a dark rim and a lit top."""
    greens = np.array([(52, 78, 40), (60, 86, 44), (46, 70, 42), (70, 90, 46)])
    tone = greens[rng.integers(len(greens), size=len(trees))] + rng.normal(0, 5, (len(trees), 1))
    x, y, r = trees.T
    painter.circles(x, y, r, tone, _CROWN)
    painter.circles(x + 0.28 * r, y + 0.30 * r, 0.55 * r, tone * 1.28, None)


def _expose(painter: Painter, size: int, resolution: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add texture, light, haze, lens and sensor: uint8 (3, size, size)."""
    for surface in painter.surfaces:
        surface.flushAndSubmit()
    px = 1.0 / resolution
    amount = painter.texture_pixels.astype(np.float32) / np.float32(255)
    plants = _noise(size, {1.0: 0.07, 2.3 * px: 0.09, 7 * px: 0.09, 40 * px: 0.09, 160 * px: 0.06}, rng)
    mineral = _noise(size, {1.0: 0.05, 3 * px: 0.05, 17 * px: 0.06, 90 * px: 0.06}, rng)
    crown = _noise(size, {1.0: 0.12, 2.0 * px: 0.22}, rng)
    factor = plants * amount[..., 0]
    factor += mineral * amount[..., 1]
    factor += crown * amount[..., 2]
    factor += 1.0
    dryness = _noise(size, {25 * px: 7.0, 110 * px: 9.0}, rng) * amount[..., 0]
    cloud = 1.0 + _noise(size, {380 * px: 0.025}, rng)
    grain = rng.standard_normal((size, size), np.float32)
    base = painter.colour_pixels
    grey = base[..., :3] @ np.array([0.30, 0.59, 0.11], np.float32) * np.float32(1 - _SATURATION)
    out = np.empty((3, size, size), np.uint8)
    for band, (tint, gain, haze) in enumerate(((1.0, 1.0, 10.0), (0.45, 1.0, 12.0), (-0.1, 0.97, 18.0))):
        plane = base[..., band].astype(np.float32)
        plane *= np.float32(_SATURATION)
        plane += grey
        plane *= factor
        plane += np.float32(tint) * dryness
        plane *= cloud * np.float32(gain * 0.94)
        plane += np.float32(haze)
        _soften(plane, 0.14)
        plane += 2.2 * grain
        plane += 1.6 * rng.standard_normal((size, size), np.float32)
        out[band] = np.clip(plane, 0, 255).astype(np.uint8)
    return out


def _noise(size: int, scales: dict[float, float], rng: np.random.Generator) -> NDArray[np.float32]:
    """Sum smooth noise over scales.

    Args:
        size: Side of the square, pixels.
        scales: Grain in pixels -> standard deviation of that scale.
        rng: Random generator.

    Returns:
        float32 (size, size), mean about 0.
    """
    total = np.zeros((size, size), np.float32)
    for grain, weight in scales.items():
        if grain <= 1.0:
            total += weight * rng.standard_normal((size, size), np.float32)
            continue
        coarse = int(np.ceil(size / grain)) + 3
        seed = rng.standard_normal((coarse, coarse), np.float32)
        start = float(rng.random())
        box = (start, start, start + size / grain, start + size / grain)
        # Bilinear resampling lowers the deviation to about two thirds of the seed's; 1.5 restores it.
        grown = Image.fromarray(seed).resize((size, size), Image.Resampling.BILINEAR, box=box)
        total += np.float32(1.5 * weight) * np.asarray(grown)
    return total


def _soften(plane: NDArray[np.float32], edge: float) -> None:
    """Blur in place by [edge, 1 - 2 edge, edge] along both axes, as a lens does.

    Args:
        plane: float32 (H, W).
        edge: Weight of each neighbour, 0 to 1/3.
    """
    for axis in (0, 1):
        moved = np.moveaxis(plane, axis, 0)
        inner = moved[1:-1] * np.float32(1 - 2 * edge)
        inner += np.float32(edge) * moved[:-2]
        inner += np.float32(edge) * moved[2:]
        moved[1:-1] = inner
