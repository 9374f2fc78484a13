"""A small raster and model, and the program under a path with spaces, as users have them."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import terramorph
from terramorph.bundle import Bands, Bundle
from terramorph.networks import build_network, initialize
from terramorph.qgis import FOLDER, write_plugin
from terramorph.raster import write_image
from terramorph.town import Town

from . import stubs

RGB = Bands(names=("red", "green", "blue"))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in as QGIS gets it."""
    return write_plugin(tmp_path_factory.mktemp("plugin") / "terramorph-qgis.zip")


@pytest.fixture(scope="session")
def raster(small_town: Town, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 px of a town from above, 1 m a pixel."""
    path = tmp_path_factory.mktemp("my rasters") / "a town.tif"
    write_image(small_town.aerial().crop(0, 0, 256, 256), path)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net 64 of random weights."""
    network = build_network("unet64", width=4)
    initialize(network, torch.Generator().manual_seed(3), gain=0.15)
    bundle = Bundle.of(network, "unet64", source=RGB, target=RGB, size=64, ground_resolution=1.0)
    return bundle.save(tmp_path_factory.mktemp("my models") / "model.safetensors")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A script that runs terramorph as it is in this checkout."""
    if os.name == "nt":
        pytest.skip("the program is a shell script here")
    path = tmp_path_factory.mktemp("my programs") / "terramorph"
    source = Path(terramorph.__file__).parents[1]
    path.write_text(
        f'#!/bin/sh\nPYTHONPATH="{source}{os.pathsep}$PYTHONPATH" OMP_NUM_THREADS=1 '
        f'exec "{sys.executable}" -m terramorph "$@"\n',
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def plugin(archive: Path, tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The plug-in, imported from its archive over stubs of QGIS; `plugin("panel")` is its module of that name."""
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with stubs.installed():
        stubs.settings["terramorph/command"] = str(program)

        def module(name: str = "") -> ModuleType:
            return importlib.import_module(f"{FOLDER}.{name}" if name else FOLDER)

        try:
            yield module
        finally:
            for name in [name for name in sys.modules if name.partition(".")[0] == FOLDER]:
                del sys.modules[name]
