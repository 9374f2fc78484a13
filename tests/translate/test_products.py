"""Classes and areas of a translated map."""

from __future__ import annotations

import pickle
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from torch import Tensor

from terramorph.bundle import Bundle, load_bundle
from terramorph.cartography import CLASSES, CLASSIC, classic
from terramorph.cartography.polygonize import write_polygons
from terramorph.errors import ConfigError, InputError, InputWarning
from terramorph.raster import Raster, read_image, write_image
from terramorph.town import make_town
from terramorph.translate import Model, load
from terramorph.translate.engine import LocalEngine
from terramorph.translate.products import entropy

from .conftest import make_bundle


class Tracing:
    """A backend whose output is its input: a map comes in, and a map comes out."""

    name, device, batch_size, noisy, noise_bands = "tracing", torch.device("cpu"), 1, False, 0

    def run(self, source: Tensor, seed: int = 0, noise: Tensor | None = None) -> Tensor:
        return source

    def release(self) -> None: ...


@pytest.fixture(scope="module")
def town_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The map of a town with a corner without data."""
    town = make_town(448, seed=3)
    drawn = town.map(classic(), antialias=False)
    mask = np.ones(drawn.mask.shape, bool)
    mask[:90, :120] = False
    path = tmp_path_factory.mktemp("town") / "map.tif"
    write_image(Raster(drawn.pixels, mask, drawn.grid, drawn.bands), path)
    return path


@pytest.fixture
def model(bundle: Bundle) -> Model:
    """A model that changes nothing, in windows of 256 px."""
    return Model(bundle.header, backend=Tracing())


def test_classes_of_a_photograph_are_warned_of(bundle: Bundle, town_map: Path, tmp_path: Path) -> None:
    header = bundle.header.model_copy(update={"direction": "BtoA"})
    with pytest.warns(InputWarning, match="BtoA makes photographs"):
        Model(header, backend=Tracing()).translate_to(town_map, tmp_path / "a.tif", kind="classes", window=256)


def test_classes_have_a_legend(model: Model, town_map: Path, tmp_path: Path) -> None:
    out = tmp_path / "classes.tif"
    model.translate_to(town_map, out, kind="classes", window=256)
    with rasterio.open(out) as made, rasterio.open(town_map) as given:
        assert made.dtypes == ("uint8",)
        assert made.crs == given.crs
        assert np.array_equal(made.dataset_mask(), given.dataset_mask())
        there = made.dataset_mask() > 0
        assert np.array_equal(made.read(1)[there], CLASSIC.classify(given.read())[there])
        colours = made.colormap(1)
        assert [colours[i][:3] for i in range(len(CLASSES))] == [one.rgb for one in CLASSIC.classes]
        assert all(name in made.tags()["TERRAMORPH_CLASSES"] for name in CLASSES)
    names = ElementTree.parse(f"{out}.aux.xml").findall(".//Category")
    assert [name.text for name in names] == list(CLASSES)


def test_areas_are_seamless_over_windows(model: Model, town_map: Path, tmp_path: Path) -> None:
    out = tmp_path / "town.gpkg"
    model.translate_to(town_map, out, window=192, overlap=64)
    model.translate_to(town_map, tmp_path / "classes.tif", kind="classes")
    names = {number: name for number, name in enumerate(CLASSES) if name != "land"}
    count = write_polygons(tmp_path / "classes.tif", tmp_path / "whole.gpkg", names)
    found, whole = geopandas.read_file(out), geopandas.read_file(tmp_path / "whole.gpkg")
    assert len(found) == count
    assert found["class"].value_counts().to_dict() == whole["class"].value_counts().to_dict()
    assert shapely.equals(found.geometry.normalize(), whole.geometry.normalize()).all()
    assert found.crs.to_epsg() == 32633
    assert found["confidence"].min() > 0.99  # every pixel has a colour of the style
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_confidence_falls_between_colours(tmp_path: Path, model: Model) -> None:
    park, water = (np.array(CLASSIC.classes[CLASSES.index(name)].rgb, float) for name in ("park", "water"))
    pixels = np.empty((3, 64, 96), np.uint8)
    pixels[:, :, :48] = park[:, None, None]
    pixels[:, :, 48:] = np.rint(0.7 * water + 0.3 * park)[:, None, None]
    town = make_town(96)
    write_image(Raster.from_pixels(pixels, town.grid.crop(0, 0, 64, 96)), tmp_path / "a.tif")
    model.translate_to(tmp_path / "a.tif", tmp_path / "a.fgb")
    found = geopandas.read_file(tmp_path / "a.fgb").set_index("class")["confidence"]
    assert found["park"] == pytest.approx(1.0, abs=1e-3)
    assert 0.2 < found["water"] < 0.6


def test_what_has_no_classes_is_refused(tmp_path: Path, town_map: Path) -> None:
    grey = Model(make_bundle(out_bands=1))
    with pytest.raises(ConfigError, match="colours"):
        grey.translate_to(town_map, tmp_path / "a.gpkg")
    with pytest.raises(InputError, match=r"\.tif"):
        grey.translate_to(town_map, tmp_path / "a.png", kind="classes")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def mapper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a network with class scores, whose palette is that of classic and a darker park."""
    bundle = make_bundle("lite-unet", width=12, colours=len(CLASSES) + 1, encoder="none")
    colours = torch.tensor([*(one.rgb for one in CLASSIC.classes), (190, 214, 160)], dtype=torch.float32)
    bundle.network.get_buffer("palette").copy_(colours / 127.5 - 1)
    return bundle.save(tmp_path_factory.mktemp("model") / "mapper.safetensors")


