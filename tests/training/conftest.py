"""A configuration that trains in a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

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
