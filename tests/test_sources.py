"""What `open_source` makes of whatever it is given: one door for files, tiles, servers, vectors and arrays."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401
import pytest
import xarray
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image

import terramorph
from terramorph.errors import ConfigError, InputError, InputWarning, RasterError
from terramorph.geo import Grid
from terramorph.raster import Raster, ReadOptions, Source, read_image, write_image
from terramorph.raster.tiles.write import write_tiles
from terramorph.sources import open_source

CRS_M = CRS("EPSG:3857")
SIDE = 40075016.685578488 / 2**14
GRID = Grid(256, 256, Affine(SIDE / 256, 0, 0, 0, -SIDE / 256, SIDE), CRS_M)
"""Tile 14/8192/8191."""
COORDINATES = {"y": SIDE - (np.arange(256) + 0.5) * SIDE / 256, "x": (np.arange(256) + 0.5) * SIDE / 256}


@pytest.fixture(scope="module")
def raster() -> Raster:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32), np.uint8).repeat(8, 1).repeat(8, 2)
    return Raster.from_pixels(pixels, GRID)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, raster: Raster) -> Iterator[dict[str, Callable[[], Source]]]:
    """Name of a kind -> opens it. All hold the same pixels."""
    root = tmp_path_factory.mktemp("sources")
    write_image(raster, root / "a.tif")
    image = Image.fromarray(raster.pixels.transpose(1, 2, 0))
    image.save(root / "b.png")
    (root / "b.pgw").write_text(
        "\n".join(str(v) for v in (GRID.affine.a, 0, 0, GRID.affine.e, *(GRID.affine @ (0.5, 0.5))))
    )
    (root / "b.prj").write_text(CRS_M.to_wkt())
    with zipfile.ZipFile(root / "c.zip", "w") as archive:
        archive.write(root / "a.tif", "a.tif")
    for name, kind in (("tiles", "xyz"), ("d.mbtiles", "mbtiles"), ("e.pmtiles", "pmtiles")):
        with open_source(root / "a.tif") as source:
            write_tiles(source, root / name, kind=kind, name="town")
    cache = root / "cache" / "z15" / "8" / "x8192" / "7"
    cache.mkdir(parents=True)
    image.save(cache / "y8191.png")
    array = xarray.DataArray(
        raster.pixels,
        {
            "y": [(GRID.affine @ (0, i + 0.5))[1] for i in range(256)],
            "x": [(GRID.affine @ (i + 0.5, 0))[0] for i in range(256)],
        },
        ("band", "y", "x"),
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=root / "tiles"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{{z}}/{{x}}/{{y}}.png"
    yield {
        "GeoTIFF": lambda: open_source(root / "a.tif"),
        "GeoTIFF, named by a string": lambda: open_source(str(root / "a.tif")),
        "PNG with a world file": lambda: open_source(root / "b.png"),
        "archive": lambda: open_source(root / "c.zip"),
        "folder of tiles": lambda: open_source(root / "tiles", zoom=14),
        "SAS.Planet's cache": lambda: open_source(root / "cache"),
        "MBTiles": lambda: open_source(root / "d.mbtiles", zoom=14),
        "PMTiles": lambda: open_source(root / "e.pmtiles", zoom=14),
        "server": lambda: open_source(url, zoom=14, terms="ours", cache=root / "kept"),
        "Raster": lambda: open_source(raster),
        "DataArray": lambda: open_source(array.odc.assign_crs("EPSG:3857")),
        "DataArray without a CRS": lambda: open_source(array, crs="EPSG:3857"),
        "lazy DataArray": lambda: open_source(array.odc.assign_crs("EPSG:3857").chunk(x=100, y=100)),
    }
    server.shutdown()
    server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


KINDS = (
    *("GeoTIFF", "GeoTIFF, named by a string", "PNG with a world file", "archive", "folder of tiles"),
    *("SAS.Planet's cache", "MBTiles", "PMTiles", "server", "Raster", "DataArray", "DataArray without a CRS"),
    "lazy DataArray",
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_its_pixels_on_a_grid(kind, files, raster):
    with files[kind]() as source:
        inner = GRID.crop(20, 30, 100, 120)
        found = source.read(inner)
        assert np.array_equal(found.pixels, raster.crop(20, 30, 100, 120).pixels)
        assert found.mask.all()
        assert found.grid == inner
        outside = source.read(GRID.crop(-8, 200, 16, 80))
        assert np.array_equal(outside.mask, np.pad(np.ones((8, 56), bool), ((8, 0), (0, 24))))
        assert np.array_equal(outside.pixels[:, 8:, :56], raster.pixels[:, :8, 200:])
        assert len(source.fingerprint()) >= 32


def test_vectors_are_drawn_in_a_style(tmp_path):
    import geopandas
    import shapely

    square = shapely.box(0, SIDE / 2, SIDE / 2, SIDE)
    geopandas.GeoDataFrame({"kind": ["water"]}, geometry=[square], crs="EPSG:3857").to_file(tmp_path / "a.gpkg")
    for style in ("classic", "classes"):
        with terramorph.open_source(tmp_path / "a.gpkg", style=style, terms="by letter") as source:
            drawn = source.read(GRID).pixels
            assert source.licence == "by letter"
        assert len(np.unique(drawn[:, 10:118, 10:118].reshape(3, -1), axis=1).T) == 1
        assert not np.array_equal(drawn[:, 60, 60], drawn[:, 200, 200])
    with pytest.raises(ConfigError, match="vectors"):
        open_source(tmp_path / "a.gpkg", ReadOptions(bands=(1,)))


def test_an_array_has_no_place_and_keeps_what_is_not_finite_out():
    pixels = np.arange(2 * 4 * 5, dtype=np.float32).reshape(2, 4, 5)
    pixels[:, 1, 2] = np.nan
    with open_source(pixels, ReadOptions(bands=(2,), names=("height",))) as source:
        found = source.read(source.grid)
        assert source.grid == Grid.pixels(4, 5)
    assert found.bands == ("height",)
    assert np.array_equal(found.mask, np.isfinite(pixels[1]))
    assert np.array_equal(found.pixels[0][found.mask], pixels[1][found.mask])


@pytest.mark.parametrize("flip", [(-1, 1), (1, -1), (-1, -1)])
def test_what_is_held_upside_down_is_read_exactly(flip, raster):
    rows, columns = flip
    affine = GRID.affine @ Affine.translation(256 * (columns < 0), 256 * (rows < 0)) @ Affine.scale(columns, rows)
    other = Raster.from_pixels(raster.pixels[:, ::rows, ::columns].copy(), Grid(256, 256, affine, CRS_M))
    with open_source(other) as source:
        found = source.read(GRID.crop(10, 20, 30, 40))
    assert np.array_equal(found.pixels, raster.crop(10, 20, 30, 40).pixels)


def test_classes_are_never_mixed(raster):
    labels = np.where(np.random.default_rng(2).random((256, 256)) < 0.5, 3, 200).astype(np.uint8)
    half = Grid(128, 128, GRID.affine @ Affine.scale(2.03), CRS_M)
    array = xarray.DataArray(
        labels,
        {
            "y": [(GRID.affine @ (0, i + 0.5))[1] for i in range(256)],
            "x": [(GRID.affine @ (i + 0.5, 0))[0] for i in range(256)],
        },
        ("y", "x"),
    )
    flagged = array.assign_attrs(flag_values=[3, 200], flag_meanings="water road")
    classes = ReadOptions(categorical=True)
    for data, options in ((flagged, None), (array, classes), (Raster.from_pixels(labels[None], GRID), classes)):
        with open_source(data, options, crs="EPSG:3857") as source:
            assert set(np.unique(source.read(half).pixels)) <= {0, 3, 200}
    with open_source(array, crs="EPSG:3857") as source:
        assert len(np.unique(source.read(half).pixels)) > 3


def test_a_part_of_a_file_is_opened_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.arange(600, dtype=np.float32).reshape(20, 30)
    parts = {name: (("y", "x"), values + k, {"grid_mapping": "crs"}) for k, name in enumerate(("red", "nir"))}
    place = {"y": 5e6 - 10 * np.arange(20) - 5, "x": 5e5 + 10 * np.arange(30) + 5}
    dataset = xarray.Dataset(parts, place).assign(crs=((), 0, CRS("EPSG:32633").proj.to_cf()))
    for axis in "xy":
        dataset[axis].attrs = {"standard_name": f"projection_{axis}_coordinate", "units": "m"}
    dataset.to_netcdf("scene.nc", engine="scipy")
    with pytest.raises(RasterError, match=r"(?i)holds 2 inside.*netcdf:scene\.nc:nir"):
        open_source("scene.nc")
    name = 'NETCDF:"scene.nc":nir'
    with open_source(name) as source:
        assert source.grid == Grid(20, 30, Affine(10, 0, 5e5, 0, -10, 5e6), CRS("EPSG:32633"))
        assert np.array_equal(source.read(source.grid).pixels[0], values + 1)
        assert source.name == name
        assert Path("scene.nc") in source.files
        before = source.fingerprint()
    (dataset + 1).assign(crs=dataset.crs).to_netcdf("scene.nc", engine="scipy")
    with open_source(name) as source:
        assert source.fingerprint() != before
    with pytest.raises(RasterError, match="blue cannot be opened"):
        open_source('NETCDF:"scene.nc":blue')


def test_terms_and_crs_are_of_arrays_too(raster):
    with open_source(raster, terms="CC0") as source:
        assert source.licence == "CC0"
    bare = replace(raster, grid=replace(raster.grid, crs=None))
    with open_source(bare, crs="EPSG:32634") as source:
        assert source.grid == replace(raster.grid, crs=CRS("EPSG:32634"))
    with pytest.warns(InputWarning, match="has no georeference; the CRS EPSG:32634 is not used"):
        source = open_source(raster.pixels, crs="EPSG:32634")
    with source:
        assert source.grid.crs is None  # it has no place


@pytest.mark.parametrize("kind", ["GeoTIFF", "Raster", "DataArray"])
def test_a_crs_that_is_not_used_is_said(tmp_path: Path, raster: Raster, kind: str) -> None:
    """What states a CRS keeps it; the same one again is no news."""
    write_image(raster, tmp_path / "a.tif")
    array = xarray.DataArray(raster.pixels, COORDINATES, ("band", "y", "x")).odc.assign_crs("EPSG:3857")
    data = {"GeoTIFF": tmp_path / "a.tif", "Raster": raster, "DataArray": array}[kind]
    with pytest.warns(InputWarning, match="is in EPSG:3857; EPSG:32633, which was given, is not used"):
        source = open_source(data, crs="EPSG:32633")
    with source:
        assert source.grid is not None
        assert source.grid.crs == CRS_M
    open_source(data, crs="EPSG:3857").close()


def test_what_holds_no_pixels_is_refused_with_a_sentence(tmp_path, raster):
    for wrong, match in (
        (3, "int holds no pixels"),
        (xarray.Dataset(), "Dataset"),
        (Image.new("RGB", (4, 4)), "not a numpy array; give numpy.asarray"),
        (np.zeros((4, 4)), "bands, height, width"),
        ("", "path is empty"),
        (_zarr(tmp_path / "a.zarr"), "is a Zarr store; name it"),
        (tmp_path / "nothing.tif", "does not exist"),
    ):
        with pytest.raises(InputError, match=match):
            open_source(wrong)
    with pytest.raises(ConfigError, match="EPSG"):
        open_source(raster, crs="EPSG:nothing")
    for how in ({"options": ReadOptions(bands=(4,))}, {"bands": (4,)}):
        with pytest.raises(RasterError, match="no band 4"):
            open_source(raster, **how)
    with pytest.raises(TypeError, match="band_numbers"):
        open_source(raster, band_numbers=(4,))
    with pytest.raises(RasterError, match="holds no image"):
        read_image(_empty(tmp_path / "a.zip"))


def _zarr(path: Path) -> Path:
    path.mkdir()
    (path / ".zgroup").write_text('{"zarr_format": 2}', encoding="utf-8")
    return path


def _empty(path: Path) -> Path:
    with zipfile.ZipFile(path, "w"):
        return path


def test_scripts_in_use_find_the_door_in_raster_too() -> None:
    assert terramorph.raster.open_source is open_source


OVERLAY = (
    "<GroundOverlay><Icon><href>a.png</href></Icon><LatLonBox><north>47.02</north><south>47</south><east>13.03</east>"
    "<west>13</west>{}</LatLonBox></GroundOverlay>"
)


def write_overlay(path: Path, text: str) -> Path:
    text = f'<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Document>{text}</Document></kml>'
    if path.suffix == ".kml":
        path.write_text(text, encoding="utf-8")
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("doc.kml", text)
        archive.write(path.with_name("a.png"), "a.png")
    return path


@pytest.mark.parametrize("suffix", [".kml", ".kmz"])
def test_an_image_that_a_kml_lays_on_the_ground(tmp_path: Path, raster: Raster, suffix: str) -> None:
    Image.fromarray(raster.pixels.transpose(1, 2, 0)).save(tmp_path / "a.png")
    pin = "<Placemark><Point><coordinates>13,47</coordinates></Point></Placemark>"
    with open_source(write_overlay(tmp_path / f"b{suffix}", OVERLAY.format("") + pin)) as source:
        assert np.array_equal(source.read(source.grid).pixels, raster.pixels)
        assert source.grid.crs == CRS("EPSG:4326")
        assert source.grid.bounds.bbox == pytest.approx((13, 47, 13.03, 47.02))
    for more, sentence in (
        (OVERLAY.format("<rotation>-12.5</rotation>"), "a turned image"),
        (OVERLAY.format("") * 2, "several images"),
    ):
        with pytest.raises(RasterError, match=f"lays {sentence} on the ground.*GeoTIFF"):
            open_source(write_overlay(tmp_path / f"c{suffix}", more))
