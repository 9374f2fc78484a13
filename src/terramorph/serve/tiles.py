"""Encoded tiles of layers, from the caches or from the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

from terramorph.errors import TerramorphError
from terramorph.geo import Grid
from terramorph.serve.cache import FolderCache, MemoryCache
from terramorph.serve.layers import Layer, View
from terramorph.serve.pictures import encode
from terramorph.serve.queue import Queue
from terramorph.serve.settings import Settings

_PROBE = 16
"""Side in pixels of what is read of every layer to know that it can be."""
_DRAIN = 10.0
"""Seconds that running work may take once the server is to end."""
_MB = 1_000_000


class TileServer:
    """Layers, their caches and the queue of their work.

    Attributes:
        settings: of the server.
        layers: by name.
        computing, reading: the queues of what the model makes, and of what is only read.
        memory: encoded tiles.

    Args:
        settings: of the server.
        layers: by name; closed at the end.

    Raises:
        StorageError: if the folder of the cache cannot be made.
    """

    def __init__(self, settings: Settings, layers: Mapping[str, Layer]) -> None:
        self.settings, self.layers = settings, dict(layers)
        self.computing: Queue[Any] = Queue(settings.max_wait)
        self.reading: Queue[Any] = Queue(settings.max_wait)
        self.memory = MemoryCache(settings.tile_cache_mb * _MB)
        self._folder = FolderCache(settings.cache, settings.cache_mb * _MB) if settings.cache is not None else None
        self._probed: set[str] = set()

    async def tile(
        self, layer: Layer, view: View, zoom: int, x: int, y: int, size: int, format: str, client: str
    ) -> tuple[bytes, str]:
        """An encoded tile, empty where there is no data, and where it came from: memory, folder or made.

        Raises:
            BusyError: if too much work is queued.
            TerramorphError: if it cannot be made.
        """
        key = f"{layer.identity} {view.name} {zoom} {x} {y} {size} {format}"
        found = self.memory.get(key)
        if found is not None:
            return found, "memory"
        if self._folder is not None:
            found = await asyncio.to_thread(self._folder.get, key)
            if found is not None:
                self.memory.put(key, found)
                return found, "folder"

        def make() -> bytes:
            raster = layer.tile(view, zoom, x, y, size)
            data = encode(raster, format) if raster is not None else b""
            self.memory.put(key, data)
            if self._folder is not None:
                self._folder.put(key, data)
            return data

        queue = self.computing if view.computed else self.reading
        return await queue.get(key, client, make), "made"

    async def run(self, key: Hashable, client: str, work: Callable[[], Any]) -> Any:
        """The result of work that needs the model, in its turn.

        Raises:
            BusyError: if too much work is queued.
        """
        return await self.computing.get(key, client, work)

    async def problem(self) -> str | None:
        """Why the server cannot serve, in one sentence, or None: a piece of every layer is read once."""
        for layer in self.layers.values():
            if layer.identity in self._probed:
                continue
            try:
                await self.reading.get(("probe", layer.identity), "probe", partial(_probe, layer))
            except TerramorphError:
                return f"The source of {layer.name} cannot be read; the log says why."
            self._probed.add(layer.identity)
        return None

    def status(self) -> dict[str, Any]:
        """Figures of the work, for the page."""
        return {
            "computed": self.computing.computed,
            "joined": self.computing.joined,
            "dropped": self.computing.dropped,
            "queue_seconds": round(self.computing.seconds, 2),
        }

    async def close(self) -> None:
        """Ends the work and closes the layers."""
        await asyncio.gather(self.computing.close(_DRAIN), self.reading.close(_DRAIN))
        for layer in self.layers.values():
            layer.close()


def _probe(layer: Layer) -> None:
    height, width = layer.grid.shape
    side_y, side_x = min(_PROBE, height), min(_PROBE, width)
    grid: Grid = layer.grid.crop((height - side_y) // 2, (width - side_x) // 2, side_y, side_x)
    layer.source.read(grid)
