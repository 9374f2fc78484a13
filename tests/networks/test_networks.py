"""Generators and discriminators: sizes, shapes, noise, receptive fields."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from terramorph.errors import ConfigError
from terramorph.networks import (
    NETWORKS,
    InstanceNorm,
    NoiseDropout,
    PatchGAN,
    ResNet,
    UNet,
    build_discriminator,
    build_network,
    describe_network,
    initialize,
    on_stride,
    parameter_count,
    reflected,
    set_noise,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed)) * 2 - 1


def small(name: str, **settings: object) -> nn.Module:
    build = build_discriminator if name in ("patchgan", "pixelgan") else build_network
    network = build(name, **{"width": 4, **settings})
    initialize(network, generator(), gain=0.2)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "settings", "millions"),
    [
        ("unet256", {}, 54.414),
        ("patchgan", {"in_bands": 6}, 2.769),
        ("resnet9", {"norm": "instance"}, 11.378),
        ("resnet9", {"norm": "batch"}, 11.383),
    ],
)
def test_sizes_are_those_of_the_paper(name: str, settings: dict[str, object], millions: float) -> None:
    with torch.device("meta"):
        network = (build_discriminator if name == "patchgan" else build_network)(name, **settings)
    assert round(parameter_count(network) / 1e6, 3) == millions


def test_patches() -> None:
    with torch.no_grad():
        assert small("patchgan")(images(1, 6, 256, 256)).shape == (1, 1, 30, 30)
        assert small("pixelgan")(images(2, 6, 32, 48)).shape == (2, 1, 32, 48)
        assert small("patchgan", layers=1, in_bands=4)(images(1, 4, 64, 64)).shape == (1, 1, 30, 30)


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize("name", ["unet64", "unet128", "resnet6"])
def test_any_size_and_rectangles(name: str, norm: str) -> None:
    network = small(name, norm=norm, in_bands=2, out_bands=1)
    with torch.no_grad():
        for height, width in ((64, 64), (1, 1), (5, 130), (65, 3)):
            target = network(images(2, 2, height, width))
            assert target.shape == (2, 1, height, width)
            assert bool(torch.isfinite(target).all())
            assert float(target.abs().max()) <= 1.0


def test_every_name_builds_and_describes_itself() -> None:
    for name in NETWORKS:
        network = small(name)
        assert all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())
        settings = describe_network(network)
        assert settings["width"] == 4
        again = build_network(name, **settings)
        assert again.state_dict().keys() == network.state_dict().keys()


def test_errors_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'unet256'"):
        build_network("unet-256")
    with pytest.raises(ConfigError, match="did you mean 'dropout'"):
        build_network("unet256", drop_out=0.1)
    with pytest.raises(ConfigError, match="known are"):
        build_network("zzz")
    with pytest.raises(ConfigError, match="The generator unet64: norm cannot be 'layer'"):
        build_network("unet64", norm="layer")
    for name in ("unet64", "resnet6"):
        with pytest.raises(ConfigError, match="upsampling cannot be 'bilinear'"):
            build_network(name, upsampling="bilinear")
    with pytest.raises(ConfigError, match="The generator resnet6: there is no key 'skips'"):
        build_network("resnet6", skips=False)


def test_noise_comes_from_the_generator_alone() -> None:
    network = small("unet64", dropout=0.5)
    for module in network.modules():
        if isinstance(module, NoiseDropout):
            module.train()
    source = images(1, 3, 64, 64)
    outputs = []
    for seed in (1, 1, 2):
        set_noise(network, generator(seed))
        torch.rand(7)  # the global state must not matter
        outputs.append(network(source))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    before = torch.get_rng_state()
    network(source)
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_keeps_the_mean() -> None:
    dropout = NoiseDropout(0.25)
    dropout.generator = generator()
    out = dropout(torch.ones(100_000))
    assert float((out == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(out.mean()) == pytest.approx(1.0, abs=0.01)
    assert torch.equal(dropout.eval()(torch.ones(3)), torch.ones(3))


def test_initialization_is_repeatable() -> None:
    first, second, third = (build_network("unet64", width=4) for _ in range(3))
    initialize(first, generator(1))
    initialize(second, generator(1))
    initialize(third, generator(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert isinstance(first, UNet)
    assert isinstance(third, UNet)
    assert not torch.equal(first.head.weight, third.head.weight)
    assert not first.head.bias.any()


@pytest.mark.parametrize(
    ("name", "upsampling"),
    [("resnet6", "transposed"), ("resnet9", "transposed"), ("resnet6", "resize"), ("resnet6", "pixelshuffle")],
)
def test_halo_is_exact_and_tight(name: str, upsampling: str) -> None:
    # With all weights positive nothing cancels, so a changed pixel reaches all that it can reach.
    network = build_network(name, width=2, in_bands=1, out_bands=1, dropout=0.0, upsampling=upsampling).double().eval()
    assert isinstance(network, ResNet)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.01)
        # The last layer is linear here: tanh would round small changes away.
        network.layers[-1] = nn.Identity()
    halo = network.halo
    assert halo is not None
    size = 4 * ((2 * halo + 24) // 4)
    middle = size // 2
    furthest = 0
    for phase in range(4):
        source = torch.full((1, 1, size, size), 0.5, dtype=torch.float64, requires_grad=True)
        at = middle + phase
        network(source)[0, 0, at, at].backward()
        assert source.grad is not None
        rows = source.grad[0, 0].abs().sum(1).nonzero().flatten()
        furthest = max(furthest, at - int(rows.min()), int(rows.max()) - at)
    assert furthest == halo


def test_halo_is_not_bounded_with_instance_norm() -> None:
    assert build_network("resnet6", norm="instance", width=2).halo is None
    assert build_network("unet64", width=2).halo is None


def test_reflection_reaches_beyond_the_image() -> None:
    assert reflected(4, 2, 3).tolist() == [2, 1, 0, 1, 2, 3, 2, 1, 0]
    assert reflected(3, 5, 6).tolist() == [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert reflected(1, 2, 3).tolist() == [0] * 6
    line = torch.arange(5.0)[None, None]
    expected = nn.functional.pad(line, (3, 4), mode="reflect")[0, 0]
    assert torch.equal(line[0, 0][reflected(5, 3, 4)], expected)


def test_on_stride_extends_and_crops() -> None:
    seen = []

    def run(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return x * 2

    source = images(1, 1, 5, 8)
    assert torch.equal(on_stride(run, source, 8), source * 2)
    assert seen == [(1, 1, 8, 8)]


def test_instance_norm_of_one_pixel_is_zero() -> None:
    norm = InstanceNorm()
    assert torch.allclose(norm(images(2, 3, 1, 1)), torch.zeros(2, 3, 1, 1), atol=1e-4)
    out = norm(images(2, 3, 8, 8))
    assert float(out.mean((2, 3)).abs().max()) < 1e-6


@pytest.mark.parametrize("count", [1, 2])
def test_gradients_do_not_depend_on_the_memory_format(count: int) -> None:
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        network = build_network("resnet6", width=4, norm="instance", dropout=0.0)
        initialize(network, generator(), gain=0.1)
        network = network.double().to(memory_format=order)  # type: ignore[call-overload]
        made = network(images(count, 3, 32, 32).double().to(memory_format=order))
        found.append(torch.autograd.grad((made - 0.3).abs().mean(), list(network.parameters())))
    largest = max(float(one.norm()) for one in found[0])
    assert all(torch.allclose(a, b, rtol=0.0, atol=1e-9 * largest) for a, b in zip(*found, strict=True))


def test_norms_change_what_is_learned() -> None:
    def keys(norm: str) -> set[str]:
        return set(small("patchgan", norm=norm).state_dict())

    assert "layers.3.running_mean" in keys("batch")
    assert "layers.2.bias" not in keys("batch")
    assert "layers.2.bias" in keys("instance")
    assert "layers.3.weight" not in keys("none")
    assert isinstance(small("patchgan"), PatchGAN)
