"""What a sweep has done so far: one file a window, in a folder beside the output, from which it goes on.

.NAME.parts/plan.json      what is being made, of what, with what
.NAME.parts/000012.npz     a window's pixels, its mask if some are missing, the spread of its draws
.NAME.parts/000013.none    a window without data
.NAME.parts/lock           held by the process at work
"""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from terramorph.atomic import atomic, locked
from terramorph.errors import InputError, StorageError


class Part(NamedTuple):
    """A translated window.

    Attributes:
        pixels: (C + 1, h, w) in the bundle's target dtype; the last band is 1 where there is data, else 0.
        spread: float32 (2, h, w), the standard deviation of several draws in stored units, and likewise a band that
            tells of data; None for one draw.
    """

    pixels: NDArray[Any]
    spread: NDArray[np.float32] | None


class Parts:
    """The parts of one output.

    Args:
        output: what is being made; the folder lies beside it.
        plan: plain data. Parts of another plan are thrown away, for they do not fit.

    Raises:
        StorageError: if the folder cannot be made.
    """

    def __init__(self, output: Path, plan: dict[str, Any]) -> None:
        self.folder = output.with_name(f".{output.name}.parts")
        plan = json.loads(json.dumps(plan))
        try:
            if self.folder.exists() and self._plan() != plan:
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"The folder {self.folder} for unfinished work cannot be made ({error.strerror}); choose another "
                "output."
            ) from error
        with atomic(self.folder / "plan.json") as file:
            file.write_text(json.dumps(plan, indent=1), encoding="utf-8")

    def done(self) -> set[int]:
        """Numbers of the windows that are finished."""
        names = (file.name.split(".") for file in self.folder.iterdir())
        return {int(name[0]) for name in names if name[0].isdigit() and name[1:] in (["npy"], ["none"])}

    def save(self, number: int, part: Part | None) -> None:
        """Keeps a window's result; None for a window without data.

        Raises:
            StorageError: if it cannot be written.
        """
        if part is None:
            with atomic(self.folder / f"{number:06d}.none") as file:
                file.touch()
            return
        if part.spread is not None:
            self._save(f"{number:06d}.spread.npy", part.spread)
        self._save(f"{number:06d}.npy", part.pixels)  # last: it says that the window is done

    def load(self, number: int, spread: bool = False) -> NDArray[Any] | None:
        """A window's pixels or their spread, memory-mapped, as in `Part`; None for a window without data.

        Raises:
            InputError: if it is damaged; it is removed, so that it is made again.
        """
        if (self.folder / f"{number:06d}.none").exists():
            return None
        path = self.folder / (f"{number:06d}.spread.npy" if spread else f"{number:06d}.npy")
        try:
            mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            (self.folder / f"{number:06d}.npy").unlink(missing_ok=True)
            raise InputError(f"{path} was damaged ({error}) and is removed; run the same command again.") from error
        return mapped

    def _save(self, name: str, array: NDArray[Any]) -> None:
        advice = "free some space and run again, it goes on from here"
        with atomic(self.folder / name, advice=advice) as file, file.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)

    def remove(self) -> None:
        """Removes the folder, once the output stands."""
        with suppress(OSError):
            shutil.rmtree(self.folder)

    def locked(self) -> AbstractContextManager[None]:
        """Holds the folder for this process.

        Raises:
            InputError: on entering, if another process makes the same output.
        """
        name = self.folder.name[1:-6]
        busy = InputError(f"Another process is making {name}; wait for it or choose another output.")
        return locked(self.folder / "lock", busy)

    def _plan(self) -> Any:
        with suppress(OSError, ValueError):
            return json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
        return None
