"""Caches bounded in bytes: one in memory, and one in a folder that several servers may share."""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cachetools import LRUCache

from terramorph.atomic import atomic, make_folder
from terramorph.errors import StorageError

_ENTRY = 256
"""Bytes that an entry in memory takes besides its value: empty tiles are bounded too."""
_SWEEP = 256
"""Files written between two looks at the size of the folder."""
_KEEP = 0.9
"""Share of its bound that a folder has after a sweep."""


class Stats(NamedTuple):
    """What a cache holds, and how it did: entries, bytes, hits, misses."""

    entries: int
    bytes: int
    hits: int
    misses: int


class MemoryCache:
    """The most recently used values, by key. Thread safe.

    Args:
        most: bytes of values together, each with `_ENTRY` more.
    """

    def __init__(self, most: int) -> None:
        self._hits = self._misses = 0
        self._values: LRUCache[str, bytes] = LRUCache(most, getsizeof=lambda value: len(value) + _ENTRY)
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """The value, or None."""
        with self._lock:
            value: bytes | None = self._values.get(key)
            if value is None:
                self._misses += 1
            else:
                self._hits += 1
            return value

    def put(self, key: str, value: bytes) -> None:
        """Keeps a value, and lets the least recently used go."""
        with self._lock, suppress(ValueError):  # of a value larger than the cache
            self._values[key] = value

    @property
    def stats(self) -> Stats:
        """What it holds, and how it did."""
        with self._lock:
            return Stats(len(self._values), int(self._values.currsize), self._hits, self._misses)


class FolderCache:
    """Values as files that appear whole; the least recently used go. Several processes may share a folder.

    What cannot be read or written counts as not there: a full disk makes a server slower, and stops it never.

    Args:
        folder: of the files; it is made if it is missing.
        most: bytes of files together, roughly.

    Raises:
        StorageError: if the folder cannot be made.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most, self._written = folder, most, 0
        self._lock = threading.Lock()
        make_folder(folder)

    def get(self, key: str) -> bytes | None:
        """The value, or None."""
        path = self._path(key)
        try:
            value = path.read_bytes()
            path.touch()  # used now
        except OSError:
            return None
        return value

    def put(self, key: str, value: bytes) -> None:
        """Keeps a value."""
        with suppress(StorageError), atomic(self._path(key), make_folder=True) as part:
            part.write_bytes(value)
        with self._lock:
            self._written += 1
            due = self._written % _SWEEP == 1
        if due:
            self._sweep()

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
