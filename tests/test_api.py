"""The public API on one page: what `import terramorph` offers, and the examples of its documentation."""

from __future__ import annotations

import doctest
import inspect
import pickle
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

import terramorph
import terramorph.api
from terramorph.errors import ConfigError, DatasetError, InputError
from terramorph.pairs import open_pairs, write_pairs
from terramorph.raster import Raster
from terramorph.town import Town, write_town_pairs

from .conftest import TINY
from .processes import wait_until

SETTINGS = {**TINY, "max_steps": 2, "seed": 1}


class TownPairs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A user's own: pairs of tensors by number, of any number."""

    def __init__(self, town: Town, count: int) -> None:
        self.sides, self.count = (town.aerial(), town.map()), count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(torch.from_numpy(side.crop(0, index * 16, 80, 80).pixels.copy()) for side in self.sides)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def trained(small_town: Town, tmp_path_factory: pytest.TempPathFactory) -> terramorph.Model:
    """Of a torch Dataset."""
    folder = tmp_path_factory.mktemp("api")
    pairs, held_out = TownPairs(small_town, 4), TownPairs(small_town, 2)
    return terramorph.train(pairs, folder / "run", settings=SETTINGS, validation=held_out, cache=folder / "cache")


def test_every_public_name_is_there_and_documented() -> None:
    for name in set(terramorph.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(terramorph, name)), name
    assert set(terramorph.__all__) == set(dir(terramorph))


@pytest.mark.parametrize("name", ["prepare", "serve", "translate"])
def test_a_package_is_called_as_the_function_of_its_name(name: str) -> None:
    package: Any = getattr(terramorph, name)
    assert isinstance(package, ModuleType)
    assert inspect.signature(package) == inspect.signature(getattr(terramorph.api, name))
    assert pickle.loads(pickle.dumps(package)) is package


def test_either_use_may_come_first() -> None:
    code = (
        "import terramorph.translate as package\n"
        "from terramorph.translate.model import Model\n"
        "import terramorph\n"
        "assert terramorph.translate is package and package.Model is terramorph.Model is Model and callable(package)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["serve", "show"])
def test_a_server_without_its_packages_is_a_sentence(name: str) -> None:
    code = f"import sys; sys.modules['uvicorn'] = None\nimport terramorph\nterramorph.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.endswith("is not installed; install it with pip install 'terramorph[serve]'.\n"), done.stderr


def test_importing_takes_under_a_third_of_a_second() -> None:
    line = "import time; t = time.process_time(); import terramorph; print(time.process_time() - t)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.3


def test_a_run_of_a_torch_dataset_is_a_run_of_a_folder(
    trained: terramorph.Model, small_town_sides: tuple[Raster, Raster]
) -> None:
    run = trained.path.parent  # type: ignore[union-attr]
    assert len(open_pairs(run / "pairs", "train")) == 4
    assert len(open_pairs(run / "pairs", "val")) == 2
    again = terramorph.train(run / "pairs", run.parent / "again", settings=SETTINGS, cache=run.parent / "cache")
    x = small_town_sides[0].crop(0, 0, 64, 64).pixels
    np.testing.assert_array_equal(again.translate(x), trained.translate(x))
    assert terramorph.training.resume(run).finished  # type: ignore[attr-defined]


def test_pairs_may_be_paths_rasters_and_arrays_of_either_order(
    small_town_sides: tuple[Raster, Raster], tmp_path: Path
) -> None:
    sides = [side.crop(0, 0, 48, 64) for side in small_town_sides]
    for side, raster in zip("ab", sides, strict=True):
        raster.save(tmp_path / f"{side}.tif")
    arrays = [side.pixels.transpose(1, 2, 0) for side in sides]
    given = [(tmp_path / "a.tif", str(tmp_path / "b.tif")), tuple(sides), arrays, [side.pixels for side in sides]]
    written = open_pairs(write_pairs({"train": given}, tmp_path / "pairs"), "train")
    for pair in written:
        np.testing.assert_array_equal(pair.a.pixels, sides[0].pixels)
        np.testing.assert_array_equal(pair.b.pixels, sides[1].pixels)
    assert written[0].a.grid == sides[0].grid
    hidden = np.ma.masked_array(sides[0].pixels, np.broadcast_to(np.arange(64) < 9, (3, 48, 64)))
    (masked,) = open_pairs(write_pairs({"train": [(hidden, sides[1])]}, tmp_path / "masked"), "train")
    assert not masked.a.mask[:, :9].any()
    assert masked.a.mask[:, 9:].all()
    assert [pair.id for pair in written] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("mode", ["1", "P", "L", "RGBA", "I;16", "F", "turned"])
def test_a_pil_image_is_read_as_its_file(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    file, exif = tmp_path / ("a.tif" if mode == "F" else "a.png"), Image.Exif()
    if mode == "turned":
        exif[0x112] = 6
    elif mode == "RGBA":
        image.putalpha(image.getchannel(0).point(lambda value: 255 * (value > 90)))
    else:
        image = image.convert("L").convert(mode) if mode in ("I;16", "F") else image.convert(mode)
    image.save(file, exif=exif)
    with Image.open(file) as opened:
        written = open_pairs(write_pairs({"train": [(opened, file)]}, tmp_path / "pairs"), "train")[0]
    np.testing.assert_array_equal(written.a.pixels, written.b.pixels)
    np.testing.assert_array_equal(written.a.mask, written.b.mask)


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        (np.zeros((3, 8, 8)), r"pair 0 of train is a ndarray; give a tuple \(A, B\)"),
        ((np.zeros((8, 8)), np.zeros((8, 9))), "sides of 8x8 and 9x8 px"),
        (("none.png", "none.png"), r"pair 0 of train cannot be read: .*none\.png"),
        ((np.zeros((8, 8), bool), np.zeros((8, 8))), "pair 0 of train cannot be read: .* bool"),
    ],
)
def test_a_pair_that_is_none_is_refused_and_nothing_is_left(pair: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=told):
        write_pairs({"train": [pair]}, tmp_path / "pairs")
    assert not list(tmp_path.iterdir())


