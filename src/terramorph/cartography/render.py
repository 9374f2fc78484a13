"""Rendering of features on a grid with Skia's raster backend: no GPU, no window, the same pixels everywhere.

skia-python builds a path from one Python object per point, which takes longer than drawing it; a path in Skia's serial
form is made from arrays in one step. That form may change between versions, so it is tried once on a known path, and
not used where the result differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import skia
from numpy.typing import NDArray

from terramorph.cartography.shapes import Feature, Shapes
from terramorph.cartography.style import RGB, Style, StyleRule, classic
from terramorph.cartography.table import KINDS
from terramorph.errors import RasterError
from terramorph.geo.crs import crs_name
from terramorph.geo.grid import Grid
from terramorph.geo.mercator import zoom_of
from terramorph.raster.raster import Raster

_MOVE, _LINE = 0, 1


def render(
    features: Iterable[Feature] | Shapes, grid: Grid, style: Style | None = None, antialias: bool = True
) -> Raster:
    """Draw features as a map.

    Args:
        features: In the CRS of ``grid``; as `Shapes` where many are drawn again and again. What lies outside the grid
            is cut off.
        grid: Where and how finely to draw; projected, or a pixel grid (its units are then taken for metres).
        style: Order and look of the kinds; default `classic`.
        antialias: Smooth edges, unless the style forbids it. Without it every pixel has exactly a colour of the style.

    Returns:
        uint8 (3, H, W) RGB on ``grid``, no pixel masked.

    Raises:
        RasterError: If the grid is in degrees, where widths in metres have no meaning.
    """
    shapes = features if isinstance(features, Shapes) else Shapes.from_features(features)
    style = style or classic()
    metres = metres_per_pixel(grid)
    smooth = antialias and style.antialias
    margin = drawing_margin(style, metres, shapes) * max(grid.resolution)
    left, bottom, right, top = grid.bounds
    shapes = shapes.take(shapes.inside(left - margin, bottom - margin, right + margin, top + margin))
    kinds = shapes.kinds
    xy = np.stack(~grid.affine @ tuple(shapes.xy.T), axis=1, dtype=np.float32)

    canvas_pixels = np.empty((grid.height, grid.width, 4), np.uint8)
    surface = skia.Surface(canvas_pixels, colorType=skia.kRGBA_8888_ColorType)
    canvas = surface.getCanvas()
    canvas.clear(skia.Color(*style.background))
    for rule in style.rules:
        chosen = kinds == KINDS.index(rule.kind)
        if rule.geometry != "any":
            chosen &= shapes.areas == (rule.geometry == "area")
        rows = np.flatnonzero(chosen)
        if len(rows):
            _draw(canvas, _groups(shapes, xy, rows, rule, metres), rule, metres, smooth)
    surface.flushAndSubmit()
    rgb = np.ascontiguousarray(canvas_pixels[..., :3].transpose(2, 0, 1))
    return Raster.from_pixels(rgb, grid)


def metres_per_pixel(grid: Grid) -> float:
    """Return the side of a pixel on the ground in metres; of a pixel grid, in its units.

    Raises:
        RasterError: If the grid is in degrees.
    """
    if grid.crs is None:
        return math.sqrt(abs(grid.affine.determinant))
    if grid.crs.geographic:
        raise RasterError(
            f"A map cannot be drawn on a grid in degrees ({crs_name(grid.crs)}); use a projected CRS such as UTM."
        )
    resolution = grid.ground_resolution
    assert resolution is not None
    return resolution


def drawing_margin(style: Style, metres: float, shapes: Shapes | None = None, widest_m: float = 0.0) -> float:
    """Return how far outside a grid, in pixels, a feature may lie and still reach into it.

    Args:
        metres: Metres per pixel.
        shapes: What is drawn with it, where it is known.
        widest_m: The widest line there may be, in metres, where it is not.
    """
    if shapes is not None and len(shapes) and not np.isnan(shapes.widths_m).all():
        widest_m = max(widest_m, float(np.nanmax(shapes.widths_m)))
    widest = max(
        (_line_width(rule, max(widest_m, rule.width_m), metres) / 2 + _casing_px(rule, metres) for rule in style.rules),
        default=0.0,
    )
    return widest + 2


def _line_width(rule: StyleRule, width_m: float, metres: float) -> float:
    """Return the width in pixels of a line of ``width_m`` metres."""
    if rule.width_px:
        zooms, pixels = zip(*rule.width_px, strict=True)
        return max(float(np.interp(zoom_of(metres), zooms, pixels)), rule.min_width_px)
    return max(width_m / metres, rule.min_width_px)


def _casing_px(rule: StyleRule, metres: float) -> float:
    """Return the width in pixels of a rule's casing on each side; 0 without one."""
    return 0.0 if rule.casing is None else max(rule.casing_m / metres, rule.min_casing_px)


