"""A configuration that trains in a second, and feature weights that know nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from terramorph.metrics import BACKBONE_FILE, HEADS_FILE, SqueezeNetFeatures
from terramorph.training import TrainConfig


@pytest.fixture(scope="session")
def tiny(tiny: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    """The suite's, and three steps long."""
    return lambda **changes: tiny(**{"max_steps": 3, **changes})


@pytest.fixture(scope="session")
def feature_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that LPIPS reads, of random numbers."""
    folder = tmp_path_factory.mktemp("feature_weights")
    random = torch.Generator().manual_seed(0)
    state = SqueezeNetFeatures().layers.state_dict()
    torch.save(
        {key: torch.randn(value.shape, generator=random) * 0.05 for key, value in state.items()}, folder / BACKBONE_FILE
    )
    channels = (64, 128, 256, 384, 384, 512, 512)
    heads = {f"lin{k}.model.1.weight": torch.rand(1, n, 1, 1, generator=random) for k, n in enumerate(channels)}
    torch.save(heads, folder / HEADS_FILE)
    return folder
