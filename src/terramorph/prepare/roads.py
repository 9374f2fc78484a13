"""Leading roads and shores on under the labels that hide them.

Around a label the ground, roads, water and parks take turns. What meets the outline of the label in one stretch ends
at the straight line between the ends of that stretch; what meets it in two narrow stretches that face each other is
a road that passes below.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

REACH = 44
"""Pixels outside a label that are looked at."""

_GAP = 11  # px between the words of one name
_LONGEST = 150  # px: labels beyond this are left to their nearest colours
_WIDEST = 46  # px of outline that a road may cross
_AWAY = 2  # px from a label at which its outline is followed
_NEAR = 10  # grey levels from a palette colour
_ALIKE = 16  # grey levels between palette colours that are told apart by nearness alone, as houses are from land
_SHORT = 1  # px outside the label for which a road must go on straight at one end, which may be a junction
_LONG = 12  # and at the other
_SLENDER = 1.0  # and how many times the road's width


class _Port(NamedTuple):
    """A stretch of one colour on the outline of a label: points int32 (N, 2) as x, y, and the number of the colour."""

    points: NDArray[np.int32]
    colour: int

    @property
    def centre(self) -> NDArray[np.float64]:
        """(x, y)."""
        return np.asarray(self.points.mean(axis=0))

    @property
    def width(self) -> float:
        """Distance of its ends."""
        return float(np.hypot(*(self.points[-1] - self.points[0])))


class Colours:
    """The palette of a map, and which of its colours are told apart here.

    Attributes:
        palette: uint8 (K, 3).
        group: (K,): colours alike have the number of the most frequent one among them.
    """

    def __init__(self, palette: NDArray[np.uint8]) -> None:
        self.palette = palette
        group: list[int] = []
        for k, colour in enumerate(palette.astype(np.int16)):
            leaders = [j for j in range(k) if group[j] == j and np.abs(colour - palette[j]).max() <= _ALIKE]
            group.append(leaders[0] if leaders else k)
        self.group = np.array(group, np.int64)

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The groups of pixels (N, 3), -1 where no colour of the palette is near."""
        distance: NDArray[Any] = np.abs(pixels[:, None].astype(np.int16) - self.palette.astype(np.int16)).max(axis=2)
        best = distance.argmin(axis=1)
        return np.where(distance[np.arange(len(best)), best] <= _NEAR, self.group[best], -1)


def lead_on(
    painted: NDArray[np.uint8],
    image: NDArray[np.uint8],
    area: NDArray[np.bool_],
    free: NDArray[np.bool_],
    plain: NDArray[np.bool_],
    palette: NDArray[np.uint8],
) -> None:
    """Correct what labels were painted over with, in place.

    Args:
        painted: uint8 (H, W, 3), the map with its labels painted over from the nearest colours.
        image: uint8 (H, W, 3), the map with its labels.
        area: bool (H, W), the labels.
        free: bool (H, W), those of its pixels that may be painted.
        plain: bool (H, W), flat colour outside the labels.
        palette: uint8 (K, 3), the most frequent first.
    """
    colours = Colours(palette)
    if len(np.unique(colours.group)) < 2:
        return
    whole = cv2.morphologyEx(area.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((_GAP, _GAP), np.uint8))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(whole, connectivity=8)
    for number in range(1, count):
        left, top, width, height = stats[number, :4].tolist()
        if max(width, height) > _LONGEST:
            continue
        window = (
            slice(max(top - REACH, 0), top + height + REACH),
            slice(max(left - REACH, 0), left + width + REACH),
        )
        label = parts[window] == number
        ports = _ports(image[window], label, plain[window], colours)
        if len(ports) < 2:
            continue
        inside = label & free[window]
        now = np.full(label.shape, -1)
        now[inside] = colours.of(painted[window][inside])
        wanted = np.full(label.shape, -1, np.int16)
        for port in sorted(ports, key=lambda p: -len(p.points)):
            cv2.fillPoly(wanted, [port.points], port.colour)
        _share_rest(wanted, ports)
        for strip, colour in _strips(image[window], ports, colours):
            wanted[strip > 0] = colour
        change = inside & (wanted >= 0) & (wanted != now)
        painted[window][change] = palette[wanted[change]]


