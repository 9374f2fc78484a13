"""Cache of decoded pairs: each decoded and resized once, into memory-mapped files of plain bytes."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terramorph.atomic import atomic_folder, locked
from terramorph.bands import Units, band_order
from terramorph.cachefolder import cache_folder
from terramorph.data.decoding import Builder, Progress, digest_of
from terramorph.documents import parse_json
from terramorph.errors import StorageError, raised_as
from terramorph.pairs.folder import PairFolder
from terramorph.pixels import Scaling
from terramorph.raster.resample import Resampling
from terramorph.raster.values import tell_suspects

CACHE_FORMAT = 5
DEFAULT_CACHE = cache_folder()
PATIENCE = 24 * 3600.0
"""Seconds that another process may take to decode the same pairs."""


class _DamagedError(StorageError):
    """A cache entry is missing or not whole."""


@dataclass(frozen=True)
class Side:
    """One side of all pairs, decoded.

    Attributes:
        images: One (H, W, C) array a pair, views of the memory map.
        dtype: Numpy name.
        limits: Smallest and largest stored value.
        robust: The 0.1 and 99.9 percentiles, from a sample of the pixels.
        units: Scale and offset of stored values; None: 1 and 0.
        suspects: Values that are likely to mean no data; see `raster.values.Suspects`.
    """

    images: list[np.ndarray]
    bands: tuple[str, ...]
    dtype: str
    limits: tuple[float, float]
    robust: tuple[float, float]
    units: Units | None = None
    suspects: tuple[float, ...] = ()

    def like(self, other: Side) -> list[np.ndarray]:
        """Return the images with bands in the order of another side, and values in its units."""
        order = band_order(self.bands, other.bands) or list(range(len(self.bands)))
        images = [image[..., order] for image in self.images]
        if self.units and other.units:
            own = self.units.pick(order)
            images = [np.moveaxis(own.convert(np.moveaxis(image, -1, 0), other.units), 0, -1) for image in images]
        return images

    def scaling(self, wanted: tuple[float, float] | None = None, *, robust: bool = False) -> Scaling:
        """Return the scaling to [-1, 1]: the whole dtype for uint8, else the wanted or the measured range."""
        if wanted is not None:
            return Scaling(self.dtype, *wanted)
        if self.dtype == "uint8":
            return Scaling()
        tell_suspects(self.suspects, "the pairs")
        low, high = self.robust if robust else self.limits
        return Scaling(self.dtype, low, high if high > low else low + 1.0)


@dataclass(frozen=True)
class DecodedPairs:
    """All pairs of a split, decoded and resized, as views of files on disk.

    Attributes:
        ids: One a pair.
        masks: uint8 (H, W) a pair, 1 where both sides hold real pixels; None if all do.
        fingerprint: Digest of the decoded files.
        skipped: Sentences about pairs that were left out.
        ground_resolution: Median metres per pixel after resizing; None if the pairs have no place on Earth.
    """

    ids: tuple[str, ...]
    a: Side
    b: Side
    masks: list[np.ndarray] | None
    fingerprint: str
    skipped: tuple[str, ...]
    ground_resolution: float | None

    def __len__(self) -> int:
        return len(self.ids)


def decode(
    pairs: PairFolder,
    *,
    size: int | None,
    resampling: Resampling = "bicubic",
    at_least: int = 1,
    cache: Path = DEFAULT_CACHE,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> DecodedPairs:
    """Decode every pair once and keep the result in the cache.

    The entry is named by the content of the files and the arguments, and appears whole; of several processes that ask
    for it one builds it, and the others wait. A damaged entry is built again.

    Args:
        size: Side in pixels that both halves are resized to; None keeps their size.
        at_least: Pairs with a side under this many pixels after resizing are bad.
        skip_bad: Leave out pairs that cannot be read or are not of the kind (bands, dtypes) that most are, and list
            them.
        progress: Called with (pairs done, pairs).

    Raises:
        DatasetError: Naming the first file that cannot be used, before anything is trained.
        StorageError: If the cache cannot be written.
    """
    fingerprint = pairs.fingerprint()
    asked = f"{CACHE_FORMAT} {fingerprint} {size} {resampling} {at_least} {skip_bad} {len(pairs)} {pairs.nodata}"
    entry = cache / hashlib.blake2b(asked.encode(), digest_size=12).hexdigest()
    with suppress(_DamagedError):
        return _open(entry, fingerprint, pairs.skipped)
    failed, advice = f"The cache {cache} cannot be written", "free some space or choose another `cache`"
    busy = StorageError(f"Another process has been decoding the same pairs into {entry} for a day; end it.")
    with raised_as(StorageError, failed, advice, OSError):
        cache.mkdir(parents=True, exist_ok=True)
        with locked(entry.with_suffix(".lock"), busy, PATIENCE):
            with suppress(_DamagedError):
                return _open(entry, fingerprint, pairs.skipped)  # another process has built it meanwhile
            with atomic_folder(entry) as building:
                Builder(pairs, size, resampling, at_least, skip_bad).build(building, progress)
                shutil.rmtree(entry, ignore_errors=True)
            return _open(entry, fingerprint, pairs.skipped)


def _open(entry: Path, fingerprint: str, skipped_before: tuple[str, ...]) -> DecodedPairs:
    """Map an entry's files."""
    kinds = (OSError, ValueError, KeyError, TypeError)
    with raised_as(_DamagedError, f"The cache entry {entry} is damaged", "choose another `cache`", *kinds):
        text, _, digest = (entry / "index.json").read_text(encoding="utf-8").rpartition("\n")
        if digest != digest_of(text):
            raise ValueError("index.json is not what was written")
        index = parse_json(text)
        pixels = sum(height * width for height, width in index["shapes"])
        widths = [len(side["bands"]) * np.dtype(side["dtype"]).itemsize for side in index["sides"]]
        for name, width in zip(("a.bin", "b.bin", "mask.bin"), (*widths, 1), strict=True):
            size = (entry / name).stat().st_size
            if size != pixels * width:
                raise ValueError(f"{name} has {size:,} bytes instead of {pixels * width:,}")
        return _mapped(entry, index, fingerprint, skipped_before)


def _mapped(entry: Path, index: dict[str, Any], fingerprint: str, skipped_before: tuple[str, ...]) -> DecodedPairs:
    shapes = [tuple(shape) for shape in index["shapes"]]

    def views(name: str, dtype: str, bands: int | None) -> list[np.ndarray]:
        # Copy-on-write: torch wants writable memory, and nothing ever writes to it.
        flat = np.memmap(entry / name, dtype=dtype, mode="c")
        arrays, start = [], 0
        for height, width in shapes:
            stop = start + height * width * (bands or 1)
            arrays.append(flat[start:stop].reshape((height, width, bands) if bands else (height, width)))
            start = stop
        return arrays

    sides = [
        Side(
            views(name, s["dtype"], len(s["bands"])),
            tuple(s["bands"]),
            s["dtype"],
            (s["limits"][0], s["limits"][1]),
            (s["robust"][0], s["robust"][1]),
            units=Units(*map(tuple, s["units"])) if s["units"] else None,
            suspects=tuple(s["suspects"]),
        )
        for name, s in zip(("a.bin", "b.bin"), index["sides"], strict=True)
    ]
    masks = views("mask.bin", "uint8", None) if index["masked"] else None
    return DecodedPairs(
        tuple(index["ids"]),
        sides[0],
        sides[1],
        masks,
        fingerprint,
        skipped_before + tuple(index["skipped"]),
        index["ground_resolution"],
    )
