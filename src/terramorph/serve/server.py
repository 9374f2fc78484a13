"""Opening and running a server."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from wsgiref.simple_server import WSGIServer

import uvicorn
from prometheus_client import start_http_server

from terramorph.errors import ConfigError, InputError, StorageError, converted, raised_as
from terramorph.redaction import stem_of
from terramorph.serve.app import App
from terramorph.serve.opening import Opener
from terramorph.serve.settings import LayerSettings, Settings, load_settings
from terramorph.serve.tiles import TileServer
from terramorph.translate import Model, load


def open_server(settings: Settings, models: dict[str, Model] | None = None) -> App:
    """Load the models and open the layers.

    Args:
        models: Loaded models by their names in the settings.

    Raises:
        TerramorphError: If a model or a source cannot be opened, or they do not fit.
    """
    return App(TileServer(settings, Opener(settings, models)))


class Server(uvicorn.Server):
    """Serves an app until a signal: readiness says no at once, running work ends, then the process."""

    def __init__(self, app: App) -> None:
        settings = app.settings
        super().__init__(
            uvicorn.Config(
                app.asgi,
                interface="asgi3",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=10,
                limit_concurrency=512,
                server_header=False,
            )
        )
        self._app = app
        self.socket = _bound(settings.host, settings.port)
        self.metrics: WSGIServer | None = None
        if settings.metrics_port is not None:
            with _taking(settings.host, settings.metrics_port), ExitStack() as unless:
                unless.callback(self.socket.close)
                self.metrics, _ = start_http_server(settings.metrics_port, settings.host, app.metrics.registry)
                unless.pop_all()

    @property
    def address(self) -> str:
        """URL of the server."""
        host, port = self.socket.getsockname()[:2]
        host = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
        return f"http://{host}:{port}{self._app.settings.root_path}/"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM and SIGINT: the first ends the server without failure, the second at once."""
        self._app.draining = True
        self.should_exit, self.force_exit = True, self.should_exit

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what runs, then the metrics, which tell of it until then."""
        await super().shutdown(sockets)
        if self.metrics is not None:
            self.metrics.shutdown()
            self.metrics.server_close()

    def serve_until_told(self, ready: Callable[[str], None]) -> None:
        """Serve until a signal.

        Args:
            ready: Function of the URL, called once the port is bound.
        """
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        ready(self.address)
        self.run(sockets=[self.socket])


def one_layer(
    model: Model | str | Path, source: str | Path, *, truth: str | Path | None = None, **settings: Any
) -> Server:
    """Make a server of one translation.

    Args:
        model: A model of `load`, or an argument of `load`.
        source: Path or URL of the raster or vectors to translate.
        truth: Path or URL of the true map or photograph, if there is one.
        settings: Other fields of `Settings`.

    Raises:
        TerramorphError: If the source cannot be opened or does not fit the model, or is held in memory.
    """
    model = model if isinstance(model, Model) else load(model)
    for held in (source, truth):
        if not isinstance(held, str | Path | None):
            raise InputError(
                f"The source and truth of a viewer must be paths or URLs, got a {type(held).__name__}; save it "
                "(Raster.save), and give its path."
            )
    sides = {"source": str(source), "truth": None if truth is None else str(truth)}
    layer = LayerSettings(name="layer", title=stem_of(str(source)), model="model", **sides)
    return Server(open_server(load_settings(values={**settings, "layers": [layer]}), {"model": model}))


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio sets no TCP_NODELAY
    if os.name == "posix":  # on Windows it would allow two servers on one port
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with _taking(host, port), ExitStack() as unless:
        unless.callback(bound.close)
        bound.bind((host, port))
        bound.listen(2048)  # clients may connect as soon as they know the address
        unless.pop_all()
    return bound


@contextmanager
def _taking(host: str, port: int) -> Iterator[None]:
    """Turn errors of a block that takes a port into ours.

    Raises:
        ConfigError: If the host is not an address of this machine.
        StorageError: If the port is taken.
    """

    def not_here(reason: str) -> ConfigError:
        return ConfigError(f"`host` must be an address of this machine, got {host} ({reason}).")

    with (
        raised_as(StorageError, f"Port {port} of {host} cannot be taken", "choose another", OSError),
        converted(not_here, socket.gaierror),
    ):
        yield
