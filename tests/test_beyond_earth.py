"""Rasters whose CRS has no way to longitudes and latitudes on Earth: of building sites (drones), and of the Moon."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from odc.geo.geom import box
from rasterio import Affine
from scipy.ndimage import gaussian_filter

from terramorph.bundle import Bundle
from terramorph.errors import DatasetError, InputError, RasterError
from terramorph.geo import project
from terramorph.prepare import Inputs, Options, Scale, SplitRule, prepare
from terramorph.sources import open_source
from terramorph.translate import Model

from .translate.conftest import bundle  # noqa: F401

SITE = 'LOCAL_CS["Local Coordinates (m)",LOCAL_DATUM["site",0],UNIT["metre",1],AXIS["X",EAST],AXIS["Y",NORTH]]'
FEET = SITE.replace('"metre",1', '"foot",0.3048')
MOON = "+proj=eqc +R=1737400 +units=m +no_defs"
DEGREES = "+proj=longlat +R=1737400 +no_defs"
SPLIT = SplitRule(fractions=(0.4, 0.3, 0.3))


def written(path: Path, crs: str, seed: int = 0, step: float = 1.0, at: float = 1000.0) -> str:
    smooth = gaussian_filter(np.random.default_rng(seed).random((3, 256, 256)), (0, 4, 4))
    pixels = ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype("uint8")
    about = {"height": 256, "width": 256, "count": 3, "dtype": "uint8", "transform": Affine(step, 0, at, 0, -step, at)}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, **about) as dataset:
        dataset.write(pixels)
    return str(path)


@pytest.mark.parametrize("crs", [SITE, MOON])
@pytest.mark.parametrize("scale", [Scale(), Scale(resolution=2.0)])
def test_pairs_are_cut_in_the_plane_of_the_file(tmp_path: Path, crs: str, scale: Scale) -> None:
    areas = []
    for name, at in (("a", 1000.0), ("b", 5000.0)):
        sides = (written(tmp_path / f"{name}{seed}.tif", crs, seed, at=at) for seed in (0, 1))
        areas.append(Inputs(*sides, name=name))
    manifest = prepare(tmp_path / "ds", areas, Options(tile=32, split=SPLIT, scale=scale))
    assert all(area.grid is not None and area.grid.ground_resolution for area in manifest.areas)
    footprints = geopandas.read_parquet(tmp_path / "ds" / "footprints.parquet")
    assert footprints.geometry.notna().all()
    assert footprints.total_bounds[0] >= 999


def test_areas_of_two_planes_share_no_ground(tmp_path: Path) -> None:
    areas = [
        Inputs(*(written(tmp_path / f"{name}{seed}.tif", crs, seed) for seed in (0, 1)), name=name)
        for name, crs in (("site", SITE), ("moon", MOON), ("earth", "EPSG:32633"))
    ]
    prepare(tmp_path / "ds", areas, Options(tile=64, split=SPLIT))
    footprints = geopandas.read_parquet(tmp_path / "ds" / "footprints.parquet")
    assert footprints.groupby("area").geometry.agg(lambda shapes: shapes.notna().all()).to_dict() == {
        "site": False,
        "moon": False,
        "earth": True,
    }


def test_what_needs_the_earth_is_refused_in_a_sentence(tmp_path: Path, bundle: Bundle) -> None:  # noqa: F811
    model, source = Model(bundle, any_resolution=True), written(tmp_path / "a.tif", SITE)
    with pytest.raises(InputError, match="GeoJSON is in degrees"):
        model.translate_to(source, tmp_path / "o.geojson", kind="polygons")
    with pytest.raises(InputError, match="place on Earth"):
        model.translate_to(source, tmp_path / "o.tif", stac=True)
    with pytest.raises(RasterError, match=r"no way from the CRS .*Engineering"):
        model.translate_to(source, tmp_path / "o.pmtiles")
    other = written(tmp_path / "b.tif", SITE, at=9000.0)
    with pytest.raises(DatasetError, match="share no ground"):
        prepare(tmp_path / "ds", [Inputs(source, other)], Options(tile=64))
    with pytest.raises(RasterError, match="no metres in the CRS"):
        prepare(
            tmp_path / "d2",
            [Inputs(*(written(tmp_path / f"{i}.tif", FEET, i) for i in (0, 1)))],
            Options(tile=64, scale=Scale(resolution=1.0)),
        )


@pytest.mark.parametrize(("crs", "step"), [(SITE, 1.0), (MOON, 1.0), (DEGREES, 1e-5)])
def test_a_raster_is_translated_in_its_plane(tmp_path: Path, bundle: Bundle, crs: str, step: float) -> None:  # noqa: F811
    source = written(tmp_path / "a.tif", crs, step=step, at=10.0)
    Model(bundle, any_resolution=True).translate_to(source, tmp_path / "o.tif")
    with open_source(source) as of, open_source(tmp_path / "o.tif") as to:
        assert to.grid == of.grid


def test_no_way_is_said_by_name() -> None:
    with pytest.raises(RasterError, match=r"no way from the CRS EPSG:4326 to .*Geographic"):
        project(box(0, 0, 1, 1, "EPSG:4326"), DEGREES)