def test_a_kind_that_is_named_goes_before_the_suffix(tmp_path: Path, model: Model, town_map: Path) -> None:
    with pytest.raises(InputError, match=r"must be named \.tif"):
        model.translate_to(town_map, tmp_path / "map.gpkg", kind="cog")


def test_probabilities_are_the_shares_of_the_colours_of_a_class(mapper: Path, town_map: Path, tmp_path: Path) -> None:
    model = load(mapper, precision="fp32")
    raster = model.probabilities().translate(town_map)
    assert raster.bands == CLASSES
    assert raster.dtype == np.float32
    assert np.allclose(raster.pixels[:, raster.mask].sum(axis=0), 1, atol=1e-5)

    network = load_bundle(mapper).network
    source = torch.from_numpy(read_image(town_map).pixels)[None].float() / 127.5 - 1
    source *= torch.from_numpy(raster.mask)
    with torch.no_grad():
        shares = network.scores(source).softmax(dim=1)[0]  # type: ignore[operator]
    shares[CLASSES.index("park")] += shares[len(CLASSES)]
    assert np.allclose(raster.pixels[:, raster.mask], shares[: len(CLASSES)].numpy()[:, raster.mask], atol=5e-3)

    out = tmp_path / "probability.tif"
    model.translate_to(town_map, out, kind="probability")
    with rasterio.open(out) as made:
        assert made.descriptions == CLASSES
        assert np.array_equal(made.read()[:, raster.mask], raster.pixels[:, raster.mask])
    with pytest.raises(ConfigError, match="on workers need a model loaded with `classes`"):
        model.translate_to(town_map, tmp_path / "p.tif", kind="probability", engine=LocalEngine(model))
    sent = pickle.loads(pickle.dumps(model.probabilities()))
    assert sent.digest == model.probabilities().digest != model.digest


def test_entropy_says_where_a_model_is_unsure(mapper: Path, town_map: Path, tmp_path: Path) -> None:
    sure, even = np.zeros((4, 1, 1), np.float32), np.full((4, 1, 1), 0.25, np.float32)
    sure[2] = 1
    assert entropy(sure).item() == pytest.approx(0, abs=1e-6)
    assert entropy(even).item() == pytest.approx(1)
    model, out = load(mapper), tmp_path / "entropy.tif"
    model.translate_to(town_map, out, kind="entropy")
    raster = model.probabilities().translate(town_map)
    with rasterio.open(out) as made:
        assert made.descriptions == ("entropy",)
        p = raster.pixels[:, raster.mask].astype(np.float64).clip(1e-12)
        assert np.allclose(made.read(1)[raster.mask], -(p * np.log(p)).sum(axis=0) / np.log(len(CLASSES)), atol=1e-5)


def test_probabilities_of_what_has_no_class_scores_are_refused(bundle: Bundle, town_map: Path, tmp_path: Path) -> None:
    plain = load(bundle.save(tmp_path / "plain.safetensors"))
    with pytest.raises(ConfigError, match="class scores"):
        plain.translate_to(town_map, tmp_path / "p.tif", kind="probability")
    with pytest.raises(ConfigError, match="save"):
        Model(bundle).probabilities()
    assert not (tmp_path / "p.tif").exists()
