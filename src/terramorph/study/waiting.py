"""A lock that several processes take in turn, for the few moments that one of them decides something for all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from terramorph.atomic import locked
from terramorph.errors import StorageError

SECONDS = 120.0
"""How long a process waits for its turn; what is done under the lock takes a second or two."""
_LOOK_AGAIN = 0.02


class _Busy(Exception):
    """Another process has its turn."""


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Holds a lock file as `terramorph.atomic.locked` does, but waits for it.

    Args:
        path: the file; its folder is made if missing.

    Raises:
        StorageError: if it is still held by another process after `SECONDS`, or cannot be written.
    """
    until = time.monotonic() + SECONDS
    busy = _Busy()
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = locked(path, busy)
            lock.__enter__()
            break
        except _Busy:
            if time.monotonic() > until:
                raise StorageError(
                    f"Another process has held {path} for {SECONDS:.0f} s; end it if it hangs, then run again."
                ) from None
            time.sleep(_LOOK_AGAIN)
        except OSError as error:
            raise StorageError(f"{path} cannot be written ({error.strerror or error}); check the folder.") from error
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
