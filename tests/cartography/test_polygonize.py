"""Polygons of a raster of classes."""

from __future__ import annotations

import re
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.crs import CRS

from terramorph.cartography import CLASSES, classic, classify, polygonize
from terramorph.cartography.polygonize import write_polygons
from terramorph.errors import InputError, InputWarning
from terramorph.geo import Grid
from terramorph.raster import Raster, write_image
from terramorph.town import make_town

NAMES = dict(enumerate(CLASSES))
UTM = CRS("EPSG:32633")
PLACE = Affine(2, 0, 500_000, 0, -2, 5_000_000)


def _write(path: Path, classes: np.ndarray, mask: np.ndarray | None = None, crs: CRS | None = UTM) -> Path:
    grid = Grid(*classes.shape, PLACE if crs is not None else Affine.identity(), crs)
    write_image(Raster.from_pixels(classes[None], grid, mask=mask), path)
    return path


def _iou(a: shapely.Geometry, b: shapely.Geometry) -> float:
    return a.intersection(b).area / a.union(b).area


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, geopandas.GeoDataFrame, Grid]:
    """Classes of a town's map, and the buildings and parks that it was drawn from."""
    town = make_town(1024, seed=3)
    path = tmp_path_factory.mktemp("town") / "classes.tif"
    classes = classify(town.map(classic(), antialias=False).pixels)
    write_image(Raster.from_pixels(classes[None], town.grid), path)
    kinds = [feature.kind for feature in town.features]
    truth = geopandas.GeoDataFrame(
        {"class": kinds}, geometry=[feature.geometry for feature in town.features], crs=32633
    ).clip(shapely.box(*town.grid.bounds))
    return path, truth, town.grid


