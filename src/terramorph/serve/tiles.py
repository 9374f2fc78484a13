"""Encoded tiles of layers, from the caches or the queue."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from terramorph.errors import TerramorphError
from terramorph.raster import Raster
from terramorph.raster.save import image_of
from terramorph.redaction import redact_text
from terramorph.serve.cache import MemoryCache
from terramorph.serve.layers import Layer, View
from terramorph.serve.opening import Opener
from terramorph.serve.queue import BusyError, Queue, RateLimit
from terramorph.serve.settings import Settings
from terramorph.serve.uploads import Uploads
from terramorph.translate.memory import release_freed_memory

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    # Level 1 takes a third of the time of level 6, and files of photographs are no larger.
    "png": ("image/png", {"format": "PNG", "compress_level": 1}),
    "webp": ("image/webp", {"format": "WEBP", "quality": 90, "method": 2}),
    "jpg": ("image/jpeg", {"format": "JPEG", "quality": 90, "subsampling": 0}),
}
"""Media type and settings by suffix. PNG is lossless; JPEG has no opacity and shows white instead."""
_DRAIN = 10.0
"""Seconds that running work may take when the server shuts down."""
_MB = 1_000_000
_GATHERED = 8
"""Jobs that run at once on a GPU."""
LOOK = 2.0
"""Seconds between two checks of the files of layers."""
_BEFORE = 2
"""Number of replaced layers that still answer."""
_LOG = logging.getLogger("terramorph.serve")


def encode(raster: Raster, format: str) -> bytes:
    """Encode a tile.

    Args:
        raster: uint8 (1, 3 or 4 bands, H, W); a fourth band is opacity. Masked pixels are transparent.
        format: A key of `FORMATS`.
    """
    opacity = raster.pixels[3] if raster.count == 4 else np.full(raster.mask.shape, 255, np.uint8)
    opacity = np.where(raster.mask, opacity, 0).astype(np.uint8)
    bands = raster.pixels[:3] if raster.count >= 3 else raster.pixels[:1]
    if (opacity == 255).all():
        image = image_of(bands)
    elif format == "jpg":
        share = opacity.astype(np.float32)[None] / 255
        image = image_of(np.rint(bands * share + 255 * (1 - share)).astype(np.uint8))
    else:
        image = image_of(np.concatenate([np.where(raster.mask, bands, 0), opacity[None]]))
    stream = io.BytesIO()
    image.save(stream, **FORMATS[format][1])
    return stream.getvalue()


class Tile(NamedTuple):
    """A tile of a view: zoom, column and row, side in pixels, and its suffix."""

    layer: Layer
    view: View
    zoom: int
    x: int
    y: int
    size: int
    format: str

    @property
    def key(self) -> str:
        """Key in caches and in the queue, and the ETag."""
        return ".".join(map(str, (self.layer.identity, self.view.name, *self[2:])))


class TileServer:
    """Layers, their caches and the queue of their work.

    Files are checked every `LOOK` seconds. A layer whose model or source was replaced is opened beside the old one and
    takes its place; the old one still answers its URLs. Where the new files cannot be opened, the old layer stays.

    Attributes:
        settings: Settings of the server.
        layers: Layers by name, in the order in which they are offered.
        faults: Sentences by name about layers whose changed files cannot be opened.
        computing, reading: Queues of jobs that run the model, and of jobs that only read.
        memory: Cache of encoded tiles.
        windows: Windows that the models predict.
        uploads: Layers that clients have sent.

    Args:
        settings: Settings of the server.
        opener: Opener of the layers.

    Raises:
        TerramorphError: If a layer cannot be opened.
        StorageError: If the folder of the cache cannot be made.
    """

    def __init__(self, settings: Settings, opener: Opener) -> None:
        self.settings, self._opener = settings, opener
        self.layers = {one.name: opener.open(one) for one in settings.layers}
        self._states = {name: layer.state for name, layer in self.layers.items()}
        self.faults: dict[str, str] = {}
        self._before: deque[Layer] = deque()
        self._watch: asyncio.Task[None] | None = None
        # On a GPU jobs run at once, as windows of several share a pass; a CPU is busy with one.
        self.computing: Queue[Any] = Queue(settings.max_wait, _GATHERED if opener.gathers else 1)
        self.reading: Queue[Any] = Queue(settings.max_wait)
        self.memory = MemoryCache(settings.tile_cache_mb * _MB)
        self._folder = opener.folder
        self._probed: set[str] = set()
        self.windows, self._rates = opener.windows, RateLimit(settings.rate_limit)
        self.uploads = Uploads(settings, opener)

    def start(self) -> None:
        """Start to check files."""
        self._watch = asyncio.get_running_loop().create_task(self._look())

    def find(self, name: str, identity: str | None = None) -> Layer | None:
        """Return a layer by name, or with an identity a replaced one that clients' URLs still name."""
        layer = self.layers.get(name) or self.uploads.find(name)
        if layer is None or identity in (None, layer.identity):
            return layer
        return next((one for one in self._before if (one.name, one.identity) == (name, identity)), None)

    async def _look(self) -> None:
        before = released = 0
        while True:
            await asyncio.sleep(LOOK)
            computed = self.computing.computed
            if released < computed == before and not self.computing.seconds:  # idle since the last look
                released = computed
                await asyncio.to_thread(release_freed_memory)
            before = computed
            self.uploads.sweep()
            for one in self.settings.layers:
                state = await asyncio.to_thread(self._opener.state, one, self.layers[one.name].files)
                if state == self._states[one.name]:
                    continue
                self._states[one.name] = state
                try:
                    layer = await asyncio.to_thread(self._opener.open, one)
                except Exception as error:
                    self.faults[one.name] = f"{one.name} has changed and cannot be opened: {error}"
                    _LOG.error(redact_text(json.dumps({"layer": one.name, "error": str(error)})))
                    continue
                self.faults.pop(one.name, None)
                self._before.append(self.layers[one.name])
                self.layers[one.name], self._states[one.name] = layer, layer.state
                while len(self._before) > _BEFORE * len(self.settings.layers):
                    self._before.popleft().close()

    def held(self, tile: Tile) -> bytes | None:
        """Return an encoded tile, empty where there is no data; None if it is not in memory."""
        return None if tile.layer.private else self.memory.get(tile.key)

    async def tile(self, tile: Tile, client: str) -> tuple[bytes, str]:
        """Return a tile that is not in memory, empty where there is no data, and its origin: folder or made.

        Raises:
            BusyError: If too much work is queued, or the client has had its share.
            TerramorphError: If the tile cannot be made.
        """
        folder = None if tile.layer.private else self._folder
        if folder is not None and (found := await asyncio.to_thread(folder.get, tile.key)) is not None:
            self.memory.put(tile.key, found)
            return found, "folder"

        def make() -> bytes:
            raster = tile.layer.tile(tile.view, tile.zoom, tile.x, tile.y, tile.size)
            data = encode(raster, tile.format) if raster is not None else b""
            if not tile.layer.private:
                self.memory.put(tile.key, data)
            if folder is not None:
                folder.put(tile.key, data)
            return data

        queued = partial(self.run, patient=False) if tile.view.computed else self.reading.get
        return await queued(tile.key, client, make), "made"

    async def run(self, key: Hashable, client: str, work: Callable[[], Any], *, patient: bool = True) -> Any:
        """Return the result of work that needs the model, run in its turn.

        Raises:
            BusyError: If too much work is queued, or the client has had its share.
        """

        def counted() -> Any:
            before = self.windows.mine
            try:
                return work()
            finally:
                self._rates.spend(client, self.windows.mine - before)

        self._rates.check(client)
        return await self.computing.get(key, client, counted, patient=patient)

    async def problem(self) -> str | None:
        """Return a sentence on why the server cannot serve, or None. A pixel of every layer is read once as a test."""
        for layer in self.layers.values():
            if layer.name in self.faults:
                return f"The files of {layer.name} have changed and cannot be opened; the old ones are served."
            if layer.identity in self._probed:
                continue
            middle = layer.grid.crop(layer.grid.height // 2, layer.grid.width // 2, 1, 1)
            probe = partial(layer.source.read, middle)
            try:
                await self.reading.get(("probe", layer.identity), "probe", probe, patient=True)
            except BusyError as error:
                return f"{layer.name} was not read yet. {error.detail}"
            except TerramorphError:
                return f"The source of {layer.name} cannot be read; the log says why."
            self._probed.add(layer.identity)
        return None

    def status(self) -> dict[str, Any]:
        """Return numbers on queues and caches, for the page."""
        return {
            "computed": self.computing.computed,
            "joined": self.computing.joined,
            "dropped": self.computing.dropped,
            "windows": self.windows.predicted,
            "queue_seconds": round(self.computing.seconds, 2),
        }

    async def close(self) -> None:
        """End the work and close the layers."""
        if self._watch is not None:
            self._watch.cancel()
        await asyncio.gather(self.computing.close(_DRAIN), self.reading.close(_DRAIN))
        for layer in (*self.layers.values(), *self._before):
            layer.close()
        self.uploads.close()
