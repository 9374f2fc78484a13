"""The sea beside coastlines. OpenStreetMap has no areas of sea, but lines with land on their left
(https://wiki.openstreetmap.org/wiki/Tag:natural=coastline)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

Box = tuple[float, float, float, float]

_PIECE = 64  # points of the pieces that lines are cut into, so that a box needs few of them
_NEAR = 0.01  # of the longer side of the data: an end this near to its border goes on beyond it
_UNCLEAR = 0.25  # share of a coast that says otherwise, from which on a face is neither land nor sea
_HALVINGS = 5


class Coast:
    """Coastlines that tell sea from land."""

    def __init__(self, lines: NDArray[Any], bounds: Box) -> None:
        """Index coastlines.

        Args:
            lines: object (N,): LineStrings or rings, with land on the left.
            bounds: What the data cover. A coastline that ends at this border goes on at a right angle to it.
        """
        points, row = shapely.get_coordinates(lines, return_index=True)
        if len(points):
            more, more_row = _beyond(points, row, bounds)
            points, row = np.concatenate([points, more]), np.concatenate([row, more_row])
        begin = np.flatnonzero((row[1:] == row[:-1]) & (points[1:] != points[:-1]).any(axis=1))
        segments = np.stack([points[begin], points[begin + 1]], axis=1)
        # A piece is a run of segments of one line.
        line = row[begin]
        first = np.concatenate([[True], (line[1:] != line[:-1]) | (begin[1:] != begin[:-1] + 1)])[: len(begin)]
        run = np.arange(len(begin)) - np.maximum.accumulate(np.where(first, np.arange(len(begin)), 0))
        self._starts = np.append(np.flatnonzero(run % _PIECE == 0), len(begin))
        self._segments = segments
        pieces = [
            shapely.linestrings(np.concatenate([segments[a:b, 0], segments[b - 1 : b, 1]]))
            for a, b in zip(self._starts[:-1].tolist(), self._starts[1:].tolist(), strict=True)
        ]
        self._tree = shapely.STRtree(pieces)

    def sea(self, box: Box) -> tuple[list[Any], list[Any]]:
        """Return the sea in a box.

        Returns:
            Polygons of sea, and boxes in which a coastline breaks off, so that the sea cannot be told from the land.
        """
        return self._sea(box, _HALVINGS)

    def _sea(self, box: Box, halvings: int) -> tuple[list[Any], list[Any]]:
        frame = shapely.box(*box)
        lines = self._inside(box)
        if len(lines) == 0:
            return ([frame] if self._is_sea(frame.centroid) else []), []
        network = shapely.union_all([frame.exterior, *lines])
        faces = np.array(shapely.get_parts(shapely.polygonize([network])), object)
        land, sea = _votes(lines, faces, 1e-7 * max(box[2] - box[0], box[3] - box[1]))
        found, gaps = [], []
        unclear = np.minimum(land, sea) > _UNCLEAR * (land + sea)
        for face, on_land, at_sea, open_end in zip(faces, land, sea, unclear, strict=True):
            if on_land == at_sea == 0:
                found += [face] if self._is_sea(face.representative_point()) else []
            elif not open_end:
                found += [face] if at_sea > on_land else []
            elif halvings == 0:
                gaps.append(face)
            else:
                for quarter in _quarters(box):
                    if not shapely.intersects(face, shapely.box(*quarter)):
                        continue
                    wet, broken = self._sea(quarter, halvings - 1)
                    found += [shapely.intersection(face, area) for area in wet]
                    gaps += broken
        return ([shapely.union_all(found)] if found else []), gaps

    def _inside(self, box: Box) -> NDArray[Any]:
        """Clip the lines to a box: LineStrings in their direction, object (N,)."""
        pieces = self._tree.geometries[np.sort(self._tree.query(shapely.box(*box)))]
        parts = shapely.get_parts(shapely.clip_by_rect(pieces, *box))
        return np.asarray(parts[(shapely.get_type_id(parts) == 1) & (shapely.length(parts) > 0)], object)

    def _is_sea(self, point: Any) -> bool:
        """Return whether a point lies right of the coastline nearest to it."""
        place = shapely.get_coordinates(point)[0]
        pieces = self._tree.query_nearest(point)
        near = np.concatenate([self._segments[self._starts[i] : self._starts[i + 1]] for i in np.atleast_1d(pieces)])
        along = near[:, 1] - near[:, 0]
        from_start = place - near[:, 0]
        share = np.clip((from_start * along).sum(1) / (along**2).sum(1), 0, 1)
        away = np.hypot(*(from_start - share[:, None] * along).T)
        # Where a corner is nearest, that side of it counts which the point faces more.
        sine = (along[:, 0] * from_start[:, 1] - along[:, 1] * from_start[:, 0]) / np.hypot(*along.T)
        nearest = np.flatnonzero(away <= away.min() * (1 + 1e-9))
        return bool(sine[nearest[np.argmax(np.abs(sine[nearest]))]] < 0)


def _beyond(points: NDArray[np.float64], row: NDArray[np.int64], bounds: Box) -> tuple[NDArray[Any], NDArray[Any]]:
    """Extend lines that end at the border of the data far beyond it; return points and rows of the extensions."""
    first = np.flatnonzero(np.concatenate([[True], row[1:] != row[:-1]]))
    last = np.append(first[1:], len(row)) - 1
    starts = {tuple(p) for p in points[first].tolist()}
    ends = {tuple(p) for p in points[last].tolist()}
    left, bottom, right, top = bounds
    longest = max(right - left, top - bottom)
    normals = np.array([[-1.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0]])
    found = []
    for at, inner, matched, comes in [
        *((i, i + 1, ends, True) for i in first.tolist()),
        *((i, i - 1, starts, False) for i in last.tolist()),
    ]:
        here = points[at]
        if tuple(here.tolist()) in matched:
            continue
        x, y = here
        near = np.array([x - left, y - bottom, right - x, top - y]) <= _NEAR * longest
        if not near.any():
            continue
        outward = normals @ (here - points[inner])
        away = here + normals[np.argmax(np.where(near, outward, -math.inf))] * 100 * longest
        found.append([away, here] if comes else [here, away])
    more = np.array(found, np.float64).reshape(-1, 2)
    return more, np.repeat(np.arange(len(found)), 2) + row[-1] + 1


def _votes(lines: NDArray[Any], faces: NDArray[Any], step: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure the length of coast that has each face on its left (land) and on its right (sea)."""
    points, row = shapely.get_coordinates(lines, return_index=True)
    begin = np.flatnonzero(row[1:] == row[:-1])
    along = points[begin + 1] - points[begin]
    length = np.hypot(*along.T)
    begin, along, length = begin[length > 0], along[length > 0], length[length > 0]
    middle = points[begin] + along / 2
    normal = np.column_stack([-along[:, 1], along[:, 0]]) / length[:, None]
    step_by = normal * np.minimum(step, length / 100)[:, None]
    tree = shapely.STRtree(faces)
    sides = []
    for probes in (middle + step_by, middle - step_by):
        which, face = tree.query(shapely.points(probes), predicate="within")
        sides.append(np.bincount(face, length[which], len(faces)).astype(np.float64))
    return sides[0], sides[1]


def _quarters(box: Box) -> list[Box]:
    left, bottom, right, top = box
    x, y = (left + right) / 2, (bottom + top) / 2
    return [(left, bottom, x, y), (x, bottom, right, y), (left, y, x, top), (x, y, right, top)]
