"""A study that trains in a second or two."""

from __future__ import annotations

import gc
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

BASE = """
[base]
preset = "pix2pix"
[base.settings]
batch_size = 2
device = "cpu"
recalibrate = 2
data = { load_size = 72, crop_size = 64 }
generator = { network = "unet64", width = 4 }
discriminator = { width = 4 }
log.sheet = 2
"""


@pytest.fixture(scope="session")
def write_study(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a study's TOML: changes, and what stands at its head and in its budget."""

    def write(
        changes: str = '[[change]]\nname = "lsgan"\nsettings.loss.adversarial = "lsgan"\nsource = "Mao et al."\n',
        *,
        head: str = 'seeds = 2\nmetrics = ["psnr", "miou"]\n',
        budget: str = "images = 6",
        name: str = "small.toml",
        base: str = BASE,
    ) -> Path:
        path = tmp_path_factory.mktemp("study") / name
        path.write_text(f"{head}{base}[budget]\n{budget}\n{changes}")
        return path

    return write


@pytest.fixture(scope="session")
def tune_space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a small study may change."""
    path = tmp_path_factory.mktemp("space") / "space.toml"
    path.write_text(
        '"optimizer.learning_rate" = { low = 1e-5, high = 1e-2, log = true }\n"batch_size" = { choices = [1, 2] }\n'
    )
    return path


@pytest.fixture(autouse=True, scope="session")
def _libraries_are_not_collected() -> None:
    """Every run of a study collects garbage, and would look through all that is imported."""
    for name in ("matplotlib.figure", "terramorph.evaluation.run", "torch._dynamo"):
        import_module(name)
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _charts_are_not_drawn(without_charts: None) -> None:
    """But in the studies that modules share."""


@pytest.fixture(scope="session")
def study_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded pairs of all studies."""
    return tmp_path_factory.mktemp("cache")
