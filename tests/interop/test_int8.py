"""8 bits: close to the float32 network in every runtime, honest about what they cost, and refused where it is much."""

from __future__ import annotations

import builtins
import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from terramorph.bundle import Bands, Bundle
from terramorph.data import TrainingBatches, decode
from terramorph.errors import BundleError, DatasetError, InputError, MissingPackageError, StorageError
from terramorph.interop import INT8_LIMITS, QualityLoss, export_int8, note_loss
from terramorph.networks import build_network, initialize
from terramorph.pairs import open_pairs
from terramorph.training.recalibrate import recalibrate_network
from terramorph.translate import OnnxBackend, TorchBackend, load

onnx = pytest.importorskip("onnx")
DecodeError = pytest.importorskip("google.protobuf.message").DecodeError
pytest.importorskip("onnxruntime")

RGB = Bands(names=("red", "green", "blue"))


def sources(pairs: Path, split: str) -> Tensor:
    """float32 (4, 3, 64, 64), as they are after training."""
    from terramorph.data import Augmentation
    from terramorph.pixels import BYTE

    decoded = decode(open_pairs(pairs, split), size=64, cache=pairs.parent / "cache")
    batches = TrainingBatches(decoded, decoded.a, decoded.a, (BYTE, BYTE), Augmentation(64, mirror=False), seed=0)
    return batches.batch(0, 4).source


def make(name: str, pairs: Path, source: Bands = RGB) -> Bundle:
    """Random weights whose statistics fit them."""
    network = build_network(name, width=8)
    initialize(network, torch.Generator().manual_seed(3), gain=0.05)
    recalibrate_network(network, [sources(pairs, "train")])
    return Bundle.of(network.requires_grad_(False), name, source=source, target=RGB, size=64)


@pytest.fixture(scope="module")
def eight(town_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """A U-Net and its 8-bit file."""
    folder = tmp_path_factory.mktemp("int8")
    bundle = make("unet64", town_pairs)
    return bundle, export_int8(bundle, folder / "model.onnx", town_pairs, images=6, cache=folder / "cache")


def test_close_to_float32(eight: tuple[Bundle, Path], town_pairs: Path) -> None:
    bundle, path = eight
    x = sources(town_pairs, "val")
    plain = TorchBackend(bundle.network, device="cpu", precision="fp32").run(x)
    made = load(path).translate_batch(x)
    assert float((made - plain).abs().mean()) < 0.15 * float(plain.std())
    assert not torch.equal(made, plain)
    pytest.importorskip("openvino")
    fast = load(path, backend="openvino").translate_batch(x)
    assert float((fast - plain).abs().mean()) < 0.15 * float(plain.std())


def test_sums_are_exact_on_processors_without_vnni(eight: tuple[Bundle, Path]) -> None:
    # There ONNX Runtime's faster products overflow; where there is VNNI the switch changes nothing that could be seen.
    options = OnnxBackend(eight[1])._session.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == "1"


def test_what_is_in_eight_bits(eight: tuple[Bundle, Path]) -> None:
    bundle, path = eight
    model = onnx.load(str(path))
    stored = {i.name: onnx.TensorProto.DataType.Name(i.data_type) for i in model.graph.initializer if len(i.dims) == 4}
    plain = sorted(name for name, kind in stored.items() if kind == "FLOAT")
    assert plain == ["down.0.weight", "head.conv.weight"]
    assert sum(kind == "INT8" for kind in stored.values()) == 5 + 5
    opened = OnnxBackend(path)
    assert (opened.quality, opened.header.mode) == ("unmeasured", "raster")
    assert opened.header.source == bundle.header.source


@pytest.mark.parametrize("name", ["resnet6", "lite-unet"])
def test_other_networks(name: str, town_pairs: Path, tmp_path: Path) -> None:
    bundle = make(name, town_pairs)
    path = export_int8(bundle, tmp_path / "model.onnx", town_pairs, images=2, cache=tmp_path / "cache")
    x = sources(town_pairs, "val")
    plain = TorchBackend(bundle.network, device="cpu", precision="fp32").run(x)
    loss = 0.2 if name == "lite-unet" else 0.1  # of 75 convolutions that have learnt nothing
    assert float((load(path).translate_batch(x) - plain).abs().mean()) < loss * float(plain.std())


def test_nothing_is_printed(town_pairs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        print("told")

    export_int8(
        make("unet64", town_pairs), tmp_path / "m.onnx", town_pairs, images=2, cache=tmp_path, progress=progress
    )
    assert told == [(1, 2), (2, 2)]
    assert capfd.readouterr().out == "told\ntold\n"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), DecodeError("Wire format was corrupt")])
def test_a_full_temporary_folder_is_named(
    town_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("onnxruntime.quantization.quantize_static", Mock(side_effect=error))
    with pytest.raises(StorageError, match=r"temporary folder .* cannot be written .*TMPDIR"):
        export_int8(make("unet64", town_pairs), tmp_path / "m.onnx", town_pairs, images=1, cache=tmp_path)


def loss(before: dict[str, float | None], after: dict[str, float | None]) -> QualityLoss:
    return QualityLoss.between(before, {"n": 9, **after}, "pairs of val", INT8_LIMITS)


def test_what_is_refused() -> None:
    assert not loss({"miou": 0.4, "psnr": 25.0}, {"miou": 0.391, "psnr": 20.0}).refused
    assert loss({"miou": 0.4}, {"miou": 0.389}).refused
    assert not loss({"miou": 0.4}, {"miou": 0.45}).refused
    assert loss({"miou": 0.4}, {"miou": math.nan}).refused
    assert not loss({"miou": None, "psnr": 20.0}, {"miou": None, "psnr": 19.9}).refused
    assert loss({"miou": None, "psnr": 20.0}, {"miou": None, "psnr": 19.7}).refused
    assert str(loss({"miou": 0.4}, {"miou": 0.39})).endswith("0.4000 to 0.3900, a loss of 0.0100, on 9 pairs of val")
    assert str(loss({"miou": 0.4}, {"miou": 0.41})).endswith("0.4000 to 0.4100, a gain of 0.0100, on 9 pairs of val")


def test_the_loss_is_written_into_the_file(eight: tuple[Bundle, Path], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(eight[1].read_bytes())
    note_loss(path, loss({"miou": 0.4}, {"miou": 0.395}))
    assert OnnxBackend(path).quality == "kept"
    note_loss(path, loss({"miou": 0.4}, {"miou": 0.1}))
    with pytest.raises(
        BundleError, match=r"lost too much in 8 bits \(mean IoU of classes 0.4000 to 0.1000, .* on 9 pairs"
    ):
        load(path)
    assert load(path, accept_quality_loss=True).header == load(eight[1]).header


def test_refusals(town_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, out = make("unet64", town_pairs), tmp_path / "m.onnx"
    with pytest.raises(InputError, match="must be >= 1, got 0"):
        export_int8(bundle, out, town_pairs, images=0)
    with pytest.raises(DatasetError):
        export_int8(bundle, out, tmp_path / "nowhere", cache=tmp_path / "cache")
    other = make("unet64", town_pairs, Bands(names=("a", "b", "c"), dtype="uint16", high=4000.0))
    with pytest.raises(DatasetError, match="3 bands of uint8 on the source side"):
        export_int8(other, out, town_pairs, cache=tmp_path / "cache")
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r"terramorph\[onnx\]"):
        export_int8(bundle, out, town_pairs)
    assert not out.exists()
