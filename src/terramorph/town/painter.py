"""Canvases of the aerial image, and paths in plan metres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
import skia
from numpy.typing import NDArray
from shapely.geometry import LineString, Polygon

from terramorph.town.layout import Array

Tone = Sequence[float] | NDArray[Any]
"""Red, green, blue, clipped to 0-255."""


class Painter:
    """The two canvases (colour, texture), drawn on in plan metres."""

    def __init__(self, size: int, resolution: float) -> None:
        self.colour_pixels = np.zeros((size, size, 4), np.uint8)
        self.texture_pixels = np.zeros((size, size, 4), np.uint8)
        kind = skia.kRGBA_8888_ColorType
        self.surfaces = [skia.Surface(p, colorType=kind) for p in (self.colour_pixels, self.texture_pixels)]
        self.canvas, self.texture = (s.getCanvas() for s in self.surfaces)
        for canvas in (self.canvas, self.texture):
            canvas.scale(1 / resolution, 1 / resolution)

    def clear(self, colour: Tone, texture: Tone) -> None:
        self.canvas.clear(skia.Color(*colour))
        self.texture.clear(skia.Color(*texture))

    def fill(self, path: Any, colour: Tone, texture: Tone | None) -> None:
        """Fill a path; None keeps the texture."""
        self.canvas.drawPath(path, ink(colour))
        if texture is not None:
            self.texture.drawPath(path, ink(texture))

    def stroke(
        self, path: Any, width: float, colour: Tone, texture: Tone | None, dash: tuple[float, float] | None = None
    ) -> None:
        """Stroke a path with a width in metres; ``dash`` is (on, off) in metres."""
        for canvas, value in ((self.canvas, colour), (self.texture, texture)):
            if value is None:
                continue
            brush = ink(value)
            brush.setStyle(skia.Paint.kStroke_Style)
            brush.setStrokeWidth(width)
            brush.setStrokeJoin(skia.Paint.kRound_Join)
            if dash is None:
                brush.setStrokeCap(skia.Paint.kRound_Cap)
            else:
                brush.setPathEffect(skia.DashPathEffect.Make(list(dash), 0.0))
            canvas.drawPath(path, brush)

    def circles(self, x: Array, y: Array, r: Array, colours: NDArray[Any], texture: Tone | None) -> None:
        mark = None if texture is None else ink(texture)
        rows = zip(x.tolist(), y.tolist(), r.tolist(), colours.tolist(), strict=True)
        for cx, cy, radius, colour in rows:
            self.canvas.drawCircle(cx, cy, radius, ink(colour))
            if mark is not None:
                self.texture.drawCircle(cx, cy, radius, mark)


def ink(colour: Tone) -> Any:
    """Return an anti-aliased fill paint."""
    red, green, blue = (min(255, max(0, int(c))) for c in colour)
    return skia.Paint(Color=skia.Color(red, green, blue), AntiAlias=True)


def ring_of(polygon: Polygon) -> Array:
    """Return the outer corners (N, 2) of a polygon."""
    return np.asarray(shapely.get_coordinates(polygon.exterior))


def path_of(rings: Sequence[NDArray[Any]], closed: bool = True) -> Any:
    """Make a path of rings or lines of points (N, 2), plan metres."""
    path = skia.Path()
    path.setFillType(skia.PathFillType.kEvenOdd)
    for ring in rings:
        path.addPoly([skia.Point(x, y) for x, y in ring.tolist()], closed)
    return path


def lines_of(geometry: Any) -> Any:
    """Make a path of one or several lines."""
    return path_of([shapely.get_coordinates(part) for part in shapely.get_parts(geometry)], closed=False)


def beside(line: LineString, distance: float) -> Any:
    """Return the parallel of a line at a distance in metres."""
    return shapely.offset_curve(line, distance, join_style="round", quad_segs=4)
