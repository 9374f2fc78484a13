"""Continuation of roads, water and parks under labels.

The edges that run under a label divide the area that it hides; each part gets its colour at the label's outline. The
road that a label names leaves a long label at its ends, in the label's direction, and is continued from end to end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.prepare.labels.colours import OUTSIDE, Colours, seen_at, spread
from terramorph.prepare.labels.outline import REACH, Ring, closed, matches, ring_around

_LONGEST = 230  # px: longer labels keep the nearest colours
_SMALLEST = 4  # px: and narrower ones too
_AWAY = (1, 2, 4)  # px from a label at which its outline is tried, until all edges continue
_NEAR = 10  # grey levels from a palette colour
_TRIM = 7  # px across: width around a named road that is cleared of other guesses
_LONG = 2.0  # times its height, from which a label is a line of text
_BEYOND = (2, 5, 8, 11, 14, 17)  # px past the ends of a label at which the map is sampled
_SIDE = 16  # px beside a label to which it is sampled
_OFF = 3.5  # px that the middle of the road may lie off the middle of its name
_STEADY = 4  # least number of samples past an end that must have one colour
_WIDEST = 26  # px


def lead_on(
    painted: NDArray[np.uint8],
    image: NDArray[np.uint8],
    area: NDArray[np.bool_],
    free: NDArray[np.bool_],
    colours: Colours,
) -> None:
    """Correct the colours with which labels were painted over, in place.

    Args:
        painted: uint8 (H, W, 3), the map with its labels painted over from the nearest colours.
        image: uint8 (H, W, 3), the map with its labels.
        area: bool (H, W), the labels.
        free: bool (H, W), pixels of labels that may be painted.
        colours: Colours of the map.
    """
    if len(np.unique(colours.group)) < 2:
        return
    around = colours.groups(image, _NEAR)
    around[area] = -1
    count, parts, stats, _ = cv2.connectedComponentsWithStats(area.astype(np.uint8), connectivity=8)
    room = _AWAY[-1] + REACH + 3
    for number in range(1, count):
        left, top, width, height = stats[number, :4].tolist()
        if max(width, height) > _LONGEST or min(width, height) < _SMALLEST:
            continue
        window = slice(max(top - room, 0), top + height + room), slice(max(left - room, 0), left + width + room)
        label = parts[window] == number
        wanted = _divide(label, around[window])
        if wanted is None:
            continue
        inside = label & free[window]
        change = inside & (wanted != colours.groups(painted[window], _NEAR))
        painted[window][change] = colours.palette[wanted[change]]


def _divide(label: NDArray[np.bool_], colours: NDArray[np.int16]) -> NDArray[np.int16] | None:
    """Return the colour index that each pixel of a label hides, (H, W); None where one colour surrounds the label."""
    contours, _ = cv2.findContours(label.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    body = np.zeros(label.shape, np.uint8)
    cv2.fillConvexPoly(body, cv2.convexHull(np.concatenate(contours)), 1)
    found = _best_outline(label, body, colours)
    if found is None:
        return None
    ring, pairs = found
    walls = np.zeros(label.shape, np.uint8)
    cv2.fillPoly(walls, [ring.points], 1)
    for one, other in pairs + closed(ring, pairs):
        cv2.line(walls, ring.points[one].tolist(), ring.points[other].tolist(), 0, 1, cv2.LINE_4)
    wanted = _fill(walls, ring)
    road = named_road(label, colours)
    if road is not None and road[1] not in (0, np.bincount(ring.groups[ring.groups >= 0]).argmax()):  # not the ground
        strip = road[0].astype(np.uint8)
        wanted[(cv2.dilate(strip, np.ones((_TRIM, _TRIM), np.uint8)) > 0) & (wanted == road[1])] = -1
        wanted = spread(wanted, wanted >= 0)
        wanted[road[0]] = road[1]
    return wanted


def _best_outline(
    label: NDArray[np.bool_], body: NDArray[np.uint8], colours: NDArray[np.int16]
) -> tuple[Ring, list[tuple[int, int]]] | None:
    """Return the outline with the fewest unpaired edges, and its pairs; None where one colour surrounds the label."""
    spread, axes = np.linalg.eigh(np.cov(np.argwhere(label)[:, ::-1].T))
    axis = axes[:, 1] * (1 - np.sqrt(max(spread[0], 0.0) / max(spread[1], 1e-9)))  # long for a long label
    best: tuple[int, Ring, list[tuple[int, int]]] | None = None
    for away in _AWAY:
        ring = ring_around(body, away, colours)
        if ring is None or len(ring.edges) < 2:
            break
        pairs = matches(ring, colours, axis)
        loose = len(ring.edges) - 2 * len(pairs)
        if best is None or loose < best[0]:
            best = loose, ring, pairs
        if loose <= 0:
            break
    return None if best is None else best[1:]


def _fill(walls: NDArray[np.uint8], ring: Ring) -> NDArray[np.int16]:
    """Give every pixel the colour of the nearest outline of its part; walls get the colour beside them."""
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
            wanted[here] = spread(seeds, seeds >= 0)[here]
    return spread(wanted, wanted >= 0)


class Profile(NamedTuple):
    """A stretch of one colour past an end of a label, from ``low`` to ``high`` px across the label's direction."""

    low: float
    high: float
    colour: int


