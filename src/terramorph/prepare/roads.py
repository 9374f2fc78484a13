"""Leading roads on under the labels that hide them.

A road that passes under a label meets its outline twice, in two short stretches of one colour. Between two such
stretches that face each other, the road is painted straight.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_GAP = 11  # px between the words of one name
_LONGEST = 150  # px: labels beyond this are left to their nearest colours
_WIDEST = 46  # px of outline that a road may cross
_AWAY = 2  # px from a label at which its outline is followed
_NEAR = 10  # grey levels from a palette colour
_BESIDE = 24  # grey levels from a palette colour, between letters
_VISIBLE = 0.35  # share of the pixels between the letters that must have the road's colour
_LONG = 12  # px outside the label for which a road must go on straight at one end
_SHORT = 1  # and at the other, which may be a junction


class _Port(NamedTuple):
    """Where something of one colour meets the outline of a label."""

    points: NDArray[np.int32]
    colour: int

    @property
    def centre(self) -> NDArray[np.float64]:
        """(x, y)."""
        return np.asarray(self.points.mean(axis=0))


def lead_roads(
    painted: NDArray[np.uint8],
    image: NDArray[np.uint8],
    area: NDArray[np.bool_],
    free: NDArray[np.bool_],
    plain: NDArray[np.bool_],
    ink: NDArray[np.bool_],
    palette: NDArray[np.uint8],
) -> None:
    """Paint roads under labels, in place.

    Args:
        painted: uint8 (H, W, 3), the map with its labels painted over so far; only ``area`` is changed.
        image: uint8 (H, W, 3), the map with its labels.
        area: bool (H, W), the labels.
        free: bool (H, W), those of its pixels that may be painted.
        plain: bool (H, W), flat colour outside the labels.
        ink: bool (H, W), their letters and signs.
        palette: uint8 (K, 3).
    """
    if not len(palette):
        return
    room = _LONG + _AWAY + 2
    whole = cv2.morphologyEx(area.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((_GAP, _GAP), np.uint8))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(whole, connectivity=8)
    for number in range(1, count):
        left, top, width, height = stats[number, :4].tolist()
        if max(width, height) > _LONGEST:
            continue
        rows, columns = slice(max(top - room, 0), top + height + room), slice(max(left - room, 0), left + width + room)
        label = (parts[rows, columns] == number).astype(np.uint8)
        view = image[rows, columns]
        ports = _ports(view, label, plain[rows, columns], palette)
        between = (label > 0) & ~ink[rows, columns]
        inside = (label > 0) & free[rows, columns]
        for shape, colour in _corners(ports, label.shape, palette) + _strips(view, ports, between, palette):
            painted[rows, columns][(shape > 0) & inside] = colour


def _classes(colours: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The palette colour that colours (N, 3) are, -1 where none is near."""
    distance: NDArray[Any] = np.abs(colours[:, None].astype(np.int16) - palette.astype(np.int16)).max(axis=2)
    best = distance.argmin(axis=1)
    return np.where(distance[np.arange(len(best)), best] <= _NEAR, best, -1)


def _corners(
    ports: list[_Port], shape: tuple[int, ...], palette: NDArray[np.uint8]
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """(mask, colour) of what each port cuts off a label straight between its ends, the widest first."""
    found = []
    for port in sorted(ports, key=lambda p: -len(p.points)):
        mask = np.zeros(shape, np.uint8)
        cv2.fillPoly(mask, [port.points], 1)
        found.append((mask, palette[port.colour]))
    return found


def _ports(
    view: NDArray[np.uint8], label: NDArray[np.uint8], plain: NDArray[np.bool_], palette: NDArray[np.uint8]
) -> list[_Port]:
    """The stretches of one colour along the outline of a label; none where it is all one colour."""
    contours, _ = cv2.findContours(label, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    body = np.zeros_like(label)
    cv2.fillConvexPoly(body, cv2.convexHull(np.concatenate(contours)), 1)
    body = cv2.dilate(body, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _AWAY + 1, 2 * _AWAY + 1)))
    outline = cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0][:, 0]
    found = _classes(view[outline[:, 1], outline[:, 0]], palette)
    found[~plain[outline[:, 1], outline[:, 0]]] = -1
    outline, found = outline[found >= 0], found[found >= 0]
    if len(outline) < 8:
        return []
    changes = np.flatnonzero(found != np.roll(found, 1))
    if len(changes) < 2:
        return []
    outline, found = np.roll(outline, -changes[0], axis=0), np.roll(found, -changes[0])
    pieces = np.split(np.arange(len(found)), changes[1:] - changes[0])
    return [_Port(outline[p].astype(np.int32), int(found[p[0]])) for p in pieces if len(p) >= 3]


def _strips(
    view: NDArray[np.uint8],
    ports: list[_Port],
    between: NDArray[np.bool_],
    palette: NDArray[np.uint8],
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """(mask, colour) of the straight pieces of road between ports that face each other, the widest first."""
    found = []
    for one, other in combinations([p for p in ports if len(p.points) <= _WIDEST], 2):
        if one.colour != other.colour:
            continue
        axis = other.centre - one.centre
        length = float(np.hypot(*axis))
        colour = palette[one.colour]
        if length < 4:
            continue
        runs = sorted((_run(view, one, -axis / length, colour), _run(view, other, axis / length, colour)))
        if runs[0] < _SHORT or runs[1] < _LONG:
            continue
        strip = np.zeros(view.shape[:2], np.uint8)
        cv2.fillConvexPoly(strip, cv2.convexHull(np.concatenate([one.points, other.points])), 1)
        seen = view[(strip > 0) & between].astype(np.int16)
        if len(seen) and (np.abs(seen - colour).max(axis=1) <= _BESIDE).mean() >= _VISIBLE:
            found.append((len(one.points) + len(other.points), strip, colour))
    found.sort(key=lambda item: -item[0])
    return [(strip, colour) for _, strip, colour in found]


def _run(view: NDArray[np.uint8], port: _Port, outward: NDArray[np.float64], colour: NDArray[np.uint8]) -> int:
    """For how many pixels, `_LONG` at most, the road goes on straight outside a port."""
    x, y = np.rint(port.centre + outward * np.arange(1, _LONG + 1)[:, None]).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < view.shape[1]) & (y < view.shape[0])
    off = np.abs(view[y[inside], x[inside]].astype(np.int16) - colour).max(axis=1) > _NEAR
    return int(off.argmax()) if off.any() else len(off)
