"""The outline of a label: the colours along it, and the edges between them that continue under the label.

Where one colour changes to another, an edge runs under the label and comes out elsewhere. Two such points are ends of
one edge where the same colour lies on the same side, and the straight line between them continues as an edge at both.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.prepare.labels.colours import OUTSIDE, seen_at

REACH = 12
"""Distance in pixels outside an outline that is sampled."""

_STEPS = (1, 3, 5, 7, 9, 11)  # px from the outline at which a line is sampled
_BESIDE = 2  # px to both sides of it
_SHORTEST = 4  # px of outline of the shortest stretch of one colour
_NAMED = 1.5  # bonus for running along a label, as the edges of a named road do
_NAME = 0.6  # share along the label from which it outweighs a crossing at one end
_WEAK = 0.3  # least share of samples with the right colours, at the worse end of an edge
_STRONG = 0.6  # and at the better end


class Ring(NamedTuple):
    """An outline around a label.

    Attributes:
        points: int32 (N, 2), x and y.
        groups: int64 (N,), colour index of each point, `OUTSIDE` along the border of the image.
        edges: int64 (M,), indices of points at which another colour begins.
    """

    points: NDArray[np.int32]
    groups: NDArray[np.int64]
    edges: NDArray[np.int64]

    def pair(self, edge: int) -> tuple[int, int]:
        """Return the colours before and behind an edge."""
        return int(self.groups[edge - 1]), int(self.groups[edge])


def ring_around(body: NDArray[np.uint8], away: int, colours: NDArray[np.int16]) -> Ring | None:
    """Return the outline ``away`` pixels from a label; None where too little of it is known."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * away + 1, 2 * away + 1))
    points = cv2.findContours(cv2.dilate(body, disc), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0][:, 0]
    groups = colours[points[:, 1], points[:, 0]].astype(np.int64)
    groups[((points == 0) | (points == np.array(body.shape[::-1]) - 1)).any(axis=1)] = OUTSIDE
    for _ in range(2):  # the second time without stretches that are too short
        sure = np.flatnonzero(groups != -1)
        if len(sure) < 8:
            return None
        full = groups[_closest(len(groups), sure)]
        edges = np.flatnonzero(full != np.roll(full, 1))
        for start, length in zip(edges, np.diff(edges, append=edges[:1] + len(full)), strict=True):
            if length < _SHORTEST:
                groups[np.arange(start, start + length) % len(groups)] = -1
    return Ring(points, full, edges)


