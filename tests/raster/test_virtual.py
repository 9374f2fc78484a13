"""VRTs of which a file is missing: said each time, and only where it is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from terramorph.errors import RasterError
from terramorph.raster import ImageSource, Raster, read_image, write_image

PIXELS = np.random.default_rng(2).integers(1, 256, (1, 64, 64), np.uint8)
PLACE = "<SRS>EPSG:32633</SRS><GeoTransform>500000,2,0,5000000,0,-2</GeoTransform>"


def mosaic(path: Path, *names: str) -> Path:
    """A VRT of images of 64 x 64 px side by side."""
    parts = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename><SourceBand>1</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="64" ySize="64"/><DstRect xOff="{64 * i}" yOff="0" xSize="64" ySize="64"/>'
        "</SimpleSource>"
        for i, name in enumerate(names)
    )
    band = f'<VRTRasterBand dataType="Byte" band="1">{parts}</VRTRasterBand>'
    size = f'rasterXSize="{64 * len(names)}" rasterYSize="64"'
    path.write_text(f"<VRTDataset {size}>{PLACE}{band}</VRTDataset>", encoding="utf-8")
    return path


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    write_image(Raster.from_pixels(PIXELS), tmp_path / "a.tif")
    (tmp_path / "broken.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:40])
    return tmp_path


@pytest.mark.parametrize("missing", ["none.tif", "broken.tif", "/vsicurl/http://127.0.0.1:9/none.tif", "inner.vrt"])
def test_a_missing_part_is_said_each_time_it_is_needed(parts: Path, missing: str) -> None:
    inner = mosaic(parts / "other.vrt", "a.tif")
    mosaic(parts / "inner.vrt", "gone.tif")
    path = mosaic(parts / "m.vrt", "a.tif", missing)
    # GDAL keeps files of VRTs open, and remembers what it could not open, as long as there is one of VRTs.
    with rasterio.open(mosaic(parts / "outer.vrt", inner.name)) as held, ImageSource(path) as source:
        held.read()
        for _ in range(3):
            assert np.array_equal(source.read(source.grid.crop(0, 0, 64, 64)).pixels, PIXELS)
            named = "gone.tif, which does not exist" if missing == "inner.vrt" else missing
            with pytest.raises(RasterError, match=f"{named}.*build"):
                source.read(source.grid.crop(10, 60, 20, 20))
            with pytest.raises(RasterError, match="build"):
                read_image(path)


def test_bytes_without_a_header_are_read(parts: Path) -> None:
    (parts / "raw.bin").write_bytes(PIXELS.tobytes())
    band = (
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand"><SourceFilename relativetoVRT="1">raw.bin'
        "</SourceFilename><ImageOffset>0</ImageOffset><PixelOffset>1</PixelOffset><LineOffset>64</LineOffset>"
        "</VRTRasterBand>"
    )
    text = f'<VRTDataset rasterXSize="64" rasterYSize="64">{PLACE}{band}</VRTDataset>'
    (parts / "raw.vrt").write_text(text, encoding="utf-8")
    with ImageSource(parts / "raw.vrt") as source:
        assert np.array_equal(source.read(source.grid).pixels, PIXELS)
        assert source.grid.affine == Affine(2, 0, 500_000, 0, -2, 5_000_000)
