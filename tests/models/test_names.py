"""Names: one look-up for every verb, the registry beside the files, and the command `models`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image

import terramorph
from terramorph.bundle import load_bundle
from terramorph.card import model_card
from terramorph.cli import models as commands
from terramorph.data import cache as data_cache
from terramorph.errors import BundleError, StorageError
from terramorph.header import find_bundle, read_header
from terramorph.models import Entry, known, registry, store, stored, verify

from ..cli.conftest import Cli, cli  # noqa: F401
from .server import serving

ROOT = Path(__file__).parents[2]
FILE = ROOT / "models" / "sat2map.safetensors"

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="the models for research are in the repository only")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, on a machine without the repository and with an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERRAMORPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "_REPOSITORY", tmp_path / "nowhere")
    return tmp_path


@pytest.mark.parametrize("entry", registry().values(), ids=lambda entry: entry.name)
def test_the_registry_says_what_the_repository_holds(entry: Entry) -> None:
    path = ROOT / entry.file
    assert verify(path, entry)
    header = read_header(path)
    assert header.ground_resolution == entry.ground_resolution
    assert header.note == entry.licence
    assert header.data["date"] == entry.date.isoformat()


@pytest.mark.parametrize("name", ["town-sat2map", "town-map2sat"])
def test_the_models_of_the_town_come_with_the_package(elsewhere: Path, name: str) -> None:
    assert terramorph.load(name).header.ground_resolution == 1.0


def test_a_name_means_the_file_of_the_repository_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERRAMORPH_CACHE", str(tmp_path / "cache"))
    model = terramorph.load("sat2map", precision="fp32")
    made = model.translate(np.zeros((3, 64, 64), np.uint8))
    assert made.shape == (3, 64, 64)
    assert find_bundle("sat2map").samefile(FILE)


def test_a_name_means_the_cache_or_a_file_of_ones_own(elsewhere: Path) -> None:
    entry = registry()["sat2map"]
    with pytest.raises(BundleError, match=r"sat2map is not on this machine; .*models pull sat2map") as caught:
        load_bundle("sat2map")
    assert str(stored(entry.sha256)) in str(caught.value)
    stored(entry.sha256).parent.mkdir(parents=True)
    shutil.copy(FILE, stored(entry.sha256))  # as that sentence says
    assert load_bundle("sat2map").path == stored(entry.sha256)
    own = elsewhere / "models" / "sat2map.safetensors"
    own.parent.mkdir()
    shutil.copy(FILE, own)
    assert find_bundle("sat2map") == Path("models/sat2map.safetensors")


def test_a_damaged_file_is_not_loaded_by_its_name(elsewhere: Path) -> None:
    entry = registry()["sat2map"]
    stored(entry.sha256).parent.mkdir(parents=True)
    damaged = bytearray(FILE.read_bytes())
    damaged[-1] ^= 1
    stored(entry.sha256).write_bytes(damaged)
    with pytest.raises(BundleError, match="is not the published file of the model sat2map"):
        find_bundle("sat2map")


def test_an_unknown_name_is_told_the_known_ones(elsewhere: Path) -> None:
    assert set(known()) == set(registry())
    with pytest.raises(BundleError, match="map2sat, sat2map"):
        find_bundle("sat2mop")


def test_a_published_model_is_not_written_over(elsewhere: Path) -> None:
    entry = registry()["sat2map"]
    stored(entry.sha256).parent.mkdir(parents=True)
    shutil.copy(FILE, stored(entry.sha256))
    bundle = load_bundle("sat2map")
    assert bundle.path is not None
    with pytest.raises(BundleError, match="published model sat2map and is not changed"):
        bundle.save(bundle.path)
    assert verify(stored(entry.sha256), entry)


def test_the_command_fetches_lists_and_verifies(elsewhere: Path, cli: Cli) -> None:  # noqa: F811
    assert "not on this machine" in cli("models").out
    assert cli("models", "verify").code == 0
    absent = cli("models", "verify", "sat2map")
    assert absent.code == 2
    assert "The model sat2map is not on this machine" in absent.err
    outcome = cli("models", "pull", "sat2map")
    assert outcome.code == 2
    assert str(stored(registry()["sat2map"].sha256)) in outcome.err
    with serving(FILE.read_bytes()) as server:
        outcome = cli("models", "pull", "sat2map", "--url", server.url)
    assert outcome.code == 0, outcome.err
    assert str(stored(registry()["sat2map"].sha256)) in cli("models", "list").out
    assert cli("models", "verify").code == 0
    assert cli("info", "sat2map").out.count("trained on images of a map provider") == 1
    stored(registry()["sat2map"].sha256).write_bytes(b"x")
    assert cli("models", "verify", "sat2map").code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("pull",),
        ("card",),
        ("pull", "nothing"),
        ("verify", "nothing"),
        ("list", "--url", "http://a"),
        ("list", "--out", "a"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(cli: Cli, words: tuple[str, ...]) -> None:  # noqa: F811
    assert cli("models", *words).code == 2


def test_a_card_says_licence_use_and_scores() -> None:
    card = model_card(FILE)
    entry = registry()["sat2map"]
    assert card.startswith("# sat2map\n")
    for text in (
        entry.licence,
        entry.rights,
        entry.sha256,
        "terramorph translate sat2map",
        "lite-unet",
        "2.12 m",
        "| mean IoU of classes (higher is better) | 49.7 % |",
    ):
        assert text in card


def test_a_card_with_a_picture_of_the_town(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(commands, "_TOWN", 64)
    assert cli("models", "card", FILE, "--out", tmp_path / "card").code == 0
    with Image.open(tmp_path / "card" / "town.png") as picture:
        assert picture.size == (3 * 64, 64)
    assert "](town.png)" in (tmp_path / "card" / "card.md").read_text()


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TERRAMORPH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_cache.cache_folder() == tmp_path / "terramorph"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says its specification
    assert data_cache.cache_folder() == Path.home() / ".cache" / "terramorph"
    monkeypatch.setenv("TERRAMORPH_CACHE", str(tmp_path / "own"))
    assert data_cache.cache_folder() == tmp_path / "own"


def test_a_user_without_a_home_is_asked_for_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_uid: int) -> NoReturn:
        raise KeyError("no such user")

    for name in ("TERRAMORPH_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", none)
    with pytest.raises(StorageError, match="set TERRAMORPH_CACHE"):
        data_cache.cache_folder()
