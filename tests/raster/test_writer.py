from __future__ import annotations

import struct

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags

from terramorph.errors import RasterError, StorageError
from terramorph.geo.grid import Grid
from terramorph.raster import read_image
from terramorph.raster.writer import BLOCK, write_cog

HEIGHT, WIDTH = 1100, 1300
GRID = Grid(HEIGHT, WIDTH, Affine(0.5, 0, 5e5, 0, -0.5, 5e6), CRS("EPSG:32637"))
PIXELS = np.random.default_rng(3).integers(1, 256, (3, HEIGHT, WIDTH), dtype=np.uint8)
MASK = np.ones((HEIGHT, WIDTH), bool)
MASK[:560, :600] = False
MASK[1000, 1200] = False
COLUMNS, BITS, OFFSETS = 256, 258, 324  # tags of TIFF
RGB = ("red", "green", "blue")


def strips(pixels=PIXELS, mask=MASK, heights=(1, 250, 700)):
    top, turn = 0, 0
    while top < len(mask):
        rows = slice(top, min(top + heights[turn % len(heights)], len(mask)))
        yield rows, pixels[:, rows], mask[rows]
        top, turn = rows.stop, turn + 1


def everything(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_pixels_mask_place_and_tags_come_back(tmp_path):
    told = []
    write_cog(
        *(tmp_path / "a.tif", GRID, RGB, np.uint8, strips()),
        tags={"TERRAMORPH_SOURCE": "somewhere"},
        masked=True,
        progress=lambda done, total: told.append((done, total)),
    )
    found = read_image(tmp_path / "a.tif")
    assert np.array_equal(found.mask, MASK)
    assert np.array_equal(found.pixels, np.where(MASK, PIXELS, 0))
    assert found.grid == GRID
    assert found.bands == RGB
    assert everything(tmp_path) == ["a.tif"]
    assert told[-1] == (2 * HEIGHT, 2 * HEIGHT)
    assert told == sorted(told)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        tags = dataset.tags()
        assert tags["TERRAMORPH_SOURCE"] == "somewhere"
        assert tags["TIFFTAG_SOFTWARE"].startswith("terramorph ")
        assert dataset.tags(ns="IMAGE_STRUCTURE") == {
            "LAYOUT": "COG",
            "COMPRESSION": "DEFLATE",
            "INTERLEAVE": "PIXEL",
            "PREDICTOR": "2",
        }
        assert dataset.overviews(1) == [2, 4]
        assert dataset.block_shapes == [(BLOCK, BLOCK)] * 3
        assert dataset.colorinterp == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        assert dataset.mask_flag_enums == ([MaskFlags.per_dataset],) * 3


def directories(data):
    """Place and numbers of every directory of a little-endian TIFF."""
    at = struct.unpack_from("<I", data, 4)[0]
    while at:
        tags = {}
        (count,) = struct.unpack_from("<H", data, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from("<HHI", data, entry)
            code, size = {3: ("H", 2), 4: ("I", 4)}.get(kind, ("", 0))
            place = entry + 8 if size * length <= 4 else struct.unpack_from("<I", data, entry + 8)[0]
            tags[tag] = struct.unpack_from(f"<{length}{code}", data, place) if code else ()
        yield at, tags
        (at,) = struct.unpack_from("<I", data, at + 2 + 12 * count)


def test_directories_come_first_and_small_overviews_before_full_resolution(tmp_path):
    write_cog(tmp_path / "a.tif", GRID, RGB, np.uint8, strips(), masked=True)
    data = (tmp_path / "a.tif").read_bytes()
    assert b"LAYOUT=IFDS_BEFORE_DATA" in data[:300]
    found = list(directories(data))
    colours = {tags[COLUMNS][0]: min(filter(None, tags[OFFSETS])) for _, tags in found if len(tags[BITS]) == 3}
    assert sorted(colours) == [325, 650, 1300]
    assert max(place for place, _ in found) < colours[325] < colours[650] < colours[1300]


def test_overviews_are_averages_of_real_pixels_or_some_of_the_values(tmp_path):
    pixels = np.where(np.arange(600) % 2, 40, 20).astype(np.uint8) * np.ones((1, 600, 1), np.uint8)
    mask = np.ones((600, 600), bool)
    mask[:, 1:300:2] = False
    for colours, want in ((None, {20, 30}), ([(0, 0, 0)] * 41, {20})):
        write_cog(
            *(tmp_path / "a.tif", GRID.resized(600, 600), ("class",), np.uint8, strips(pixels, mask)),
            masked=True,
            colours=colours,
        )
        with rasterio.open(tmp_path / "a.tif", OVERVIEW_LEVEL=0) as dataset:
            assert dataset.shape == (300, 300)
            values = dataset.read(1)
            assert set(np.unique(values)) == want
            assert (values[:, :150] == 20).all()


@pytest.mark.parametrize(("dtype", "predictor"), [("float32", "3"), ("float64", "3"), ("uint16", "2"), ("int16", "2")])
def test_other_types_of_numbers(tmp_path, dtype, predictor):
    pixels = (PIXELS[:2, :300, :200].astype(np.float64) * 100.5 - 9000).astype(dtype)
    if pixels.dtype.kind == "f":
        pixels[0, 5, 5] = np.nan
    every = np.ones((300, 200), bool)
    write_cog(
        *(tmp_path / "a.tif", GRID.crop(0, 0, 300, 200), ("up", "down"), dtype, strips(pixels, every)),
        masked=False,
    )
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert np.array_equal(dataset.read(), pixels, equal_nan=True)
        assert dataset.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == predictor
        assert dataset.overviews(1) == []
        assert dataset.descriptions == ("up", "down")
        assert dataset.mask_flag_enums == ([MaskFlags.all_valid],) * 2


def test_blocks_without_data_take_no_room(tmp_path):
    height, width = 2048, 3072
    mask = np.zeros((height, width), bool)
    zeros = np.broadcast_to(np.uint8(9), (3, height, width))
    write_cog(tmp_path / "a.tif", GRID.resized(height, width), RGB, np.uint8, strips(zeros, mask, (1024,)), masked=True)
    assert (tmp_path / "a.tif").stat().st_size < 8000
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert dataset.mask_flag_enums[0] == [MaskFlags.per_dataset]
        assert not dataset.read_masks(1, window=((0, 512), (0, 512))).any()
        assert dataset.get_tag_item("BLOCK_OFFSET_3_3", "TIFF", 1) is None


def test_strips_may_be_made_in_one_array(tmp_path):
    wanted = PIXELS[:, :300, :300]
    room = np.empty((3, 100, 300), np.uint8)

    def again():
        for top in range(0, 300, 100):
            room[:] = wanted[:, top : top + 100]
            yield slice(top, top + 100), room, np.ones((100, 300), bool)

    write_cog(tmp_path / "a.tif", Grid.pixels(300, 300), RGB, np.uint8, again(), masked=False)
    assert np.array_equal(read_image(tmp_path / "a.tif").pixels, wanted)


def bad_strips():
    every = np.ones_like(MASK)
    yield "100 rows were given of 1100", [(slice(0, 100), PIXELS[:, :100], every[:100])], {}
    yield "where 0 of 1100 is next", [(slice(5, 10), PIXELS[:, 5:10], every[5:10])], {}
    yield "where 0 of 1100 is next", [(slice(0, 10), PIXELS[:, :9], every[:10])], {}
    yield "for 3 bands", [(slice(0, 10), PIXELS[:2, :10], every[:10])], {}
    yield "mask", [(slice(0, 10), PIXELS[:, :10], every[:9])], {}
    yield "uint16", [(slice(0, 10), PIXELS[:, :10].astype(np.uint16), every[:10])], {}
    yield "without data", strips(), {"masked": False}


@pytest.mark.parametrize(("says", "given", "options"), list(bad_strips()))
def test_strips_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path, says, given, options):
    (tmp_path / "a.tif").write_bytes(b"what was there")
    with pytest.raises(RasterError, match=says):
        write_cog(tmp_path / "a.tif", GRID, RGB, np.uint8, given, **{"masked": True} | options)
    assert everything(tmp_path) == ["a.tif"]
    assert (tmp_path / "a.tif").read_bytes() == b"what was there"


def test_names_and_types_that_no_geotiff_has(tmp_path):
    with pytest.raises(RasterError, match=r"\.tif"):
        write_cog(tmp_path / "a.png", GRID, RGB, np.uint8, strips(), masked=True)
    with pytest.raises(RasterError, match="float16"):
        write_cog(tmp_path / "a.tif", GRID, RGB, np.float16, strips(), masked=True)


def test_an_error_of_whoever_makes_the_strips_passes(tmp_path):
    def breaks():
        yield from list(strips())[:2]
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        write_cog(tmp_path / "a.tif", GRID, RGB, np.uint8, breaks(), masked=True)
    assert everything(tmp_path) == []


def test_an_uncompressed_file_that_did_not_reach_the_disk(tmp_path, monkeypatch):
    from terramorph.raster import writer

    finish = writer._finish_raw

    def loses(raw, *rest):
        raw.write_bytes(bytes(1000))
        finish(raw, *rest)

    monkeypatch.setattr(writer, "_finish_raw", loses)
    with pytest.raises(StorageError, match=r"a\.tif cannot be written .*free some space"):
        write_cog(tmp_path / "a.tif", GRID, RGB, np.uint8, strips(), masked=True)
    assert everything(tmp_path) == []


@pytest.mark.parametrize("limit", [100_000, 3_000_000, 4_300_000, 4_900_000, 5_600_000])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, limit):
    """The limit on a file's size falls into full resolution, and into the overviews of the uncompressed file."""
    every = np.ones_like(MASK)
    resource = pytest.importorskip("resource")  # POSIX
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StorageError, match=r"a\.tif cannot be written .*free some space"):
            write_cog(tmp_path / "a.tif", GRID, RGB, np.uint8, strips(mask=every), masked=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything(tmp_path) == []


@pytest.mark.parametrize("damage", ["pixels", "mask"])
def test_what_does_not_reach_the_disk_is_noticed(tmp_path, monkeypatch, damage):
    """As where the last blocks are lost while GDAL closes the file."""
    from terramorph.raster import writer

    copy = writer.gdal_copy

    def loses(raw, part, **options):
        copy(raw, part, **options)
        with rasterio.open(part, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
            if damage == "pixels":
                dataset.write(np.zeros((3, 1, 1), np.uint8), window=((1099, 1100), (1299, 1300)))
            else:
                dataset.write_mask(np.zeros((1, 1), bool), window=((1099, 1100), (1299, 1300)))

    monkeypatch.setattr(writer, "gdal_copy", loses)
    with pytest.raises(StorageError, match="did not reach the disk whole"):
        write_cog(tmp_path / "a.tif", GRID, RGB, np.uint8, strips(), masked=True)
    assert everything(tmp_path) == []