def _share_rest(wanted: NDArray[np.int16], ports: list[_Port]) -> None:
    """Give what no stretch cuts off to the nearest one that is not of the longest one's colour, in place."""
    longest = max(ports, key=lambda p: len(p.points)).colour
    seeds = np.full(wanted.shape, -1, np.int16)
    for port in ports:
        if port.colour != longest:
            seeds[port.points[:, 1], port.points[:, 0]] = port.colour
    _, numbers = cv2.distanceTransformWithLabels(
        (seeds < 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(numbers.max()) + 1, np.int16)
    table[numbers[seeds >= 0]] = seeds[seeds >= 0]
    rest = wanted < 0
    wanted[rest] = table[numbers[rest]]


def _ports(
    view: NDArray[np.uint8], label: NDArray[np.bool_], plain: NDArray[np.bool_], colours: Colours
) -> list[_Port]:
    """The stretches of one colour along the outline of a label; none where it is all one colour."""
    contours, _ = cv2.findContours(label.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    body = np.zeros(label.shape, np.uint8)
    cv2.fillConvexPoly(body, cv2.convexHull(np.concatenate(contours)), 1)
    body = cv2.dilate(body, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _AWAY + 1, 2 * _AWAY + 1)))
    outline = cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0][:, 0]
    found = colours.of(view[outline[:, 1], outline[:, 0]])
    found[~plain[outline[:, 1], outline[:, 0]]] = -1
    sure = np.flatnonzero(found >= 0)
    if len(sure) < 8:
        return []
    found = found[_closest(len(found), sure)]
    changes = np.flatnonzero(found != np.roll(found, 1))
    if len(changes) < 2:
        return []
    outline, found = np.roll(outline, -changes[0], axis=0), np.roll(found, -changes[0])
    pieces = np.split(np.arange(len(found)), changes[1:] - changes[0])
    return [_Port(outline[p].astype(np.int32), int(found[p[0]])) for p in pieces if len(p) >= 3]


def _closest(count: int, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of ``count`` places on a ring, the closest of the chosen ones (sorted)."""
    around = np.concatenate([chosen[-1:] - count, chosen, chosen[:1] + count])
    after = np.searchsorted(around, np.arange(count)).clip(1, len(around) - 1)
    first = np.arange(count) - around[after - 1] <= around[after] - np.arange(count)
    return np.asarray(np.where(first, around[after - 1], around[after]) % count)


def _strips(view: NDArray[np.uint8], ports: list[_Port], colours: Colours) -> list[tuple[NDArray[np.uint8], int]]:
    """(mask, colour) of the straight pieces of road between ports that face each other, the widest first."""
    found = []
    ground = max(ports, key=lambda p: len(p.points)).colour
    narrow = [p for p in ports if len(p.points) <= _WIDEST and p.colour != ground]
    for one, other in combinations(narrow, 2):
        axis = other.centre - one.centre
        length = float(np.hypot(*axis))
        if one.colour != other.colour or length < 4:
            continue
        runs = sorted((_run(view, one, -axis / length, colours), _run(view, other, axis / length, colours)))
        width = (one.width + other.width) / 2
        if runs[0] < _SHORT or runs[1] < min(max(_LONG, _SLENDER * width), REACH - 4):
            continue
        strip = np.zeros(view.shape[:2], np.uint8)
        cv2.fillConvexPoly(strip, cv2.convexHull(np.concatenate([one.points, other.points])), 1)
        found.append((width, strip, one.colour))
    found.sort(key=lambda item: -item[0])
    return [(strip, colour) for _, strip, colour in found]


def _run(view: NDArray[np.uint8], port: _Port, outward: NDArray[np.float64], colours: Colours) -> int:
    """For how many pixels, `REACH` at most, the road goes on straight outside a port."""
    x, y = np.rint(port.centre + outward * np.arange(1, REACH)[:, None]).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < view.shape[1]) & (y < view.shape[0])
    off = colours.of(view[y[inside], x[inside]]) != port.colour
    return int(off.argmax()) if off.any() else len(off)
