"""A configuration that trains in a second, and what is looked at in the runs it makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from terramorph.training import TrainConfig

Tiny = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def tiny(tiny: Tiny) -> Tiny:
    """The suite's, and three steps long."""
    return lambda **changes: tiny(**{"max_steps": 3, **changes})


def same_weights(one: Path, other: Path) -> bool:
    """Whether two .safetensors files hold the same tensors to the bit."""
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def losses_of(run: Path) -> list[dict[str, Any]]:
    """The logged steps of a run."""
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]
