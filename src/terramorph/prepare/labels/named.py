"""The road that a label names: it leaves a long label at its ends, in the direction of the label."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from terramorph.prepare.labels.colours import OUTSIDE, seen_at

_LONG = 2.0  # times its height, from which a label is a line of text
_BEYOND = (2, 5, 8, 11, 14, 17)  # px past the ends of a label at which the map is sampled
_SIDE = 16  # px beside a label to which it is sampled
_OFF = 3.5  # px that the middle of the road may lie off the middle of its name
_STEADY = 4  # least number of samples past an end that must have one colour
_WIDEST = 26  # px


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
    middle = (t.max() + t.min()) / 2
    reach = height / 2 + _SIDE
    views = [
        _beyond(groups, centre + end * along, sign * along, across, middle, reach)
        for end, sign in ((s.min(), -1.0), (s.max(), 1.0))
    ]
    ends = [_profile(view, middle, reach) for view in views]
    known = [e for e in ends if e is not None]
    if not known or len({e.colour for e in known}) > 1:
        return None
    if len(known) == 1 and not _arrives(views[ends.index(None)], known[0], middle, reach):
        return None
    first, last = (e if e is not None else known[0] for e in ends)
    corners = [
        centre + s.min() * along + first.low * across,
        centre + s.min() * along + first.high * across,
        centre + s.max() * along + last.high * across,
        centre + s.max() * along + last.low * across,
    ]
    strip = np.zeros(label.shape, np.uint8)
    points = np.rint(np.array(corners)[:, ::-1] * 16).astype(np.int32)
    cv2.fillConvexPoly(strip, points, 1, cv2.LINE_8, 4)
    return strip > 0, known[0].colour


def _beyond(
    groups: NDArray[np.int16],
    end: NDArray[np.float64],
    outward: NDArray[np.float64],
    across: NDArray[np.float64],
    middle: float,
    reach: float,
) -> NDArray[np.int16]:
    """Return the colour indices (R, T) past an end of a label, across it in steps of a pixel."""
    t = _places(middle, reach)
    spots = end + np.array(_BEYOND, np.float64)[:, None, None] * outward + t[None, :, None] * across
    return seen_at(groups, *np.rint(spots).astype(int).transpose(2, 0, 1))


def _places(middle: float, reach: float) -> NDArray[np.float64]:
    """Return the positions of samples across a label, px from its middle."""
    return np.arange(np.floor(middle - reach), np.ceil(middle + reach) + 1)


def _arrives(view: NDArray[np.int16], road: Profile, middle: float, reach: float) -> bool:
    """Return whether a road known from the other end of a label leaves this end: at a crossing or outside the image."""
    t = _places(middle, reach)
    near = view[:2, (t >= road.low) & (t <= road.high)]
    return bool(((near == road.colour) | (near == OUTSIDE)).mean() >= 0.5)


def _profile(found: NDArray[np.int16], middle: float, reach: float) -> Profile | None:
    """Return the road that leaves an end of a label, by the colours past it; None where there is none."""
    t = _places(middle, reach)
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
