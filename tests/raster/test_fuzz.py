"""Damaged files that say where an image lies: read, or refused by an error of ours."""

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from tests.fuzz import MUTATIONS, only_ours

from terramorph.geo import Grid
from terramorph.raster import Raster, read_image, write_image
from terramorph.raster.worldfile import prj_text, world_text
from terramorph.sources import open_source

# rasterio cannot log what GDAL says of bytes that are no UTF-8, which has no consequences.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

UTM = CRS("EPSG:32633")
GRID = Grid(6, 8, Affine(1, 0, 500_000, 0, -1, 5_000_000), UTM)
PIXELS = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(3, 6, 8)
POINTS = [(0, 0, 15.0, 45.0), (8, 0, 15.001, 45.0), (8, 6, 15.001, 44.9994), (0, 6, 15.0, 44.9994)]
TAB = "\n".join(
    [
        '!table\n!version 300\n!charset WindowsLatin1\n\nDefinition Table\n  File "a.png"\n  Type "RASTER"',
        *(f'  ({x}, {y}) ({c}, {r}) Label "P"' for c, r, x, y in POINTS),
        '  CoordSys Earth Projection 1, 104\n  Units "degree"\n',
    ]
)


def ozi(datum: str, projection: str) -> str:
    """A .map of the points."""
    head = ["OziExplorer Map Data File Version 2.2", "a", "a.png", "1 ,Map Code,", f"{datum},,0.0,0.0,WGS 84"]
    lines = [*head, "", "", "", f"Map Projection,{projection},PolyCal,No", "Projection Setup,0,15,1,500000,0,,,,,"]
    for i, (c, r, x, y) in enumerate(POINTS, 1):
        degrees = f"{int(y)},{(y - int(y)) * 60:.8f},N,{int(x)},{(x - int(x)) * 60:.8f},E"
        lines.append(f"Point{i:02d},xy,{c},{r},in, deg,{degrees}, grid,,,,N")
    return "\r\n".join([*lines, "IWH,Map Image Width/Height,8,6"])


AUX = (
    f"<PAMDataset><SRS>{UTM.to_wkt().replace('&', '&amp;')}</SRS>"
    "<GeoTransform>500000, 1, 0, 5000000, 0, -1</GeoTransform></PAMDataset>"
)
VRT = (
    '<VRTDataset rasterXSize="8" rasterYSize="6"><SRS>EPSG:32633</SRS>'
    "<GeoTransform>500000, 1, 0, 5000000, 0, -1</GeoTransform>"
    '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename relativeToVRT="1">a.png</SourceFilename>'
    "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
)
BESIDE = {
    "a.pgw": world_text(GRID.affine),
    "a.prj": prj_text(UTM),
    "a.png.aux.xml": AUX,
    "a.tab": TAB,
    "a.map": ozi("WGS 84", "Mercator"),
    "b.map": ozi("Pulkovo 1942 (1)", "Transverse Mercator"),
    "a.vrt": VRT,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_image(Raster.from_pixels(PIXELS), tmp_path / "a.png")
    return tmp_path


def read_both(path: Path) -> None:
    """An image as it is read whole, and in windows: stored and moved."""
    with open_source(path) as source:
        assert source.grid is not None
        source.read(source.grid.crop(0, 0, 4, 4))
        source.read(Grid(3, 3, source.grid.affine @ Affine.scale(1.5), source.grid.crs))
        _ = source.grid.ground_resolution
    if path.suffix not in (".map", ".tab"):
        read_image(path)


@pytest.mark.parametrize("name", list(BESIDE))
def test_damaged_files_that_place_an_image(folder: Path, name: str) -> None:
    if name == "a.prj":
        (folder / "a.pgw").write_text(BESIDE["a.pgw"])
    opened = folder / ("a.png" if name in ("a.pgw", "a.prj", "a.png.aux.xml") else name)

    def parse(data: bytes) -> None:
        (folder / name).write_bytes(data)
        read_both(opened)

    assert 0 < only_ours(parse, BESIDE[name].encode(), seed=1) < MUTATIONS
