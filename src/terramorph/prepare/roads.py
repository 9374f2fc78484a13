"""Leading edges of roads, water and parks on under the labels that hide them.

Around a label the colours of the map take turns. Where one changes to another, an edge runs under the label, and it
comes out again on another side: two such places belong together where the same two colours meet and the straight
line between them goes on in the direction of the edge at both. These lines divide what the label hides.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_GAP = 11  # px between the words of one name
_LONGEST = 150  # px: labels beyond this are left to their nearest colours
_AWAY = 2  # px from a label at which its outline is followed
_NEAR = 10  # grey levels from a palette colour
_ALIKE = 16  # grey levels between palette colours that are not led on but left to nearness, as houses on land
_SHORTEST = 3  # px of outline of the shortest stretch of one colour
_STEPS = (1, 3, 5, 7, 9, 11)  # px from the outline at which a line is looked at
_BESIDE = 3  # px to both sides of it
_WEAKER, _STRONGER = 0.3, 0.8  # shares of pixels there of the right colour, at the worse and the better end


class Colours:
    """The palette of a map, and which of its colours are told apart here.

    Attributes:
        palette: uint8 (K, 3).
        group: int64 (K,): colours that are alike have the number of the most frequent one among them.
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


class _Ring(NamedTuple):
    """An outline around a label.

    Attributes:
        points: int32 (N, 2), x and y.
        groups: int64 (N,), the colour at each.
        edges: int64 (M,), the places where another colour begins.
    """

    points: NDArray[np.int32]
    groups: NDArray[np.int64]
    edges: NDArray[np.int64]

    def pair(self, edge: int) -> tuple[int, int]:
        """The colours before and behind an edge."""
        return int(self.groups[edge - 1]), int(self.groups[edge])


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
    room = _AWAY + _STEPS[-1] + 4
    for number in range(1, count):
        left, top, width, height = stats[number, :4].tolist()
        if max(width, height) > _LONGEST:
            continue
        window = slice(max(top - room, 0), top + height + room), slice(max(left - room, 0), left + width + room)
        label = parts[window] == number
        wanted = _divide(label, image[window], plain[window], colours)
        if wanted is None:
            continue
        inside = label & free[window]
        now = np.full(label.shape, -1)
        now[inside] = colours.of(painted[window][inside])
        change = inside & (wanted != now)
        painted[window][change] = palette[wanted[change]]


