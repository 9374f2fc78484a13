"""Small bundles and images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from terramorph.bundle import Bands, Bundle
from terramorph.networks import build_network, initialize
from terramorph.raster import default_bands

RGB = Bands(names=("red", "green", "blue"))


def make_bundle(
    name: str = "unet64", *, gain: float = 0.15, width: int = 4, header: dict[str, Any] | None = None, **settings: Any
) -> Bundle:
    """A network with random weights and running statistics, deterministic."""
    generator = torch.Generator().manual_seed(3)
    network = build_network(name, width=width, **settings)
    initialize(network, generator, gain=gain)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 2.0, generator=generator)
    network.requires_grad_(False)
    sides = {
        side: Bands(names=default_bands(settings[key])) if key in settings else RGB
        for side, key in (("source", "in_bands"), ("target", "out_bands"))
    }
    return Bundle.of(network, name, **{**sides, "size": 64, **(header or {})})


@pytest.fixture
def bundle() -> Bundle:
    """A U-Net 64 for three bands of uint8."""
    return make_bundle()


@pytest.fixture
def picture() -> Callable[..., NDArray[np.uint8]]:
    """Makes smooth noise, uint8 (C, H, W)."""

    def make(height: int, width: int, *, bands: int = 3, seed: int = 0) -> NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        coarse = torch.from_numpy(rng.random((1, bands, height // 8 + 2, width // 8 + 2), np.float32))
        fine = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
        pixels: NDArray[np.uint8] = (fine[0] * 255).to(torch.uint8).numpy()
        return pixels

    return make
