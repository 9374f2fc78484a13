"""Planting labels on a map: what web maps write over it, with the pixels that it covers known.

    drawn = town.map()
    labelled, covered = plant_labels(drawn, town.features, seed=3)

Text is set in the typeface that OpenCV 5 carries inside, so no font of the system is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from terramorph.cartography import Feature
from terramorph.errors import MissingPackageError, RasterError
from terramorph.raster.raster import Raster

LABEL_KINDS: tuple[str, ...] = ("place", "street", "shield", "poi", "arrow", "number")
"""Kinds of labels, in the order in which they take their place."""

CHANGED = 8
"""A pixel belongs to a label where planting moved one of its bands by more grey levels than this."""

_PER_TILE = {"place": 0.2, "street": 4.5, "shield": 0.6, "poi": 2.5, "arrow": 2.0, "number": 2.5}
_ROOM = {"street": (45, 75), "shield": (15, 15), "arrow": (12, 12)}  # px of straight road to both sides
_CLEAR = {"place": 0.0, "street": 0.0, "shield": 0.0, "poi": 18.0, "arrow": 0.0, "number": 12.0}  # px off roads
_STREETS, _MAINS = ("road", "arterial"), ("highway", "arterial")  # kinds of features
_SPARE = 8  # px of road that a street's name leaves free at both ends
_BENT = 2.5  # px off the straight
_SUPER = 4  # icons and arrows are drawn this much larger and then reduced
_WHITE, _GREY, _DARK = (255, 255, 255), (128, 134, 139), (74, 78, 84)
_POI = ((66, 133, 244), (232, 113, 10), (219, 68, 55), (30, 142, 62), (95, 99, 104), (112, 117, 199), (216, 27, 96))
_PLATES = (((26, 87, 178), _WHITE), ((188, 40, 36), _WHITE), ((255, 255, 255), (50, 50, 50)), ((20, 120, 80), _WHITE))
_FIRST = ("Linden", "Market", "Church", "Mill", "River", "Garden", "Station", "Oak", "Königs", "Сервис", "Базарная")
_LAST = {"Сервис": ("-роуд",), "Базарная": (" ул.",)}
_SHOPS = (
    "Bakery",
    "Hotel Visava",
    "City Clinic",
    "Café Rosa",
    "Museum",
    "Pharmacy",
    "Школа",
    "Магазин",
    "咖啡店",
    "Bank",
)
_PLACES = ("Altstadt", "Riverside", "New Town", "Нижний посад", "Westend", "中央区", "Old Harbour")


class _Stamp(NamedTuple):
    """A label before it is laid on the map: float32 layers (h, w) in [0, 1], each with a colour, lowest first; and the
    (x, y) in it that lies on its place, by default its middle."""

    layers: tuple[tuple[NDArray[np.float32], tuple[int, int, int]], ...]
    anchor: tuple[int, int] | None = None

    @property
    def cover(self) -> NDArray[np.bool_]:
        """bool (h, w): where anything shows."""
        return np.asarray(np.max([layer for layer, _ in self.layers], axis=0) > 0.02)


class _Way(NamedTuple):
    """A place: pixels, the direction of the road there in radians (y down), and for how many pixels to both sides of
    the place the road is straight."""

    x: float
    y: float
    angle: float = 0.0
    room: float = 0.0


def plant_labels(
    drawn: Raster,
    features: Sequence[Feature],
    seed: int | np.random.Generator = 0,
    density: float = 1.0,
    kinds: Sequence[str] = LABEL_KINDS,
) -> tuple[Raster, NDArray[np.bool_]]:
    """Write labels over a map; no two touch.

    Args:
        drawn: uint8 (3, H, W) RGB.
        features: What it shows, in the CRS of its grid; names and arrows follow the lines among them.
        seed: The same seed plants the same labels.
        density: 1 is a busy web map, about eleven labels for each 256 x 256 pixels.
        kinds: Which of `LABEL_KINDS`.

    Returns:
        The map with labels, and bool (H, W): the pixels they changed by more than `CHANGED` grey levels.

    Raises:
        RasterError: If the map is not uint8 RGB, or a kind is unknown.
        MissingPackageError: If OpenCV is older than 5 and carries no typeface.
    """
    if drawn.dtype != np.uint8 or drawn.count != 3:
        raise RasterError(f"Labels go on uint8 RGB maps, not on {drawn.dtype} with {drawn.count} bands; convert it.")
    if unknown := set(kinds) - set(LABEL_KINDS):
        raise RasterError(f"There are no labels of the kinds {sorted(unknown)}; choose from {', '.join(LABEL_KINDS)}.")
    if not hasattr(cv2, "FontFace"):
        raise MissingPackageError("Planting labels needs the typeface of OpenCV 5; install opencv-python-headless>=5.")
    rng = np.random.default_rng(seed)
    rgb = np.ascontiguousarray(drawn.pixels.transpose(1, 2, 0))
    taken = np.zeros(rgb.shape[:2], np.bool_)
    streets, mains, all_roads = (_lines(drawn, features, kinds) for kinds in (_STREETS, _MAINS, _STREETS + _MAINS))
    roads = shapely.STRtree(all_roads)
    tiles = drawn.height * drawn.width / 256**2
    for kind in LABEL_KINDS:
        for _ in range(rng.poisson(_PER_TILE[kind] * density * tiles) if kind in kinds else 0):
            way: _Way | None = _off_roads(drawn, roads, _CLEAR[kind], rng)
            if kind in _ROOM:
                way = _on_line(drawn, mains if kind == "shield" else streets, float(rng.uniform(*_ROOM[kind])), rng)
            stamp = None if way is None else _MAKERS[kind](rng, way)
            if way is not None and stamp is not None:
                _lay(rgb, taken, stamp, way)
    pixels = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    moved = np.abs(pixels.astype(np.int16) - drawn.pixels).max(axis=0) > CHANGED
    return Raster(pixels, drawn.mask, drawn.grid, drawn.bands), moved


def _lines(drawn: Raster, features: Sequence[Feature], kinds: tuple[str, ...]) -> list[shapely.LineString]:
    """The lines of these kinds, in pixels."""
    inverse = ~drawn.grid.affine

    def to_pixels(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        matrix = np.array([[inverse.a, inverse.b], [inverse.d, inverse.e]])
        return np.asarray(xy @ matrix.T + [inverse.c, inverse.f])

    parts = [p for f in features if f.kind in kinds for p in shapely.get_parts(f.geometry).tolist()]
    return [shapely.transform(p, to_pixels) for p in parts if p.geom_type == "LineString"]


def _off_roads(drawn: Raster, roads: shapely.STRtree, clear: float, rng: np.random.Generator) -> _Way:
    """A place ``clear`` px off the middle of any road, as far as one is found."""
    for _ in range(12):
        way = _Way(float(rng.uniform(0, drawn.width)), float(rng.uniform(0, drawn.height)))
        if not len(roads.query(shapely.Point(way.x, way.y), predicate="dwithin", distance=clear)):
            break
    return way


def _on_line(drawn: Raster, lines: list[shapely.LineString], room: float, rng: np.random.Generator) -> _Way | None:
    """A place on one of the lines, long lines more often, where it runs straight for ``room`` px to both sides and no
    other road lies over it; None where none is found."""
    long = [line for line in lines if line.length > 2 * room]
    lengths = np.array([line.length for line in long])
    for _ in range(4 if long else 0):
        line = long[int(rng.choice(len(long), p=lengths / lengths.sum()))]
        at = float(rng.uniform(room, line.length - room))
        steps = shapely.get_coordinates(shapely.line_interpolate_point(line, at + room * np.linspace(-1, 1, 5)))
        straight = np.abs(steps - np.linspace(steps[0], steps[-1], 5)).max() <= _BENT
        if straight and _open(drawn, np.linspace(steps[0], steps[-1], int(room))):
            east, south = steps[-1] - steps[0]
            return _Way(float(steps[2, 0]), float(steps[2, 1]), float(np.arctan2(south, east)), room)
    return None


def _open(drawn: Raster, points: NDArray[np.float64]) -> bool:
    """Whether the map has one colour at all of these pixels (x, y) that it shows."""
    x, y = np.floor(points).astype(int).T
    shown = (x >= 0) & (y >= 0) & (x < drawn.width) & (y < drawn.height)
    colours = drawn.pixels[:, y[shown], x[shown]].astype(np.int16)
    return bool(shown.any() and (colours.max(axis=1) - colours.min(axis=1)).max() <= CHANGED)


def _lay(rgb: NDArray[np.uint8], taken: NDArray[np.bool_], stamp: _Stamp, way: _Way) -> None:
    """Lay a stamp on the map, centred; not at all where another label would be touched."""
    height, width = stamp.cover.shape
    x, y = (width / 2, height / 2) if stamp.anchor is None else stamp.anchor
    top, left = round(way.y - y), round(way.x - x)
    rows = slice(max(top, 0), min(top + height, rgb.shape[0]))
    columns = slice(max(left, 0), min(left + width, rgb.shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    cover = cv2.dilate(stamp.cover.astype(np.uint8), np.ones((7, 7), np.uint8))[inside] > 0
    if (taken[rows, columns] & cover).any():
        return
    taken[rows, columns] |= cover
    for layer, colour in stamp.layers:
        weight = layer[inside][..., None]
        under = rgb[rows, columns].astype(np.float32)
        rgb[rows, columns] = np.rint(under + weight * (np.array(colour, np.float32) - under)).astype(np.uint8)


def _text(text: str, size: int, weight: int) -> NDArray[np.float32]:
    """Coverage float32 (h, w) in [0, 1] of a line of text, with 4 px of room around it."""
    face = cv2.FontFace("sans")
    canvas = np.zeros((3 * size, 2 * size * len(text) + 2 * size), np.uint8)
    cv2.putText(canvas, text, (size, 2 * size), 255, face, size, weight)
    rows, columns = np.nonzero(canvas.any(axis=1))[0], np.nonzero(canvas.any(axis=0))[0]
    inked = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.pad(inked.astype(np.float32) / np.float32(255), 4)


def _with_halo(ink: NDArray[np.float32], colour: tuple[int, int, int], halo: float, turn: float = 0.0) -> _Stamp:
    """Ink in a colour over a white halo of ``halo`` px, turned by an angle in radians, y down."""
    if turn:
        reach = int(np.ceil(np.hypot(*ink.shape))) + 2
        matrix = cv2.getRotationMatrix2D((ink.shape[1] / 2, ink.shape[0] / 2), -np.degrees(turn), 1.0)
        matrix[:, 2] += reach / 2 - ink.shape[1] / 2, reach / 2 - ink.shape[0] / 2
        ink = cv2.warpAffine(ink, matrix, (reach, reach), flags=cv2.INTER_CUBIC).clip(0, 1)
    side = 2 * int(np.ceil(halo)) + 1
    wide = cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    glow = cv2.GaussianBlur(wide, (3, 3), 0.6).clip(0, 1) if halo > 0 else ink * 0
    return _Stamp(((np.asarray(glow, np.float32), _WHITE), (np.asarray(ink, np.float32), colour)))


def _name(rng: np.random.Generator) -> str:
    """A street name."""
    first = str(rng.choice(_FIRST))
    return first + str(rng.choice(_LAST.get(first, (" St", " Rd", " Avenue", "straße", " Lane"))))


def _street(rng: np.random.Generator, way: _Way) -> _Stamp | None:
    """A street's name along it, never upside down; none where it does not fit."""
    upright = (way.angle + np.pi / 2) % np.pi - np.pi / 2
    ink = _text(_name(rng), int(rng.integers(9, 15)), int(rng.choice((400, 500))))
    if ink.shape[1] > 2 * (way.room - _SPARE):
        return None
    return _with_halo(ink, _DARK if rng.random() < 0.6 else _GREY, float(rng.choice((1, 2))), upright)