def _closest(count: int, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each of ``count`` points on a ring, the closest of the chosen ones (sorted)."""
    around = np.concatenate([chosen[-1:] - count, chosen, chosen[:1] + count])
    after = np.searchsorted(around, np.arange(count)).clip(1, len(around) - 1)
    first = np.arange(count) - around[after - 1] <= around[after] - np.arange(count)
    return np.asarray(np.where(first, around[after - 1], around[after]) % count)


def matches(ring: Ring, colours: NDArray[np.int16], axis: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return pairs of points that are two ends of one edge, the best first; their lines do not cross.

    Args:
        colours: int16 (H, W), colour indices of the map around it, -1 where a colour is not known.
        axis: float64 (2,), x and y, direction of the label, of length 1 for a line and 0 for a round label.

    Returns:
        Indices of points on the ring; an edge that leaves the image is paired with a point on its border.
    """
    edges = [e for e in ring.edges.tolist() if OUTSIDE not in ring.pair(e)]
    pairs = [(a, b, k) for a, b in combinations(edges, 2) for k in (0, 1) if ring.pair(a)[k] == ring.pair(b)[1 - k]]
    kept: list[tuple[int, int]] = []
    if pairs:
        ones, others, own = np.array(pairs).T
        near, far = _straight(ring, ones, others, own, colours), _straight(ring, others, ones, 1 - own, colours)
        along = _along(ring, ones, others, axis)
        rate = (near + far) / 2 + _NAMED * along
        rate += 0.5 * np.array([ring.pair(a) == ring.pair(b)[::-1] for a, b, _ in pairs])
        good = (np.maximum(near, far) >= _STRONG) & ((np.minimum(near, far) >= _WEAK) | (along >= _NAME))
        for n in np.argsort(-rate, kind="stable").tolist():
            if good[n] and not any(_cross(pairs[n][:2], pair) for pair in kept):
                kept.append(pairs[n][:2])
    border = np.flatnonzero(ring.groups == OUTSIDE)
    for edge in edges if len(border) else []:
        here = np.full(len(border), edge)
        scores = np.maximum(*(_straight(ring, here, border, np.full(len(border), k), colours) for k in (0, 1)))
        rate = np.where(scores >= _STRONG, _along(ring, here, border, axis), -1.0)
        for n in np.argsort(-rate, kind="stable").tolist():
            pair = (edge, int(border[n]))
            if rate[n] < 0 or not any(_cross(pair, other) for other in kept):
                kept += [pair] if rate[n] >= 0 else []
                break
    return kept


def _along(
    ring: Ring, ones: NDArray[np.int64], others: NDArray[np.int64], axis: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far lines between points on a ring run along an axis, from 0 to the length of the axis."""
    step = (ring.points[others] - ring.points[ones]).astype(np.float64)
    return np.asarray(np.abs(step @ axis) / np.maximum(np.hypot(step[:, 0], step[:, 1]), 1.0))


def _straight(
    ring: Ring, edges: NDArray[np.int64], ends: NDArray[np.int64], own: NDArray[np.int64], colours: NDArray[np.int16]
) -> NDArray[np.float64]:
    """Return how well lines from an end to an edge continue as that edge outside, each from 0 to 1.

    Args:
        edges: int64 (N,), edges.
        ends: int64 (N,), other points on the outline.
        own: int64 (N,), 0 for the colour before the edge, 1 for the one behind, which must continue on its side only.
        colours: int16 (H, W), colour indices.
    """
    outward = (ring.points[edges] - ring.points[ends]).astype(np.float64)
    outward /= np.maximum(np.hypot(outward[:, 0], outward[:, 1]), 1.0)[:, None]
    left = np.stack([outward[:, 1], -outward[:, 0]], axis=1)  # left of the way outward, y down
    line = ring.points[edges][:, None] + outward[:, None] * np.array(_STEPS, np.float64)[:, None]
    wanted = np.where(own == 0, ring.groups[edges - 1], ring.groups[edges])[:, None]
    shares = []
    for k, side in enumerate((-_BESIDE, _BESIDE)):
        x, y = np.rint(line + side * left[:, None]).astype(np.int64).transpose(2, 0, 1)
        seen = seen_at(colours, y, x)
        right = (seen == wanted) == (own == k)[:, None]
        shares.append((right & (seen != OUTSIDE)).mean(axis=1))
    return np.asarray(np.minimum(*shares))


def _cross(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether two lines between points on a ring cross or meet."""
    if set(one) & set(other):
        return True
    low, high = sorted(one)
    return (low < other[0] < high) != (low < other[1] < high)


def closed(ring: Ring, kept: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return lines that cut off the stretches that end under the label, the narrowest first."""
    taken = list(kept)
    while True:
        loose = [e for e in ring.edges.tolist() if all(e not in pair for pair in taken)]
        free = [e for e in loose if OUTSIDE not in ring.pair(e)]
        pairs = [
            (float(np.hypot(*(ring.points[a] - ring.points[b]))), a, b)
            for a, b in zip(free, free[1:] + free[:1], strict=True)
            if a != b and ring.pair(a) == ring.pair(b)[::-1] and not any(_cross((a, b), pair) for pair in taken)
        ]
        if not pairs:
            return taken[len(kept) :]
        _, a, b = min(pairs)
        taken.append((a, b))
