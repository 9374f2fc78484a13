"""Scenes whose place is a formula: RPCs and geolocation arrays."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.crs import CRS
from pyproj import Transformer
from rasterio.rpc import RPC

from terramorph.errors import InputWarning, RasterError
from terramorph.raster import ImageSource, ReadOptions, read_image

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

HEIGHT, WIDTH = 40, 60
LEAN = 0.5
"""How far a scene leans, as a share of its width, where the ground is 500 m higher."""


def terms(*values: float) -> list[float]:
    return [*values, *[0.0] * (20 - len(values))]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A scene of 60 x 40 px around 5 E, 43 N, about 3.5 m a pixel, leaning east with height; one pixel is bright."""
    pixels = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    pixels[0, 10:13, 20:23] = 200
    profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile) as file:
        file.write(pixels)
        file.rpcs = RPC(
            height_off=100,
            height_scale=500,
            lat_off=43.0,
            lat_scale=0.00064,
            line_num_coeff=terms(0, 0, -1.0),
            line_den_coeff=terms(1.0),
            line_off=HEIGHT / 2,
            line_scale=HEIGHT / 2,
            long_off=5.0,
            long_scale=0.0013,
            samp_num_coeff=terms(0, 1.0, 0, LEAN),
            samp_den_coeff=terms(1.0),
            samp_off=WIDTH / 2,
            samp_scale=WIDTH / 2,
            err_bias=0,
            err_rand=0,
        )
    return tmp_path / "scene.tif"


def bright(source: ImageSource) -> tuple[float, float]:
    """Longitude and latitude of the bright pixel's middle."""
    assert source.grid is not None
    assert source.grid.crs is not None
    values = source.read(source.grid).pixels[0].astype(float)
    rows, columns = np.mgrid[0 : source.grid.height, 0 : source.grid.width] + 0.5
    x, y = source.grid.affine @ ((columns * values).sum() / values.sum(), (rows * values).sum() / values.sum())
    longitude, latitude = Transformer.from_crs(source.grid.crs.proj, 4326, always_xy=True).transform(x, y)
    return float(longitude), float(latitude)


EXPECTED = 5.0 + (21.5 - 30.5) / 30 * 0.0013, 43.0 - (11.5 - 20.5) / 20 * 0.00064
"""Where the bright pixel is at the mean height: RPCs count pixels from the middle of the first."""
PIXEL = 0.0013 / 30


def test_a_scene_with_rpcs_is_laid_on_the_ground_and_that_is_said(scene: Path) -> None:
    with pytest.warns(InputWarning, match="RPCs"):
        source = ImageSource(scene)
    with source:
        assert source.grid is not None
        assert source.grid.crs == CRS("EPSG:32631")
        assert source.grid.ground_resolution == pytest.approx(3.6, rel=0.1)
        assert bright(source) == pytest.approx(EXPECTED, abs=PIXEL)
        assert not source.read(source.grid.crop(-5, -5, 4, 4)).mask.any()


@pytest.mark.parametrize("by", ["height", "dem"])
def test_the_height_of_the_ground_moves_a_scene_that_leans(scene: Path, tmp_path: Path, by: str) -> None:
    if by == "height":
        options = ReadOptions(height=600.0)
    else:
        profile = {"driver": "GTiff", "height": 50, "width": 50, "count": 1, "dtype": "float32", "crs": "EPSG:4326"}
        with rasterio.open(
            tmp_path / "dem.tif", "w", **profile, transform=Affine(2e-4, 0, 4.995, 0, -2e-4, 43.005)
        ) as file:
            file.write(np.full((1, 50, 50), 600, np.float32))
        options = ReadOptions(dem=str(tmp_path / "dem.tif"))
    with ImageSource(scene, options=options) as source:
        longitude, latitude = bright(source)
        prints = source.fingerprint()
    assert longitude == pytest.approx(EXPECTED[0] - LEAN * 0.0013, abs=PIXEL)
    assert latitude == pytest.approx(EXPECTED[1], abs=PIXEL)
    with ImageSource(scene, options=ReadOptions(height=100.0)) as source:
        assert source.fingerprint() != prints


def test_a_dem_that_is_not_there_is_named(scene: Path) -> None:
    with pytest.raises(RasterError, match=r"heights\.tif does not exist"):
        ImageSource(scene, options=ReadOptions(dem="heights.tif"))


def test_a_world_file_comes_before_rpcs(scene: Path) -> None:
    scene.with_suffix(".tfw").write_text("2\n0\n0\n-2\n500001\n4999999\n")
    scene.with_suffix(".prj").write_text(CRS("EPSG:32633").to_wkt())
    with ImageSource(scene) as source:
        assert source.grid == read_image(scene).grid
        assert source.grid is not None
        assert source.grid.affine.c == 500_000


def test_a_swath_is_laid_on_the_ground_by_its_geolocation_arrays(tmp_path: Path) -> None:
    longitude, latitude = np.meshgrid(5 + np.arange(WIDTH) * 1e-3, 43 - np.arange(HEIGHT) * 1e-3)
    longitude = longitude + (latitude - 43) * 0.5  # sheared, so that no affine north-up would do
    values = np.zeros((HEIGHT, WIDTH), np.float32)
    values[10:13, 20:23] = 200
    profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 1}
    for name, array in (("x", longitude), ("y", latitude), ("v", values)):
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile, dtype=array.dtype.name) as file:
            file.write(array[None])
    with rasterio.open(tmp_path / "v.tif", "r+") as file:
        names = {"X_DATASET": str(tmp_path / "x.tif"), "Y_DATASET": str(tmp_path / "y.tif"), "SRS": "EPSG:4326"}
        steps = {"X_BAND": 1, "Y_BAND": 1, "PIXEL_OFFSET": 0, "LINE_OFFSET": 0, "PIXEL_STEP": 1, "LINE_STEP": 1}
        file.update_tags(ns="GEOLOCATION", **names, **steps)
    with ImageSource(tmp_path / "v.tif") as source:
        assert source.grid is not None
        assert source.grid.crs == CRS("EPSG:4326")
        assert bright(source) == pytest.approx((float(longitude[11, 21]), float(latitude[11, 21])), abs=1.5e-3)
