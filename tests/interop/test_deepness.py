"""A file for Deepness, held against the rules that Deepness' own reader follows, and the classes that it computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from terramorph.bundle import Bands, Bundle, load_bundle
from terramorph.cartography import CLASSIC, Palette, load_style, palette_of
from terramorph.cli.app import run
from terramorph.errors import BundleError, ConfigError
from terramorph.interop import export_deepness
from terramorph.networks import build_network, initialize
from terramorph.town import Town
from terramorph.translate import Model, load
from terramorph.translate.backends import BackendName

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

RGB = Bands(names=("red", "green", "blue"))


def small(name: str = "unet64", **header: Any) -> Bundle:
    """Random weights."""
    network = build_network(name, width=4)
    initialize(network, torch.Generator().manual_seed(3), gain=0.1)
    settings = {"source": RGB, "target": RGB, "size": 64, **header}
    return Bundle.of(network.requires_grad_(False), name, **settings)


def open_as_deepness(path: Path) -> tuple[Any, dict[str, Any]]:
    """A session, and settings read as Deepness 0.7 reads them (its model_base.py and segmentor.py)."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert all(type(size) is int for size in (*taken.shape, *given.shape))
    assert taken.shape[0] == 1
    assert taken.shape[2] == taken.shape[3]
    assert given.shape == [1, given.shape[1], *taken.shape[2:]]
    stored = session.get_modelmeta().custom_metadata_map
    wanted = ("model_type", "class_names", "tile_size", "tiles_overlap", "seg_thresh", "seg_small_segment")
    settings = {key: json.loads(stored[key]) for key in (*wanted, "standardization_mean", "standardization_std")}
    settings["resolution"] = json.loads(stored["resolution"]) if "resolution" in stored else None
    # Its combo box knows the types by these words, and it capitalizes what it reads.
    assert str(settings["model_type"]).capitalize() == "Segmentor"
    assert [int(key) for key in settings["class_names"]] == list(range(given.shape[1]))
    assert int(settings["tile_size"]) == taken.shape[2]
    assert len(settings["standardization_mean"]) == len(settings["standardization_std"]) == taken.shape[1]
    return session, settings


def classes_of(session: Any, settings: dict[str, Any], pixels: np.ndarray) -> np.ndarray:
    """uint8 (C, tile, tile) -> the classes that Deepness draws."""
    mean, std = (np.float32(settings[f"standardization_{what}"])[:, None, None] for what in ("mean", "std"))
    tile = ((np.float32(pixels / 255.0) - mean) / std)[None]
    (made,) = session.run(None, {session.get_inputs()[0].name: tile})
    assert made.dtype == np.float32
    assert np.abs(made.sum(axis=1) - 1).max() < 1e-5
    made[made < settings["seg_thresh"]] = 0.0
    return np.argmax(made, axis=1)[0]


def test_classes_are_those_of_the_picture(small_town: Town, tmp_path: Path) -> None:
    bundle = load_bundle("town-sat2map")
    session, settings = open_as_deepness(export_deepness(bundle, tmp_path / "deep.onnx"))
    assert settings["resolution"] == pytest.approx(100.0)
    assert (settings["tile_size"], settings["tiles_overlap"]) == (512, 25)
    assert list(settings["class_names"].values()) == list(CLASSIC.names)
    assert settings["standardization_mean"] == settings["standardization_std"] == [0.5] * 3
    pixels = small_town.aerial().pixels
    assert pixels.shape == (3, 512, 512)
    found = classes_of(session, settings, pixels)
    picture = Model(bundle, device="cpu", precision="fp32").translate(pixels)
    wanted = CLASSIC.classify(picture)
    assert len(np.unique(wanted)) >= 5
    assert (found == wanted).mean() >= 0.995
    graph = onnx.load(str(tmp_path / "deep.onnx"))
    assert (graph.ir_version, graph.opset_import[0].version) == (8, 17)


@pytest.mark.parametrize("name", ["osm", "classes", "without a class"])
def test_palettes_of_several_colours_a_class(name: str, tmp_path: Path) -> None:
    palette = palette_of(load_style("osm" if name == "without a class" else name))
    if name == "without a class":
        kept = palette.index != 4
        palette = Palette("less", palette.classes, palette.colours[kept], palette.index[kept])
    bundle = small(ground_resolution=0.5)
    session, settings = open_as_deepness(export_deepness(bundle, tmp_path / "d.onnx", palette=palette))
    assert settings["resolution"] == 50.0
    pixels = np.random.default_rng(0).integers(0, 256, (3, 512, 512), np.uint8)
    wanted = palette.classify(Model(bundle, device="cpu", precision="fp32").translate(pixels))
    assert (classes_of(session, settings, pixels) == wanted).mean() >= 0.995


def test_classes_of_a_bundle_with_a_range_of_its_own(tmp_path: Path) -> None:
    bundle = small(target=Bands(names=RGB.names, low=100.0, high=250.0))
    session, settings = open_as_deepness(export_deepness(bundle, tmp_path / "d.onnx"))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 512, 512), np.uint8)
    wanted = CLASSIC.classify(Model(bundle, device="cpu", precision="fp32").translate(pixels))
    assert (classes_of(session, settings, pixels) == wanted).mean() >= 0.995


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_it_is_for_deepness_alone(backend: BackendName, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    with pytest.raises(BundleError, match="was exported for Deepness"):
        load(export_deepness(small(), tmp_path / "deep.onnx"), backend=backend)


def test_tiles_leave_room_for_a_halo(tmp_path: Path) -> None:
    bundle = small("resnet6")
    assert bundle.header.halo
    _, settings = open_as_deepness(export_deepness(bundle, tmp_path / "d.onnx"))
    tile, overlap = settings["tile_size"], settings["tiles_overlap"]
    assert tile * (overlap - 1) / 100 < 2 * bundle.header.halo <= tile * overlap / 100
    assert settings["resolution"] is None


def test_what_deepness_has_no_use_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep.onnx"
    refused = {
        "makes photographs": small(direction="BtoA"),
        "makes 3 bands of float32": small(target=Bands(names=RGB.names, dtype="float32", low=0, high=1)),
        "takes uint16": small(source=Bands(names=RGB.names, dtype="uint16", high=10000)),
    }
    for sentence, bundle in refused.items():
        with pytest.raises(ConfigError, match=sentence):
            export_deepness(bundle, path)
    small().save(tmp_path / "model.safetensors")
    assert run(["export", str(tmp_path / "model.safetensors"), str(path), "--deepness", "--mode", "paper"]) == 2
    assert "leave out --int8 and --mode paper" in capsys.readouterr().err
    assert not path.exists()
    assert run(["export", str(tmp_path / "model.safetensors"), str(path), "--deepness"]) == 0
    assert path.exists()
