"""A configuration that trains in a second, and feature weights that know nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from terramorph.metrics import BACKBONE_FILE, HEADS_FILE, SqueezeNetFeatures
from terramorph.training import TrainConfig, load_config


@pytest.fixture(scope="session")
def tiny() -> Callable[..., TrainConfig]:
    """Makes the pix2pix preset small: U-Net 64 of width 4 on 64 px crops, three steps; keywords use __ for a dot."""

    def make(**changes: Any) -> TrainConfig:
        small = {
            "batch_size": 2,
            "max_steps": 3,
            "device": "cpu",
            "recalibrate": 2,
            "data.load_size": 72,
            "data.crop_size": 64,
            "generator.network": "unet64",
            "generator.width": 4,
            "discriminator.width": 4,
            "log.sheet": 2,
        }
        return load_config("pix2pix", {**small, **{key.replace("__", "."): value for key, value in changes.items()}})

    return make


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