def test_a_town_comes_back(
    town: tuple[Path, geopandas.GeoDataFrame, Grid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, truth, grid = town
    out = tmp_path / "town.gpkg"
    count = write_polygons(path, out, NAMES)
    found = geopandas.read_file(out)
    assert len(found) == count
    assert found.crs == truth.crs
    buildings, true = found[found["class"] == "building"], truth[truth["class"] == "building"]
    # Buildings that touch are one area of a raster.
    alone = shapely.union_all(true.geometry.buffer(0.5)).geoms
    assert len(buildings) == pytest.approx(len(alone), rel=0.1)
    assert _iou(buildings.union_all(), true.union_all()) > 0.85
    # Simplified outlines hold the area that the pixels have.
    monkeypatch.setattr(polygonize, "SIMPLIFY_PX", 0)
    monkeypatch.setattr(polygonize, "LEAST_PX", 0)
    write_polygons(path, tmp_path / "edges.fgb", NAMES)
    exact = geopandas.read_file(tmp_path / "edges.fgb")
    for name in ("building", "road", "highway", "park", "water"):
        areas = [frame[frame["class"] == name].union_all() for frame in (found, exact)]
        assert _iou(*areas) > (0.9 if name == "building" else 0.95), name
    assert shapely.is_valid(found.geometry).all()
    # Neighbours keep common edges: nothing overlaps, nothing gapes but what was too small.
    assert found.area.sum() == pytest.approx(found.union_all().area, rel=1e-6)
    assert found.area.sum() == pytest.approx(grid.height * grid.width, rel=0.01)


def test_values_holes_and_confidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = np.zeros((40, 60), np.uint8)
    classes[5:25, 5:35] = 5
    classes[10:15, 10:15] = 6
    classes[30:32, 50:52] = 1  # 4 pixels
    mask = np.ones(classes.shape, bool)
    mask[:, 55:] = False
    path = _write(tmp_path / "c.tif", classes, mask)
    confidence = np.where(classes == 5, 0.75, 0.25).astype(np.float32)
    confidence[5:15, 5:35] = np.where(classes[5:15, 5:35] == 5, 0.5, 1.0)
    grid = Grid(*classes.shape, PLACE, UTM)
    write_image(Raster.from_pixels(confidence[None], grid, mask=mask), tmp_path / "p.tif")
    monkeypatch.setattr(polygonize, "SIMPLIFY_PX", 0)
    monkeypatch.setattr(polygonize, "LEAST_PX", 0)
    write_polygons(path, tmp_path / "a.fgb", {1: "building", 5: "park", 6: "water"}, confidence=tmp_path / "p.tif")
    found = geopandas.read_file(tmp_path / "a.fgb").set_index("class")
    assert sorted(found.index) == ["building", "park", "water"]
    assert found.area.to_dict() == {"building": 16.0, "park": 4 * (600 - 25), "water": 100.0}
    assert found["area_m2"].to_dict() == pytest.approx(found.area.to_dict(), rel=2e-3)  # UTM's scale
    assert found["confidence"]["park"] == pytest.approx((0.5 * (300 - 25) + 0.75 * 300) / 575, abs=1e-4)
    assert found["confidence"]["water"] == 1.0
    monkeypatch.setattr(polygonize, "LEAST_PX", 30)
    write_polygons(path, tmp_path / "b.fgb", {1: "building", 5: "park"})
    found = geopandas.read_file(tmp_path / "b.fgb")
    assert found["class"].tolist() == ["park"]
    assert found.area.item() == 4 * 600  # the pond of 25 pixels is too small for a hole
    assert found["confidence"].isna().all()


@pytest.mark.parametrize(("crs", "pixel", "top"), [("EPSG:3857", 15_000, 9e6), ("EPSG:4326", 0.1, 63)])
def test_areas_are_measured_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crs: str, pixel: float, top: float
) -> None:
    classes = np.zeros((600, 64), np.uint8)
    classes[10:40, 10:40] = classes[570:590, 10:20] = 5
    classes[20:25, 20:25] = 0
    grid = Grid(*classes.shape, Affine(pixel, 0, 0, 0, -pixel, top), CRS(crs))
    write_image(Raster.from_pixels(classes[None], grid), tmp_path / "c.tif")
    monkeypatch.setattr(polygonize, "SIMPLIFY_PX", 0)
    write_polygons(tmp_path / "c.tif", tmp_path / "a.gpkg", {5: "park"})
    found = geopandas.read_file(tmp_path / "a.gpkg")
    true = found.to_crs("EPSG:6933").area  # equal area
    assert len(found) == 2
    assert found["area_m2"].tolist() == pytest.approx(true.tolist(), rel=2e-3)


def test_geojson_is_in_degrees_and_needs_a_crs(tmp_path: Path) -> None:
    classes = np.zeros((40, 60), np.uint8)
    classes[5:25, 5:35] = 5
    write_polygons(_write(tmp_path / "c.tif", classes), tmp_path / "a.geojson", {5: "park"})
    west, south, east, north = geopandas.read_file(tmp_path / "a.geojson").total_bounds
    assert 14.99 < west < east < 15.01
    assert 45 < south < north < 45.2
    bare = _write(tmp_path / "bare.tif", classes, crs=None)
    with pytest.raises(InputError, match="no CRS"):
        write_polygons(bare, tmp_path / "b.geojson", {5: "park"})
    with pytest.warns(InputWarning, match="no CRS"):
        assert write_polygons(bare, tmp_path / "b.gpkg", {5: "park"}) == 1
    with pytest.raises(InputError, match="gpkg"):
        write_polygons(bare, tmp_path / "b.shp", {5: "park"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.geojson", "b.gpkg", "bare.tif", "c.tif"]


def test_no_area_makes_an_empty_file(tmp_path: Path) -> None:
    path = _write(tmp_path / "c.tif", np.zeros((40, 60), np.uint8))
    assert write_polygons(path, tmp_path / "a.gpkg", {5: "park"}) == 0
    assert len(geopandas.read_file(tmp_path / "a.gpkg")) == 0


@pytest.mark.parametrize("name", ["gpkg", "sqlite_a", "-a"])
def test_a_file_may_have_a_name_that_a_layer_may_not(tmp_path: Path, name: str) -> None:
    assert write_polygons(
        _write(tmp_path / "c.tif", np.full((40, 60), 5, np.uint8)), tmp_path / f"{name}.gpkg", {5: "park"}
    )
    assert geopandas.read_file(tmp_path / f"{name}.gpkg")["class"].tolist() == ["park"]


def test_a_map_without_a_place_is_named_as_the_user_named_it(tmp_path: Path) -> None:
    path = _write(tmp_path / ".scratch.tif", np.full((40, 60), 5, np.uint8), crs=None)
    with pytest.warns(InputWarning, match=f"^{re.escape(str(tmp_path / 'a.gpkg'))} has no CRS"):
        write_polygons(path, tmp_path / "a.gpkg", {5: "park"})
