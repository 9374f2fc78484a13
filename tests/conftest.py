"""Fixtures that every part of the suite shares: a small town and its pairs, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from terramorph.town import Town, make_town, write_town_pairs


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Commands choose a number of threads for their process; the next test begins with the machine's own again."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_town() -> Town:
    """A town of 512 x 512 px at 1 m/px."""
    return make_town(size_px=512, seed=0)


@pytest.fixture(scope="session")
def town_pairs(small_town: Town, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classic folder: train/ with 12 and val/ with 4 PNG pairs of 256 x 128 px, aerial left, map right."""
    folder = tmp_path_factory.mktemp("town_pairs")
    write_town_pairs(small_town, folder, tile=128)
    return folder
