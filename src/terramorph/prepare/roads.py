"""Leading edges of roads, water and parks on under the labels that hide them.

Around a label the colours of the map take turns. Where one changes to another, an edge runs under the label, and it
comes out again on another side: two such places belong together where the same two colours meet and the straight
line between them goes on in the direction of the edge at both. These lines divide what the label hides.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_OUTSIDE = -2  # stands for the colour of what lies outside the image
_GAP = 11  # px between the words of one name
_LONGEST = 150  # px: labels beyond this are left to their nearest colours
_AWAY = (2, 4, 6)  # px from a label at which its outline is followed, until all edges go on
_NEAR = 10  # grey levels from a palette colour
_ALIKE = 16  # grey levels between palette colours that are not led on but left to nearness, as houses on land
_SHORTEST = 3  # px of outline of the shortest stretch of one colour
_STEPS = (1, 3, 5, 7, 9, 11)  # px from the outline at which a line is looked at
_BESIDE = 2  # px to both sides of it
_STRONG = 0.6  # share of pixels there of the right colours that makes a line an edge


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
        groups: int64 (N,), the colour at each, `_OUTSIDE` along the border of the image.
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
    room = _AWAY[-1] + _STEPS[-1] + 4
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
    axis = np.linalg.eigh(np.cov(np.argwhere(label)[:, ::-1].T))[1][:, 1]  # the label's direction, that of most names
    best: tuple[int, _Ring, list[tuple[int, int]]] | None = None
    for away in _AWAY:
        ring = _ring(body, away, view, plain, colours)
        if ring is None or len(ring.edges) < 2:
            continue
        pairs = _matches(ring, view, colours, axis)
        loose = len(ring.edges) - 2 * len(pairs)
        if best is None or loose < best[0]:
            best = loose, ring, pairs
        if loose <= 0:
            break
    if best is None:
        return None
    _, ring, pairs = best
    walls = np.zeros(label.shape, np.uint8)
    cv2.fillPoly(walls, [ring.points], 1)
    for one, other in pairs + _closed(ring, pairs):
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
    groups[((points == 0) | (points == np.array(view.shape[1::-1]) - 1)).any(axis=1)] = _OUTSIDE
    for _ in range(2):  # the second time without the stretches that were too short
        sure = np.flatnonzero(groups != -1)
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


def _matches(
    ring: _Ring, view: NDArray[np.uint8], colours: Colours, axis: NDArray[np.float64]
) -> list[tuple[int, int]]:
    """Pairs of edges that are two ends of one edge, the best first, none of their lines crossing another."""
    edges = [e for e in ring.edges.tolist() if _OUTSIDE not in ring.pair(e)]
    rated = []
    for one, other in combinations(edges, 2):
        alike = sum(a == b for a, b in zip(ring.pair(one), ring.pair(other)[::-1], strict=True))
        if alike:
            scores = _straight(ring, one, other, view, colours), _straight(ring, other, one, view, colours)
            if max(scores) >= _STRONG:
                rated.append((-alike, -sum(scores), one, other))
    kept: list[tuple[int, int]] = []
    for _, _, one, other in sorted(rated):
        if not any(_cross((one, other), pair) for pair in kept):
            kept.append((one, other))
    border = np.flatnonzero(ring.groups == _OUTSIDE).tolist()
    for edge in edges if border else []:
        ends = [e for e in border if _straight(ring, edge, e, view, colours) >= _STRONG]
        ends = [e for e in ends if not any(_cross((edge, e), pair) for pair in kept)]
        if ends:
            steps = (ring.points[ends] - ring.points[edge]).astype(np.float64)
            along = np.abs(steps @ axis) / np.maximum(np.hypot(*steps.T), 1.0)
            kept.append((edge, ends[int(along.argmax())]))
    return kept


def _straight(ring: _Ring, edge: int, end: int, view: NDArray[np.uint8], colours: Colours) -> float:
    """How well the line from an end to an edge goes on as that edge outside: share of the pixels beside it."""
    outward = (ring.points[edge] - ring.points[end]).astype(np.float64)
    outward /= max(float(np.hypot(*outward)), 1.0)
    left = np.array([outward[1], -outward[0]])  # of the way outward, y down
    line = ring.points[edge] + outward * np.array(_STEPS, np.float64)[:, None]
    shares = []
    for side, wanted in zip((-_BESIDE, _BESIDE), ring.pair(edge), strict=True):
        x, y = np.rint(line + side * left).astype(int).T
        shown = (x >= 0) & (y >= 0) & (x < view.shape[1]) & (y < view.shape[0])
        shares.append((colours.of(view[y[shown], x[shown]]) == wanted).sum() / len(_STEPS))
    return float(min(shares))


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
        loose = [e for e in ring.edges.tolist() if all(e not in pair for pair in taken)]
        free = [e for e in loose if _OUTSIDE not in ring.pair(e)]
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
    """Every pixel with the colour of the nearest piece of outline around its own part, walls like what is beside."""
    _, parts = cv2.connectedComponents(walls, connectivity=4)
    x, y = ring.points.T
    owner = np.where(ring.groups >= 0, parts[y, x], 0)
    wanted = np.full(walls.shape, -1, np.int16)
    for part in np.unique(owner[owner > 0]).tolist():
        here, groups = parts == part, ring.groups[owner == part].astype(np.int16)
        if (groups == groups[0]).all():
            wanted[here] = groups[0]
        else:
            seeds = np.full(walls.shape, -1, np.int16)
            seeds[y[owner == part], x[owner == part]] = groups
            wanted[here] = _spread(seeds)[here]
    return _spread(wanted)


def _spread(seeds: NDArray[np.int16]) -> NDArray[np.int16]:
    """Every pixel with the value of the nearest seed, which are those from 0 on; at least one."""
    _, numbers = cv2.distanceTransformWithLabels(
        (seeds < 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(numbers.max()) + 1, np.int16)
    table[numbers[seeds >= 0]] = seeds[seeds >= 0]
    return np.asarray(table[numbers])
