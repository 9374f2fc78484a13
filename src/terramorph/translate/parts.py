"""What a translation has done so far: one file a window, in a folder beside the output, from which it goes on.

.NAME.parts/plan.json           what is being made, of what, with what
.NAME.parts/000012.npy          a window's pixels before they are rounded (`tiled.Part`)
.NAME.parts/000012.spread.npy   the spread of its draws, if there are several
.NAME.parts/000013.none         a window without data; of a folder of images, one that is written
.NAME.parts/lock                held by the process at work

Beside an output on object storage the folder lies there too, so that several machines fill it together.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.atomic import atomic, locked, make_folder
from terramorph.documents import parse_json
from terramorph.errors import InputError, TerramorphError
from terramorph.raster.lease import leased
from terramorph.raster.storage import Remote
from terramorph.translate.tiled import Part

_DAMAGE = (OSError, ValueError, EOFError, SyntaxError, TokenError, OverflowError, MemoryError, TypeError)
"""What numpy raises at a .npy file that is not one."""


def is_begun(output: Path | Remote) -> bool:
    """Whether unfinished work of an output lies beside it."""
    return (_folder(output) / "plan.json").exists()


def _folder(output: Path | Remote) -> Path | Remote:
    return output.with_name(f".{output.name}.parts")


class Parts:
    """The parts of one output. May be pickled, and used by several processes at once, of which one holds the lock.

    Args:
        output: what is being made (`raster.storage.location`); the folder lies beside it.
        plan: plain data.
        restart: throw away the parts of another plan.

    Attributes:
        folder: where the parts lie.

    Raises:
        InputError: if the folder holds parts of another plan, or another process makes the same output.
        StorageError: if the folder cannot be made.
    """

    def __init__(self, output: Path | Remote, plan: dict[str, Any], restart: bool = False) -> None:
        self.folder = _folder(output)
        self._name = output.name
        self._scratch: Path | None = None
        if isinstance(self.folder, Path):
            make_folder(self.folder)
        document = json.dumps(plan, indent=1).encode()
        there = self._find("plan.json")
        if there != document:
            with self.locked():
                if there is not None and not restart:
                    self._require_none(there, plan)
                for name in self._names():
                    if name != "lock":
                        (self.folder / name).unlink()
                self._write("plan.json", document)

    @property
    def scratch(self) -> Path:
        """A folder on this machine for what the output is joined in: that of the parts, or one for as long as `locked`
        holds (in the system's temporary folder, which TMPDIR names)."""
        if isinstance(self.folder, Path):
            return self.folder
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="terramorph-"))
        return self._scratch

    def done(self) -> set[int]:
        """Numbers of the windows that are finished.

        Raises:
            StorageError: if the folder cannot be listed.
        """
        names = (name.split(".") for name in self._names())
        return {int(name[0]) for name in names if name[0].isdigit() and name[1:] in (["npy"], ["none"])}

    def _require_none(self, there: bytes, plan: dict[str, Any]) -> None:
        """Refuses to throw away what somebody may still want.

        Raises:
            InputError: if there are parts.
        """
        count = len(self.done())
        if not count:
            return
        try:
            other = parse_json(there)
            changed = [key for key in plan if other.get(key) != plan[key]]
        except (ValueError, AttributeError):
            changed = ["plan"]
        raise InputError(
            f"{self.folder} holds {count} parts of an unfinished translation with another {' and '.join(changed)}; "
            "go on with it by the call that began it, or throw them away with restart."
        )

    def save(self, number: int, part: Part | None) -> None:
        """Keeps a window's result; None for a window without data.

        Raises:
            StorageError: if it cannot be written.
        """
        if part is None:
            self._write(f"{number:06d}.none", b"")
            return
        if part.spread is not None:
            self._write(f"{number:06d}.spread.npy", npy_bytes(part.spread))
        self._write(f"{number:06d}.npy", npy_bytes(part.pixels))  # last: it says that the window is done

    def load(self, number: int, shape: tuple[int, int, int], dtype: str, spread: bool = False) -> NDArray[Any] | None:
        """A window's pixels or their spread, memory-mapped, as in `Part`; None for a window without data.

        Args:
            number: of the window.
            shape, dtype: that the array must have.
            spread: whether the spread is wanted.

        Raises:
            InputError: if it is damaged; it is removed, so that it is made again.
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
        """Removes the folder, once the output stands."""
        with suppress(OSError):
            if isinstance(self.folder, Path):
                shutil.rmtree(self.folder)
            else:
                self.folder.remove_all()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process; on object storage as `raster.lease` does.

        Raises:
            InputError: on entering, if another process makes the same output.
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
        """Of the files in the folder."""
        if isinstance(self.folder, Path):
            return [file.name for file in self.folder.iterdir()]
        return self.folder.names()

    def _find(self, name: str) -> bytes | None:
        """The content of a file, if there is one."""
        file = self.folder / name
        if isinstance(file, Remote):
            return file.find_bytes()
        with suppress(FileNotFoundError):
            return file.read_bytes()
        return None

    def _write(self, name: str, data: bytes) -> None:
        """A file, whole or not at all."""
        file = self.folder / name
        if isinstance(file, Remote):
            file.write_bytes(data)
        else:
            with atomic(file, advice="free some space and run again, it goes on from here") as part:
                part.write_bytes(data)

    def _array(self, name: str) -> NDArray[Any]:
        """A file's array, memory-mapped; from object storage, of a copy that goes when the array does."""
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
            with suppress(PermissionError):  # of Windows, where it goes with the scratch
                copy.unlink()  # what is mapped stays on the disk until it is let go of
        return mapped


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