def test_training_refuses_a_folder_with_a_run_before_it_writes(trained: terramorph.Model) -> None:
    run = trained.path.parent  # type: ignore[union-attr]
    before = sorted(run.rglob("*"))
    with pytest.raises(ConfigError, match="already holds a run"):
        terramorph.train([], run)
    with pytest.raises(ConfigError, match="a folder has a val split"):
        terramorph.train(run / "pairs", run / "other", validation=[])
    assert sorted(run.rglob("*")) == before


def test_pairs_are_scored_as_those_of_a_folder(trained: terramorph.Model, small_town: Town) -> None:
    pairs = TownPairs(small_town, 2)
    folder = trained.path.parent / "pairs"  # type: ignore[union-attr]
    ours, theirs = terramorph.evaluate(trained, pairs), terramorph.evaluate(trained, folder)
    assert ours["dataset"]["path"] == "2 pairs"
    assert ours["per_image"] == theirs["per_image"]


def test_fine_tuning_takes_the_recipe_of_what_it_starts_from(trained: terramorph.Model, tmp_path: Path) -> None:
    run = trained.path.parent  # type: ignore[union-attr]
    settings = {"max_steps": 1, "device": "cpu"}
    tuned = terramorph.train(run / "pairs", tmp_path / "a", settings=settings, start=run, cache=tmp_path / "cache")
    assert tuned.header.recipe["generator"] == trained.header.recipe["generator"]
    assert tuned.header.recipe["start"]["model"]


def test_a_town_is_served_until_told(trained: terramorph.Model, small_town: Town, tmp_path: Path) -> None:
    small_town.aerial().save(tmp_path / "aerial.tif")
    addresses: list[str] = []
    settings = {"port": 0, "ready": addresses.append}
    where = trained, tmp_path / "aerial.tif"
    threading.Thread(target=terramorph.api.serve, args=where, kwargs=settings, daemon=True).start()
    wait_until(lambda: addresses)
    assert addresses[0].startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    "name", ["api", "evaluation.run", "models.pull", "sources", "study.compare", "study.tune", "translate.model"]
)
@pytest.mark.filterwarnings("ignore")
def test_examples_run(
    name: str,
    small_town: Town,
    small_town_sides: tuple[Raster, Raster],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("terramorph.data.DEFAULT_CACHE", tmp_path / "cache")
    for side, raster in zip(("aerial", "drawn"), small_town_sides, strict=True):
        raster.crop(0, 0, 128, 128).save(tmp_path / f"{side}.tif")
    write_town_pairs(
        small_town, tmp_path / "town", tile=64, limit=(4, 2), aerial=small_town_sides[0], drawn=small_town_sides[1]
    )
    found = doctest.testmod(import_module(f"terramorph.{name}"), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed


def test_sides_of_prepare_are_paths(tmp_path: Path, small_town_sides: tuple[Raster, Raster]) -> None:
    given: list[Any] = [small_town_sides[0], small_town_sides[0].to_xarray()]
    for side in given:
        with pytest.raises(InputError, match=f"got a {type(side).__name__}; save it first"):
            terramorph.prepare(tmp_path / "pairs", side, "map.tif")
