"""An exported network is evaluated as the bundle that it was made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from terramorph.bundle import Bands, Bundle
from terramorph.cli import app
from terramorph.errors import BundleError, ConfigError
from terramorph.evaluation import evaluate, own_bundle
from terramorph.interop import QualityLoss, export_onnx, note_loss
from terramorph.networks import build_network
from terramorph.translate import Model, load

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIDE = 64


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    (root / "val").mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (SIDE, 2 * SIDE, 3), np.uint8)).save(root / "val" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    rgb = Bands(names=("red", "green", "blue"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Bundle.of(build_network("unet64", width=4), "unet64", source=rgb, target=rgb, size=SIDE)


@pytest.fixture(scope="module")
def exported(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(bundle, tmp_path_factory.mktemp("onnx") / "maps.onnx")


def test_it_scores_as_its_bundle_does(bundle: Bundle, exported: Path, pairs: Path, tmp_path: Path) -> None:
    wanted = evaluate(Model(bundle, device="cpu", precision="fp32"), pairs)
    found = evaluate(exported, pairs, out=tmp_path / "b", discuss=True)
    assert found["rmse"] == pytest.approx(wanted["rmse"], rel=1e-3)
    assert found["bundle"]["path"] == str(exported)
    assert found["bundle"]["network"] == "unet64"
    assert (tmp_path / "b" / "discussion.html").is_file()


def test_one_that_lost_too_much_is_scored(exported: Path, pairs: Path, tmp_path: Path) -> None:
    refused = tmp_path / "refused.onnx"
    refused.write_bytes(exported.read_bytes())
    note_loss(refused, QualityLoss("psnr", 20.0, 10.0, 3, "pairs of val", 0.2))
    with pytest.raises(BundleError, match="`translate` takes it all the same"):
        load(refused)
    assert evaluate(refused, pairs)["rmse"] == evaluate(exported, pairs)["rmse"]
    assert app.run(["evaluate", str(refused), str(pairs), "--limit", "1"]) == 0


def test_what_it_cannot_do_is_said_before_any_work(exported: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mode must be raster, .*got paper"):
        load(exported, mode="paper")
    with pytest.raises(ConfigError, match="cannot hold scores"):
        own_bundle(exported)
    with pytest.raises(ConfigError, match="no noise"):
        evaluate(exported, pairs, out=tmp_path / "out", discuss=3)
    assert not (tmp_path / "out").exists()


def test_a_damaged_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"onnx")
    with pytest.raises(BundleError, match=r"broken\.onnx is damaged or not an ONNX file"):
        evaluate(tmp_path / "broken.onnx", tmp_path, out=tmp_path / "out")