def _groups(
    shapes: Shapes, xy: NDArray[np.float32], rows: NDArray[np.int64], rule: StyleRule, metres: float
) -> list[tuple[Any, float | None]]:
    """Group shapes to (path, width in pixels; None for areas): one path for all areas, one for all lines of a width."""

    def path(some: NDArray[np.int64]) -> Any:
        points, starts = shapes.points(some)
        return make_path(xy[points], starts)

    found: list[tuple[Any, float | None]] = []
    areas = rows[shapes.areas[rows]]
    if len(areas):
        found.append((path(areas), None))
    lines = rows[~shapes.areas[rows]]
    widths_m = shapes.widths_m[lines]
    widths_m = np.where(np.isnan(widths_m), rule.width_m, widths_m)
    for width_m in np.unique(widths_m).tolist():
        width = _line_width(rule, width_m, metres)
        if width > 0:
            found.append((path(lines[widths_m == width_m]), width))
    return found


def _draw(canvas: Any, groups: list[tuple[Any, float | None]], rule: StyleRule, metres: float, antialias: bool) -> None:
    """Draw all features of one rule: every casing first, so that crossings stay open."""
    casing = _casing_px(rule, metres)
    if rule.casing is not None and casing > 0:
        for path, width in groups:
            canvas.drawPath(path, _paint(rule.casing, (width or 0) + 2 * casing, antialias))
    for path, width in groups:
        canvas.drawPath(path, _paint(rule.fill, width, antialias))


def _paint(colour: RGB, stroke_px: float | None, antialias: bool) -> Any:
    """Make a Skia paint: a stroke of ``stroke_px`` pixels, round at ends and joins, or a fill."""
    paint = skia.Paint(Color=skia.Color(*colour), AntiAlias=antialias)
    if stroke_px is None:
        paint.setStyle(skia.Paint.kFill_Style)
    else:
        paint.setStyle(skia.Paint.kStroke_Style)
        paint.setStrokeWidth(stroke_px)
        paint.setStrokeCap(skia.Paint.kRound_Cap)
        paint.setStrokeJoin(skia.Paint.kRound_Join)
    return paint


def make_path(xy: NDArray[np.float32], starts: NDArray[np.int64]) -> Any:
    """Make a Skia path, filled by the winding rule.

    Args:
        xy: float32 (P, 2), finite, pixels.
        starts: int64 (R + 1,), where each contour starts; each has at least one point.
    """
    version = _serial_version()
    return _by_points(xy, starts) if version is None else _from_bytes(xy, starts, version)


def _from_bytes(xy: NDArray[np.float32], starts: NDArray[np.int64], version: int) -> Any:
    """Make a path from its serial form: a header, the points, and a verb per point."""
    verbs = np.full(len(xy), _LINE, np.uint8)
    verbs[starts[:-1]] = _MOVE
    header = np.array([version, len(xy), 0, len(verbs)], np.int32)
    data = b"".join([header.tobytes(), np.ascontiguousarray(xy).tobytes(), verbs.tobytes(), bytes(-len(verbs) % 4)])
    path = skia.Path()
    path.readFromMemory(data)
    return path


def _by_points(xy: NDArray[np.float32], starts: NDArray[np.int64]) -> Any:
    path = skia.Path()
    points = [skia.Point(x, y) for x, y in xy.tolist()]
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        path.addPoly(points[begin:end], False)
    return path


@lru_cache(maxsize=1)
def _serial_version() -> int | None:
    """Return the first word of this Skia's serial form of a path; None where the form is not the known one."""
    xy = np.array([[1, 2], [3, 4], [5, 7], [10, 20], [30, 40]], np.float32)
    starts = np.array([0, 3, 5])
    known = _by_points(xy, starts)
    version = int(np.frombuffer(bytes(known.serialize())[:4], np.int32)[0])
    return version if _from_bytes(xy, starts, version) == known else None
