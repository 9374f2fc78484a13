"""Download of published models: resumed after a break, appearing whole, checked by digest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path

import urllib3

from terramorph._version import __version__
from terramorph.errors import BundleError, converted
from terramorph.models.store import Entry, fetching, not_written, places, require_entry, verify, where_to
from terramorph.redaction import redact

Progress = Callable[[int, int], None]
_CHUNK = 2**16
_AGAIN = (429, 500, 502, 503, 504)
_TRIES = 5
"""Connections to one address that may break before the next one is tried."""


class _AddressError(Exception):
    """An address does not give the file; the message is the reason alone."""


def pull(entry: Entry | str, urls: Sequence[str] = (), *, progress: Progress | None = None, pause: float = 1.0) -> Path:
    """Fetch a model into the cache, unless it is on this machine.

        >>> import terramorph
        >>> terramorph.models.pull("town-sat2map").suffix
        '.safetensors'

    Several processes may ask at once: one fetches, the others wait for it.

    Args:
        entry: An entry of the registry, or its name.
        urls: http or https addresses of the file, tried before those of the registry.
        progress: Called with (bytes there, bytes in all).
        pause: Seconds before a broken connection is made again; it doubles each time.

    Returns:
        The file, of the right digest.

    Raises:
        BundleError: If no address gives the file with the right digest, or there is no model of that name.
        StorageError: If the cache cannot be written.
        RunError: If another process has been fetching it for ten minutes.
    """
    entry = require_entry(entry) if isinstance(entry, str) else entry
    for path in places(entry):
        if verify(path, entry):
            return path
    addresses = [*urls, *entry.urls]
    if not addresses:
        raise BundleError(f"No address of the model {entry.name} is published yet; {where_to(entry)}.")
    with converted(not_written, OSError), fetching(entry.sha256, entry.name) as target:
        if not verify(target, entry):
            _fetch(entry, addresses, target, progress, pause)
        return target


def _fetch(entry: Entry, addresses: Sequence[str], target: Path, progress: Progress | None, pause: float) -> None:
    """Try each address; each resumes what the one before it began."""
    part, reasons = target.with_suffix(".part"), []
    for url in addresses:
        for _ in range(2):  # once more from the beginning, where what was there before was of another file
            resumed = part.is_file() and part.stat().st_size > 0
            try:
                _download(url, entry, part, progress, pause)
            except _AddressError as error:
                reasons.append(f"{redact(url)} {error}")
                break
            if verify(part, entry):
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
                part.replace(target)
                return
            part.unlink()
            if not resumed:
                reasons.append(f"{redact(url)} gave another file (its sha256 is not that of the registry)")
                break
    raise BundleError(f"The model {entry.name} could not be fetched: {'; '.join(reasons)}; {where_to(entry)}.")


def _download(url: str, entry: Entry, part: Path, progress: Progress | None, pause: float) -> None:
    """Download a part to the size of the whole, over as many connections as it takes."""
    if not url.lower().startswith(("https://", "http://")):
        raise _AddressError("is not an http or https address")
    reason, broken = "ends early", 0
    retries = urllib3.Retry(
        total=4, connect=0, read=0, backoff_factor=pause, status_forcelist=_AGAIN, raise_on_status=False
    )
    with urllib3.PoolManager(retries=retries, timeout=urllib3.Timeout(connect=15, read=60)) as pool:
        while broken < _TRIES:
            before = part.stat().st_size if part.is_file() else 0
            if before >= entry.bytes:
                return
            try:
                _append(pool, url, entry, part, before, progress)
            except urllib3.exceptions.LocationValueError:
                raise _AddressError("is, or leads to, no valid http or https address") from None
            except urllib3.exceptions.HTTPError as error:
                reason = f"cannot be reached ({type(error).__name__})"
            now = part.stat().st_size if part.is_file() else 0
            if now >= entry.bytes:
                return
            broken = 1 if now > before else broken + 1
            time.sleep(pause * 2 ** (broken - 1))
    raise _AddressError(reason)


def _append(
    pool: urllib3.PoolManager, url: str, entry: Entry, part: Path, have: int, progress: Progress | None
) -> None:
    """Make one connection: request what is missing, and append what comes."""
    headers = {"User-Agent": f"terramorph/{__version__}", **({"Range": f"bytes={have}-"} if have else {})}
    answer = pool.request("GET", url, headers=headers, preload_content=False)
    try:
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
            return
        if answer.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise _AddressError(f"answered with {answer.status}")
        goes_on = answer.status == HTTPStatus.PARTIAL_CONTENT and answer.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        with part.open("ab" if goes_on else "wb") as file:
            size = have if goes_on else 0
            for chunk in answer.stream(_CHUNK):
                size += len(chunk)
                if size > entry.bytes:
                    file.truncate(0)
                    raise _AddressError(f"gives more than the {entry.bytes} bytes of the published file")
                file.write(chunk)
                if progress is not None:
                    progress(size, entry.bytes)
            if size < entry.bytes and not goes_on and "Content-Length" in answer.headers:  # a whole answer
                file.truncate(0)
                raise _AddressError(f"gives {size} bytes, and the published file has {entry.bytes}")
    finally:
        answer.close()
