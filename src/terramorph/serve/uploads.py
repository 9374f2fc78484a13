"""Uploads: GeoTIFFs that clients send are checked, served as layers for an hour, and deleted."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from starlette.exceptions import HTTPException

from terramorph.errors import TerramorphError
from terramorph.raster.foreign import check_foreign
from terramorph.serve.layers import Layer
from terramorph.serve.opening import UPLOADS, Opener
from terramorph.serve.settings import LayerSettings, Settings

HEADER = "X-Terramorph"
"""Header that uploads need: no page of another site can send it."""
LIFE = 3600.0
"""Seconds after which an upload is deleted."""
STALL = 60.0
"""Seconds without a byte after which an upload is refused."""
_PREFIX, _LOCK = "terramorph-uploads-", "lock"
"""Prefix of folders of uploads, and the file in each that its server holds locked."""
_NEW = 60.0
"""Seconds after which a new folder must have a lock."""
_QUOTA = 4
_MB = 1_000_000
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PLACELESS = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG"}
_HEAD = 4


class RefusedError(HTTPException):
    """An upload is refused, with a sentence for the client; the rest of its body is not read."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence, {"Connection": "close"})


@dataclass
class _Upload:
    path: Path
    like: LayerSettings
    size: int = 0
    layer: Layer | None = None
    until: float = 0.0


