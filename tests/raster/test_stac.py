"""STAC items as a source: which assets are read, where they lie without being opened, and what covers what."""

from __future__ import annotations

import json
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geom import Geometry

from terramorph.bands import Units
from terramorph.errors import ConfigError, InputWarning, RasterError, TerramorphError
from terramorph.geo import Grid, project_extent
from terramorph.raster import Raster, ReadOptions, mosaic, write_image
from terramorph.raster.mosaic import MosaicSource
from terramorph.sources import open_source

UTM = CRS("EPSG:32633")
GRID = Grid(60, 80, Affine(10.0, 0.0, 4e5, 0.0, -10.0, 5.8e6), UTM)
RGB_1_1 = [
    {"name": f"B0{number}", "eo:common_name": colour} for number, colour in ((4, "red"), (3, "green"), (2, "blue"))
]
RGB_1_0 = [{"name": band["name"], "common_name": band["eo:common_name"]} for band in RGB_1_1]
Make = Callable[..., dict[str, Any]]


def degrees(grid: Grid) -> list[float]:
    box = project_extent(grid.geobox.extent, "EPSG:4326").boundingbox
    west, east = ((x + 180) % 360 - 180 for x in (box.left, box.right))
    return [west, box.bottom, east, box.top]


@pytest.fixture
def item(tmp_path: Path) -> Make:
    """Writes an image, and makes the item of it."""

    def make(
        name: str, grid: Grid, pixels: Any, when: str | None = "2026-06-01T10:00:00Z", **more: Any
    ) -> dict[str, Any]:
        mask = more.pop("mask", np.ones(grid.shape, np.bool_))
        values = np.broadcast_to(np.asarray(pixels, more.pop("dtype", np.uint8)), (more.pop("count", 3), *grid.shape))
        (tmp_path / "files").mkdir(exist_ok=True)
        write_image(Raster.from_pixels(np.ascontiguousarray(values), grid, mask), tmp_path / "files" / f"{name}.tif")
        assert grid.crs is not None
        asset = {
            "href": f"./files/{name}.tif",
            "type": "image/tiff; application=geotiff",
            "roles": ["data"],
            "bands": RGB_1_1,
            "proj:code": f"EPSG:{grid.crs.epsg}",
            "proj:shape": list(grid.shape),
            "proj:transform": list(grid.affine[:6]),
            **more,
        }
        return {
            "type": "Feature",
            "stac_version": "1.1.0",
            "id": name,
            "bbox": degrees(grid),
            "geometry": None,
            "properties": {"datetime": when},
            "links": [],
            "assets": {"visual": {key: value for key, value in asset.items() if value is not None}},
        }

    return make


def save(folder: Path, *items: dict[str, Any], name: str = "items.json", **more: Any) -> Path:
    document = items[0] if len(items) == 1 else {"type": "FeatureCollection", "features": items, **more}
    (folder / name).write_text(json.dumps(document))
    return folder / name


def read(path: Path, **options: Any) -> tuple[Raster, MosaicSource]:
    source = open_source(path, ReadOptions(**options))
    assert isinstance(source, MosaicSource)
    with source:
        return source.read(source.grid), source


def test_the_newest_is_on_top_and_its_holes_are_filled(item: Make, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 255, (3, *GRID.shape), np.uint8)
    hole = np.ones(GRID.shape, np.bool_)
    hole[10:30, 50:70] = False
    beside = GRID.crop(20, 40, *GRID.shape)
    old, new = item("old", beside, noise, "2025-01-01T00:00:00Z"), item("new", GRID, 255 - noise, mask=hole)
    found, source = read(save(tmp_path, old, new))
    paths = [tmp_path / "files" / f"{name}.tif" for name in ("old", "new")]
    vrt = "".join(
        f"<ComplexSource><SourceFilename>{path}</SourceFilename><SourceBand>{{band}}</SourceBand><UseMaskBand>true"
        f'</UseMaskBand><SrcRect xOff="0" yOff="0" xSize="80" ySize="60"/><DstRect xOff="{x}" yOff="{y}" xSize="80" '
        'ySize="60"/></ComplexSource>'
        for path, x, y in zip(paths, (40, 0), (20, 0), strict=True)
    )
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}">{vrt.format(band=n)}</VRTRasterBand>' for n in (1, 2, 3)
    )
    transform = ", ".join(map(str, GRID.affine.to_gdal()))
    (tmp_path / "both.vrt").write_text(
        f'<VRTDataset rasterXSize="120" rasterYSize="80"><SRS>EPSG:32633</SRS><GeoTransform>{transform}</GeoTransform>'
        f"{bands}</VRTDataset>"
    )
    with rasterio.open(tmp_path / "both.vrt") as dataset:
        assert np.array_equal(found.pixels, dataset.read())
    assert source.grid == GRID.crop(0, 0, 80, 120)
    assert found.bands == ("red", "green", "blue")
    assert [layer.name for layer in source.layers] == ["new", "old"]
    assert found.mask.sum() == 80 * 60 * 2 - 40 * 40 - (20 * 20 - 10 * 20)
    assert len(source.files) == 2


