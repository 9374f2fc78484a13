"""The rearranged U-Net is the same function."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from terramorph.networks import UNet, build_network, cpu_unet, initialize
from terramorph.networks.cpu_unet import CpuUNet
from terramorph.networks.inference import doubling_kernels


def source(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def unet(*, gain: float = 0.15, **settings: Any) -> UNet:
    """Small, with running statistics far from those of a fresh network."""
    generator = torch.Generator().manual_seed(5)
    network = build_network("unet64", **{"width": 4, **settings})
    initialize(network, generator, gain=gain)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 2.0, generator=generator)
    assert isinstance(network, UNet)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("products", ["none", "some", "all"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_equal_in_float32(norm: str, products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_unet, "PRODUCT_FROM", {"none": 2**40, "some": 2**4, "all": 0}[products])
    network = unet(norm=norm, in_bands=2, out_bands=4, gain=0.05 if norm == "none" else 0.15)
    fast = CpuUNet(network, torch.float32)
    with torch.no_grad():
        for shape in ((1, 2, 64, 64), (3, 2, 64, 128), (2, 2, 70, 33), (1, 2, 64, 64), (1, 2, 1, 1)):
            x = source(*shape)
            assert float((fast(x) - network(x)).abs().max()) < 1e-4


def test_close_in_bfloat16() -> None:
    network = unet(width=16)
    with torch.no_grad():
        difference = CpuUNet(network, torch.bfloat16)(source(2, 3, 64, 64)) - network(source(2, 3, 64, 64))
    assert float(difference.abs().mean()) < 0.02


def test_a_change_of_shape_costs_nothing() -> None:
    # Not a matter of layouts that are made for one shape: weights stay as they lie.
    fast = CpuUNet(unet(width=16), torch.float32)
    weights = [conv.weight for conv in (*fast._down, *fast._up, fast._head)]
    with torch.no_grad():
        for shape in ((1, 3, 64, 64), (4, 3, 64, 128)):
            fast(source(*shape))
    assert all(
        conv.weight is weight for conv, weight in zip((*fast._down, *fast._up, fast._head), weights, strict=True)
    )


def test_doubling_is_the_transposed_convolution() -> None:
    conv = nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1, bias=False).requires_grad_(False)
    x = source(2, 5, 6, 7)
    out = torch.empty(2, 3, 12, 14)
    cpu_unet._interleave(functional.conv2d(x, doubling_kernels(conv.weight).flatten(0, 1), padding=1), out)
    assert torch.allclose(out, conv(x), atol=1e-5)


def test_threads_do_not_share_buffers() -> None:
    fast = CpuUNet(unet(), torch.float32)
    inputs = [source(1, 3, 64, 64) * scale for scale in (0.2, 0.5, 1.0)]
    with torch.no_grad():
        expected = [fast(x) for x in inputs]
    wrong = []

    def work(number: int) -> None:
        with torch.no_grad():
            for _ in range(10):
                if not torch.equal(fast(inputs[number]), expected[number]):
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
