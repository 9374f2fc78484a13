"""Town: a plan with a georeference, as aerial image, as map, and cut into a folder of A|B pairs, split by place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS

from terramorph.cartography import Feature, Style, classic, render
from terramorph.errors import DatasetError, RasterError
from terramorph.geo.grid import Grid
from terramorph.raster import Raster, write_image
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


class PairCounts(NamedTuple):
    """Number of pairs per split."""

    train: int
    val: int


def write_town_pairs(
    town: Town,
    out: str | Path,
    tile: int = 256,
    stride: int | None = None,
    limit: tuple[int, int] | None = None,
    aerial: Raster | None = None,
    drawn: Raster | None = None,
) -> PairCounts:
    """Write ``out/train`` and ``out/val``: PNG tiles, aerial left and map right, named by row and column in pixels.

    The south-east quarter is held out: val tiles lie wholly inside it and do not overlap; train tiles lie wholly
    outside it. No ground is shared.

    Args:
        town: The town.
        out: A folder, made if missing.
        tile: Side of a tile in pixels; an image is ``2 * tile`` wide.
        stride: Step between train tiles in pixels; less than ``tile`` makes them overlap. Default ``tile``.
        limit: Largest number of (train, val) pairs, spread evenly over the town. Default: all.
        aerial: The town's aerial image, if it exists already.
        drawn: The town's map, if it exists already.

    Returns:
        Numbers of train and val pairs.

    Raises:
        DatasetError: If the tile does not fit into a quarter of the town, or the stride is under 1.
        StorageError: If a tile cannot be written.
    """
    top, left, height, width = town.heldout_window
    stride = tile if stride is None else stride
    if tile < 1 or tile > min(top, left) or stride < 1:
        raise DatasetError(
            f"Tiles must fit into a quarter of the town ({height} x {width} px), and their stride must be >= 1 px, "
            f"got tiles of {tile} px at a stride of {stride} px; make a larger town or smaller tiles."
        )
    aerial = town.aerial() if aerial is None else aerial
    drawn = town.map() if drawn is None else drawn
    side = town.grid.height
    steps = range(0, side - tile + 1, stride)
    train = [(y, x) for y in steps for x in steps if y + tile <= top or x + tile <= left]
    val = [(y, x) for y in range(top, side - tile + 1, tile) for x in range(left, side - tile + 1, tile)]
    counts = []
    for name, places, most in zip(("train", "val"), (train, val), limit or (None, None), strict=True):
        folder = Path(out) / name
        folder.mkdir(parents=True, exist_ok=True)
        chosen = places if most is None or most >= len(places) else _spread(places, most)
        for y, x in chosen:
            halves = [r.crop(y, x, tile, tile).pixels for r in (aerial, drawn)]
            pair = Raster.from_pixels(np.concatenate(halves, axis=2))
            write_image(pair, folder / f"{y:05d}_{x:05d}.png")
        counts.append(len(chosen))
    return PairCounts(*counts)


def _spread(places: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return ``most`` of the places, evenly spread over the list."""
    return [places[i] for i in np.linspace(0, len(places) - 1, most).round().astype(int)]
