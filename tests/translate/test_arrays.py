"""DataArrays in and out: the pixels of a sweep, the place kept, nothing computed before it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401
import pytest
import rasterio
import xarray
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.geom import box
from odc.geo.xr import wrap_xr
from rasterio.control import GroundControlPoint

from terramorph.bands import Units
from terramorph.bundle import Bands, Bundle
from terramorph.errors import ConfigError, InputError, RasterError
from terramorph.raster import Raster
from terramorph.raster.array_source import ArraySource
from terramorph.sources import open_source
from terramorph.translate import Model

from .conftest import make_bundle

Picture = Callable[..., NDArray[np.uint8]]
UTM = GeoBox((300, 420), Affine(1, 0, 392000, 0, -1, 5820000), "EPSG:32633")
WINDOW = {"window": 192, "overlap": 64}


def wrapped(pixels: NDArray[Any], box: GeoBox = UTM, **more: Any) -> xarray.DataArray:
    return wrap_xr(pixels, box, dims=("band", "y", "x"), axis=1, **more)


@pytest.fixture
def array(picture: Picture) -> xarray.DataArray:
    return wrapped(picture(300, 420))


@pytest.fixture
def model(bundle: Bundle) -> Model:
    return Model(bundle, precision="fp32")


def test_the_pixels_are_those_of_a_sweep(model: Model, array: xarray.DataArray, tmp_path: Path) -> None:
    array.odc.write_cog(str(tmp_path / "in.tif"))
    model.translate_to(tmp_path / "in.tif", tmp_path / "out.tif", **WINDOW)
    made = model.translate(array, **WINDOW)
    with open_source(tmp_path / "out.tif") as swept:
        assert swept.grid is not None
        assert np.array_equal(made.values, swept.read(swept.grid).pixels)
    assert made.odc.geobox == UTM
    assert made.dims == ("band", "y", "x")
    assert list(made.band.values) == ["red", "green", "blue"]


@pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform")
def test_an_area_of_an_array_is_cut_by_its_owner(model: Model, array: xarray.DataArray) -> None:
    area = box(392000, 5819800, 392200, 5820000, UTM.crs)
    with pytest.raises(ConfigError, match=r"area is not cut from a DataArray; give x\.odc\.crop"):
        model.translate(array, area=area)
    assert model.translate(array.odc.crop(area, apply_mask=False)).shape == (3, 200, 200)


def test_a_lazy_array_stays_lazy_and_ends_the_same(model: Model, array: xarray.DataArray) -> None:
    lazy = model.translate(array.chunk({"y": 100, "x": 100}), **WINDOW)
    assert lazy.chunks is not None
    assert len(lazy.chunks[1]) > 1
    assert lazy.odc.geobox == UTM
    assert np.array_equal(lazy.compute(scheduler="threads").values, model.translate(array, **WINDOW).values)


def test_a_part_of_a_lazy_result_reads_its_part_of_the_source_only(model: Model, array: xarray.DataArray) -> None:
    import dask.array

    asked: list[Any] = []

    def tell(block: NDArray[Any], block_info: Any = None) -> NDArray[Any]:
        asked.append(block_info[0]["chunk-location"][1:])
        return block

    data = dask.array.from_array(array.values, chunks=(3, 60, 60)).map_blocks(tell, dtype=np.uint8)
    asked.clear()  # of what dask tried to learn the kind of the result
    lazy = model.translate(array.copy(data=data), **WINDOW)
    assert not asked
    lazy[:, :10, :10].compute(scheduler="synchronous")
    assert asked
    assert max(column for _, column in asked) < 6  # of seven columns of chunks


def test_other_orders_of_dimensions(model: Model, array: xarray.DataArray) -> None:
    last = array.transpose("y", "x", "band")
    made = model.translate(last, **WINDOW)
    assert made.dims == ("y", "x", "band")
    assert np.array_equal(made.transpose("band", "y", "x").values, model.translate(array, **WINDOW).values)


@pytest.mark.parametrize("lazy", [False, True])
def test_nodata_stays_nodata_and_reaches_nobody(model: Model, array: xarray.DataArray, lazy: bool) -> None:
    pixels = np.maximum(array.values, 1)
    pixels[:, :, 200:] = 0
    holes = wrapped(pixels, nodata=0)
    made = model.translate(holes.chunk({"y": 150, "x": 210}) if lazy else holes, **WINDOW)
    assert made.odc.nodata == 0
    assert (made.values[:, :, 200:] == 0).all()
    assert (made.values[:, :, :200] > 0).all()
    dark = model.translate(wrapped(np.where(pixels == 0, 255, pixels).astype(np.uint8)), **WINDOW)
    far = slice(0, 100)
    assert np.array_equal(made.values[:, :, far], np.maximum(dark.values[:, :, far], 1))


def test_an_array_of_another_scale_is_brought_to_the_models(bundle: Bundle, array: xarray.DataArray) -> None:
    header = bundle.header.model_copy(update={"ground_resolution": 2.0})
    model = Model(Bundle(header=header, network=bundle.network), precision="fp32")
    with pytest.raises(InputError, match="at resolution 2"):
        model.translate(array)
    made = model.translate(array, resolution=2.0)
    assert made.odc.geobox.resolution.x == pytest.approx(2.0, abs=0.01)
    assert made.odc.nodata == 0
    back = model.translate(array, resolution=2.0, match_source=True)
    assert back.odc.geobox == UTM
    assert abs(float(back.mean()) - float(made.mean())) < 5


def test_what_does_not_fit_is_refused(model: Model, array: xarray.DataArray) -> None:
    with pytest.raises(RasterError, match="write_crs"):
        model.translate(xarray.DataArray(array.values, dims=("band", "y", "x")))
    with pytest.raises(RasterError, match="too few for its coordinates to say how large one is"):
        model.translate(array[:, :1].drop_attrs().drop_encoding())
    for none in (array[:0], array[:, :, :0]):
        with pytest.raises(RasterError, match="holds no pixels"):
            model.translate(none)
    with pytest.raises(InputError, match="2 bands"):
        model.translate(array[:2])
    with pytest.raises(InputError, match="float64"):
        model.translate(array.astype(float))
    with pytest.raises(RasterError, match="choose one of time"):
        model.translate(array.expand_dims("time"))
    with pytest.raises(InputError, match="Dataset holds several variables; pick one"):
        model.translate(array.to_dataset(name="ortho"))


def test_rioxarray_reads_and_writes_it(model: Model, array: xarray.DataArray, tmp_path: Path) -> None:
    rioxarray = pytest.importorskip("rioxarray")
    array.odc.write_cog(str(tmp_path / "in.tif"))
    with rioxarray.open_rasterio(tmp_path / "in.tif", chunks=128) as opened:
        made = model.translate(opened, **WINDOW)
        made.rio.to_raster(tmp_path / "out.tif")
        assert made.rio.crs == opened.rio.crs
        assert made.rio.transform() == opened.rio.transform()
    with open_source(tmp_path / "out.tif") as written:
        assert written.grid is not None
        assert np.array_equal(written.read(written.grid).pixels, model.translate(array, **WINDOW).values)


@pytest.mark.parametrize("resolution", [0.5, 1.6, 2.0])
def test_every_form_comes_back_to_the_sources_grid_with_the_same_pixels(
    bundle: Bundle, array: xarray.DataArray, tmp_path: Path, resolution: float
) -> None:
    model = Model(bundle, precision="fp32", any_resolution=True)
    path, how = tmp_path / "in" / "a.tif", {"resolution": resolution, "match_source": True}
    path.parent.mkdir()
    array.odc.write_cog(str(path))
    model.translate_to(path, tmp_path / "out.tif", **how)
    model.translate_to(path.parent, tmp_path / "images", **how)
    drawn = model.translate(path, **how)
    for place in (tmp_path / "out.tif", tmp_path / "images" / "a.tif"):
        with open_source(place) as source:
            assert source.grid == drawn.grid
            written = source.read(source.grid)
        assert np.array_equal(written.mask, drawn.mask)
        assert np.array_equal(written.pixels[:, drawn.mask], drawn.pixels[:, drawn.mask])
    plain = np.where(drawn.mask, np.maximum(drawn.pixels, 1), 0)  # 0 is the nodata value of DataArrays
    assert np.array_equal(model.translate(array, **how).values, plain)
    assert np.array_equal(model.translate(array.chunk({"y": 100, "x": 100}), **how).values, plain)


def test_resampling_does_not_leave_the_targets_range(tmp_path: Path) -> None:
    target = Bands(names=("height",), dtype="float32", low=0.0, high=1.0)
    bundle = make_bundle(gain=3.0, out_bands=1, header={"target": target})
    steps = np.zeros((3, 300, 420), np.uint8)
    steps[:, ::32] = steps[:, :, ::32] = 255
    wrapped(steps).odc.write_cog(str(tmp_path / "in.tif"))
    model = Model(bundle, precision="fp32", any_resolution=True)
    model.translate_to(tmp_path / "in.tif", tmp_path / "out.tif", resolution=2.0, match_source=True)
    with open_source(tmp_path / "out.tif") as source:
        assert source.grid is not None
        found = source.read(source.grid)
    values = found.pixels[:, found.mask]
    assert np.ptp(values) > 0.5
    assert values.min() >= 0
    assert values.max() <= 1


@pytest.mark.parametrize("kind", ["float32", "three decimals"])
def test_the_grid_of_rounded_coordinates_is_of_all_of_them(picture: Picture, kind: str) -> None:
    step = 1e-5 if kind == "float32" else 1 / 120
    axes = {"y": 43.1234 - step * np.arange(200), "x": 105.1234 + step * np.arange(260)}
    rounded = {axis: v.astype(np.float32) if kind == "float32" else v.round(3) for axis, v in axes.items()}
    array = xarray.DataArray(picture(200, 260), dims=("band", "y", "x"), coords=rounded).odc.assign_crs("EPSG:4326")
    found, true = ArraySource(array).grid, Affine(step, 0, 105.1234 - step / 2, 0, -step, 43.1234 + step / 2)
    for corner in ((0, 0), (260, 200)):
        off = ~true @ (found.affine @ corner)
        assert off == pytest.approx(corner, abs=0.5)


def test_coordinates_with_gaps_are_refused(array: xarray.DataArray) -> None:
    with pytest.raises(RasterError, match="coordinates x of the array are not evenly spaced"):
        ArraySource(array.isel(x=[0, 1, 3, 4, 8]))
    with pytest.raises(RasterError, match="coordinates y of the array are not evenly spaced"):
        ArraySource(array.isel(y=[*range(100), *range(101, 300)]))
    assert ArraySource(array.isel(y=slice(None, None, 3))).grid.affine.e == -3
    degrees = (179.999 + 1e-5 * np.arange(420) + 180) % 360 - 180  # across the line, where they go on
    west = xarray.DataArray(array.values, dims=("band", "y", "x"), coords={"y": -1e-5 * np.arange(300), "x": degrees})
    assert ArraySource(west.odc.assign_crs("EPSG:4326")).grid.affine.a == pytest.approx(1e-5)


def test_control_points_of_an_array_are_no_grid(array: xarray.DataArray, tmp_path: Path) -> None:
    rioxarray = pytest.importorskip("rioxarray")
    corners = [GroundControlPoint(y, x, 392000 + x, 5820000 - y) for y in (0, 300) for x in (0, 420)]
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=420, height=300, count=3, dtype="uint8", crs="EPSG:32633",
        gcps=corners,
    ) as made:  # fmt: skip
        made.write(array.values)
    with (
        rioxarray.open_rasterio(tmp_path / "a.tif") as opened,
        pytest.raises(RasterError, match="placed by ground control points"),
    ):
        ArraySource(opened)


def test_coordinates_stay_to_the_last_bit(model: Model, array: xarray.DataArray) -> None:
    array = array.assign_coords(x=array.x + 0.1 + 1e-9 * (array.x % 2))
    made = model.translate(array)
    assert np.array_equal(made.x, array.x)
    assert np.array_equal(made.y, array.y)


def test_scale_and_offset_of_each_band_stay(array: xarray.DataArray) -> None:
    units = Units((1e-4, 2e-4, 1e-4), (0.0, -0.1, 0.0))
    target = Bands(names=("a", "b", "c"), dtype="uint16", low=0, high=10000, units=units)
    made = Model(make_bundle(header={"target": target}), precision="fp32").translate(array)
    assert ArraySource(made).units == units


def test_results_have_attributes_that_netcdf_holds(model: Model, array: xarray.DataArray, picture: Picture) -> None:
    for made in (model.translate(array), Raster.from_pixels(picture(64, 64)).to_xarray()):
        assert None not in made.attrs.values()
        assert made.odc.nodata is None


@pytest.mark.parametrize("name", ["nodata", "_FillValue", "missing_value"])
def test_every_name_of_nodata_is_one(array: xarray.DataArray, name: str) -> None:
    pixels = np.maximum(array.values, 1)
    pixels[:, :, 200:] = 0
    source = ArraySource(array.copy(data=pixels).assign_attrs({name: 0}))
    assert np.array_equal(source.read(source.grid).mask, pixels[0] != 0)


@pytest.mark.parametrize("value", [np.array([0], np.uint8), [0], "0", (0.0,)])
def test_nodata_may_be_written_as_files_have_it(array: xarray.DataArray, value: Any) -> None:
    pixels = np.maximum(array.values, 1)
    pixels[:, :, 200:] = 0
    source = ArraySource(array.copy(data=pixels).assign_attrs(_FillValue=value))
    assert np.array_equal(source.read(source.grid).mask, pixels[0] != 0)
    with pytest.raises(RasterError, match="nodata value 'none', which is no number"):
        ArraySource(array.assign_attrs(_FillValue="none"))


@pytest.mark.parametrize("chunks", [None, 128])
def test_the_order_of_bytes_is_no_other_type(picture: Picture, chunks: int | None) -> None:
    model = Model(make_bundle(header={"source": Bands(names=("red", "green", "blue"), dtype="uint16", high=255)}))
    pixels = picture(96, 96).astype(np.uint16)
    big = wrapped(pixels.astype(">u2"), UTM[:96, :96])
    drawn = model.translate(pixels)
    assert np.array_equal(model.translate(pixels.astype(">u2")), drawn)
    made = model.translate(big if chunks is None else big.chunk({"x": chunks, "y": chunks}))
    assert np.array_equal(made.values, drawn)
