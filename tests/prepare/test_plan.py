"""Grids on which both sides are read, and the sentences for sides that cannot be laid on each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geom import Geometry, box

from terramorph.errors import ConfigError, DatasetError, InputWarning
from terramorph.geo import Grid, project
from terramorph.prepare import Options, SplitRule
from terramorph.prepare.journal import Journal
from terramorph.prepare.places import area_places
from terramorph.prepare.plan import Area, Scale, plan_grid, plan_tiles
from terramorph.raster.resample import upright_grid

UTM = CRS("EPSG:32633")


@dataclass
class Side:
    """A source of which only the place is asked."""

    name: str
    grid: Grid | None
    ground: Geometry | None = None

    @property
    def extent(self) -> Geometry:
        return self.ground if self.grid is None else self.grid.geobox.extent


def utm(x: float, y: float, side: int = 1000, size: float = 1.0) -> Grid:
    return Grid(side, side, Affine(size, 0, 4e5 + x, 0, -size, 5.8e6 - y), UTM)


def test_pixel_grid_is_the_window_both_cover() -> None:
    source, target = Side("a.tif", utm(0, 0)), Side("b.tif", utm(100, 300))
    grid = plan_grid(source, target, Scale(), 256)
    assert grid == source.grid.crop(300, 100, 700, 900)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mirrored_and_turned_pixels_are_taken_with_north_up(orientation: int) -> None:
    source, target = Side("a.tif", upright_grid(utm(0, 0), orientation)), Side("b.tif", utm(100, 300))
    assert plan_grid(source, target, Scale(), 256) == utm(0, 0).crop(300, 100, 700, 900)


def test_resolution_is_on_the_ground_and_anchored() -> None:
    source = Side("a.tif", utm(0.3, 0.4))
    grid = plan_grid(source, Side("b.tif", utm(0, 0)), Scale(resolution=0.6), 256)
    assert grid.crs == UTM
    assert grid.resolution == pytest.approx((0.6, 0.6))
    assert grid.affine.c / 0.6 == pytest.approx(round(grid.affine.c / 0.6), abs=1e-6)
    degrees = Side("c.tif", Grid(900, 900, Affine(1e-5, 0, 11.25, 0, -1e-5, 43.77), CRS("EPSG:4326")))
    grid = plan_grid(degrees, degrees, Scale(resolution=0.5), 256)
    assert grid.crs == CRS("EPSG:32632")
    assert grid.ground_resolution == pytest.approx(0.5, rel=1e-3)
    mercator = Side("d.tif", Grid(900, 900, Affine(1, 0, 1.25e6, 0, -1, 5.4e6), CRS("EPSG:3857")))
    assert plan_grid(mercator, mercator, Scale(resolution=0.5), 64).crs == CRS("EPSG:32632")


def test_zoom_is_aligned_to_tiles_of_the_world() -> None:
    ground = box(11.25, 43.76, 11.26, 43.77, "EPSG:4326")
    grid = plan_grid(Side("a", None, ground), Side("b", None, ground), Scale(zoom=17), 256)
    tile = 2 * np.pi * 6378137.0 / 2**17
    assert grid.affine.a == pytest.approx(tile / 256)
    for value in ((grid.affine.c + np.pi * 6378137.0) / tile, (np.pi * 6378137.0 - grid.affine.f) / tile):
        assert value == pytest.approx(round(value), abs=1e-6)
    assert grid.height % 256 == grid.width % 256 == 0
    extent = project(grid.geobox.extent, "EPSG:4326").boundingbox
    assert extent.left <= 11.25 < 11.26 <= extent.right
    assert extent.bottom <= 43.76 < 43.77 <= extent.top


def test_bounds_limit_the_ground() -> None:
    source = Side("a.tif", utm(0, 0))
    bounds = project(source.grid.crop(100, 200, 300, 400).geobox.extent, "EPSG:4326")
    grid = plan_grid(source, source, Scale(), 64, bounds)
    assert abs(grid.height - 300) < 10
    assert abs(grid.width - 400) < 10
    with pytest.raises(DatasetError, match="outside `bounds`"):
        plan_grid(source, source, Scale(), 64, box(0, 0, 1, 1, "EPSG:4326"))


def test_plain_images_must_be_of_one_size() -> None:
    a, b = Side("a.png", Grid.pixels(100, 100)), Side("b.png", Grid.pixels(100, 90))
    assert plan_grid(a, a, Scale(), 64) == a.grid
    with pytest.raises(DatasetError, match=r"a\.png .*b\.png .*differ in size"):
        plan_grid(a, b, Scale(), 64)


def test_sides_that_share_no_ground() -> None:
    with pytest.raises(DatasetError, match=r"share no ground: a\.tif covers"):
        plan_grid(Side("a.tif", utm(0, 0)), Side("b.tif", utm(5000, 0)), Scale(), 256)


def test_swapped_longitude_and_latitude_are_named() -> None:
    right = utm(0, 0)
    b = project(right.geobox.extent, "EPSG:4326").boundingbox
    swapped = box(b.bottom, b.left, b.top, b.right, "EPSG:4326")
    with pytest.raises(DatasetError, match=r"longitude and latitude are swapped"):
        plan_grid(Side("a.tif", right), Side("b.geojson", None, swapped), Scale(), 256)


def test_a_side_without_crs_or_place() -> None:
    placed = Grid(500, 500, Affine(1, 0, 4e5, 0, -1, 5.8e6), None)
    with pytest.raises(DatasetError, match=r"m\.jpg has a place but no CRS.*`target_crs`"):
        plan_grid(Side("a.tif", utm(0, 0)), Side("m.jpg", placed), Scale(), 256)
    with pytest.raises(DatasetError, match=r"m\.jpg has no place on Earth.*`source_crs`"):
        plan_grid(Side("m.jpg", Grid.pixels(5, 5)), Side("a.tif", utm(0, 0)), Scale(resolution=1), 256)
    bounds = box(1, 1, 2, 2, "EPSG:4326")
    for side, told in ((Side("m.jpg", placed), "no CRS.*`source_crs`"), (Side("m.jpg", Grid.pixels(5, 5)), "no place")):
        with pytest.raises(DatasetError, match=told):
            plan_grid(side, side, Scale(), 256, bounds)
    with pytest.warns(InputWarning, match="no CRS"):
        assert plan_grid(Side("m.jpg", placed), Side("n.jpg", placed), Scale(), 256) == placed


def test_a_world_of_tiles_is_cut_to_the_other_side() -> None:
    world = box(-2.0e7, -2.0e7, 2.0e7, 2.0e7, "EPSG:3857")
    local = Side("a.tif", utm(0, 0))
    assert plan_grid(local, Side("tiles", None, world), Scale(), 256) == local.grid
    drawn = plan_grid(Side("tiles", None, world), local, Scale(zoom=15), 256)
    assert drawn == plan_grid(local, Side("tiles", None, world), Scale(zoom=15), 256)


def test_vectors_alone_need_a_scale() -> None:
    ground = box(11.25, 43.76, 11.26, 43.77, "EPSG:4326")
    with pytest.raises(DatasetError, match="`resolution`"):
        plan_grid(Side("a.gpkg", None, ground), Side("b.gpkg", None, ground), Scale(), 256)


def test_tiles_cover_and_overlap() -> None:
    grid = utm(0, 0)
    tiles = plan_tiles(grid, 256, 56)
    assert (int(tiles.row.max()), int(tiles.col.max())) == (3, 3)
    assert tiles.y.tolist()[:5] == [0, 0, 0, 0, 200]
    with pytest.raises(DatasetError, match="smaller than one tile"):
        plan_tiles(grid, 1001, 0)
    with pytest.raises(DatasetError, match="over the limit"):
        plan_tiles(Grid(10**6, 10**6, grid.affine, UTM), 16, 0)


@pytest.mark.parametrize(("crs", "unit"), [("EPSG:4326", 1.0), ("EPSG:4807", 0.9)])  # degrees, grads
def test_a_buffer_is_in_metres_where_degrees_are_short(tmp_path: Path, crs: str, unit: float) -> None:
    affine = Affine.scale(1 / unit) @ Affine(1e-4, 0, 10, 0, -1e-4, 60)
    grid = Grid(1280, 2560, affine, CRS(crs))
    side = Side("a.tif", grid)
    listed = tmp_path / "list.csv"
    ids = [f"a_{row:02d}_{column:02d}" for row in range(1, 21) for column in range(1, 41)]
    listed.write_text("".join(f"{i},{'test' if i == ids[0] else 'train'}\n" for i in ids))
    options = Options(tile=64, split=SplitRule("by-list", file=listed, buffer=1200.0))
    places = area_places(Area("a", side, side, grid), options, Journal(tmp_path / "ds", options.plain()))
    kept = [place for place in places if place.split == "train"]
    geod = grid.crs.proj.get_geod()
    east = [geod.inv(10 + 64e-4, 60, 10 + p.x * 1e-4, 60)[2] for p in kept if p.row == 0]
    south = [geod.inv(10, 60 - 64e-4, 10, 60 - p.y * 1e-4)[2] for p in kept if p.col == 0]
    assert 1200 <= min(east) < 1200 + 64 * 5.6
    assert 1200 <= min(south) < 1200 + 64 * 11.2


def test_scales_that_are_none() -> None:
    for wrong in ({"resolution": 0.0}, {"resolution": 1.0, "zoom": 3}, {"zoom": 40}):
        with pytest.raises(ConfigError):
            Scale(**wrong)
