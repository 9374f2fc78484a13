"""Town: a plan with a georeference, as aerial image and as map."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS

from terramorph.cartography import Feature, Style, classic, render
from terramorph.errors import RasterError
from terramorph.geo.grid import Grid
from terramorph.raster.raster import Raster
from terramorph.town.aerial import paint_aerial
from terramorph.town.layout import ARTERIAL_M, HIGHWAY_M, RAIL_M, STREET_M, Plan, make_plan

_ORIGIN = (392_000.0, 5_820_000.0)
"""Easting and northing in metres of the north-west corner: near Berlin in UTM 33N."""


@dataclass(frozen=True, eq=False)
class Town:
    """A town from a seed.

    Attributes:
        grid: Square, in UTM metres.
        features: Everything that the map shows, in the CRS of ``grid``: building, road, arterial, highway, park, water,
            rail.
        seed: Seed of the random generator.
        plan: The geometry behind both sides, in metres from the north-west corner.
    """

    grid: Grid
    features: tuple[Feature, ...]
    seed: int
    plan: Plan = field(repr=False)

    def aerial(self) -> Raster:
        """Paint the aerial image: uint8 (3, H, W) RGB on ``grid``, the same at every call."""
        rng = np.random.default_rng([self.seed, 1])
        pixels = paint_aerial(self.plan, self.grid.height, self.grid.resolution[0], rng)
        return Raster.from_pixels(pixels, self.grid)

    def map(self, style: Style | None = None, antialias: bool = True) -> Raster:
        """Draw the map: uint8 (3, H, W) RGB on ``grid``.

        Args:
            style: Default: the classic style, in the palette's colours.
            antialias: Smooth edges.
        """
        return render(self.features, self.grid, classic() if style is None else style, antialias)

    @property
    def heldout_window(self) -> tuple[int, int, int, int]:
        """Window (y, x, height, width) in pixels of the south-east quarter, which is held out of training."""
        top, left = self.grid.height // 2, self.grid.width // 2
        return top, left, self.grid.height - top, self.grid.width - left


def make_town(size_px: int = 2048, seed: int = 0, resolution: float = 1.0) -> Town:
    """Make a town.

    Args:
        size_px: Side of the square in pixels, at least 64.
        seed: The same seed makes the same town, to the pixel.
        resolution: Metres per pixel.

    Raises:
        RasterError: If the size or resolution is too small, the seed negative.
    """
    if size_px < 64 or not resolution > 0:
        raise RasterError(
            f"The size of a town must be >= 64 px and its resolution > 0 m/px, got {size_px} px at {resolution} m/px."
        )
    if seed < 0:
        raise RasterError(f"The seed of a town must be >= 0, got {seed}.")
    affine = Affine(resolution, 0.0, _ORIGIN[0], 0.0, -resolution, _ORIGIN[1])
    plan = make_plan(size_px * resolution, np.random.default_rng([seed, 0]))
    return Town(Grid(size_px, size_px, affine, CRS("EPSG:32633")), _features(plan), seed, plan)


def _features(plan: Plan) -> tuple[Feature, ...]:
    """Return what the map shows, in the CRS."""
    scale = plan.scale
    found: list[Feature] = []

    def add(kind: str, geometries: list[shapely.Geometry], width_m: float | None = None) -> None:
        moved = shapely.transform(np.asarray(geometries, dtype=object), _to_crs)
        found.extend(Feature(g, kind, width_m) for g in moved.tolist())

    add("park", list(plan.parks))
    add("water", list(plan.water))
    add("rail", [plan.rail], width_m=max(1.6, RAIL_M * scale * 0.35))
    add("road", list(plan.streets), width_m=STREET_M * scale)
    add("arterial", list(plan.arterials), width_m=ARTERIAL_M * scale)
    add("highway", list(plan.highways), width_m=HIGHWAY_M * scale)
    add("building", list(shapely.polygons(plan.buildings.corners())))
    return tuple(found)


def _to_crs(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert plan coordinates (N, 2) to CRS coordinates (N, 2)."""
    return np.stack([_ORIGIN[0] + xy[:, 0], _ORIGIN[1] - xy[:, 1]], 1)
