"""Generators with other upsamplings and without skip connections: alike in training, for inference, and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from terramorph.bundle import Bands, Bundle, load_bundle
from terramorph.networks import (
    ResizeConv,
    SubpixelConv,
    UNet,
    build_network,
    describe_network,
    initialize,
    parameter_count,
)
from terramorph.networks.inference import fold_batchnorm, per_image_statistics
from terramorph.networks.layers import make_upsampling

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("unet64", {"upsampling": "resize"}),
    ("unet64", {"upsampling": "pixelshuffle", "norm": "none"}),
    ("unet64", {"skips": False}),
    ("unet64", {"skips": False, "upsampling": "pixelshuffle", "norm": "instance"}),
    ("resnet6", {"upsampling": "resize"}),
    ("resnet6", {"upsampling": "pixelshuffle"}),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=seeded(1)) * 2 - 1


def trained(name: str, **settings: Any) -> nn.Module:
    """Small, with weights that are no longer tied and running statistics far from those of a fresh network."""
    network = build_network(name, width=4, **settings)
    initialize(network, seeded(), gain=0.1 if name == "unet64" else 0.05)
    for module in network.modules():
        if isinstance(module, SubpixelConv):
            module.conv.weight.data.normal_(0.0, 0.1, generator=seeded(2))
            if module.bias is not None:
                module.bias.data.normal_(generator=seeded(3))
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.5, generator=seeded(4))
            module.running_var.uniform_(0.3, 3.0, generator=seeded(5))
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["resize", "pixelshuffle"])
@pytest.mark.parametrize("bias", [True, False])
def test_both_are_transposed_convolutions(kind: Any, bias: bool) -> None:
    layer = make_upsampling(kind, 3, 5, kernel=4, bias=bias)
    assert isinstance(layer, ResizeConv | SubpixelConv)
    for parameter in layer.parameters():
        parameter.data.normal_(generator=seeded())
    x = images(2, 3, 6, 7)
    with torch.no_grad():
        torch.testing.assert_close(layer.for_inference()(x), layer(x), atol=1e-4, rtol=1e-4)
    assert layer(x).shape == (2, 5, 12, 14)


@pytest.mark.parametrize("kind", ["transposed", "resize", "pixelshuffle"])
def test_checkerboards_at_the_start(kind: Any) -> None:
    """A constant input is upsampled to a constant away from the border, except by a transposed convolution."""
    layer = nn.Sequential(make_upsampling(kind, 8, 4, kernel=4, bias=True))
    initialize(layer, seeded(), gain=1.0)
    with torch.no_grad():
        inside = layer(torch.ones(1, 8, 12, 12))[..., 6:-6, 6:-6]
        spread = float((inside - inside.mean(dim=(2, 3), keepdim=True)).abs().max())
        shifted = float((inside[..., 2:, 2:] - inside[..., :-2, :-2]).abs().max())
    assert shifted < 1e-5, "what pattern there is has a period of two pixels"
    assert (spread > 0.5) if kind == "transposed" else (spread < 1e-5)


def test_the_start_of_a_pixel_shuffle_is_a_resize_convolution() -> None:
    layer, resized = SubpixelConv(3, 2, bias=False), images(1, 3, 6, 6)
    initialize(nn.Sequential(layer), seeded(), gain=1.0)
    first = nn.functional.conv2d(resized, layer.conv.weight[::4], padding=1)
    torch.testing.assert_close(layer(resized), nn.functional.interpolate(first, scale_factor=2.0))


def test_without_skips_nothing_of_the_source_gets_past_the_bottleneck() -> None:
    """What the decoder is told is one vector: two places of an output differ by the border and by nothing else."""
    network = trained("unet64", skips=False, norm="none")
    assert parameter_count(build_network("unet64", width=4)) > parameter_count(
        build_network("unet64", width=4, skips=False)
    )
    seen: list[Tensor] = []
    network.down[-1].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    network(images(1, 3, 64, 64))
    assert seen[0].shape[-2:] == (1, 1)
    network.down[-1].register_forward_hook(lambda _module, _inputs, _output: seen[0])
    assert torch.equal(network(images(1, 3, 64, 64)), network(torch.zeros(1, 3, 64, 64)))


@pytest.mark.parametrize(("name", "settings"), FORMS)
def test_any_size(name: str, settings: dict[str, Any]) -> None:
    network = trained(name, **settings)
    for height, width in ((64, 64), (1, 1), (5, 130)):
        assert network(images(2, 3, height, width)).shape == (2, 3, height, width)


@pytest.mark.parametrize(("name", "settings"), FORMS)
def test_copies_for_inference_compute_the_same(name: str, settings: dict[str, Any]) -> None:
    network = trained(name, **settings)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold_batchnorm(network)
    assert not any(isinstance(m, nn.BatchNorm2d | ResizeConv | SubpixelConv) for m in folded.modules())
    assert isinstance(folded, UNet) == name.startswith("unet")
    x = images(2, 3, 64, 96)
    assert float((folded(x) - network(x)).abs().max()) < 1e-4
    each = per_image_statistics(network, dropout=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    assert float((each(x) - torch.cat([network(one) for one in x.split(1)])).abs().max()) < 1e-4
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items() if "running" not in k and v.ndim)


@pytest.mark.parametrize(("name", "settings"), FORMS)
def test_bundles_keep_the_form(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    network, rgb = trained(name, **settings), Bands(names=("red", "green", "blue"))
    path = Bundle.of(network, name, source=rgb, target=rgb, size=64).save(tmp_path / "model.safetensors")
    again = load_bundle(path)
    assert again.header.architecture.settings == describe_network(network)
    x = images(1, 3, 64, 64)
    assert torch.equal(again.network(x), network(x))


@pytest.mark.parametrize("name", ["unet64", "resnet6"])
def test_bundles_from_before_there_were_forms(name: str, tmp_path: Path) -> None:
    network, rgb = trained(name), Bands(names=("red", "green", "blue"))
    bundle = Bundle.of(network, name, source=rgb, target=rgb, size=64)
    old = {k: v for k, v in describe_network(network).items() if k not in ("skips", "upsampling")}
    architecture = bundle.header.architecture.model_copy(update={"settings": old})
    header = bundle.header.model_copy(update={"architecture": architecture})
    again = load_bundle(Bundle(network, header).save(tmp_path / "old.safetensors"))
    assert torch.equal(again.network(images(1, 3, 64, 64)), network(images(1, 3, 64, 64)))


@pytest.mark.parametrize("mode", ["raster", "paper"])
@pytest.mark.parametrize(("name", "settings"), FORMS)
def test_exported_and_translated_the_same(name: str, settings: dict[str, Any], mode: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from terramorph.interop import export_onnx
    from terramorph.translate import Model, OnnxBackend

    network, rgb = trained(name, **settings), Bands(names=("red", "green", "blue"))
    bundle = Bundle.of(network, name, source=rgb, target=rgb, size=64)
    exported = OnnxBackend(export_onnx(bundle, tmp_path / "model.onnx", mode=mode), threads=1)
    model = Model(bundle, mode=mode, precision="fp32", device="cpu", dropout=False)
    for shape in ((2, 3, 64, 64), (1, 3, 40, 70)):
        x = images(*shape)
        assert float((exported.run(x) - model.translate_batch(x)).abs().max()) < 1e-3
