"""Pairs in memory, or from a torch Dataset, written as a dataset folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from PIL import Image

from terramorph.atomic import atomic_folder, make_folder
from terramorph.errors import DatasetError, InputError
from terramorph.pairs.folder import Pair
from terramorph.raster.image import from_pil, read_image
from terramorph.raster.raster import Raster
from terramorph.raster.save import write_image


class GivenPairs(Protocol):
    """A sequence of pairs ``(A, B)``: a list, a tuple, a torch ``Dataset``, or a `PairFolder`.

    A and B are paths, `Raster`s, PIL images, or arrays or tensors ``(C, H, W)``, ``(H, W, C)`` or ``(H, W)`` of stored
    values; an array whose last axis is the shortest is read as ``(H, W, C)``.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


def write_pairs(splits: Mapping[str, GivenPairs], folder: str | Path) -> Path:
    """Write pairs as twins ``folder/SPLIT/A`` and ``folder/SPLIT/B``; the folder appears whole or not at all.

    uint8 of 1 or 3 bands without a CRS becomes PNG, everything else GeoTIFF. Each pair is read once, in order.

    Args:
        splits: Name of a split -> its pairs; one without pairs is left out.
        folder: Where the dataset goes; what lies there is replaced.

    Returns:
        The folder.

    Raises:
        DatasetError: A pair is none, or its sides differ in size.
        StorageError: The folder cannot be written.
    """
    folder = Path(folder)
    if not any(len(pairs) for pairs in splits.values()):
        raise DatasetError("There are no pairs; give at least one (A, B).")
    make_folder(folder.parent)
    with atomic_folder(folder) as whole:
        for split, pairs in splits.items():
            digits = len(str(len(pairs)))
            for number in range(len(pairs)):
                sides = _sides(pairs[number], f"The pair {number} of {split}")
                for side, raster in zip("AB", sides, strict=True):
                    plain = raster.dtype == np.uint8 and raster.count in (1, 3) and raster.grid.crs is None
                    make_folder(whole / split / side)
                    write_image(raster, whole / split / side / f"{number:0{digits}d}{'.png' if plain else '.tif'}")
        if folder.is_dir():
            shutil.rmtree(folder)
    return folder


@contextmanager
def as_folder(data: str | Path | GivenPairs, split: str) -> Iterator[Path]:
    """Yield a dataset's folder: `data` itself, or a temporary one with the pairs that `data` holds.

    Raises:
        DatasetError, StorageError: As `write_pairs`.
    """
    if isinstance(data, str | Path):
        yield Path(data)
        return
    with TemporaryDirectory(prefix="terramorph-") as made:
        yield write_pairs({split: data}, Path(made) / "pairs")


def _sides(pair: Any, what: str) -> tuple[Raster, Raster]:
    if isinstance(pair, Pair):
        return pair.a, pair.b
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DatasetError(f"{what} is a {type(pair).__name__}; give a tuple (A, B).")
    a, b = (_raster(side, what) for side in pair)
    if (a.height, a.width) != (b.height, b.width):
        raise DatasetError(
            f"{what} has sides of {a.width}x{a.height} and {b.width}x{b.height} px; resample one to the other."
        )
    return a, b


def _raster(side: Any, what: str) -> Raster:
    if isinstance(side, Raster):
        return side
    try:
        if isinstance(side, str | Path):
            return read_image(Path(side))
        if isinstance(side, Image.Image):
            return from_pil(side)
        held = np.asanyarray(side.detach().cpu() if hasattr(side, "detach") else side)
        if held.ndim == 2:
            held = held[None]
        elif held.ndim == 3 and held.shape[2] < min(held.shape[:2]):
            held = held.transpose(2, 0, 1)
        return Raster.from_pixels(held)
    except (InputError, OSError, ValueError) as error:  # PIL's of damaged files, numpy's of lists
        raise DatasetError(f"{what} cannot be read: {error}") from error
