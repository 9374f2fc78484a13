"""Files of an evaluation, written atomically, and predictions on disk for the report."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.atomic import write_text
from terramorph.errors import StorageError, raised_as


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write plain data and dataclasses as strict JSON (no NaN), atomically."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False, default=asdict) + "\n")


def write_csv(path: Path, ids: Sequence[str], columns: Mapping[str, Sequence[float]]) -> None:
    """Write one row per image, atomically; columns without values are left out."""
    filled = {key: values for key, values in columns.items() if values}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *filled])
    for row, name in enumerate(ids):
        writer.writerow([name, *(f"{values[row]:.6g}" for values in filled.values())])
    write_text(path, text.getvalue())


class Spool:
    """Images of one shape in a temporary file, which is deleted when closed."""

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        """Create the file.

        Args:
            folder: Folder on a disk with room for all images.
            shape: Shape of each uint8 image.
        """
        self._folder, self._shape = folder, shape
        with self._storing():
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by close)

    def _storing(self) -> AbstractContextManager[None]:
        what = f"Predictions cannot be stored in {self._folder}"
        return raised_as(StorageError, what, "choose another `out` or free some space", OSError)

    def append(self, images: NDArray[np.uint8]) -> None:
        """Append images, uint8 ``(N, *shape)``."""
        with self._storing():
            self._file.seek(0, os.SEEK_END)
            self._file.write(np.ascontiguousarray(images).tobytes())
            self._file.flush()

    def read(self, index: int) -> NDArray[np.uint8]:
        """Read an image, uint8 ``shape``."""
        count = int(np.prod(self._shape))
        self._file.seek(index * count)
        return np.frombuffer(self._file.read(count), np.uint8).reshape(self._shape)

    def close(self) -> None:
        self._file.close()