def named_road(label: NDArray[np.bool_], groups: NDArray[np.int16]) -> tuple[NDArray[np.bool_], int] | None:
    """Find the road under a label that runs along it.

    Args:
        label: bool (H, W), a label with the map around it.
        groups: int16 (H, W), colour index of every pixel, -1 where it is not known.

    Returns:
        bool (H, W), the road between the ends of the label, and its colour index; None where no road leaves the label.
    """
    yx = np.argwhere(label).astype(np.float64)
    centre = yx.mean(axis=0)
    along = np.linalg.eigh(np.cov((yx - centre).T))[1][:, 1]
    across = np.array([-along[1], along[0]])
    s, t = (yx - centre) @ along, (yx - centre) @ across
    length, height = float(np.ptp(s)), float(np.ptp(t))
    if length < _LONG * height:
        return None
    middle, reach = (t.max() + t.min()) / 2, height / 2 + _SIDE
    places = np.arange(np.floor(middle - reach), np.ceil(middle + reach) + 1)  # of samples across the label, in px
    past = np.array(_BEYOND, np.float64)[:, None, None]
    views = []  # colour indices (R, T) past both ends of the label
    for end, sign in ((s.min(), -1.0), (s.max(), 1.0)):
        spots = centre + end * along + past * (sign * along) + places[None, :, None] * across
        views.append(seen_at(groups, *np.rint(spots).astype(int).transpose(2, 0, 1)))
    ends = [_profile(view, places, middle) for view in views]
    known = [e for e in ends if e is not None]
    if not known or len({e.colour for e in known}) > 1:
        return None
    road = known[0]
    if len(known) == 1:
        # The road must leave the other end too, at a crossing or outside the image.
        near = views[ends.index(None)][:2, (places >= road.low) & (places <= road.high)]
        if not ((near == road.colour) | (near == OUTSIDE)).mean() >= 0.5:
            return None
    first, last = (e if e is not None else road for e in ends)
    corners = [
        centre + s.min() * along + first.low * across,
        centre + s.min() * along + first.high * across,
        centre + s.max() * along + last.high * across,
        centre + s.max() * along + last.low * across,
    ]
    strip = np.zeros(label.shape, np.uint8)
    points = np.rint(np.array(corners)[:, ::-1] * 16).astype(np.int32)
    cv2.fillConvexPoly(strip, points, 1, cv2.LINE_8, 4)
    return strip > 0, road.colour


def _profile(found: NDArray[np.int16], t: NDArray[np.float64], middle: float) -> Profile | None:
    """Return the road that leaves an end of a label, by the colours (R, T) past it at T places across; None where there
    is none."""
    colour = _steady(found)
    best: Profile | None = None
    starts = np.flatnonzero(np.diff(colour, prepend=-9))
    stops = np.append(starts[1:], len(t))
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        run = Profile(float(t[start]), float(t[stop - 1]), int(colour[start]))
        bounded = start > 0 and stop < len(t) and run.high - run.low <= _WIDEST
        if run.colour < 0 or not bounded or abs((run.low + run.high) / 2 - middle) > _OFF:
            continue
        if best is None or run.high - run.low > best.high - best.low:
            best = run
    return best


def _steady(found: NDArray[Any]) -> NDArray[np.int64]:
    """Return the value that at least `_STEADY` rows of (R, T) share in each column, else -1; gaps are filled from both
    sides."""
    value = np.full(found.shape[1], -1, np.int64)
    for k in np.unique(found[found >= 0]).tolist():
        value[(found == k).sum(axis=0) >= _STEADY] = k
    known = np.flatnonzero(value >= 0)
    if len(known) == 0:
        return value
    place = np.arange(len(value))
    after = np.searchsorted(known, place).clip(0, len(known) - 1)
    before = (after - 1).clip(0)
    nearer = np.abs(place - known[before]) <= np.abs(place - known[after])
    closest = np.where(nearer, known[before], known[after])
    return np.where(np.abs(place - closest) <= 2, value[closest], -1)
