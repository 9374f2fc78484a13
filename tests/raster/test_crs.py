"""Coordinate systems of files: a code stands only where it is equal."""

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from pyproj import Transformer
from rasterio.crs import CRS as RasterioCRS

from terramorph.geo import Grid
from terramorph.raster import Raster, read_image, write_image
from terramorph.raster.crs import to_odc_crs, to_rasterio_crs
from terramorph.raster.worldfile import prj_text, read_crs
from terramorph.sources import open_source

SHIFT = "595.48,121.69,515.35,4.115,-2.9383,0.853,-3.408"
GAUSS = (
    'PROJCS["Pulkovo 1942 / Gauss-Kruger zone 4",GEOGCS["Pulkovo 1942",DATUM["Pulkovo_1942",'
    f'SPHEROID["Krassowsky 1940",6378245,298.3],TOWGS84[{SHIFT}]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",21],PARAMETER["scale_factor",1],PARAMETER["false_easting",4500000],'
    'PARAMETER["false_northing",0],UNIT["metre",1]]'
)
HEIGHTS = 'VERT_CS["EGM96 height",VERT_DATUM["EGM96 geoid",2005],UNIT["metre",1],AXIS["Up",UP]]'


def place(crs: CRS) -> tuple[float, float]:
    """Where zone 4's 4,500,000 E, 6,200,000 N lies in EPSG:3857, by PROJ."""
    x, y = Transformer.from_crs(crs.proj, 3857, always_xy=True).transform(4_500_000.0, 6_200_000.0)
    return float(x), float(y)


RIGHT = pytest.approx((2_337_431.41, 7_542_792.85), abs=0.02)
"""What GDAL says of it."""


@pytest.mark.parametrize("wkt", [GAUSS, f'COMPD_CS["both",{GAUSS},{HEIGHTS}]'])
def test_datum_parameters_count_there_and_back(wkt: str) -> None:
    crs = to_odc_crs(RasterioCRS.from_wkt(wkt))
    assert place(crs) == RIGHT
    assert crs != CRS("EPSG:28404")
    assert place(to_odc_crs(to_rasterio_crs(crs))) == RIGHT


@pytest.mark.parametrize("suffix", ["prj", "aux.xml", "tif", "vrt"])
def test_datum_parameters_of_files_count(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "a.png"
    write_image(Raster.from_pixels(np.zeros((3, 4, 5), np.uint8)), path)
    crs = RasterioCRS.from_wkt(GAUSS)
    if suffix == "prj":
        path.with_suffix(".pgw").write_text("1\n0\n0\n-1\n4500000.5\n6199999.5\n")
        path.with_suffix(".prj").write_text(GAUSS)
    elif suffix == "aux.xml":
        affine = "4500000, 1, 0, 6200000, 0, -1"
        text = f"<PAMDataset><SRS>{GAUSS}</SRS><GeoTransform>{affine}</GeoTransform></PAMDataset>"
        (tmp_path / "a.png.aux.xml").write_text(text)
    else:
        import rasterio

        profile = {"driver": "GTiff", "height": 4, "width": 5, "count": 1, "dtype": "uint8"}
        path = tmp_path / "a.tif"
        with rasterio.open(path, "w", **profile, crs=crs, transform=Affine(1, 0, 4.5e6, 0, -1, 6.2e6)) as file:
            file.write(np.zeros((1, 4, 5), np.uint8))
        if suffix == "vrt":
            from rasterio.shutil import copy

            with rasterio.Env(OSR_STRIP_TOWGS84="NO"):
                copy(path, tmp_path / "a.vrt", driver="VRT")
            path = tmp_path / "a.vrt"
    with open_source(path) as source:
        assert source.grid is not None
        assert source.grid.crs is not None
        assert place(source.grid.crs) == RIGHT
    assert place(read_image(path).grid.crs) == RIGHT


@pytest.mark.parametrize("name", ["out.tif", "out.png"])
def test_what_is_written_keeps_datum_parameters_for_every_reader(tmp_path: Path, name: str) -> None:
    crs = to_odc_crs(RasterioCRS.from_wkt(GAUSS))
    grid = Grid(4, 5, Affine(1, 0, 4.5e6, 0, -1, 6.2e6), crs)
    write_image(Raster(np.zeros((1, 4, 5), np.uint8), np.ones((4, 5), np.bool_), grid, ("grey",)), tmp_path / name)
    assert place(read_image(tmp_path / name).grid.crs) == RIGHT
    if name == "out.tif":
        import rasterio

        with rasterio.open(tmp_path / name) as file:  # with GDAL's own settings
            assert place(CRS(file.crs.to_wkt())) == RIGHT


def test_a_prj_keeps_datum_parameters(tmp_path: Path) -> None:
    (tmp_path / "a.prj").write_text(prj_text(to_odc_crs(RasterioCRS.from_wkt(GAUSS))))
    assert place(read_crs(tmp_path / "a.png")) == RIGHT


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("EPSG:32633", 32633),
        ("+proj=utm +zone=33 +ellps=WGS84 +towgs84=0,0,0 +units=m", 32633),
        ("EPSG:3857+5773", 3857),
        ("EPSG:4979", 4326),
        ("ESRI:102100", 3857),
        ("+proj=merc +R=6378137 +units=m", 3857),
        (
            "+proj=somerc +lat_0=46.95240555555556 +lon_0=7.439583333333333 +k_0=1 +x_0=2600000 +y_0=1200000 "
            "+ellps=bessel +towgs84=674.374,15.056,405.346,0,0,0,0 +units=m",
            2056,
        ),
    ],
)
def test_what_is_equal_to_a_code_is_called_by_it(text: str, code: int) -> None:
    crs = to_odc_crs(RasterioCRS.from_string(text))
    assert str(crs) == f"EPSG:{code}"


def test_a_prj_of_esri_is_called_by_its_code(tmp_path: Path) -> None:
    for code in (32633, 3857, 28404, 2263):
        (tmp_path / "a.prj").write_text(prj_text(CRS(f"EPSG:{code}")))
        assert str(read_crs(tmp_path / "a.png")) == f"EPSG:{code}"
