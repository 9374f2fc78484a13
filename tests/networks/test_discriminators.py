"""Discriminators: how much each judges at once, at how many sizes, and how steep it may be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from terramorph.networks import MultiScale, PatchGAN, build_discriminator, initialize


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(*, gain: float = 0.2, **settings: object) -> PatchGAN | MultiScale:
    network = build_discriminator("patchgan", **{"width": 4, "in_bands": 2, "norm": "none", **settings})
    initialize(network, seeded(), gain)
    return network


def pairs(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=seeded(1)) * 2 - 1


@pytest.mark.parametrize(("layers", "field"), [(0, 1), (1, 16), (2, 34), (3, 70), (4, 142), (5, 286)])
def test_a_logit_judges_one_patch(layers: int, field: int) -> None:
    network = made(layers=layers, width=1, in_bands=1).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.1)  # with all weights positive, whatever can be seen is seen
    size = field + 2 ** (layers + 1) + 16
    pair = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    logits = network(pair)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    assert pair.grad is not None
    seen = pair.grad[0, 0].abs()
    for axis in (0, 1):
        places = seen.sum(axis).nonzero().flatten()
        assert int(places.max() - places.min()) + 1 == field


def test_two_scales_are_two_discriminators() -> None:
    network = made(scales=2)
    assert isinstance(network, MultiScale)
    fine, coarse = network.scales
    pair = pairs(2, 2, 64, 64)
    logits = network(pair)
    assert [tuple(one.shape) for one in logits] == [(2, 1, 6, 6), (2, 1, 2, 2)]
    assert torch.equal(logits[0], fine(pair))
    halved = pair.unflatten(2, (32, 2)).unflatten(4, (32, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(logits[1], coarse(halved))
    assert not torch.equal(fine.layers[0].weight, coarse.layers[0].weight)


@pytest.mark.parametrize("scales", [1, 2])
def test_features_end_with_the_logits(scales: int) -> None:
    network, pair = made(scales=scales, norm="instance"), pairs(1, 2, 64, 64)
    seen, logits = network.features(pair), network(pair)
    assert [len(scale) for scale in seen] == [5] * scales
    assert [map_.shape[1] for map_ in seen[0]] == [4, 8, 16, 32, 1]
    for scale, wanted in zip(seen, logits if scales == 2 else [logits], strict=True):
        assert torch.equal(scale[-1], wanted)


@pytest.mark.parametrize("layers", [0, 3])
def test_spectral_norm_bounds_every_layer(layers: int) -> None:
    network = made(layers=layers, spectral_norm=True, gain=5.0, norm="batch")
    network.train()
    for _ in range(30):  # each pass brings the estimate nearer
        network(pairs(2, 2, 64, 64))
    convs = [layer for layer in network.layers if isinstance(layer, nn.Conv2d)]
    largest = [torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() for conv in convs]
    assert largest == pytest.approx([1.0] * len(convs), abs=0.02)


def test_spectral_norm_starts_from_the_seed_alone() -> None:
    def state(seed: int) -> dict[str, Tensor]:
        torch.rand(3)  # the global state must not matter
        network = build_discriminator("patchgan", width=4, spectral_norm=True)
        before = torch.get_rng_state()
        initialize(network, seeded(seed))
        assert torch.equal(before, torch.get_rng_state())
        return network.state_dict()

    first, again, other = state(0), state(0), state(1)
    assert first.keys() == again.keys()
    assert any("_u" in key for key in first)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first if key.endswith("_u"))


def test_plain_discriminators_keep_their_names() -> None:
    """A checkpoint of a run from before there were scales still fits."""
    assert set(made(scales=1).state_dict()) == set(PatchGAN(2, 4, norm="none").state_dict())
    assert "layers.0.weight" in made().state_dict()