def test_nothing_is_opened_twice_nor_before_it_is_read(
    item: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    make = mosaic.ImageSource

    def counted(path: Path, **how: Any) -> Any:
        opened.append(path.stem)
        return make(path, **how)

    monkeypatch.setattr(mosaic, "ImageSource", counted)
    grids = [GRID.crop(0, 80 * number, *GRID.shape) for number in range(4)]
    items = [item(f"i{n}", grid, 10 + n, f"2026-0{9 - n}-01T00:00:00Z") for n, grid in enumerate(grids)]
    with open_source(save(tmp_path, *items)) as source:
        assert opened == ["i0"]
        for _ in range(2):
            assert source.read(grids[2]).pixels.max() == 12
        assert opened == ["i0", "i2"]
    monkeypatch.setattr(mosaic, "_HELD_OPEN", 1)
    with open_source(save(tmp_path, *items)) as source:
        assert [source.read(grid).pixels.max() for grid in (*grids, *grids)] == [10, 11, 12, 13] * 2
        assert source._image.cache_info().currsize == 1
    with pytest.raises(RasterError, match="was closed"):
        source.read(grids[0])


@pytest.mark.parametrize("wrong", ["missing", "elsewhere", "exchanged", "nonsense", "off by two pixels"])
def test_a_wrong_place_is_not_believed(item: Make, tmp_path: Path, wrong: str) -> None:
    old, new = item("old", GRID.crop(0, 80, *GRID.shape), 7, "2020-01-01T00:00:00Z"), item("new", GRID, 9)
    asset = old["assets"]["visual"]
    if wrong == "missing":
        del asset["proj:shape"]
    elif wrong == "elsewhere":
        asset["proj:transform"] = [10, 0, 0, 0, -10, 0]
    elif wrong == "exchanged":
        asset["proj:transform"] = [10, 0, 4e5 + 800 * 10, 0, 10, 5.8e6]
    elif wrong == "nonsense":
        asset["proj:code"], asset["proj:shape"] = {"a": 1}, "many"
    else:
        asset["proj:transform"][2] += 20
    source = open_source(save(tmp_path, old, new))
    if wrong == "off by two pixels":
        with pytest.warns(InputWarning, match=r"old\.tif lies otherwise than its item says .* the file counts"):
            found = source.read(source.grid)
        assert found.pixels[0, 0, 80] == 7
        return
    found = source.read(source.grid)
    assert found.grid.shape == (60, 160)
    assert found.mask.all()
    assert found.pixels[0, 0, [0, 79, 80, 159]].tolist() == [9, 9, 7, 7]


def test_stac_1_0_says_it_in_other_words(item: Make, tmp_path: Path) -> None:
    old = item("old", GRID, 3, **{"proj:code": None, "bands": None, "eo:bands": RGB_1_0})
    old["stac_version"] = "1.0.0"
    asset = old["assets"]["visual"]
    old["properties"] |= {"proj:epsg": 32633, "proj:shape": asset.pop("proj:shape")}
    old["properties"]["proj:transform"] = [*asset.pop("proj:transform"), 0, 0, 1]
    found, source = read(save(tmp_path, old))
    assert source.grid == GRID
    assert found.bands == ("red", "green", "blue")
    assert found.pixels.max() == 3
    assert source.layers[0].parts[0].grid == GRID


def test_zones_and_the_line_of_180_degrees(item: Make, tmp_path: Path) -> None:
    east = Grid(40, 40, Affine(1000.0, 0.0, 800_000.0, 0.0, -1000.0, 40_000.0), CRS("EPSG:32660"))
    west = Grid(40, 40, Affine(1000.0, 0.0, 164_000.0, 0.0, -1000.0, 40_000.0), CRS("EPSG:32601"))
    found, source = read(save(tmp_path, item("east", east, 200), item("west", west, 100, "2020-01-01T00:00:00Z")))
    assert source.grid.crs == east.crs
    assert source.grid.shape[1] < 100
    assert {100, 200} <= set(np.unique(found.pixels))
    assert found.mask[:, :60].mean() > 0.9  # no gap where the zones meet
    ends = [Grid(10, 10, Affine(0.1, 0, left, 0, -0.1, 1.0), CRS("EPSG:4326")) for left in (179.0, -180.0)]
    found, source = read(save(tmp_path, *(item(f"d{i}", grid, 50 + i) for i, grid in enumerate(ends)), name="d.json"))
    assert source.grid.shape == (10, 20)
    assert found.pixels[0, 0].tolist() == [50] * 10 + [51] * 10
    seen = source.grid.crop(0, 5, 10, 10)
    with open_source(tmp_path / "d.json") as again:
        assert again.read(Grid(10, 10, seen.affine @ Affine.translation(-3600, 0), seen.crs)).mask.all()


def test_two_halves_have_no_seam_on_another_grid(item: Make, tmp_path: Path) -> None:
    halves = [item(f"h{n}", GRID.crop(0, 40 * n, 60, 40), 100) for n in range(2)]
    with open_source(save(tmp_path, *halves)) as source:
        turned = Grid(20, 30, Affine(17.0, 0, 4e5 + 155.5, 0, -17.0, 5.8e6 - 103.3), UTM)
        assert source.read(turned).mask.all()
        assert np.ptp(source.read(turned).pixels) == 0


def test_a_model_of_three_bands_is_fed_from_three_files(item: Make, tmp_path: Path) -> None:
    scene = item("scene", GRID, 0, bands=None)
    coarse = GRID.resized(30, 40)
    for name, colour, grid, value in (
        ("B02", "blue", GRID, 2),
        ("B03", "green", GRID, 3),
        ("B04", "red", coarse, 4),
        ("B08", "nir", GRID, 8),
    ):
        bands = [{"name": name, "eo:common_name": colour}]
        scene["assets"][name] = item(name, grid, value, count=1, bands=bands)["assets"]["visual"]
    del scene["assets"]["visual"]
    scene["assets"]["thumbnail"] = {"href": "t.png", "type": "image/png", "roles": ["thumbnail"]}
    path = save(tmp_path, scene)
    found, source = read(path)
    assert found.bands == ("red", "green", "blue")
    assert found.pixels[:, 30, 40].tolist() == [4, 3, 2]
    assert source.grid == GRID
    assert read(path, asset="B08, B04")[0].bands == ("nir", "red")
    with open_source(path, wanted=("nir",)) as one:
        assert one.bands == ("nir",)
    with pytest.raises(
        RasterError, match=r"scene has no asset or band B05; it has B02 \(blue\), .*, thumbnail; name one"
    ):
        read(path, asset="B04,B05")
    with pytest.raises(RasterError, match=r"scene has no image of swir16, red; it has B02"):
        open_source(path, wanted=("swir16", "red"))
    with pytest.raises(RasterError, match="`bands` are of one asset, and of scene several are read"):
        read(path, bands=(1,))


def test_assets_by_name_role_and_number(item: Make, tmp_path: Path) -> None:
    scene = item("scene", GRID, [[[1]], [[2]], [[3]]])
    scene["assets"]["dem"] = item("dem", GRID, 9, count=1, bands=None, roles=["elevation"])["assets"]["visual"]
    path = save(tmp_path, scene)
    assert read(path)[0].count == 3
    assert read(path, asset="elevation")[0].pixels.max() == read(path, asset="dem")[0].pixels.max() == 9
    assert read(path, asset="blue,B04")[0].pixels[:, 0, 0].tolist() == [3, 1]
    assert read(path, asset="visual", bands=(3, 2))[0].bands == ("blue", "green")
    with pytest.raises(ConfigError, match=r"scene\.tif is not a STAC item and has no assets"):
        open_source(tmp_path / "files" / "scene.tif", ReadOptions(asset="visual"))


def test_scale_offset_and_nodata_count_where_the_file_has_none(item: Make, tmp_path: Path) -> None:
    values = np.full(GRID.shape, 3000)
    values[:10] = 0
    said = {"data_type": "uint16", "scale": 0.0001, "offset": -0.1, "nodata": 0}
    new = item("new", GRID, values, dtype=np.uint16, count=1, bands=[{"name": "B08"}], **{"raster:bands": [said]})
    plain = {"data_type": "uint16", "nodata": 0, "raster:scale": 0.0001}
    beside = GRID.crop(0, 80, *GRID.shape)
    old = item("old", beside, 2000, "2020-01-01T00:00:00Z", dtype=np.uint16, count=1, bands=[{"name": "B08"} | plain])
    found, source = read(save(tmp_path, new, old))
    assert source.units == Units((0.0001,), (-0.1,))
    assert not found.mask[:10, :80].any()
    assert found.pixels[0, 30, [10, 100]].tolist() == [3000, 3000]  # 0.2 in both, as the newest stores it
    assert read(save(tmp_path, new, old), raw=True)[0].pixels[0, 30, 100] == 2000
    with rasterio.open(tmp_path / "files" / "new.tif", "r+") as dataset:
        dataset.nodata, dataset.scales = 7, (2.0,)
    found, source = read(save(tmp_path, new))
    assert source.units == Units((2.0,), (0.0,))
    assert found.mask.all()


def test_what_is_said_of_a_whole_asset_is_of_all_its_bands(item: Make, tmp_path: Path) -> None:
    said = {"bands": None, "raster:scale": 0.5, "raster:offset": -1.0, "nodata": 10**400, "gsd": 10**400}
    path = save(tmp_path, item("a", GRID, [[[1]], [[2]], [[3]]], dtype=np.uint16, **said))
    assert read(path)[1].units == Units((0.5,) * 3, (-1.0,) * 3)
    assert read(path, bands=(3, 1))[1].units == Units((0.5,) * 2, (-1.0,) * 2)


def test_pages_and_collections_are_followed(item: Make, tmp_path: Path) -> None:
    grids = [GRID.crop(0, 80 * number, *GRID.shape) for number in range(3)]
    items = [item(f"i{n}", grid, 10 + n) for n, grid in enumerate(grids)]
    save(tmp_path, *items[:2], links=[{"rel": "next", "href": "more.json"}])
    save(tmp_path, {"type": "FeatureCollection", "features": items[2:]}, name="more.json")
    assert read(tmp_path / "items.json")[0].width == 240
    collection = {"type": "Collection", "stac_version": "1.1.0", "id": "c"}
    save(tmp_path, collection | {"links": [{"rel": "item", "href": "items.json"}]}, name="collection.json")
    assert read(tmp_path / "collection.json")[0].width == 240
    save(tmp_path, *items[:2], links=[{"rel": "next", "href": "items.json", "method": "POST"}])
    with pytest.raises(RasterError, match=r"where .* goes on, cannot be fetched by address"):
        open_source(tmp_path / "items.json")
    for document, told in (
        ({"type": "Catalog", "stac_version": "1.1.0", "links": []}, "is a Catalog; give one of its"),
        (collection | {"links": []}, "has no items"),
        (items[0] | {"assets": {}}, "The item i0 has no assets"),
        (items[0] | {"assets": {"a": {"href": "ftp://x/a.tif"}}}, "ftp:// is not read; download it"),
        (items[0] | {"assets": {"a": {"href": "https://[x/a.tif"}}}, "which is no URL"),
        (items[0] | {"assets": {"a": {"type": "image/tiff"}}}, "The item i0 has no assets"),
    ):
        with pytest.raises(RasterError, match=told):
            open_source(save(tmp_path, document, name="bad.json"))
    (tmp_path / "bad.json").write_text('{"stac_version": "1.1.0", ')
    with pytest.raises(RasterError, match=r"bad\.json is damaged"):
        open_source(tmp_path / "bad.json")
    (tmp_path / "roads.json").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(RasterError, match=r"roads\.json has no features"):
        open_source(tmp_path / "roads.json")


def test_pages_may_be_more_than_calls_in_each_other(item: Make, tmp_path: Path) -> None:
    pages = sys.getrecursionlimit() + 100
    for number in range(pages):
        more = {"features": [], "links": [{"rel": "next", "href": f"p{number + 1}.json"}]}
        save(tmp_path, {"type": "FeatureCollection", "stac_version": "1.1.0"} | more, name=f"p{number}.json")
    save(tmp_path, item("last", GRID, 1), name=f"p{pages}.json")
    assert len(read(tmp_path / "p0.json")[1].layers) == 1


def test_what_strangers_write_is_an_error_of_one_sentence(item: Make, tmp_path: Path) -> None:
    rng = random.Random(4)
    junk = [None, True, -1, 1e400, "", "x", [], {}, ["x"], {"x": 1}, [[]], "EPSG:0", "../..", "2026-13-99"]
    whole = item("a", GRID, 1, **{"raster:bands": [{"nodata": 0, "scale": 2.0}] * 3})
    whole["links"] = [{"rel": "self", "href": "a.json"}]
    outcomes = set()
    for _ in range(150):
        document = json.loads(json.dumps(whole))
        node: Any = {"whole": document}
        while True:
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if rng.random() < 0.3 or not isinstance(node[key], dict | list) or not node[key]:
                break
            node = node[key]
        node[key] = rng.choice(junk)
        (tmp_path / "mutant.json").write_text(json.dumps(document), encoding="utf-8")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with open_source(tmp_path / "mutant.json") as source:
                    assert source.grid is not None
                    source.read(source.grid.crop(0, 0, 4, 4))
            outcomes.add("read")
        except TerramorphError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_what_changes_the_pixels_changes_the_fingerprint(item: Make, tmp_path: Path) -> None:
    path = save(tmp_path, item("a", GRID, 1))
    before = read(path)[1].fingerprint()
    assert read(path)[1].fingerprint() == before
    item("a", GRID, 2)
    assert read(path)[1].fingerprint() != before


def test_items_of_other_bands_or_types_are_refused(item: Make, tmp_path: Path) -> None:
    other = item("b", GRID.crop(0, 80, *GRID.shape), 1, "2020-01-01T00:00:00Z", dtype=np.uint16)
    path = save(tmp_path, item("a", GRID, 1), other)
    with (
        open_source(path) as source,
        pytest.raises(RasterError, match="b has 3 bands of uint16 and a 3 of uint8"),
    ):
        source.read(source.grid)


def test_bands_in_another_order_are_laid_by_their_names(item: Make, tmp_path: Path) -> None:
    new = item("a", GRID, [[[10]], [[20]], [[30]]])
    beside = GRID.crop(0, 80, *GRID.shape)
    old = item("b", beside, [[[30]], [[20]], [[10]]], "2020-01-01T00:00:00Z", bands=RGB_1_1[::-1])
    found, source = read(save(tmp_path, new, old))
    assert source.bands == ("red", "green", "blue")
    assert found.pixels[:, 30, [10, 100]].tolist() == [[10, 10], [20, 20], [30, 30]]
    infrared = [{"name": "B08", "eo:common_name": "nir"}, *RGB_1_1[:2]]
    old = item("b", beside, 1, "2020-01-01T00:00:00Z", bands=infrared)
    with pytest.raises(RasterError, match="b has the bands nir, red, green and a red, green, blue"):
        read(save(tmp_path, new, old))


def test_the_extent_is_the_ground_of_all(item: Make, tmp_path: Path) -> None:
    far = GRID.crop(200, 300, *GRID.shape)
    with open_source(save(tmp_path, item("a", GRID, 1), item("b", far, 1))) as source:
        both: Geometry = GRID.geobox.extent | far.geobox.extent
        assert source.extent.geom.equals(both.geom)
        assert not source.read(GRID.crop(100, 150, 10, 10)).mask.any()


def test_addresses_are_signed_when_they_are_opened(item: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = item("a", GRID, 1)
    scene["assets"]["visual"]["href"] = "https://example.invalid/a.tif"
    path = save(tmp_path, scene)
    (tmp_path / "my_signer.py").write_text(
        "import pathlib\ndef sign(url):\n    raise KeyError(url + '?sig=secret1')\ndef token(url):\n"
        "    seen.append(url)\n    return url + '?sig=secret1'\nseen = []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"my_signer:sign, which signs addresses, failed") as caught:
        read(path, sign="my_signer:sign")
    assert "secret1" not in str(caught.value)
    opened: list[Any] = []

    def keep(place: Any, **how: Any) -> Any:
        opened.append(place.url)
        raise RasterError("enough")

    monkeypatch.setattr(mosaic, "ImageSource", keep)
    with pytest.raises(RasterError, match="enough"):
        read(path, sign="my_signer:token")
    assert opened == ["https://example.invalid/a.tif?sig=secret1"]
    assert sys.modules["my_signer"].seen == ["https://example.invalid/a.tif"]
    with pytest.raises(ConfigError, match="no_signer cannot be imported"):
        read(path, sign="no_signer:sign")
