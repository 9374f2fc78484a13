"""Fixtures that every part of the suite shares: a small town, its pairs, and weights for LPIPS, made once."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import processes

if TYPE_CHECKING:  # the process that hands out tests reads this file, and begins sooner without torch
    from terramorph.raster import Raster
    from terramorph.town import Town
    from terramorph.training import TrainConfig

TINY = {
    "batch_size": 2,
    "device": "cpu",
    "recalibrate": 2,
    "data.load_size": 72,
    "data.crop_size": 64,
    "generator.network": "unet64",
    "generator.width": 4,
    "discriminator.width": 4,
    "log.sheet": 2,
}
"""Settings of a model that trains in a moment."""


gc.disable()  # until all tests are collected: an import makes much and leaves little to collect


def pytest_xdist_auto_num_workers() -> int:
    """More than processors: a test that waits for a process, a browser or a time limit leaves its own idle."""
    return 3 * (os.cpu_count() or 2) // 2


def pytest_collection_finish() -> None:
    """What the modules hold is looked through no more: that took a third of a second each time."""
    gc.freeze()
    gc.enable()


def make_tiny(**changes: Any) -> TrainConfig:
    """The preset pix2pix made tiny; changes are given with __ for the dot of a key."""
    from terramorph.training import load_config

    return load_config("pix2pix", {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}})


def tiny_settings(**changes: Any) -> list[str]:
    """The same as words of the command line."""
    settings = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(autouse=True, scope="session")
def _notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is measured in the suite stays out of the notes of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("terramorph.translate.backends.pytorch.TUNED", tmp_path_factory.mktemp("notes") / "tuned.json")
        yield


@pytest.fixture(autouse=True, scope="session")
def _copies() -> Iterator[None]:
    """Whoever spawns a process gets a copy of one that has imported what takes seconds to import."""
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(processes, "Copies"):
            copies, context = processes.Copies(), multiprocessing.get_context
            copies.set_forkserver_preload(processes.PRELOADED)
            patch.setattr(multiprocessing, "get_context", lambda how=None: copies if how == "spawn" else context(how))
        yield


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Commands choose a number of threads for their process; the next test begins with the machine's own again."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts of pages are empty: drawing them takes longer than a small training."""
    empty = '<svg viewBox="0 0 9 9"></svg>'
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **how: file.write(empty))


@pytest.fixture(scope="session")
def small_town() -> Town:
    """A town of 512 x 512 px at 1 m/px."""
    from terramorph.town import make_town

    return make_town(size_px=512, seed=0)


@pytest.fixture(scope="session")
def small_town_sides(small_town: Town) -> tuple[Raster, Raster]:
    """Its aerial and its map, painted once; copy what is written to."""
    return small_town.aerial(), small_town.map()


@pytest.fixture(scope="session")
def town_pairs(
    small_town: Town, small_town_sides: tuple[Raster, Raster], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A classic folder: train/ with 12 and val/ with 4 PNG pairs of 256 x 128 px, aerial left, map right."""
    from terramorph.town import write_town_pairs

    folder = tmp_path_factory.mktemp("town_pairs")
    write_town_pairs(small_town, folder, tile=128, aerial=small_town_sides[0], drawn=small_town_sides[1])
    return folder


@pytest.fixture(scope="session")
def tiny() -> Callable[..., TrainConfig]:
    """Makes a configuration that trains in a moment; see `make_tiny`."""
    return make_tiny


@pytest.fixture(scope="session")
def feature_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the SqueezeNet and LPIPS weights that `--weights` takes, of random numbers."""
    import torch

    from terramorph.metrics import BACKBONE_FILE, HEADS_FILE, Lpips

    folder = tmp_path_factory.mktemp("feature_weights")
    generator = torch.Generator().manual_seed(0)
    state = Lpips().layers.state_dict()
    torch.save({k: torch.randn(v.shape, generator=generator) * 0.1 for k, v in state.items()}, folder / BACKBONE_FILE)
    channels = (64, 128, 256, 384, 384, 512, 512)
    heads = {f"lin{k}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for k, c in enumerate(channels)}
    torch.save(heads, folder / HEADS_FILE)
    return folder


@pytest.fixture(scope="module")
def start_chromium() -> Iterator[Callable[..., Any]]:
    """Starts Chromium with the given flags.

    The driver runs an event loop in this thread: as long as it does there can be no second one, nor asyncio.run.
    """
    from .chromium import CHROMIUM, PATIENCE, patient, playwright

    with playwright.sync_playwright() as driver, ExitStack() as stack:

        def start(*flags: str) -> Any:
            args = ["--no-sandbox", "--disable-dev-shm-usage", *flags]
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=args, timeout=PATIENCE)
            stack.callback(browser.close)
            return patient(browser)

        yield start
