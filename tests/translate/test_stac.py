"""STAC items beside outputs: valid, true, and with links to what they are made of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geom import Geometry, box
from referencing import Registry, Resource
from shapely.geometry import shape

from terramorph.bundle import Bundle
from terramorph.cartography import load_style, palette_of
from terramorph.errors import ConfigError, InputError
from terramorph.geo import Grid, project
from terramorph.prepare import Inputs, Opening, Options, prepare
from terramorph.raster import Raster, ReadOptions, write_image
from terramorph.sources import open_source
from terramorph.translate import Model, load

from ..cli.conftest import Cli, cli  # noqa: F401

SCHEMAS = Path(__file__).parents[1] / "data" / "stac-schemas"
GRID = Grid(96, 128, Affine(1.0, 0.0, 4e5, 0.0, -1.0, 5.8e6), CRS("EPSG:32633"))
LINE = Grid(96, 128, Affine(0.001, 0, 179.95, 0, -0.001, 10.0), CRS("EPSG:4326"))


@pytest.fixture(scope="module")
def validate() -> Any:
    """Checks an item against the core schema and that of each of its extensions."""
    registry: Registry[Any] = Registry()
    for path in SCHEMAS.glob("*.json"):
        document = json.loads(path.read_text(encoding="utf-8"))
        own = document["$id"].rstrip("#").replace("commonjson", "common.json")  # as it is published
        registry = registry.with_resource(own, Resource.from_contents({**document, "$id": own}))

    def check(item: dict[str, Any]) -> None:
        core = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"
        for name in (core, *item["stac_extensions"]):
            jsonschema.Draft7Validator(registry.contents(name), registry=registry).validate(item)
        assert all(value is not None for link in item["links"] for value in link.values())

    return check


@pytest.fixture
def model(bundle: Bundle, tmp_path: Path) -> Model:
    scores = {"val psnr": 20.5, "val fid": None}
    Bundle(bundle.network, bundle.header.model_copy(update={"scores": scores, "note": "Ours."})).save(
        tmp_path / "model.safetensors"
    )
    return load(tmp_path / "model.safetensors", precision="fp32", any_resolution=True)


@pytest.fixture
def items(picture: Any, tmp_path: Path) -> Path:
    """Two items of images side by side."""
    features = []
    for number, when in enumerate(("2026-06-01T10:00:00Z", "2026-05-01T12:30:00+02:00")):
        grid = GRID.crop(0, 128 * number, *GRID.shape)
        write_image(Raster.from_pixels(picture(*GRID.shape, seed=number), grid), tmp_path / f"{number}.tif")
        features.append(
            {
                "type": "Feature",
                "stac_version": "1.1.0",
                "id": f"i{number}",
                "geometry": None,
                "properties": {"datetime": when, "license": "CC-BY-4.0"},
                "links": [],
                "assets": {"visual": {"href": f"{number}.tif", "type": "image/tiff"}},
            }
        )
        (tmp_path / f"{number}.json").write_text(json.dumps(features[-1]))
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return tmp_path / "items.json"


def saved(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_items_in_and_an_item_out(model: Model, items: Path, tmp_path: Path, validate: Any) -> None:
    model.translate_to(items, tmp_path / "map.tif", stac=True)
    item = saved(tmp_path / "map.json")
    validate(item)
    asset = item["assets"]["data"]
    made = tmp_path / "map.tif"
    assert asset["file:size"] == made.stat().st_size
    assert asset["file:checksum"] == "1220" + hashlib.sha256(made.read_bytes()).hexdigest()
    with open_source(made) as source:
        assert source.grid == Grid(*asset["proj:shape"], Affine(*asset["proj:transform"]), CRS(asset["proj:code"]))
        ground = shape(item["geometry"])
        assert ground.is_valid
        assert ground.exterior.is_ccw
        assert project(box(*item["bbox"], "EPSG:4326"), GRID.crs).contains(source.extent.buffer(-1))
    assert asset["bands"] == [{"name": name} for name in ("red", "green", "blue")]
    assert [band["data_type"] for band in asset["raster:bands"]] == ["uint8"] * 3
    times = [item["properties"][key] for key in ("datetime", "start_datetime", "end_datetime")]
    assert times == [None, "2026-05-01T10:30:00Z", "2026-06-01T10:00:00Z"]
    assert item["properties"]["terramorph:source_licence"] == "CC-BY-4.0"
    assert item["properties"]["processing:software"].keys() == {"terramorph"}
    links = [link["href"] for link in item["links"] if link["rel"] == "derived_from"]
    assert links == ["items.json", "map.model.json"]
    with open_source(tmp_path / "map.json") as again, open_source(made) as source:  # what we write we read
        assert np.array_equal(again.read(source.grid).pixels, source.read(source.grid).pixels)
        assert again.layers[0].parts[0].grid == source.grid


def test_the_model_is_an_item_too(model: Model, items: Path, tmp_path: Path, validate: Any) -> None:
    (tmp_path / "out").mkdir()
    model.translate_to(tmp_path / "0.tif", tmp_path / "out" / "map.tif", stac=True)
    item, made = saved(tmp_path / "out" / "map.model.json"), saved(tmp_path / "out" / "map.json")
    validate(item)
    validate(made)
    assert [link["href"] for link in made["links"]] == ["../0.tif", "map.model.json"]
    assert made["properties"]["datetime"] == made["properties"]["created"]
    told = item["properties"]
    assert told["mlm:input"][0]["bands"] == ["red", "green", "blue"]
    assert told["mlm:input"][0]["value_scaling"][0]["expression"] == "(x - 0) / (255 - 0) * 2 - 1"
    assert told["mlm:hyperparameters"] == {"size": 64, "stride": 64, "mode": "raster"}
    assert told["terramorph:scores"] == {"val psnr": 20.5}
    assert item["assets"]["model"]["href"] == "../model.safetensors"
    content = (tmp_path / "model.safetensors").read_bytes()
    assert item["assets"]["model"]["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()


def test_classes_have_their_legend_and_draws_their_spread(
    model: Model, items: Path, tmp_path: Path, validate: Any
) -> None:
    model.translate_to(items, tmp_path / "classes.tif", kind="classes", stac=True)
    item = saved(tmp_path / "classes.json")
    validate(item)
    (band,) = item["assets"]["data"]["bands"]
    assert band["name"] == "class"
    legend = palette_of(load_style("classic")).classes
    names = [(one["value"], one["name"]) for one in band["classification:classes"]]
    assert names == [(value, one.name) for value, one in enumerate(legend)]
    assert item["assets"]["data"]["raster:bands"][0]["data_type"] == "uint8"
    paper = load(model.path, mode="paper", precision="fp32", any_resolution=True)
    paper.translate_to(items, tmp_path / "d.tif", samples=2, uncertainty=tmp_path / "sd.tif", stac=True)
    item = saved(tmp_path / "d.json")
    validate(item)
    assert item["assets"]["uncertainty"]["href"] == "sd.tif"


def test_only_items_in_the_area_are_linked(model: Model, items: Path, tmp_path: Path, validate: Any) -> None:
    folder = {"type": "Collection", "stac_version": "1.1.0", "id": "c"}
    folder["links"] = [{"rel": "item", "href": f"{number}.json"} for number in range(2)]
    (tmp_path / "collection.json").write_text(json.dumps(folder))
    area = GRID.crop(10, 140, 60, 60).geobox.extent
    model.translate_to(tmp_path / "collection.json", tmp_path / "part.tif", stac=True, area=area)
    item = saved(tmp_path / "part.json")
    validate(item)
    assert [link["href"] for link in item["links"]] == ["1.json", "part.model.json"]
    assert item["properties"]["datetime"] == "2026-05-01T10:30:00Z"
    assert area.buffer(1).contains(project(Geometry(shape(item["geometry"]), "EPSG:4326"), GRID.crs))
    model.translate_to(tmp_path / "collection.json", tmp_path / "all.tif", stac=True)
    assert [link["href"] for link in saved(tmp_path / "all.json")["links"]] == ["0.json", "1.json", "all.model.json"]


def test_an_item_of_a_server_names_no_file_here_and_its_address_keeps_no_key(
    model: Model, items: Path, tmp_path: Path
) -> None:
    item = saved(tmp_path / "0.json")
    item["links"] = [{"rel": "self", "href": "https://example.org/i0.json?token=abcdef0123456789abcd"}]
    collection = {"type": "FeatureCollection", "features": [item]}
    item["assets"]["visual"]["href"] = (tmp_path / "0.tif").as_uri()
    items.write_text(json.dumps(collection), encoding="utf-8")
    with pytest.raises(InputError, match="lies on a server and names a file here") as caught:
        model.translate_to(items, tmp_path / "map.tif", stac=True)
    assert "abcdef" not in str(caught.value)


def test_a_footprint_is_cut_at_180_degrees(model: Model, picture: Any, tmp_path: Path, validate: Any) -> None:
    write_image(Raster.from_pixels(picture(*LINE.shape), LINE), tmp_path / "line.tif")
    model.translate_to(tmp_path / "line.tif", tmp_path / "map.tif", stac=True)
    item = saved(tmp_path / "map.json")
    validate(item)
    assert item["geometry"]["type"] == "MultiPolygon"
    assert sorted(round(part.bounds[0], 3) for part in shape(item["geometry"]).geoms) == [-180.0, 179.95]
    west, _, east, _ = item["bbox"]
    assert (round(west, 3), round(east, 3)) == (179.95, -179.922)


def test_what_cannot_have_an_item_says_so_before_it_works(
    model: Model, items: Path, picture: Any, tmp_path: Path
) -> None:
    write_image(Raster.from_pixels(picture(96, 128)), tmp_path / "plain.png")
    source = tmp_path / "0.tif"
    for output in ("map.png", "map.mbtiles"):
        with pytest.raises(ConfigError, match=f"A STAC item needs a GeoTIFF, got .*{output}; name it .tif"):
            model.translate_to(source, tmp_path / output, stac=True)
    (tmp_path / "images").mkdir()
    with pytest.raises(ConfigError, match="is a folder of images, and a STAC item is of one GeoTIFF"):
        model.translate_to([source], tmp_path / "images", stac=True)
    with pytest.raises(InputError, match=r"A STAC item needs a georeference, and .*plain\.png has none"):
        model.translate_to(tmp_path / "plain.png", tmp_path / "map.tif", stac=True)
    with pytest.raises(InputError, match=r"0\.json would replace the source"):
        model.translate_to(tmp_path / "0.json", tmp_path / "0.tiff", stac=True)
    (tmp_path / "map.json").write_text("mine")
    with pytest.raises(InputError, match=r"map\.json would be replaced"):
        model.translate_to(source, tmp_path / "map.tif", stac=True)
    assert not (tmp_path / "map.tif").exists()
    assert (tmp_path / "map.json").read_text(encoding="utf-8") == "mine"


def test_the_command(cli: Cli, model: Model, items: Path, tmp_path: Path, validate: Any) -> None:  # noqa: F811
    words = [str(model.path), str(tmp_path / "0.json"), str(tmp_path / "map.tif"), "--asset", "visual", "--stac"]
    assert cli("translate", *words, "--any-resolution").code == 0
    validate(saved(tmp_path / "map.json"))
    words[2] = str(tmp_path / "other.tif")
    words[4] = "nir"
    told = cli("translate", *words, "--any-resolution")
    assert told.code == 2
    assert "The item i0 has no asset or band nir; it has visual; name one" in told.err


def test_lazy_serve_and_prepare_take_items_too(model: Model, items: Path, tmp_path: Path) -> None:
    from terramorph.serve import load_settings
    from terramorph.serve.opening import Opener

    model.translate_to(items, tmp_path / "map.tif")
    with model.lazy(items) as drawn, open_source(tmp_path / "map.tif") as made:
        assert np.array_equal(drawn.read(made.grid).pixels, made.read(made.grid).pixels)
    layer = {"name": "a", "model": str(model.path), "source": str(items), "asset": "visual", "resolution": 1.0}
    settings = load_settings(values={"layers": [layer]})
    opened = Opener(settings).open(settings.layers[0])
    assert opened.output.grid.shape == (96, 256)
    sides = ReadOptions(asset="visual"), ReadOptions()
    options = Options(tile=32, opening=Opening(source=sides[0], target=sides[1]))
    manifest = prepare(tmp_path / "pairs", [Inputs(str(items), str(tmp_path / "map.tif"))], options)
    assert sum(manifest.counts.values()) > 4
