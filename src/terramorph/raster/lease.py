"""Locks on object storage, where no system releases what a killed process held."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from terramorph.atomic import HOST, is_running
from terramorph.documents import parse_json
from terramorph.errors import InputError, StorageError
from terramorph.raster.storage import Remote

RENEWED = 60.0
"""Seconds after which a holder says again that it is there."""
STALE = 300.0
"""Seconds after which one that did not say so counts as gone."""

_held: set[str] = set()


@contextmanager
def leased(lock: Remote, name: str) -> Iterator[None]:
    """Hold an object for this process while the block runs, renewing it.

    The object is made by a conditional request, in which one of several processes succeeds (see `Remote.create`). It is
    taken over from a holder that has not renewed it for `STALE` seconds by the server's clock, and at once from a dead
    process of this machine. A machine that slept for longer may find another beside it: what is guarded must bear that,
    as files do that are written whole and equal by both.

    Args:
        lock: The object.
        name: Name of the guarded output, for messages.

    Raises:
        InputError: If another process holds it.
        StorageError: If it cannot be written.
    """
    token = secrets.token_hex(8)
    content = json.dumps({"machine": HOST, "process": os.getpid(), "token": token}).encode()
    if not lock.create(content):
        if not _is_abandoned(lock, content):
            raise _busy(name)
        lock.unlink()
        if not lock.create(content):
            raise _busy(name)
    _held.add(token)
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lock, content, over), name="terramorph-lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        _held.discard(token)
        with suppress(StorageError):  # it goes stale by itself
            if lock.find_bytes() == content:
                lock.unlink()


def _busy(name: str) -> InputError:
    return InputError(
        f"Another process is making {name}, or was killed less than {STALE / 60:.0f} minutes ago; wait for it or "
        "choose another output."
    )


def _is_abandoned(lock: Remote, content: bytes) -> bool:
    said = lock.find_bytes()
    if said is None:
        return True
    try:
        holder = parse_json(said)
        machine, process, token = holder["machine"], int(holder["process"]), holder["token"]
    except (ValueError, TypeError, KeyError):
        machine, process, token = None, 0, None
    if machine == HOST:
        # A process with our own number was before us, unless it is us.
        return token not in _held if process == os.getpid() else not is_running(process)
    clock = lock.with_name(f"{lock.name}.{secrets.token_hex(8)}")
    clock.write_bytes(content)
    try:
        return (clock.modified() - lock.modified()).total_seconds() > STALE
    finally:
        clock.unlink()


def _renew(lock: Remote, content: bytes, over: threading.Event) -> None:
    """Rewrite the lock at intervals until ``over`` is set."""
    while not over.wait(RENEWED):
        with suppress(StorageError):  # tried again before it is stale
            lock.write_bytes(content)