def _place(rng: np.random.Generator, way: _Way) -> _Stamp:
    """The name of a part of the town."""
    ink = _text(str(rng.choice(_PLACES)), int(rng.integers(15, 23)), int(rng.choice((400, 600))))
    return _with_halo(ink, (60, 64, 67) if rng.random() < 0.7 else (110, 110, 120), 2)


def _number(rng: np.random.Generator, way: _Way) -> _Stamp:
    """A house number, often without a halo."""
    ink = _text(str(rng.integers(1, 180)), int(rng.integers(8, 11)), 400)
    return _with_halo(ink, (130, 130, 130), float(rng.choice((0, 1))))


def _reduced(canvas: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A canvas drawn `_SUPER` times too large, as coverage in [0, 1]."""
    small = cv2.resize(canvas, None, fx=1 / _SUPER, fy=1 / _SUPER, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)


def _poi(rng: np.random.Generator, way: _Way) -> _Stamp:
    """A disc, pin or square with a white sign, and a name in its colour to the right."""
    side = 30 * _SUPER
    disc, sign = np.zeros((2, side, side), np.uint8)
    middle, radius = side // 2, int(rng.integers(6, 10)) * _SUPER
    shape = rng.choice(("disc", "pin", "square"))
    if shape == "square":
        cv2.rectangle(disc, (middle - radius, middle - radius), (middle + radius, middle + radius), 255, -1)
    else:
        cv2.circle(disc, (middle, middle), radius, 255, -1)
    if shape == "pin":
        tip = [(middle - radius * 9 // 10, middle + radius // 2), (middle + radius * 9 // 10, middle + radius // 2)]
        cv2.fillPoly(disc, [np.array([*tip, (middle, middle + radius * 17 // 10)], np.int32)], 255)
    if rng.random() < 0.4:
        cv2.circle(sign, (middle, middle), radius * 2 // 5, 255, -1)
    else:
        cv2.line(sign, (middle, middle - radius // 2), (middle, middle + radius // 2), 255, radius // 4)
        cv2.line(sign, (middle - radius // 2, middle), (middle + radius // 2, middle), 255, radius // 4)
    icon = _reduced(disc)
    name = _text(str(rng.choice(_SHOPS)), int(rng.integers(10, 14)), 400)
    ink = np.zeros((max(30, name.shape[0]), 26 + name.shape[1]), np.float32)
    ink[:30, :30] = icon
    top = 15 - name.shape[0] // 2
    ink[top : top + name.shape[0], 26:] = np.maximum(ink[top : top + name.shape[0], 26:], name)
    white = np.zeros_like(ink)
    white[:30, :30] = _reduced(sign)
    stamp = _with_halo(ink, _POI[int(rng.integers(len(_POI)))], float(rng.choice((1, 2))))
    return _Stamp((*stamp.layers, (white, _WHITE)), (15, 15))


def _shield(rng: np.random.Generator, way: _Way) -> _Stamp:
    """The plate of a main road with its number."""
    plate, sign = _PLATES[int(rng.integers(len(_PLATES)))]
    name = _text(str(rng.choice(("A 4", "E30", "12", "B 96", "101"))), int(rng.integers(9, 12)), 600)
    height, width = name.shape[0] + 2, name.shape[1] + 2
    canvas = np.zeros((height * _SUPER, width * _SUPER), np.uint8)
    edge = _SUPER
    cv2.rectangle(canvas, (edge, edge), (width * _SUPER - edge, height * _SUPER - edge), 255, -1)
    rim = _reduced(canvas)
    cv2.rectangle(canvas, (0, 0), (width * _SUPER, height * _SUPER), 0, 2 * edge + _SUPER)
    return _Stamp(((rim, sign if plate == _WHITE else _WHITE), (_reduced(canvas), plate), (np.pad(name, 1), sign)))


def _arrow(rng: np.random.Generator, way: _Way) -> _Stamp:
    """A small grey arrow along a road, as for one-way streets."""
    long, side = float(rng.uniform(5, 8)) * _SUPER, 24 * _SUPER
    canvas = np.zeros((side, side), np.uint8)
    along = np.array([np.cos(way.angle), np.sin(way.angle)])
    tail, tip = (side / 2 - along * long).round().astype(int), (side / 2 + along * long).round().astype(int)
    cv2.arrowedLine(canvas, tail.tolist(), tip.tolist(), 255, int(1.5 * _SUPER), cv2.LINE_8, 0, 0.35)
    shade = int(rng.integers(130, 176))
    return _Stamp(((_reduced(canvas), (shade, shade + 2, shade + 6)),))


_MAKERS: dict[str, Callable[[np.random.Generator, _Way], _Stamp | None]] = {
    "place": _place,
    "street": _street,
    "shield": _shield,
    "poi": _poi,
    "arrow": _arrow,
    "number": _number,
}