class Uploads:
    """Layers that clients have sent, by name. Files have generated names in a temporary folder, deleted at the end.

    Folders that killed servers have left are deleted when the next one starts.

    Args:
        settings: Settings of the server; without `uploads` there is no folder.
        opener: Opener of the layers.
    """

    def __init__(self, settings: Settings, opener: Opener) -> None:
        self._opener, self._most = opener, settings.upload_mb * _MB
        self._folder = self._lock = None
        if settings.uploads:
            remove_left_over()
            self._folder = TemporaryDirectory(prefix=_PREFIX)
            self._lock = FileLock(Path(self._folder.name) / _LOCK)
            self._lock.acquire()
        self._held: dict[str, _Upload] = {}
        self._bytes = self._coming = 0
        self._turn = asyncio.Lock()

    def find(self, name: str) -> Layer | None:
        """Return a layer by name, until its hour is over."""
        upload = self._held.get(name)
        return upload.layer if upload is not None and time.monotonic() < upload.until else None

    def like(self, name: str) -> LayerSettings | None:
        """Return the settings of the layer whose model an upload has."""
        return self._held[name].like if self.find(name) is not None else None

    async def receive(self, body: AsyncIterator[bytes], like: LayerSettings) -> Layer:
        """Make a layer of a client's GeoTIFF, translated by the model of another layer.

        Raises:
            RefusedError: If the upload is refused; its file is deleted.
        """
        assert self._folder is not None
        self.sweep()
        if len(self._held) + self._coming >= UPLOADS:
            raise RefusedError(503, f"The server holds {UPLOADS} uploads already; try again in an hour.")
        upload = _Upload(Path(self._folder.name) / f"{secrets.token_hex(16)}.tif", like)
        self._coming += 1
        try:
            await self._store(body, upload)
            async with self._turn:
                upload.layer = await asyncio.to_thread(self._opened, upload.path, like)
        except BaseException as error:
            self._delete(upload)
            if isinstance(error, OSError):
                raise RefusedError(507, "The server has no room for the upload; try again later.") from error
            raise
        finally:
            self._coming -= 1
        upload.until = time.monotonic() + LIFE
        self._held[upload.layer.name] = upload
        return upload.layer

    def sweep(self) -> None:
        """Delete uploads whose hour is over."""
        for name, upload in list(self._held.items()):
            if time.monotonic() >= upload.until:
                self._delete(self._held.pop(name))

    def close(self) -> None:
        """Delete all uploads."""
        while self._held:
            self._delete(self._held.popitem()[1])
        if self._folder is not None and self._lock is not None:
            self._lock.release()  # Windows removes no open files
            self._folder.cleanup()

    def _delete(self, upload: _Upload) -> None:
        self._bytes -= upload.size
        if upload.layer is not None:
            upload.layer.close()
        with suppress(OSError):
            upload.path.unlink(missing_ok=True)

    async def _store(self, body: AsyncIterator[bytes], upload: _Upload) -> None:
        """Write a body to the file, within the limits."""
        head = b""
        with upload.path.open("xb") as file:
            while True:
                try:
                    chunk = await asyncio.wait_for(anext(body, None), STALL)
                except TimeoutError:
                    raise RefusedError(408, f"No byte of the upload came for {STALL:.0f} s; send it again.") from None
                if chunk is None:
                    break
                if len(head) < _HEAD:
                    head += chunk[:_HEAD]
                    if len(head) >= _HEAD:
                        _check_kind(head)
                upload.size += len(chunk)
                self._bytes += len(chunk)
                if upload.size > self._most:
                    raise _too_large(self._most // _MB)
                if self._bytes > _QUOTA * self._most:
                    raise RefusedError(
                        503, "The server holds as many bytes of uploads as it may; try again in an hour."
                    )
                await asyncio.to_thread(file.write, chunk)
        if len(head) < _HEAD:
            _check_kind(head)

    def _opened(self, path: Path, like: LayerSettings) -> Layer:
        name = f"upload-{secrets.token_hex(6)}"
        one = LayerSettings(
            name=name,
            title="Your upload",
            model=like.model,
            source=str(path),
            resolution=like.resolution,
            style=like.style,
        )
        try:
            check_foreign(path)
            return self._opener.open(one, upload=True)
        except TerramorphError as error:
            said = (
                str(error).replace(str(path), "The upload").replace(path.name, "yours.tif").replace(path.stem, "yours")
            )
            raise RefusedError(400, said) from error


def remove_left_over() -> None:
    """Delete folders of uploads that killed servers have left: nobody holds their lock."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # Folders of another user, new ones and ones deleted meanwhile are left alone.
        with suppress(OSError, Timeout):
            if folder.is_symlink() or time.time() - folder.stat().st_mtime < _NEW:
                continue
            with FileLock(folder / _LOCK).acquire(blocking=False):
                pass
            shutil.rmtree(folder)


def check_sender(headers: Mapping[str, str], own: Collection[str], most: int) -> None:
    """Refuse requests that another site makes a browser send, and those that declare too large a size.

    Args:
        headers: Headers of the request; names in any case.
        own: Hosts, with ports, of the server.
        most: Largest size of an upload, MB.

    Raises:
        RefusedError: If the request is refused.
    """
    origin = headers.get("origin")
    if headers.get(HEADER) != "upload" or (origin is not None and urlsplit(origin).netloc not in set(own) - {""}):
        raise RefusedError(403, f"Uploads must come from the server's own page, or with the header {HEADER}: upload.")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > most * _MB:
        raise _too_large(most)


async def drained(body: AsyncIterator[bytes], most: int) -> None:
    """Discard the rest of a body, up to ``most`` MB and a second: many clients read no response before they have sent
    all."""
    gone = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            async for chunk in body:
                gone += len(chunk)
                if gone > most * _MB:
                    return


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, f"The upload is over the limit of {most} MB; cut it into smaller pieces.")


def _check_kind(head: bytes) -> None:
    """Refuse files that are not TIFF by their first bytes, so that no other decoder opens them."""
    if head[:_HEAD] in _TIFF:
        return
    kind = next((kind for start, kind in _PLACELESS.items() if head.startswith(start)), None)
    if kind is not None:
        raise RefusedError(
            415, f"The upload is a {kind}, which does not say where on Earth it is; georeference it as a GeoTIFF."
        )
    raise RefusedError(415, "The upload is not a TIFF; send a GeoTIFF.")
