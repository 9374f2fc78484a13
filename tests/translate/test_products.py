"""Classes and areas of a translated map."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from torch import Tensor

from terramorph.bundle import Bundle
from terramorph.cartography import CLASSES, CLASSIC, classic
from terramorph.cartography.polygonize import write_polygons
from terramorph.errors import ConfigError, InputError
from terramorph.raster import Raster, write_image
from terramorph.town import make_town
from terramorph.translate import Model

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
    town = make_town(700, seed=3)
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
