"""Copies of networks made ready for inference."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from terramorph.networks import build_network, initialize
from terramorph.networks.inference import fold_batchnorm, per_image_statistics


def trained(name: str) -> nn.Module:
    """Small, with running statistics far from those of a fresh network."""
    generator = torch.Generator().manual_seed(0)
    network = build_network(name, width=4)
    initialize(network, generator, gain=0.2 if name == "unet64" else 0.05)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.5, generator=generator)
            module.running_var.uniform_(0.3, 3.0, generator=generator)
    return network.eval().requires_grad_(False)


def source(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("name", ["unet64", "resnet6"])
def test_folding_changes_nothing_but_the_layers(name: str) -> None:
    network = trained(name)
    before = copy.deepcopy(network.state_dict())
    folded = fold_batchnorm(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert float((folded(source()) - network(source())).abs().max()) < 1e-4
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize("name", ["unet64", "resnet6"])
def test_per_image_statistics_are_those_of_a_batch_of_one(name: str) -> None:
    network = trained(name)
    ready = per_image_statistics(network, dropout=False)
    public = copy.deepcopy(network)
    for module in public.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    one_by_one = torch.cat([public(image) for image in source().split(1)])
    assert torch.allclose(ready(source()), one_by_one, atol=1e-4)
    assert not torch.allclose(network(source()), one_by_one, atol=1e-2)
