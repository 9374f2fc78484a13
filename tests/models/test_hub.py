"""Models on the Hugging Face Hub, against a double of it: pushed with a card, loaded, kept, and said no to."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

import terramorph
from terramorph.card import push
from terramorph.errors import BundleError, InputWarning, RunError
from terramorph.header import find_bundle
from terramorph.models import store

from ..cli.conftest import Cli, cli  # noqa: F401
from .hub_server import TOKEN, Hub, serving_hub

pytest.importorskip("huggingface_hub")
constants = importlib.import_module("huggingface_hub.constants")

# huggingface_hub's own, as it uploads.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
MODEL = Path(store.__file__).parent / "town-sat2map.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub, for somebody who is logged in and has an empty cache."""
    with serving_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        for name in ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
            monkeypatch.setattr(constants, name, True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("TERRAMORPH_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield served


def written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_pushed_and_loaded(hub: Hub, cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    told = cli("models", "push", MODEL, "someone/town", "--private", "--licence", "cc-by-4.0")
    assert told.code == 0, told.err
    assert f"{hub.url}/someone/town" in told.out
    assert hub.private == {"someone/town": True}
    (commit, files), *_ = hub.files["someone/town"].items()
    assert files.keys() == {"model.safetensors", "README.md"}
    assert files["model.safetensors"] == MODEL.read_bytes()
    _, matter, card = files["README.md"].decode().split("---\n", 2)
    said = yaml.safe_load(matter)
    assert said["license"] == "cc-by-4.0"
    assert said["library_name"] == "terramorph"
    assert said["pipeline_tag"] == "image-to-image"
    assert {"terramorph", "satellite-to-map", "lite-unet"} <= set(said["tags"])
    assert "terramorph translate hf://someone/town input.tif output.tif" in card
    assert "## Limits" in card

    model = terramorph.load("hf://someone/town", precision="fp32")
    assert model.translate(np.zeros((3, 64, 64), np.uint8)).shape == (3, 64, 64)
    assert model.path.name == f"{store.registry()['town-sat2map'].sha256}.safetensors"
    assert model.path.parent == tmp_path / "cache" / "models" / "sha256"
    assert hub.tokens == [None]  # the store of objects is on another host
    assert find_bundle(f"hf://someone/town@{commit}") == find_bundle(Path("hf://someone/town")) == model.path
    assert len(hub.tokens) == 1  # the content was here
    before = len(hub.asked)
    assert find_bundle(f"hf://someone/town@{commit}") == model.path
    assert len(hub.asked) == before  # a commit does not change
    pointer = tmp_path / "cache" / "models" / "hub" / "someone" / "town" / "main"
    written_at = pointer.stat().st_mtime_ns
    assert cli("info", "hf://someone/town").code == 0
    assert pointer.stat().st_mtime_ns == written_at  # what is known already is not written again
    assert cli("models", "pull", "hf://someone/town").out.startswith(str(model.path))
    assert TOKEN.encode() not in written(tmp_path)
    left = [path for path in (tmp_path / "cache" / "models" / "hub").rglob("*") if path.name.endswith(".part")]
    assert left == []


def test_a_second_push_is_what_is_loaded_next(hub: Hub) -> None:
    push(MODEL, "someone/town")
    first = find_bundle("hf://someone/town")
    other = MODEL.with_name("town-map2sat.safetensors")
    push(other, "someone/town")
    assert hub.private == {"someone/town": False}
    assert find_bundle("hf://someone/town").read_bytes() == other.read_bytes()
    assert first.is_file()
    with pytest.raises(BundleError, match="someone/town is public on the Hub; make it private there"):
        push(MODEL, "someone/town", private=True)
    assert len(hub.files["someone/town"]) == 2


def test_without_a_network_what_was_fetched_is_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    push(MODEL, "someone/town")
    path = find_bundle("hf://someone/town")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.warns(InputWarning, match="The Hub cannot be reached; the copy of someone/town"):
        assert find_bundle("hf://someone/town") == path
    with pytest.raises(RunError, match=r"The Hub cannot be reached for someone/else \(\w+\); connect to the network"):
        find_bundle("hf://someone/else")
    with pytest.raises(RunError, match=r"The Hub cannot be reached for someone/town"):
        push(MODEL, "someone/town")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BundleError, match="someone/else is not on this machine, and HF_HUB_OFFLINE forbids"):
        find_bundle("hf://someone/else")
    path.write_bytes(b"damaged")
    with pytest.raises(BundleError, match="someone/town is not on this machine, and HF_HUB_OFFLINE forbids"):
        find_bundle("hf://someone/town")


def test_what_the_hub_refuses_is_one_sentence_without_the_token(
    hub: Hub,
    cli: Cli,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push(MODEL, "someone/town", private=True)
    hub.files["someone/town"]["f" * 40] = {"README.md": b"nothing"}
    cases = {
        "hf://someone/none": "The Hub shows no someone/none to you",
        "hf://someone/town@v2": "has no revision v2 on the Hub",
        f"hf://someone/town@{'f' * 40}": "holds no model.safetensors",
        "hf://town": "is not a model of the Hub; write it as hf://owner/name",
    }
    for name, said in cases.items():
        told = cli("--debug", "info", name)
        assert told.code == 2
        assert said in told.err
        assert TOKEN not in told.err + told.out
    hub.damaged = True
    first = next(iter(hub.files["someone/town"]))
    with pytest.raises(BundleError, match="is not what the Hub said"):
        find_bundle(f"hf://someone/town@{first}")
    hub.damaged = False
    with pytest.raises(BundleError, match=r"a b is not the name of a model on the Hub"):
        push(MODEL, "a b")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(BundleError, match="The Hub shows no someone/town to you, or does not let you write"):
        push(MODEL, "someone/town")
    with pytest.raises(BundleError, match="The Hub shows no someone/town to you"):
        find_bundle("hf://someone/town")
    hub.status = 400
    with pytest.raises(RunError, match=r"The Hub refuses someone/new \(400\)"):
        push(MODEL, "someone/new")
    assert cli("models", "push", MODEL).code == 2
    assert cli("models", "card", MODEL, "someone/town").code == 2


def test_the_command_finds_the_hub_by_its_environment(hub: Hub, tmp_path: Path) -> None:
    push(MODEL, "someone/town", private=True)
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
    words = [sys.executable, "-m", "terramorph.cli.app", "info", "hf://someone/town"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "lite-unet" in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    assert TOKEN.encode() not in written(tmp_path)


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RunError, match=r"install it with pip install 'terramorph\[hub\]'"):
        find_bundle("hf://someone/town")
