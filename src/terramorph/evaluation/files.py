"""Files of an evaluation, written whole, and predictions kept on disk until the report needs a few."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from terramorph.atomic import atomic
from terramorph.errors import StorageError


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; the file appears whole or not at all.

    Raises:
        StorageError: The file cannot be written.
    """
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write plain data as strict JSON (no NaN), whole or not at all.

    Raises:
        StorageError: The file cannot be written.
    """
    write_text(path, json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(path: Path, ids: Sequence[str], columns: Mapping[str, Sequence[float]]) -> None:
    """Write one row per image; columns without values are left out.

    Raises:
        StorageError: The file cannot be written.
    """
    filled = {key: values for key, values in columns.items() if values}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *filled])
    for row, name in enumerate(ids):
        writer.writerow([name, *(f"{values[row]:.6g}" for values in filled.values())])
    write_text(path, text.getvalue())


class Spool:
    """Images of one shape in a nameless file: constant memory, gone when closed."""

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        """Open the file in a folder.

        Args:
            folder: On a disk with room for all images.
            shape: Of each uint8 image.

        Raises:
            StorageError: The folder cannot be written.
        """
        self._shape = shape
        self._bytes = int(np.prod(shape))
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise StorageError(
                f"{folder} cannot be written ({error.strerror or error}); choose another `out` or free some space."
            ) from error

    def append(self, images: NDArray[np.uint8]) -> None:
        """Put images aside: uint8 ``(N, *shape)``.

        Raises:
            StorageError: The disk is full.
        """
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(np.ascontiguousarray(images).tobytes())
            self._file.flush()
        except OSError as error:
            raise StorageError(
                f"Predictions could not be put aside: {error.strerror or error}; free some space."
            ) from error

    def read(self, index: int) -> NDArray[np.uint8]:
        """Image number ``index``, uint8 of the shape."""
        self._file.seek(index * self._bytes)
        return np.frombuffer(self._file.read(self._bytes), np.uint8).reshape(self._shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
