"""Backends: they compute the same, are asked for by name, and what is fastest is remembered."""

from __future__ import annotations

import builtins
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from terramorph import processor
from terramorph.bundle import Bundle
from terramorph.errors import BundleError, ConfigError, InputWarning, MissingPackageError
from terramorph.interop import export_onnx
from terramorph.networks import UNet
from terramorph.networks.cpu_unet import CpuUNet
from terramorph.translate import Model, OpenVinoBackend, TorchBackend, load
from terramorph.translate.backends import pytorch
from terramorph.translate.backends.exported import KEPT_SHAPES
from terramorph.translate.backends.pytorch import Tuning, best_form, notes_of_this_machine, remember, remembered
from terramorph.translate.bench import Way, measure, ways_of_bundle, ways_of_exported

from ..bf16 import needs_bf16
from .conftest import make_bundle


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def exported(bundle: Bundle, tmp_path: Path) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    return export_onnx(bundle, tmp_path / "model.onnx")


@pytest.mark.parametrize("mode", ["raster", "paper"])
@pytest.mark.parametrize("name", ["unet64", "resnet6"])
def test_openvino_equals_torch(name: str, mode: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    bundle = make_bundle(name, gain=0.1)
    fast = OpenVinoBackend(export_onnx(bundle, tmp_path / "model.onnx", mode=mode), precision="fp32", threads=1)
    plain = Model(bundle, mode=mode, precision="fp32", device="cpu", dropout=False)
    shapes = [(1, 3, 64, 64), (2, 3, 64, 64), (1, 3, 70, 33)] if name == "unet64" else [(2, 3, 40, 24)]
    for shape in shapes:
        assert float((fast.run(images(*shape)) - plain.translate_batch(images(*shape))).abs().max()) < 1e-4


@needs_bf16
def test_openvino_in_bfloat16(bundle: Bundle, exported: Path) -> None:
    fast = OpenVinoBackend(exported, precision="bf16", threads=1)
    plain = TorchBackend(bundle.network, device="cpu", precision="fp32")
    difference = fast.run(images(2, 3, 64, 64)) - plain.run(images(2, 3, 64, 64))
    assert float(difference.abs().mean()) < 0.02
    assert fast.name != OpenVinoBackend(exported, precision="fp32").name


def test_openvino_keeps_a_few_shapes_and_results_of_earlier_calls(exported: Path) -> None:
    fast = OpenVinoBackend(exported, precision="fp32", threads=1)
    first = fast.run(images(1, 3, 64, 64))
    kept = first.clone()
    for side in (64, 128, 192):
        fast.run(-images(1, 3, side, 64))
    assert torch.equal(first, kept)
    assert len(fast._compiled) == KEPT_SHAPES
    assert torch.equal(fast.run(images(1, 3, 64, 64)), kept)


def test_load_takes_a_backend_by_name(bundle: Bundle, exported: Path, tmp_path: Path) -> None:
    path = bundle.save(tmp_path / "model.safetensors")
    x = images(1, 3, 64, 64)
    default, fast = load(exported), load(exported, backend="openvino", precision="fp32")
    assert (default.backend.name.split()[0], fast.backend.name.split()[0]) == ("onnxruntime", "openvino")
    assert float((fast.translate_batch(x) - default.translate_batch(x)).abs().max()) < 1e-4
    assert load(path, backend="torch").backend.name.startswith("torch")
    refused: list[tuple[Path, dict[str, Any], str]] = [
        (path, {"backend": "openvino"}, "backend of a bundle must be torch, got openvino"),
        (exported, {"backend": "torch"}, "does not run exported files"),
        (exported, {"backend": "abacus"}, "does not run exported files"),
        (exported, {"device": "cuda"}, "runs on the CPU"),
        (exported, {"precision": "bf16"}, "does not compute"),
        (exported, {"backend": "openvino", "precision": "int3"}, "no precision"),
        (exported, {"backend": "openvino", "mode": "paper"}, "mode must be raster, in which .* was exported"),
    ]
    for which, settings, sentence in refused:
        with pytest.raises(ConfigError, match=sentence):
            load(which, **settings)


def test_openvino_on_what_is_no_exported_bundle(exported: Path, tmp_path: Path) -> None:
    import onnx

    with pytest.raises(BundleError, match="There is no file"):
        load(tmp_path / "none.onnx", backend="openvino")
    (tmp_path / "bad.onnx").write_bytes(b"not ONNX")
    with pytest.raises(BundleError, match="damaged or not an ONNX file"):
        load(tmp_path / "bad.onnx", backend="openvino")
    model = onnx.load(str(exported))
    del model.metadata_props[:]
    onnx.save(model, str(exported))
    with pytest.raises(BundleError, match="does not hold the terramorph header"):
        load(exported, backend="openvino")


def test_a_refused_file_wants_to_be_accepted(exported: Path) -> None:
    import onnx

    model = onnx.load(str(exported))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**properties, "quality": "refused", "quality_loss": "miou 0.4 to 0.3"})
    onnx.save(model, str(exported))
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(BundleError, match=r"miou 0.4 to 0.3.*accept_quality_loss"):
            load(exported, backend=name)  # type: ignore[arg-type]
        load(exported, backend=name, accept_quality_loss=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="8 bits"):
        load(exported, backend="openvino", precision="bf16", accept_quality_loss=True)


