"""The matrix form of a U-Net's convolutions is the convolution."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from terramorph.networks import build_network, convolutions
from terramorph.networks.convolutions import DepthwiseConv2d, DoublingConv2d, HalvingConv2d, join
from terramorph.networks.inference import fold_batchnorm


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which rearrangements were made: empty if a layer took torch's own convolution."""
    made: list[str] = []
    for name in ("neighbourhoods", "_folded"):
        plain = getattr(convolutions, name)
        monkeypatch.setattr(
            convolutions, name, lambda *args, name=name, plain=plain: (made.append(name), plain(*args))[1]
        )
    return made


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 4, 8), (4, 2, 2)])
@pytest.mark.parametrize("bias", [False, True])
def test_halving_equals_a_convolution_forwards_and_backwards(
    shape: tuple[int, int, int], bias: bool, products: list[str]
) -> None:
    random = torch.Generator().manual_seed(0)
    layer = HalvingConv2d(64, 80, bias=bias).double().to(memory_format=torch.channels_last)
    source = torch.randn((shape[0], 64, *shape[1:]), generator=random, dtype=torch.float64)
    _agree(layer, source, lambda x, w, b: functional.conv2d(x, w, b, stride=2, padding=1))
    assert products == ["neighbourhoods", "_folded"]


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 1, 3), (4, 1, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_doubling_equals_a_transposed_convolution_forwards_and_backwards(
    shape: tuple[int, int, int], bias: bool, products: list[str]
) -> None:
    random = torch.Generator().manual_seed(0)
    layer = DoublingConv2d(80, 64, bias=bias).double().to(memory_format=torch.channels_last)
    source = torch.randn((shape[0], 80, *shape[1:]), generator=random, dtype=torch.float64)
    _agree(layer, source, lambda x, w, b: functional.conv_transpose2d(x, w, b, stride=2, padding=1))
    assert products == ["_folded", "neighbourhoods"]


def _agree(layer: torch.nn.Module, source: torch.Tensor, plain) -> None:
    results = []
    for run in (layer, lambda x: plain(x, layer.weight, layer.bias)):
        x = source.clone(memory_format=torch.channels_last).requires_grad_()
        layer.zero_grad()
        y = run(x)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
        results.append([y, x.grad, *(p.grad for p in layer.parameters())])
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs)


def test_many_pixels_inference_and_odd_sides_take_torchs_convolution(products: list[str]) -> None:
    halving, doubling = HalvingConv2d(64, 64, bias=False), DoublingConv2d(64, 64, bias=False)
    halving(torch.rand(1, 64, 16, 16))
    doubling(torch.rand(1, 64, 8, 8))
    assert halving(torch.rand(1, 64, 5, 5)).shape == (1, 64, 2, 2)
    with torch.no_grad():
        halving(torch.rand(1, 64, 4, 4))
        doubling(torch.rand(1, 64, 2, 2))
    assert not products
    halving(torch.rand(1, 64, 4, 4))
    assert products


@pytest.mark.parametrize("bias", [False, True])
def test_bf16_is_as_near_to_fp32_as_torchs_convolution_is(bias: bool) -> None:
    random = torch.Generator().manual_seed(0)
    for layer, side in ((DoublingConv2d(256, 64, bias=bias), 2), (HalvingConv2d(256, 64, bias=bias), 4)):
        x = torch.randn((1, 256, side, side), generator=random)
        truth = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            ours = layer(x)
            with torch.no_grad():
                theirs = layer(x)
        error, usual = ((y.float() - truth).pow(2).mean().sqrt().item() for y in (ours, theirs))
        assert ours.dtype == theirs.dtype == torch.bfloat16
        assert error < 1.5 * usual


def test_weights_in_any_order_and_copies_for_inference(products: list[str]) -> None:
    network = build_network("unet64", width=64)
    x = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    usual = network.eval()(x)
    made = len(products)
    assert made, "the innermost layers have weights enough"
    copied = copy.deepcopy(network).to(memory_format=torch.channels_last)
    torch.testing.assert_close(copied(x), usual, atol=1e-5, rtol=0)
    assert len(products) == 2 * made
    torch.testing.assert_close(fold_batchnorm(network)(x), usual, atol=1e-5, rtol=0)
    assert len(products) == 2 * made, "what is only run takes torch's convolution"


@pytest.mark.filterwarnings("ignore")  # torch.compile warns of what it does itself
def test_it_can_be_compiled() -> None:
    network = build_network("unet64", width=64, dropout=0.0)
    x = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    gradients = []
    for run in (network, compiled):
        network.zero_grad()
        run(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    for eager, graph in zip(*gradients, strict=True):
        torch.testing.assert_close(eager, graph, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 0), (5, 1, 2), (5, 2, 0)])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_a_depthwise_convolution_are_those_of_fp32(
    kernel: int, stride: int, padding: int, frozen: bool
) -> None:
    random = torch.Generator().manual_seed(0)
    layer = DepthwiseConv2d(24, kernel, stride, padding).requires_grad_(not frozen)
    # Values of bf16, so that both forms see the same.
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=random).bfloat16())
    source = torch.randn((2, 24, 19, 15), generator=random).bfloat16().float()
    found = []
    for autocast in (False, True):
        x = source.clone(memory_format=torch.channels_last).requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = layer(x)
        y.sum().backward()
        found.append((y.float(), x.grad, layer.weight.grad))
        assert y.dtype == (torch.bfloat16 if autocast else torch.float32)
    for fine, ours in zip(*found, strict=True):
        # Rounded once: half a unit in the last of eight binary places.
        assert (fine is None and ours is None) or bool((fine - ours).abs().le(fine.abs() * 2**-8).all())
    assert (found[1][2] is None) == frozen
    torch.testing.assert_close(functional.conv2d(source, layer.weight, None, stride, padding, groups=24), found[0][0])


def test_what_is_joined_has_whole_gradients() -> None:
    random = torch.Generator().manual_seed(0)
    maps = [torch.randn((2, c, 6, 4), generator=random).to(memory_format=torch.channels_last) for c in (3, 5, 2)]
    seen = []
    for way in (join, lambda maps: torch.cat(maps, dim=1)):
        parts = [part.clone().requires_grad_(number < 2) for number, part in enumerate(maps)]
        for part in parts[:2]:
            part.register_hook(seen.append)
        joined = way(parts)
        (joined * torch.arange(joined.numel(), dtype=torch.float32).view(joined.shape)).sum().backward()
        seen.append(joined)
    for ours, torchs in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(ours, torchs)
    assert all(gradient.is_contiguous(memory_format=torch.channels_last) for gradient in seen[:2])
    assert torch.equal(join(maps), seen[-1].detach()), "without gradients too"
