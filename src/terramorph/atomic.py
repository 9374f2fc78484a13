"""Files that appear whole under their final name, or not at all.

Output goes to a part beside its target, `.NAME.PID-HOST-NUMBER.part`, which is synced to the disk and then replaces the
target; until then the old file stays. Parts of killed processes are removed when another process first writes into
their folder. Folders are made in the same way.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import re
import shutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from terramorph.errors import StorageError, raised_as


def _host() -> str:
    """Return a digest of where process ids count: the machine, and the container or other namespace of Linux."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{zlib.crc32(f'{platform.node()} {namespace}'.encode()):08x}"


HOST = _host()
"""This machine or container: a process id means nothing on another one that shares the folder."""

_UMASK = os.umask(0o077)
os.umask(_UMASK)

_PART = re.compile(rf"\..+\.(\d+)-{HOST}-(\d+)\.part")
_number = itertools.count()
_writing: set[tuple[int, int]] = set()
_swept: set[Path] = set()


@contextmanager
def atomic(
    path: str | Path,
    failed: str | None = None,
    advice: str = "free some space or choose another folder",
    *,
    failures: tuple[type[Exception], ...] = (),
    make_folder: bool = False,
) -> Iterator[Path]:
    """Yield the path of a part to write a file to; at the end of the block it becomes `path`.

        with atomic(path) as part:
            part.write_text(text)

    If the block raises anything, or the file cannot be brought to the disk, the part is removed and what was at `path`
    before is untouched. Of several that are nested, none takes its place before the innermost block is through.

    Args:
        path: The file to write or replace.
        failed: How the sentence of an error begins; default: "PATH cannot be written".
        advice: How it ends, without the full stop.
        failures: A library's own errors, beside OSError, that mean the file could not be written.
        make_folder: Make the folder if it is missing.

    Yields:
        A path in the same folder, at which there is no file yet.

    Raises:
        StorageError: If the block, or bringing the file to the disk, ends in an OSError or one of `failures`. Errors of
            terramorph's own pass as they are.
    """
    path = Path(path)
    failed = failed or f"{path} cannot be written"
    with raised_as(StorageError, failed, advice, OSError, *failures):
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.parent.is_dir():  # before a library says it in its own terms, of the part
            raise StorageError(f"{failed} (there is no folder {path.parent}); {advice}.")
        with _part(path) as part:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            if not part.stat().st_mode & 0o077:  # some libraries write through temporary files of their owner alone
                part.chmod(0o666 & ~_UMASK)
            part.replace(path)


def write_text(path: Path, text: str, *, make_folder: bool = False) -> None:
    """Write a file of UTF-8 text whole or not at all, line ends as they are.

    Raises:
        StorageError: As `atomic`.
    """
    with atomic(path, make_folder=make_folder) as part:
        part.write_text(text, encoding="utf-8", newline="")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder to fill; at the end of the block it becomes `path`, which may be missing or an empty folder.

    Raises:
        StorageError: As `atomic`.
    """
    advice = "free some space or choose another folder"
    with raised_as(StorageError, f"{path} cannot be written", advice, OSError), _part(path) as part:
        part.mkdir()
        yield part
        if sys.platform != "win32":
            os.sync()
        if path.is_dir():
            path.rmdir()  # Windows replaces no folder; this fails where the folder is not empty
        part.replace(path)


@contextmanager
def locked(path: Path, busy: Exception, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file for this process; the system releases it when the process ends, however it ends.

    Args:
        path: The file, in a folder that exists.
        busy: Raised if another process holds it.
        wait: Seconds to wait for it.

    Raises:
        OSError: If it cannot be written.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait, blocking=wait > 0, poll_interval=0.02)
    except Timeout:
        raise busy from None
    try:
        yield
    finally:
        lock.release()


def make_folder(path: Path) -> Path:
    """Make a folder and its parents, unless it exists.

    Raises:
        StorageError: If it cannot be made.
    """
    advice = "choose another folder or free some space"
    with raised_as(StorageError, f"The folder {path} cannot be made", advice, OSError):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    """Yield the path of a part beside a target; what is left of it after the block is removed."""
    number = next(_number)
    part = path.with_name(f".{path.name}.{os.getpid()}-{HOST}-{number}.part")
    _writing.add((os.getpid(), number))
    try:
        _sweep(path.parent)
        yield part
    finally:
        _remove(part)
        _writing.discard((os.getpid(), number))


def _remove(part: Path) -> None:
    """Remove a file or folder as far as possible."""
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove the parts in a folder whose process is gone, once per folder."""
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _PART.fullmatch(entry.name)
            if match and not _is_written(int(match[1]), int(match[2])):
                _remove(Path(entry.path))


def _is_written(process: int, number: int) -> bool:
    """Return whether a part of this machine may still be growing."""
    if process == os.getpid():
        return (process, number) in _writing  # else it is of an earlier process that had our number
    return is_running(process)


def is_running(process: int) -> bool:
    """Return whether a process of this number runs on this machine."""
    if sys.platform == "win32":  # where os.kill(process, 0) ends it
        return _is_running_on_windows(process)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it exists and is another user's
    return True


_QUERY, _NO_SUCH_PROCESS, _STILL_ACTIVE = 0x1000, 87, 259
"""PROCESS_QUERY_LIMITED_INFORMATION, ERROR_INVALID_PARAMETER and the exit code of what has not ended, in winerror.h."""


def _is_running_on_windows(process: int) -> bool:
    kernel: Any = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(kernel.OpenProcess(_QUERY, False, process))
    if not handle:
        return bool(ctypes.get_last_error() != _NO_SUCH_PROCESS)  # type: ignore[attr-defined,unused-ignore]
    code = ctypes.c_ulong()
    known = kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return not known or code.value == _STILL_ACTIVE