def test_no_openvino(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openvino":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r"terramorph\[openvino\]"):
        load(exported, backend="openvino")


@pytest.mark.parametrize(
    ("settings", "rearranged"),
    [({}, True), ({"skips": False}, True), ({"upsampling": "resize"}, True), ({"upsampling": "pixelshuffle"}, False)],
)
def test_every_form_of_a_unet_runs(settings: dict[str, Any], rearranged: bool) -> None:
    network = make_bundle(**settings).network
    backend = TorchBackend(network, device="cpu", precision="fp32", rearranged=True)
    assert isinstance(backend._network, CpuUNet) is rearranged
    with torch.no_grad():
        assert float((backend.run(images(2, 3, 64, 64)) - network(images(2, 3, 64, 64))).abs().max()) < 1e-4


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_pixels_do_not_depend_on_what_was_run_before(bundle: Bundle, precision: str) -> None:
    fresh = TorchBackend(bundle.network, device="cpu", precision=precision)
    used = TorchBackend(bundle.network, device="cpu", precision=precision)
    for shape in ((3, 3, 64, 128), (1, 3, 192, 64)):
        used.run(images(*shape))
    assert torch.equal(used.run(images(2, 3, 64, 64)), fresh.run(images(2, 3, 64, 64)))


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's measurements are kept."""
    monkeypatch.setattr(pytorch, "TUNED", tmp_path / "deep" / "tuned.json")
    return pytorch.TUNED


def unet(**settings: Any) -> UNet:
    network = make_bundle(**settings).network
    assert isinstance(network, UNet)
    return network


def test_what_is_fastest_is_remembered_for_one_network_and_precision(notes: Path) -> None:
    network = unet()
    assert remembered(network, torch.float32) is None
    remember(network, torch.float32, Tuning(True, 8))
    remember(network, torch.bfloat16, Tuning(False, 2))
    assert remembered(network, torch.float32) == Tuning(True, 8)
    assert remembered(network, torch.bfloat16) == Tuning(False, 2)
    assert set(notes_of_this_machine()) == {f"unet64, width 4, 3 to 3 bands, {name}" for name in ("fp32", "bf16")}
    assert remembered(unet(width=8), torch.float32) is None
    whole = notes.read_text(encoding="utf-8")
    for damaged in ("", "[]", "{", whole.replace('"batch_size": 8', '"batch_size": 0'), whole.replace("true", "1")):
        notes.write_text(damaged, encoding="utf-8")
        assert remembered(network, torch.float32) is None


@pytest.mark.parametrize("slow", [False, True])
def test_the_faster_form_is_found_once(slow: bool, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch, "WORTH_MEASURING", 0)
    monkeypatch.setattr(pytorch, "fastest_runs", partial(pytorch.fastest_runs, seconds=0.0))
    made, clock = [], SimpleNamespace(now=0.0)
    monkeypatch.setattr(pytorch, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def make(rearranged: bool) -> pytorch.Run:
        def run(x: Tensor) -> Tensor:
            clock.now += 2.0 if rearranged is slow else 1.0
            return x

        made.append(rearranged)
        return run

    for _ in range(2):
        assert best_form(unet(), torch.float32, make) == Tuning(rearranged=not slow)
    assert made == [False, True]
    assert notes.is_file()


def test_notes_that_cannot_be_written_stop_nothing(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch, "WORTH_MEASURING", 0)
    notes.parent.write_text("a file where the folder should be")
    network = unet()
    backend = TorchBackend(network, device="cpu", precision="fp32")
    with torch.no_grad():
        assert float((backend.run(images(1, 3, 64, 64)) - network(images(1, 3, 64, 64))).abs().max()) < 1e-4


def test_what_is_remembered_is_used_and_the_process_left_alone(bundle: Bundle, tmp_path: Path, notes: Path) -> None:
    path = bundle.save(tmp_path / "model.safetensors")
    load_fp32 = partial(load, path, device="cpu", precision="fp32")
    threads = torch.get_num_threads()
    assert load_fp32().batch_size == 4
    assert isinstance(bundle.network, UNet)
    remember(bundle.network, torch.float32, Tuning(False, 7))
    translator = load_fp32()
    assert translator.batch_size == 7
    assert isinstance(translator.backend, TorchBackend)
    assert not isinstance(translator.backend._network, CpuUNet)
    assert load_fp32(batch_size=3).batch_size == 3
    assert load_fp32(mode="paper").batch_size == 1
    assert torch.get_num_threads() == threads


def test_emulated_bf16_runs_as_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_bf16_on_cpu", lambda: False)
    network = unet()
    with pytest.warns(InputWarning, match="emulated"):
        backend = TorchBackend(network, device="cpu", precision="bf16")
    assert not isinstance(backend._network, CpuUNet)
    with torch.no_grad():
        difference = backend.run(images(1, 3, 64, 64)) - network(images(1, 3, 64, 64))
    assert float(difference.abs().mean()) < 0.02


def test_every_way_is_measured(bundle: Bundle, exported: Path) -> None:
    ways = [*ways_of_bundle(bundle), *ways_of_exported(exported)]
    speeds = list(measure(ways, bundle.header.model_copy(update={"size": 16}), 0.0))
    assert {speed.backend for speed in speeds} == {"torch eager", "torch folded", "torch", "onnxruntime", "openvino"}
    assert len(speeds) == len(ways)
    assert all(speed.tiles > 0 and not speed.missing for speed in speeds)
    assert speeds[0].megapixels is not None  # there was nothing faster yet


def test_a_way_that_is_not_installed_is_listed(bundle: Bundle) -> None:
    def make() -> Any:
        raise MissingPackageError("It is not installed.")

    (speed,) = measure([Way("abacus", "fp32", make)], bundle.header, 0.0)
    assert (speed.backend, speed.missing, speed.tiles) == ("abacus", "It is not installed.", 0.0)


def test_a_generator_may_call_its_noise_as_it_likes() -> None:
    class Sum(nn.Module):
        stride, halo, noise = 1, 0, 3

        def forward(self, source: Tensor, z: Tensor | None = None) -> Tensor:
            return source if z is None else source + z

    source, noise = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.25)
    assert torch.equal(TorchBackend(Sum(), device="cpu", precision="fp32").run(source, noise=noise), noise)
