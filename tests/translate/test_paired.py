"""A|B pairs and twins among the images to translate: the model's side is taken, and photographs are left whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terramorph.bundle import Bundle
from terramorph.errors import ConfigError, InputError, InputWarning
from terramorph.pairs import open_pairs
from terramorph.prepare import Inputs, Options, prepare
from terramorph.raster import Raster, read_image, write_image
from terramorph.town import make_town
from terramorph.translate import Model
from terramorph.translate.engine import LocalEngine

from .conftest import make_bundle


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder, town = tmp_path_factory.mktemp("sides"), make_town(size_px=384, seed=5)
    write_image(town.aerial(), folder / "ortho.tif")
    write_image(town.map(), folder / "map.tif")
    return str(folder / "ortho.tif"), str(folder / "map.tif")


@pytest.fixture(scope="module")
def dataset(sides: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "ds"
    prepare(out, [Inputs(*sides)], Options(tile=96))
    return out


def noise(path: Path, height: int = 64, width: int = 128, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_of_a_prepared_dataset_the_models_side_is_translated(dataset: Path, tmp_path: Path, direction: str) -> None:
    bundle = make_bundle(header={"direction": direction})
    side = "left" if direction == "AtoB" else "right"
    with pytest.warns(InputWarning, match=rf"holds A\|B pairs: their {side} halves"):
        made = Model(bundle).translate_to(dataset / "train", tmp_path / "out")
    pairs = open_pairs(dataset, "train")
    assert sorted(path.stem for path in made) == sorted(pairs.ids)
    model = Model(bundle)
    for pair in list(pairs)[:3]:
        source, _ = pair.sides(direction)
        expected = model.translate(Raster.from_pixels(source.pixels))
        got = read_image(tmp_path / "out" / f"{pair.id}.png").pixels.astype(int)
        assert got.shape == (3, 96, 96)
        assert np.abs(got - expected.pixels).max() <= 1


def test_the_whole_dataset_keeps_its_folders(bundle: Bundle, dataset: Path, tmp_path: Path) -> None:
    with pytest.warns(InputWarning, match=r"holds A\|B pairs"):
        made = Model(bundle).translate_to(dataset, tmp_path / "out")
    names = {path.relative_to(tmp_path / "out").as_posix() for path in made}
    splits = [split for split in ("train", "val", "test") if (dataset / split).is_dir()]
    assert names == {f"{split}/{pair}.png" for split in splits for pair in open_pairs(dataset, split).ids}


def test_pairs_from_elsewhere_are_told_by_what_they_show(bundle: Bundle, dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset / "train", tmp_path / "pictures")
    with pytest.warns(InputWarning, match=r"holds A\|B pairs"):
        made = Model(bundle).translate_to(tmp_path / "pictures", tmp_path / "out")
    assert {read_image(path).width for path in made} == {96}
    whole = Model(bundle).translate_to(tmp_path / "pictures", tmp_path / "whole", pairs=False)
    assert {read_image(path).width for path in whole} == {192}


def test_wide_photographs_stay_whole(bundle: Bundle, sides: tuple[str, str], tmp_path: Path) -> None:
    aerial = read_image(sides[0])
    (tmp_path / "photographs").mkdir()
    for number in range(3):
        photograph = aerial.crop(96 * number, 0, 96, 192).pixels
        write_image(Raster.from_pixels(photograph), tmp_path / "photographs" / f"{number}.png")
    made = Model(bundle).translate_to(tmp_path / "photographs", tmp_path / "out")
    assert {read_image(path).width for path in made} == {192}


def test_what_cannot_be_told_is_asked(bundle: Bundle, tmp_path: Path) -> None:
    in_split = [noise(tmp_path / "d" / "val" / f"{i}.png", 96, 192, i) for i in range(2)]
    of_training = [noise(tmp_path / "pictures" / f"{i}.png", seed=i) for i in range(2)]
    for source in (tmp_path / "d" / "val", tmp_path / "d", in_split[0], in_split, tmp_path / "pictures", of_training):
        with pytest.raises(InputError, match=r"may hold A\|B pairs.* `pairs=False`"):
            Model(bundle).translate_to(source, tmp_path / "out")
    with pytest.raises(InputError, match=r"may hold A\|B pairs.* `pairs=False`"):
        Model(bundle).translate_to(in_split[0], tmp_path / "map.tif")
    assert not (tmp_path / "out").exists()
    halves = Model(bundle).translate_to(tmp_path / "d" / "val", tmp_path / "halves", pairs=True)
    assert {read_image(path).width for path in halves} == {96}
    assert len(Model(bundle).translate_to(of_training[0], tmp_path / "one.png")) == 1  # a single one is nothing special


def test_of_a_pair_the_models_side_becomes_a_raster(bundle: Bundle, dataset: Path, tmp_path: Path) -> None:
    pair = next((dataset / "train").glob("*.png"))
    for name in ("map.tif", "map.png"):
        with pytest.warns(InputWarning, match=r"holds A\|B pairs: their left halves"):
            Model(bundle).translate_to(pair, tmp_path / name)
        assert read_image(tmp_path / name).width == 96
    with pytest.raises(ConfigError, match=r"Workers open all of .* an A\|B pair"):
        Model(bundle).translate_to(pair, tmp_path / "there.tif", pairs=True, engine=LocalEngine(Model(bundle)))
    Model(bundle).translate_to(pair, tmp_path / "whole.tif", pairs=False)
    assert read_image(tmp_path / "whole.tif").width == 192


@pytest.mark.parametrize("layout", ["train/{side}", "{side}/train", "train{side}"])
def test_of_twins_the_target_side_is_left_out(bundle: Bundle, tmp_path: Path, layout: str) -> None:
    for side in "AB":
        for name in ("1", "north/1"):
            noise(tmp_path / "d" / layout.format(side=side) / f"{name}.png", 64, 64)
    with pytest.warns(InputWarning, match="those of side B"):
        made = Model(bundle).translate_to(tmp_path / "d", tmp_path / "out")
    source = layout.format(side="A")
    assert {path.relative_to(tmp_path / "out").as_posix() for path in made} == {
        f"{source}/1.png",
        f"{source}/north/1.png",
    }


def test_folders_in_folders_keep_their_paths_and_outputs_are_no_inputs(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("1", "north/1", "south/1"):
        noise(tmp_path / "in" / f"{name}.png", 64, 96)
    out = tmp_path / "in" / "made"
    for _ in range(2):
        made = Model(bundle).translate_to(tmp_path / "in", out, overwrite=True)
        assert {path.relative_to(out).as_posix() for path in made} == {"1.png", "north/1.png", "south/1.png"}


def test_a_foreign_manifest_and_files_that_cannot_be_read_say_nothing(bundle: Bundle, tmp_path: Path) -> None:
    noise(tmp_path / "site" / "icons" / "1.png", 64, 96)
    noise(tmp_path / "site" / "icons" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    (tmp_path / "site" / "manifest.json").write_text('{"name": "an app"}')
    done = Model(bundle).translate_to(tmp_path / "site" / "icons", tmp_path / "out", skip_bad=True)
    assert (len(done), len(done.skipped)) == (1, 1)
