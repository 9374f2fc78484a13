"""Caches bounded in bytes: in memory, and in a folder that several servers may share; and predicted windows."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from cachetools import LRUCache
from filelock import FileLock, Timeout

from terramorph.atomic import atomic, make_folder
from terramorph.errors import StorageError
from terramorph.translate.parts import npy_bytes
from terramorph.translate.tiled import Part

_ENTRY = 256
"""Bytes that an entry in memory takes besides its value, so that empty tiles are bounded too."""
_SWEEP = 256
"""Number of files written between two checks of the folder's size."""
_PATIENCE = 60.0
"""Seconds to wait for a value that another server makes, before making it here too."""
_KEEP = 0.9
"""Size of a folder after a sweep, as a share of its bound."""


class MemoryCache:
    """The most recently used values by key; thread-safe.

    Attributes:
        hits, misses: Numbers of lookups so far.

    Args:
        most: Largest number of bytes of all values, each with `_ENTRY` more.
    """

    def __init__(self, most: int) -> None:
        self.hits = self.misses = 0
        self._values: LRUCache[str, bytes] = LRUCache(most, getsizeof=lambda value: len(value) + _ENTRY)
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Return a value; None for a missing one."""
        with self._lock:
            value: bytes | None = self._values.get(key)
            if value is None:
                self.misses += 1
            else:
                self.hits += 1
            return value

    def put(self, key: str, value: bytes) -> None:
        """Store a value; the least recently used ones are dropped."""
        with self._lock, suppress(ValueError):  # raised for a value larger than the cache
            self._values[key] = value

    @property
    def bytes(self) -> int:
        """Bytes of all values, each with `_ENTRY` more."""
        return int(self._values.currsize)


class FolderCache:
    """Values in files, written atomically, of which the least recently used are removed. Processes may share a folder.

    Files that cannot be read or written count as missing: a full disk makes a server slower and never stops it.

    Args:
        folder: Folder of the files, made if missing.
        most: Approximate largest number of bytes of all files.

    Raises:
        StorageError: If the folder cannot be made.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most, self._written = folder, most, 0
        self._lock = threading.Lock()
        make_folder(folder)

    def get(self, key: str) -> bytes | None:
        """Return a value; None for a missing one."""
        path = self._path(key)
        try:
            value = path.read_bytes()
            path.touch()  # its time of last use
        except OSError:
            return None
        return value

    def put(self, key: str, value: bytes) -> None:
        """Store a value."""
        with suppress(StorageError), atomic(self._path(key), make_folder=True) as part:
            part.write_bytes(value)
        with self._lock:
            self._written += 1
            due = self._written % _SWEEP == 1
        if due:
            self._sweep()

    def once(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Return a value; a missing one is made by one of the servers, and the others wait for it."""
        value = self.get(key)
        if value is not None:
            return value
        # Few locks for all keys, as lock files cannot be removed; the system releases those of a process that ends.
        lock = FileLock(self._folder / f".{self._path(key).parent.name}.lock")
        with suppress(OSError, NotImplementedError, Timeout):
            lock.acquire(timeout=_PATIENCE, poll_interval=0.02)
        try:
            value = self.get(key) if lock.is_locked else None
            if value is None:
                value = make()
                self.put(key, value)
            return value
        finally:
            lock.release()

    def _path(self, key: str) -> Path:
        name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return self._folder / name[:2] / name[2:]

    def _sweep(self) -> None:
        found = []
        for path in self._folder.glob("*/*"):
            with suppress(OSError):  # another server may have removed it
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in found)
        if total <= self._most:
            return
        for _, size, path in sorted(found):
            with suppress(OSError):
                path.unlink()
            total -= size
            if total <= _KEEP * self._most:
                return


class Windows:
    """Predicted windows: counted and, with a folder, predicted by only one of the servers that share it.

    Attributes:
        predicted: Number of windows predicted here.

    Args:
        folder: Cache of the windows; None keeps none.
    """

    def __init__(self, folder: FolderCache | None) -> None:
        self.predicted, self._folder = 0, folder
        self._lock, self._mine = threading.Lock(), threading.local()

    @property
    def mine(self) -> int:
        """Number of windows predicted here by the thread that asks."""
        return int(getattr(self._mine, "predicted", 0))

    def get(self, key: str | None, predict: Callable[[], Part | None]) -> Part | None:
        """Return a window.

        Args:
            key: Digest of all that determines its pixels; None: it is not kept.
            predict: Function that makes it, with one sample.
        """

        made: list[Part | None] = []

        def predicted() -> Part | None:
            with self._lock:
                self.predicted += 1
            self._mine.predicted = self.mine + 1
            made.append(predict())
            return made[0]

        def encoded() -> bytes:
            part = predicted()
            return npy_bytes(np.empty(0) if part is None else part.pixels)

        if self._folder is None or key is None:
            return predicted()
        data = self._folder.once(key, encoded)
        if made:
            return made[0]
        pixels = np.load(io.BytesIO(data), allow_pickle=False)
        return Part(pixels) if pixels.size else None