def _divide(
    label: NDArray[np.bool_], view: NDArray[np.uint8], plain: NDArray[np.bool_], colours: Colours
) -> NDArray[np.int16] | None:
    """The colour (H, W) that each pixel of a label hides, by number; None where all around it is one colour."""
    contours, _ = cv2.findContours(label.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    body = np.zeros(label.shape, np.uint8)
    cv2.fillConvexPoly(body, cv2.convexHull(np.concatenate(contours)), 1)
    ring = _ring(body, _AWAY, view, plain, colours)
    if ring is None or len(ring.edges) < 2:
        return None
    walls = np.zeros(label.shape, np.uint8)
    cv2.fillPoly(walls, [ring.points], 1)
    for one, other in _matches(ring, view, colours):
        cv2.line(walls, ring.points[one].tolist(), ring.points[other].tolist(), 0, 1, cv2.LINE_4)
    return _fill(walls, ring)


def _ring(
    body: NDArray[np.uint8], away: int, view: NDArray[np.uint8], plain: NDArray[np.bool_], colours: Colours
) -> _Ring | None:
    """The outline some pixels away from a label; None where too little of it is known."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * away + 1, 2 * away + 1))
    points = cv2.findContours(cv2.dilate(body, disc), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0][:, 0]
    groups = colours.of(view[points[:, 1], points[:, 0]])
    groups[~plain[points[:, 1], points[:, 0]]] = -1
    for _ in range(2):  # the second time without the stretches that were too short
        sure = np.flatnonzero(groups >= 0)
        if len(sure) < 8:
            return None
        full = groups[_closest(len(groups), sure)]
        edges = np.flatnonzero(full != np.roll(full, 1))
        for start, length in zip(edges, np.diff(edges, append=edges[:1] + len(full)), strict=True):
            if length < _SHORTEST:
                groups[np.arange(start, start + length) % len(groups)] = -1
    return _Ring(points, full, edges)


def _closest(count: int, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of ``count`` places on a ring, the closest of the chosen ones (sorted)."""
    around = np.concatenate([chosen[-1:] - count, chosen, chosen[:1] + count])
    after = np.searchsorted(around, np.arange(count)).clip(1, len(around) - 1)
    first = np.arange(count) - around[after - 1] <= around[after] - np.arange(count)
    return np.asarray(np.where(first, around[after - 1], around[after]) % count)


def _matches(ring: _Ring, view: NDArray[np.uint8], colours: Colours) -> list[tuple[int, int]]:
    """Pairs of edges that are two ends of one edge, the best first, none of their lines crossing another."""
    edges = ring.edges.tolist()
    rated = []
    for i, one in enumerate(edges):
        for other in edges[i + 1 :]:
            if ring.pair(one) == ring.pair(other)[::-1]:
                scores = _straight(ring, one, other, view, colours)
                if min(scores) >= _WEAKER and max(scores) >= _STRONGER:
                    rated.append((-sum(scores), one, other))
    kept: list[tuple[int, int]] = []
    for _, one, other in sorted(rated):
        if not any(_cross((one, other), pair) for pair in kept):
            kept.append((one, other))
    return kept + _closed(ring, kept)


def _straight(
    ring: _Ring, one: int, other: int, view: NDArray[np.uint8], colours: Colours
) -> tuple[float, float]:
    """How well the line between two edges goes on as an edge outside, at each end: shares of the pixels beside it."""
    step = (ring.points[other] - ring.points[one]).astype(np.float64)
    along = step / max(float(np.hypot(*step)), 1.0)
    across = np.array([-along[1], along[0]])  # to the right of the way from one to the other, y down
    before, behind = ring.pair(one)
    scores = []
    for edge, outward in ((one, -along), (other, along)):
        line = ring.points[edge] + outward * np.array(_STEPS, np.float64)[:, None]
        found = []
        for side, wanted in ((-_BESIDE, before), (_BESIDE, behind)):
            x, y = np.rint(line + side * across).astype(int).T
            shown = (x >= 0) & (y >= 0) & (x < view.shape[1]) & (y < view.shape[0])
            found.append((colours.of(view[y[shown], x[shown]]) == wanted).sum() / len(_STEPS))
        scores.append(float(min(found)))
    return scores[0], scores[1]


def _cross(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two lines between places on a ring cross or meet."""
    if set(one) & set(other):
        return True
    low, high = sorted(one)
    return (low < other[0] < high) != (low < other[1] < high)


def _closed(ring: _Ring, kept: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Lines that cut off the stretches which end under the label, the narrowest first."""
    taken = list(kept)
    while True:
        free = [e for e in ring.edges.tolist() if all(e not in pair for pair in taken)]
        pairs = [
            (float(np.hypot(*(ring.points[a] - ring.points[b]))), a, b)
            for a, b in zip(free, free[1:] + free[:1], strict=True)
            if a != b and ring.pair(a) == ring.pair(b)[::-1] and not any(_cross((a, b), pair) for pair in taken)
        ]
        if not pairs:
            return taken[len(kept) :]
        _, a, b = min(pairs)
        taken.append((a, b))


def _fill(walls: NDArray[np.uint8], ring: _Ring) -> NDArray[np.int16]:
    """Every pixel with the colour of the nearest piece of outline in its own part; walls with the nearest at all."""
    height, width = walls.shape
    _, parts = cv2.connectedComponents(walls, connectivity=4)
    x, y = ring.points.T
    wanted = np.full((height, width), -1, np.int16)
    owner = parts[y, x]
    for part in range(1, int(parts.max()) + 1):
        groups = ring.groups[owner == part]
        if len(groups):
            values, counts = np.unique(groups, return_counts=True)
            wanted[parts == part] = values[counts.argmax()]
    _, numbers = cv2.distanceTransformWithLabels(
        (wanted < 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(numbers.max()) + 1, np.int16)
    table[numbers[wanted >= 0]] = wanted[wanted >= 0]
    return np.asarray(table[numbers])
