"""Options that say how an image is read: --bands, --nodata, --raw, --categorical."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from terramorph.bands import Units
from terramorph.bundle import Bands, load_bundle
from terramorph.pairs import load_manifest
from terramorph.raster import Raster, read_image, write_image

from .conftest import Cli


@pytest.fixture
def bgr(small_town_sides: tuple[Raster, Raster], tmp_path: Path) -> Path:
    """The aerial of a town, blue, green, red, with nothing that says so."""
    aerial = small_town_sides[0]
    write_image(replace(aerial, pixels=aerial.pixels[::-1].copy()), tmp_path / "bgr.tif")
    write_image(aerial, tmp_path / "rgb.tif")
    return tmp_path / "bgr.tif"


@pytest.mark.parametrize("name", ["map.tif", "map.png"])
def test_translate_takes_bands_in_the_order_that_is_given(
    cli: Cli, trained: Path, bgr: Path, tmp_path: Path, name: str
) -> None:
    want, made = tmp_path / f"want_{name}", tmp_path / name
    more = ["--any-resolution", "--precision", "fp32"]
    assert cli("translate", trained, tmp_path / "rgb.tif", want, *more).code == 0
    outcome = cli("translate", trained, bgr, made, "--bands", "3,2,1", *more)
    assert outcome.code == 0, outcome.err
    assert np.array_equal(read_image(made).pixels, read_image(want).pixels)
    assert "no band 4" in cli("translate", trained, bgr, tmp_path / f"no_{name}", "--bands", "4,2,1", *more).err
    assert (
        "2 bands are read and 3" in cli("translate", trained, bgr, tmp_path / f"no_{name}", "--bands", "2,1", *more).err
    )
    assert "--bands" in cli("translate", trained, bgr, made, "--bands", "red", *more).err


def test_translate_takes_a_value_without_data(cli: Cli, trained: Path, bgr: Path, tmp_path: Path) -> None:
    raster = read_image(bgr)
    pixels = raster.pixels.copy()
    pixels[:, :40] = 7
    write_image(replace(raster, pixels=pixels), bgr)
    outcome = cli("translate", trained, bgr, tmp_path / "a.tif", "--nodata", 7, "--any-resolution")
    assert outcome.code == 0, outcome.err
    assert not read_image(tmp_path / "a.tif").mask[:40].any()
    assert "--nodata" in cli("translate", trained, bgr, tmp_path / "a.tif", "--nodata", "none").err


def test_prepare_takes_bands_and_values_of_either_side(
    cli: Cli, bgr: Path, small_town_sides: tuple[Raster, Raster], tmp_path: Path
) -> None:
    drawn = small_town_sides[1]
    pixels = np.concatenate([drawn.pixels, drawn.pixels[:1]])
    write_image(replace(drawn, pixels=pixels, bands=tuple("abcd")), bgr.parent / "m.tif")
    words = ["--source", bgr, "--target", bgr.parent / "m.tif", "--tile", 128, "--bands", "3,2,1", "--bands"]
    outcome = cli("prepare", tmp_path / "ds", *words, "target=1,2,3", "--nodata", "target=-1", "--categorical", "none")
    assert outcome.code == 0, outcome.err
    manifest = load_manifest(tmp_path / "ds")
    assert manifest is not None
    assert len(manifest.areas[0].target.bands) == 3
    given = manifest.settings["opening"]
    wanted = {"bands": [3, 2, 1], "names": None, "nodata": None, "raw": False, "categorical": False}
    assert {key: given["source"][key] for key in wanted} == wanted
    assert given["target"]["nodata"] == -1
    assert "target=VALUE" in cli("prepare", tmp_path / "d2", *words, "left=1").err


def test_info_says_the_range_in_units(cli: Cli, trained: Path, tmp_path: Path) -> None:
    bundle = load_bundle(trained)
    source = Bands(
        names=("red", "green", "blue"), dtype="uint16", low=0, high=4000, units=Units((1e-4,) * 3, (-0.1,) * 3)
    )
    replace(bundle, header=bundle.header.model_copy(update={"source": source})).save(tmp_path / "m.safetensors")
    told = cli("info", tmp_path / "m.safetensors").out
    assert "uint16 0 to 4000, which is -0.1 to 0.3 (scale 0.0001, offset -0.1)" in " ".join(told.split())
    write_image(Raster.from_pixels(np.ones((3, 64, 64), np.uint16)), tmp_path / "a.tif")
    outcome = cli("translate", tmp_path / "m.safetensors", tmp_path / "a.tif", tmp_path / "b.tif")
    assert outcome.code == 0, outcome.err
    assert "does not say scale and offset" in outcome.err
