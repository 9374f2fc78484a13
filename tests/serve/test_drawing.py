"""The draw page of a server: isolated, cached, and with the model of a layer where one makes photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from terramorph.bundle import load_bundle
from terramorph.serve import LayerSettings, Settings
from terramorph.serve.drawing import TOWN, DrawPage

from .conftest import serving

pytest.importorskip("onnx")


def test_the_page_is_served(
    settings: Callable[..., Settings], model_path: Path, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle = load_bundle(model_path)
    bundle = type(bundle)(bundle.network, bundle.header.model_copy(update={"direction": "BtoA"}))
    back = bundle.save(tmp_path / "back.safetensors")
    layers = tuple(
        LayerSettings(name=path.stem, model=str(path), source=str(sides[1]), style=style)
        for path, style in ((back, "osm"), (model_path, "classic"))
    )
    with serving(settings(layers=layers, uploads=True)) as client:
        sent = client.get("draw")
        assert (sent.status, sent.headers["location"]) == (307, "draw/")
        page = client.get("draw/")
        assert page.status == 200
        assert b"<title>terramorph" in page.data
        assert page.headers["cross-origin-opener-policy"] == "same-origin"
        assert page.headers["cross-origin-embedder-policy"] == "require-corp"
        assert "'wasm-unsafe-eval'" in page.headers["content-security-policy"]
        config = client.json("draw/draw.json")
        assert [one["direction"] for one in config["models"]] == ["map2sat", "sat2map"]
        assert config["server"] == {"viewer": "../", "layer": "back"}
        assert config["style"]["name"] == "osm"
        for one in config["models"]:
            network = client.get("draw/" + one["url"])
            assert hashlib.sha256(network.data).hexdigest() == one["sha256"]
            assert "immutable" in network.headers["cache-control"]
        again = client.get("draw/worker.js", **{"if-none-match": client.get("draw/worker.js").headers["etag"]})
        assert (again.status, again.data) == (304, b"")
        assert client.get("draw/%2e%2e/app.py").status == 404


def test_without_such_a_layer_it_has_the_town(settings: Callable[..., Settings], model_path: Path) -> None:
    assert DrawPage(settings())._models() == [TOWN, str(model_path)]
