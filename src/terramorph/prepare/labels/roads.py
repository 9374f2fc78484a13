"""Continuation of roads, water and parks under labels.

The edges that run under a label divide the area that it hides; each part gets its colour at the label's outline. The
road that a label names is continued from end to end.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.prepare.labels.colours import Colours, spread
from terramorph.prepare.labels.named import named_road
from terramorph.prepare.labels.outline import REACH, Ring, closed, matches, ring_around

_LONGEST = 230  # px: longer labels keep the nearest colours
_SMALLEST = 4  # px: and narrower ones too
_AWAY = (1, 2, 4)  # px from a label at which its outline is tried, until all edges continue
_NEAR = 10  # grey levels from a palette colour
_TRIM = 7  # px across: width around a named road that is cleared of other guesses


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
