"""Files for browsers: small weights, the arithmetic of float32, and an honest word on what they cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from terramorph.bundle import Bands, Bundle
from terramorph.cli import app
from terramorph.cli import export as cli_export
from terramorph.errors import BundleError, ConfigError
from terramorph.interop import WEB_LIMITS, QualityLoss, export_web
from terramorph.interop.onnx import build_model
from terramorph.interop.small import store_small
from terramorph.networks import build_network, initialize
from terramorph.translate import Model, load

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

RGB = Bands(names=("red", "green", "blue"))
GENERATORS: list[tuple[str, dict[str, Any]]] = [
    ("unet64", {"width": 32}),
    ("unet64", {"width": 16, "upsampling": "pixelshuffle", "norm": "instance"}),
    ("unet128", {"width": 16, "upsampling": "resize", "skips": False}),
    ("resnet6", {"width": 24, "upsampling": "transposed"}),
    ("lite-unet", {"width": 20, "noise": 4}),
    ("lite-unet", {"width": 20, "colours": 5}),
]


def make(name: str, **settings: Any) -> Bundle:
    generator = torch.Generator().manual_seed(3)
    network = build_network(name, **settings)
    initialize(network, generator, gain=0.04)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 2.0, generator=generator)
    return Bundle.of(network.requires_grad_(False), name, source=RGB, target=RGB, size=64, direction="BtoA")


@pytest.mark.parametrize(("name", "settings"), GENERATORS)
def test_small_weights_give_nearly_the_same(name: str, settings: dict[str, Any]) -> None:
    bundle, bands = make(name, **settings), settings.get("noise", 0)
    model, whole = Model(bundle, precision="fp32", device="cpu"), build_model(bundle, "raster", noise=True)
    inputs = []
    for shape in ((64, 64), (40, 70), (5, 9)):
        random = torch.Generator().manual_seed(shape[0])
        x = torch.rand(1, 3, *shape, generator=random) * 2 - 1
        noise = torch.randn(1, bands, *shape, generator=random) if bands else None
        inputs.append((x, noise, model.backend.run(x, noise=noise).numpy()))
    for store, share, size in (("fp16", 0.005, 0.6), ("int8", 0.12, 0.45)):
        small = onnx.ModelProto()
        small.CopyFrom(whole)
        store_small(small, store)
        assert small.ByteSize() < size * whole.ByteSize()
        session = onnxruntime.InferenceSession(small.SerializeToString(), providers=["CPUExecutionProvider"])
        assert [one.name for one in session.get_inputs()] == ["source", *(["noise"] if bands else [])]
        for x, noise, expected in inputs:
            given = {"source": x.numpy()} | ({} if noise is None else {"noise": noise.numpy()})
            (found,) = session.run(["target"], given)
            assert found.shape == expected.shape
            assert np.abs(found - expected).mean() < share * expected.std()


def test_weights_are_rounded_by_output_channel(tmp_path: Path) -> None:
    bundle = make("unet64", width=32)
    wide, small = (
        onnx.load(str(export_web(bundle, tmp_path / f"{store}.onnx", store=store))) for store in ("fp32", "int8")
    )
    plain = {one.name: onnx.numpy_helper.to_array(one) for one in wide.graph.initializer}
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in small.graph.initializer}
    compared = 0
    for name, scale in stored.items():
        if name.endswith("/scale"):
            weight = name.removesuffix("/scale")
            back = stored[f"{weight}/stored"].astype(np.float32) * scale
            assert stored[f"{weight}/stored"].dtype == np.int8
            assert (np.abs(back - plain[weight]) <= scale / 2 * 1.001).all()
            compared += 1
    assert compared >= 8
    kinds = {node.op_type for node in small.graph.node}
    assert not {"QuantizeLinear", "ConvInteger", "QLinearConv"} & kinds  # arithmetic stays float32


def test_noise_is_an_input_of_the_ground(tmp_path: Path) -> None:
    bundle = make("lite-unet", width=20, noise=4)
    path = export_web(bundle, tmp_path / "web.onnx", store="fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 70, 50), np.uint8)
    expected, found = (
        load(where, **how, seed=5).translate(pixels).astype(int)
        for where, how in ((bundle.save(tmp_path / "m.safetensors"), {"precision": "fp32"}), (path, {}))
    )
    assert np.abs(found - expected).max() <= 1
    other = load(path, seed=6).translate(pixels).astype(int)
    assert np.abs(other - found).max() > 1
    pytest.importorskip("openvino")
    with pytest.raises(ConfigError, match="noise image"):
        load(path, backend="openvino")


def test_loss_is_measured_refused_and_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make("unet64", width=8).save(tmp_path / "model.safetensors")
    pairs = tmp_path / "pairs" / "val"
    pairs.mkdir(parents=True)
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (64, 128, 3), np.uint8)
        Image.fromarray(noise).save(pairs / f"{number}.png")
    out = tmp_path / "web.onnx"
    command = ["export", str(model), str(out), "--web", "--store", "int8", "--data", str(pairs.parent)]
    assert app.run(command) == 0
    said = capsys.readouterr().out
    assert "Weights in int8: SSIM" in said
    properties = {entry.key: entry.value for entry in onnx.load(str(out)).metadata_props}
    scores = json.loads(properties["quality_scores"])
    assert properties["quality"] == "kept"
    assert properties["store"] == "int8"
    assert scores["pairs"] == 2
    assert scores["value"] == pytest.approx(scores["before"] - scores["after"])

    out.unlink()
    honest = cli_export.compared

    def worse(*given: Any) -> tuple[dict[str, Any], ...]:
        return tuple({**scores, "ssim": ssim} for scores, ssim in zip(honest(*given), (0.5, 0.4949), strict=True))

    monkeypatch.setattr(cli_export, "compared", worse)
    assert app.run(command) == 2
    told = capsys.readouterr().err
    assert "a loss of 0.0051" in told
    assert "--store fp16" in told
    assert "--force" in told
    assert not out.exists()
    assert app.run([*command, "--force"]) == 0
    whole = out.read_bytes()
    assert app.run([*command, "--data", str(tmp_path / "nowhere")]) == 2
    assert "There is no dataset folder" in capsys.readouterr().err
    assert out.read_bytes() == whole
    with pytest.raises(BundleError, match=r"0\.0051"):
        load(out)
    assert app.run(["export", str(model), str(out), "--web"]) == 0
    assert "not measured" in capsys.readouterr().err


def test_loss_of_metrics_where_lower_is_better() -> None:
    def refused(metric: str, before: float, after: float) -> bool:
        return QualityLoss.between({"miou": None, metric: before}, {"n": 3, metric: after}, "pairs", WEB_LIMITS).refused

    assert refused("lpips", 0.2, 0.206)
    assert not refused("lpips", 0.2, 0.19)
    assert not refused("miou", 0.5, 0.496)
    assert refused("miou", 0.5, float("nan"))
