"""The parts of an unfinished translation, one file per window in a folder beside the output, from which it resumes.

.NAME.parts/plan.json           the plan: output, source, model, settings
.NAME.parts/000012.npy          a window's pixels before rounding (`tiled.Part`)
.NAME.parts/000012.spread.npy   the spread of its samples, if there are several
.NAME.parts/000013.none         a window without data; for a folder of images, one that is written
.NAME.parts/lock                held by the process that translates

For an output on object storage the folder is there too, so that several machines can fill it.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.atomic import HOST, atomic, is_running, locked, make_folder
from terramorph.documents import parse_json
from terramorph.errors import InputError, StorageError, TerramorphError
from terramorph.raster.storage import Remote
from terramorph.translate.tiled import Part

_DAMAGE = (OSError, ValueError, EOFError, SyntaxError, TokenError, OverflowError, MemoryError, TypeError)
"""Exceptions that numpy raises for a damaged .npy file."""
RENEWED = 60.0
"""Seconds after which a holder says again that it is there."""
STALE = 300.0
"""Seconds after which one that did not say so counts as gone."""
_held: set[str] = set()


def is_begun(output: Path | Remote) -> bool:
    """Return whether an output has unfinished parts."""
    return (_folder(output) / "plan.json").exists()


def _folder(output: Path | Remote) -> Path | Remote:
    return output.with_name(f".{output.name}.parts")


class Parts:
    """The parts of one output. They can be pickled and used by several processes at once, one of which holds the lock.

    Args:
        output: The output (`raster.storage.location`); the folder lies beside it.
        plan: The plan as plain data.
        restart: Discard the parts of another plan.

    Attributes:
        folder: Folder of the parts.
        plan: The plan; equal ones give equal pixels.

    Raises:
        InputError: If the folder holds parts of another plan, or another process writes the same output.
        StorageError: If the folder cannot be made.
    """

    def __init__(self, output: Path | Remote, plan: dict[str, Any], restart: bool = False) -> None:
        self.folder, self.plan = _folder(output), plan
        self._name = output.name
        self._scratch: Path | None = None
        if isinstance(self.folder, Path):
            make_folder(self.folder)
        document = json.dumps(plan, indent=1).encode()
        there = self._find("plan.json")
        if there != document:
            with self.locked():
                if there is not None and not restart:
                    self._require_none(there)
                for name in self._names():
                    if name != "lock":
                        (self.folder / name).unlink()
                self._write("plan.json", document)

    @property
    def scratch(self) -> Path:
        """Local folder in which the output is joined: that of the parts, or a temporary one (see TMPDIR) while `locked`
        holds."""
        if isinstance(self.folder, Path):
            return self.folder
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="terramorph-"))
        return self._scratch

    def done(self) -> set[int]:
        """Return the numbers of the finished windows.

        Raises:
            StorageError: If the folder cannot be listed.
        """
        names = (name.split(".") for name in self._names())
        return {int(name[0]) for name in names if name[0].isdigit() and name[1:] in (["npy"], ["none"])}

    def are_empty(self) -> bool:
        """Return whether no finished window has data.

        Raises:
            StorageError: If the folder cannot be listed.
        """
        return not any(name.endswith(".npy") for name in self._names())

    def _require_none(self, there: bytes) -> None:
        """Refuse to discard the parts of another plan.

        Raises:
            InputError: If there are any.
        """
        count = len(self.done())
        if not count:
            return
        try:
            other = parse_json(there)
            changed = [key for key, value in self.plan.items() if other.get(key) != value]
        except (ValueError, AttributeError):
            changed = ["plan"]
        raise InputError(
            f"{self.folder} holds {count} parts of an unfinished translation with another {' and '.join(changed)}; "
            "go on with it by the call that began it, or discard them with `restart`."
        )

    def save(self, number: int, part: Part | None) -> None:
        """Save a window's result; None for a window without data.

        Raises:
            StorageError: If it cannot be written.
        """
        if part is None:
            self._write(f"{number:06d}.none", b"")
            return
        if part.spread is not None:
            self._write(f"{number:06d}.spread.npy", npy_bytes(part.spread))
        self._write(f"{number:06d}.npy", npy_bytes(part.pixels))  # last, because it marks the window as done

    def load(self, number: int, shape: tuple[int, int, int], dtype: str, spread: bool = False) -> NDArray[Any] | None:
        """Return a window's pixels or their spread, memory-mapped, as in `Part`; None for a window without data.

        Args:
            shape, dtype: Required shape and dtype of the array.
            spread: Return the spread instead of the pixels.

        Raises:
            InputError: If the file is damaged; it is removed, so that the window is computed again.
        """
        name = f"{number:06d}.spread.npy" if spread else f"{number:06d}.npy"
        try:
            array = self._array(name)
            if (array.shape, array.dtype) != (shape, np.dtype(dtype)):
                raise ValueError(f"it holds {array.dtype} {array.shape} in place of {dtype} {shape}")
        except TerramorphError:
            raise
        except _DAMAGE as error:
            if isinstance(error, FileNotFoundError) and self._find(f"{number:06d}.none") is not None:
                return None
            with suppress(FileNotFoundError):
                (self.folder / f"{number:06d}.npy").unlink()
            raise InputError(
                f"{self.folder / name} was damaged ({error}) and is removed; run the same again."
            ) from error
        return array

    def remove(self) -> None:
        """Remove the folder, when the output is finished."""
        with suppress(OSError):
            if isinstance(self.folder, Path):
                shutil.rmtree(self.folder)
            else:
                self.folder.remove_all()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the folder; on object storage it is `leased`.

        Raises:
            InputError: On entry, if another process writes the same output.
        """
        if isinstance(self.folder, Path):
            busy = InputError(f"Another process is making {self._name}; wait for it or choose another output.")
            with locked(self.folder / "lock", busy):
                yield
            return
        try:
            with leased(self.folder / "lock", self._name):
                yield
        finally:
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)
                self._scratch = None

    def _names(self) -> Iterable[str]:
        """Return the names of the files in the folder."""
        if isinstance(self.folder, Path):
            return [file.name for file in self.folder.iterdir()]
        return self.folder.names()

    def _find(self, name: str) -> bytes | None:
        """Return the content of a file; None if it does not exist."""
        file = self.folder / name
        if isinstance(file, Remote):
            return file.find_bytes()
        with suppress(FileNotFoundError):
            return file.read_bytes()
        return None

    def _write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all."""
        file = self.folder / name
        if isinstance(file, Remote):
            file.write_bytes(data)
        else:
            with atomic(file, advice="free some space and run again, it goes on from here") as part:
                part.write_bytes(data)

    def _array(self, name: str) -> NDArray[Any]:
        """Return a file's array, memory-mapped; from object storage, of a copy that is removed with the array."""
        mapped: NDArray[Any]
        if isinstance(self.folder, Path):
            mapped = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
            return mapped
        data = self._find(name)
        if data is None:
            raise FileNotFoundError("it is not there")
        copy = self.scratch / name
        copy.write_bytes(data)
        try:
            mapped = np.load(copy, mmap_mode="r", allow_pickle=False)
        finally:
            with suppress(PermissionError):  # on Windows, where it is removed with the scratch folder
                copy.unlink()  # a mapped file stays on the disk until it is unmapped
        return mapped


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Return the bytes of an array as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


@contextmanager
def leased(lock: Remote, name: str) -> Iterator[None]:
    """Hold an object for this process while the block runs, renewing it.

    The object is made by a conditional request, in which one of several processes succeeds (see `Remote.create`). It is
    taken over from a holder that has not renewed it for `STALE` seconds by the server's clock, and at once from a dead
    process of this machine. A machine that slept for longer may find another beside it: what is guarded must bear that,
    as files do that are written whole and equal by both.

    Args:
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
