"""An exported file computes what PyTorch computes, at every size."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from terramorph.bundle import Bands, Bundle, Header, load_bundle
from terramorph.errors import BundleError, ConfigError, MissingPackageError, StorageError
from terramorph.interop import export_onnx
from terramorph.networks import build_network, initialize
from terramorph.translate import Model, OnnxBackend, load

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def make(name: str, gain: float = 0.1, **settings: Any) -> Bundle:
    generator = torch.Generator().manual_seed(3)
    network = build_network(name, in_bands=2, **{"width": 4, **settings})
    initialize(network, generator, gain=gain)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 2.0, generator=generator)
    source, target = Bands(names=("vv", "vh")), Bands(names=("red", "green", "blue"))
    return Bundle.of(network.requires_grad_(False), name, source=source, target=target, size=64)


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_published_models_are_exported_in_mode_paper(tmp_path: Path) -> None:
    model = load("town-sat2map", mode="paper", precision="fp32", device="cpu", dropout=False)
    exported = OnnxBackend(export_onnx(load_bundle("town-sat2map"), tmp_path / "model.onnx", mode="paper"), threads=1)
    x = images(1, 3, 100, 130)
    assert np.abs(exported.run(x).numpy() - model.translate_batch(x).numpy()).max() < 1e-3


@pytest.mark.parametrize("mode", ["raster", "paper"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("unet64", {}),
        ("unet64", {"norm": "instance"}),
        ("unet64", {"upsampling": "pixelshuffle"}),
        ("unet64", {"skips": False}),
        ("resnet6", {}),
        ("resnet6", {"norm": "none", "upsampling": "resize"}),
        ("lite-unet", {"width": 10, "colours": 5}),
    ],
)
def test_equals_torch_at_any_size(name: str, settings: dict[str, Any], mode: Any, tmp_path: Path) -> None:
    bundle = make(name, **settings)
    path = export_onnx(bundle, tmp_path / "model.onnx", mode=mode)
    exported = OnnxBackend(path, threads=1)
    model = Model(bundle, mode=mode, precision="fp32", device="cpu", dropout=False)
    for shape in ((1, 2, 64, 64), (3, 2, 40, 70), (1, 2, 130, 65), (2, 2, 5, 9)):
        x = images(*shape)
        y = exported.run(x)
        assert y.shape == (shape[0], 3, *shape[2:])
        assert float((y - model.translate_batch(x)).abs().max()) < 1e-3


def test_a_noise_image_is_its_mean(tmp_path: Path) -> None:
    bundle, x = make("lite-unet", width=10, noise=2), images(2, 2, 70, 33)
    exported = OnnxBackend(export_onnx(bundle, tmp_path / "model.onnx", mode="raster"))
    with torch.no_grad():
        expected = bundle.network.eval()(x)
    assert float((exported.run(x) - expected).abs().max()) < 1e-3


def test_metadata_and_names(tmp_path: Path) -> None:
    bundle = make("unet64")
    path = export_onnx(bundle, tmp_path / "deep" / "model.onnx", mode="paper")
    model = onnx.load(str(path))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert Header.model_validate(json.loads(properties["terramorph"])).mode == "paper"
    assert (properties["mode"], properties["dropout"]) == ("paper", "off")
    shapes = [
        [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (model.graph.input[0], model.graph.output[0])
    ]
    assert shapes == [["batch", 2, "height", "width"], ["batch", 3, "height", "width"]]
    assert list(path.parent.iterdir()) == [path]
    again = export_onnx(bundle, tmp_path / "again.onnx", mode="paper")
    assert again.read_bytes() == path.read_bytes()


def test_a_translator_on_an_exported_file(tmp_path: Path) -> None:
    bundle = make("unet64")
    path = export_onnx(bundle, tmp_path / "model.onnx")
    model = load(path)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 50, 90), np.uint8)
    expected = Model(bundle, precision="fp32", device="cpu").translate(pixels)
    assert np.abs(model.translate(pixels).astype(int) - expected).max() <= 1
    with pytest.raises(ConfigError, match=r"mode must be raster, .*got paper"):
        load(path, mode="paper")


def test_files_that_are_not_exported_bundles(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no file"):
        OnnxBackend(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not ONNX")
    with pytest.raises(BundleError, match="damaged or not an ONNX file"):
        load(tmp_path / "bad.onnx")
    path = export_onnx(make("unet64"), tmp_path / "model.onnx")
    model = onnx.load(str(path))
    del model.metadata_props[:]
    onnx.save(model, str(path))
    with pytest.raises(BundleError, match="does not hold the terramorph header"):
        load(path)


def test_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name in ("onnx", "onnxruntime"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    path = export_onnx(make("unet64"), tmp_path / "model.onnx")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r"terramorph\[onnx\]"):
        export_onnx(make("unet64"), tmp_path / "other.onnx")
    with pytest.raises(MissingPackageError, match=r"terramorph\[onnx\]"):
        OnnxBackend(path)


class _OneSize(nn.Module):
    """A generator that writes the traced size into its graph."""

    def forward(self, source: Tensor) -> Tensor:
        return source[:, :1].expand(-1, 3, -1, -1) + torch.ones(*(int(side) for side in source.shape[2:]))


def test_a_graph_of_one_size_is_refused(tmp_path: Path) -> None:
    made = make("unet64")
    with pytest.raises(ConfigError, match="traced at one size"):
        export_onnx(Bundle(_OneSize(), made.header), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        export_onnx(make("unet64"), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
