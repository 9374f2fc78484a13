"""Drawing features on a grid with Skia's raster backend: no GPU, no window, the same pixels everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import shapely
import skia
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from terramorph.cartography.features import Feature
from terramorph.cartography.style import RGB, Style, StyleRule, classic
from terramorph.errors import RasterError
from terramorph.geo.grid import Grid
from terramorph.raster.raster import Raster


def render(features: Iterable[Feature], grid: Grid, style: Style | None = None, antialias: bool = True) -> Raster:
    """Draw features as a map.

    Args:
        features: In the CRS of ``grid``, units metres. What lies outside the grid is cut off.
        grid: Where and how finely to draw; the CRS units must be metres (or pixels, for a pixel grid).
        style: Order and look of the kinds; default `classic`.
        antialias: Smooth edges. Without it every pixel has exactly a colour of the style.

    Returns:
        uint8 (3, H, W) RGB on ``grid``, no pixel masked.

    Raises:
        RasterError: If the grid is in degrees, where widths in metres have no meaning.
    """
    if grid.crs is not None and grid.crs.geographic:
        raise RasterError(f"A map cannot be drawn on a grid in degrees ({grid.crs}); use a projected CRS such as UTM.")
    style = classic() if style is None else style
    by_kind: dict[str, list[Feature]] = {}
    for feature in features:
        by_kind.setdefault(feature.kind, []).append(feature)

    canvas_pixels = np.empty((grid.height, grid.width, 4), np.uint8)
    surface = skia.Surface(canvas_pixels, colorType=skia.kRGBA_8888_ColorType)
    canvas = surface.getCanvas()
    canvas.clear(skia.Color(*style.background))
    for rule in style.rules:
        if rule.kind in by_kind:
            _draw_kind(canvas, by_kind[rule.kind], grid, rule, antialias)
    surface.flushAndSubmit()
    rgb = np.ascontiguousarray(canvas_pixels[..., :3].transpose(2, 0, 1))
    return Raster.from_pixels(rgb, grid)


def _draw_kind(canvas: Any, features: list[Feature], grid: Grid, rule: StyleRule, antialias: bool) -> None:
    """Draw all features of one kind: every casing first, so that crossings stay open."""
    metres_per_pixel = float(np.sqrt(abs(grid.affine.determinant)))
    shapes: list[tuple[Any, bool, float]] = []
    for feature in features:
        width = (feature.width_m or rule.width_m) / metres_per_pixel
        for path, is_line in geometry_paths(feature.geometry, grid):
            shapes.append((path, is_line, max(width, rule.min_width_px)))
    casing = rule.casing_m / metres_per_pixel
    if rule.casing is not None and casing > 0:
        for path, is_line, width in shapes:
            edge = _paint(rule.casing, (width if is_line else 0) + 2 * casing, antialias)
            canvas.drawPath(path, edge)
    fill = _paint(rule.fill, None, antialias)
    for path, is_line, width in shapes:
        canvas.drawPath(path, _paint(rule.fill, width, antialias) if is_line else fill)


def _paint(colour: RGB, stroke_px: float | None, antialias: bool) -> Any:
    """A Skia paint: a stroke of that many pixels, round at ends and joins, or a fill."""
    paint = skia.Paint(Color=skia.Color(*colour), AntiAlias=antialias)
    if stroke_px is None:
        paint.setStyle(skia.Paint.kFill_Style)
    else:
        paint.setStyle(skia.Paint.kStroke_Style)
        paint.setStrokeWidth(stroke_px)
        paint.setStrokeCap(skia.Paint.kRound_Cap)
        paint.setStrokeJoin(skia.Paint.kRound_Join)
    return paint


def geometry_paths(geometry: BaseGeometry, grid: Grid) -> list[tuple[Any, bool]]:
    """Skia paths of a geometry, in pixels of ``grid``.

    Args:
        geometry: Polygons, lines or collections of them, in CRS units; points are left out.
        grid: The grid whose pixels are meant.

    Returns:
        (path, whether it is a line) for every part. Polygon holes are kept (even-odd filling).
    """
    inverse = ~grid.affine
    found: list[tuple[Any, bool]] = []
    for part in _parts(geometry):
        is_line = part.geom_type in ("LineString", "LinearRing")
        path = skia.Path()
        if not is_line:
            path.setFillType(skia.PathFillType.kEvenOdd)
        rings = [part] if is_line else [part.exterior, *part.interiors]
        for ring in rings:
            path.addPoly(_points(shapely.get_coordinates(ring), inverse), not is_line)
        found.append((path, is_line))
    return found


def _points(xy: NDArray[np.float64], inverse: Any) -> list[Any]:
    """Skia points in pixels of CRS coordinates (N, 2)."""
    x = inverse.a * xy[:, 0] + inverse.b * xy[:, 1] + inverse.c
    y = inverse.d * xy[:, 0] + inverse.e * xy[:, 1] + inverse.f
    return [skia.Point(px, py) for px, py in zip(x.tolist(), y.tolist(), strict=True)]


def _parts(geometry: BaseGeometry) -> list[Any]:
    """Single polygons and lines of any geometry, empty ones left out."""
    if geometry.is_empty:
        return []
    if hasattr(geometry, "geoms"):
        return [p for g in geometry.geoms for p in _parts(g)]
    return [geometry] if geometry.geom_type in ("Polygon", "LineString", "LinearRing") else []
