"""A server of a small town and a small network, on a real socket."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import urllib3
from PIL import Image

from terramorph.bundle import Bands, Bundle
from terramorph.networks import build_network, initialize
from terramorph.raster import Raster, write_image
from terramorph.serve import LayerSettings, Server, Settings, open_server
from terramorph.town import make_town
from terramorph.translate import Model

RGB = Bands(names=("red", "green", "blue"))
RESOLUTION = 2.0
HTTP = urllib3.PoolManager(maxsize=40, retries=urllib3.Retry(2, redirect=False, respect_retry_after_header=False))
"""Waits as long as it takes (`urllib3.request` 3 s), and again where a resting connection was closed meanwhile."""


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net 64 of random weights, whose receptive field is not bounded."""
    network = build_network("unet64", width=8, upsampling="resize")
    initialize(network, torch.Generator().manual_seed(3), gain=0.15)
    bundle = Bundle.of(
        network, "unet64", source=RGB, target=RGB, size=64, ground_resolution=RESOLUTION, note="Of a test."
    )
    return bundle.save(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="session")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A town from above, with a corner without data, and its map."""
    folder, town = tmp_path_factory.mktemp("town"), make_town(700, seed=2, resolution=RESOLUTION)
    aerial = town.aerial()
    mask = np.ones(aerial.mask.shape, bool)
    mask[:200, :150] = False
    write_image(Raster(aerial.pixels, mask, aerial.grid, aerial.bands), folder / "aerial.tif")
    write_image(town.map(), folder / "map.tif")
    return folder / "aerial.tif", folder / "map.tif"


def pixels(data: bytes) -> np.ndarray:
    """The pixels of an encoded tile, uint8 (H, W, 4)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


class Client:
    """Asks a server.

    Attributes:
        server: that is asked.
        app: its routes.
    """

    def __init__(self, server: Server, app: Any) -> None:
        self.server, self.app = server, app

    def get(self, path: str, **headers: str) -> urllib3.BaseHTTPResponse:
        """The answer to GET."""
        return HTTP.request("GET", self.server.address + path.lstrip("/"), headers=headers)

    def json(self, path: str) -> Any:
        """The document that an answer of 200 holds."""
        answer = self.get(path)
        assert answer.status == 200, answer.data[:300]
        return json.loads(answer.data)

    def tile(self, view: str, z: int, x: int, y: int, format: str = "png") -> urllib3.BaseHTTPResponse:
        """A tile of the town."""
        return self.get(f"/t/town/{view}/{z}/{x}/{y}.{format}")


@contextmanager
def serving(settings: Settings, models: dict[str, Model] | None = None) -> Iterator[Client]:
    """A server on a free port, in a thread."""
    app = open_server(settings, models)
    server = Server(app)
    thread = threading.Thread(target=server.serve_until_told, args=(lambda address: None,))
    thread.start()
    try:
        client = Client(server, app)
        yield client
    finally:
        server.should_exit = True
        thread.join(240)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def settings(model_path: Path, sides: tuple[Path, Path]) -> Callable[..., Settings]:
    """Makes settings of the town's server."""

    def make(**changes: Any) -> Settings:
        layer = LayerSettings(
            name="town", model=str(model_path), source=str(sides[0]), truth=str(sides[1]), attribution="© the town"
        )
        return Settings(**{"layers": (layer,), "port": 0, "max_wait": 240.0, **changes})  # a machine may be slow

    return make


@pytest.fixture(scope="session")
def client(settings: Callable[..., Settings]) -> Iterator[Client]:
    """A client of the town's server."""
    with serving(settings()) as client:
        yield client
