"""The cache: every pair decoded and resized once, into files of plain bytes that are memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terramorph.data.folder import PairFolder
from terramorph.errors import DatasetError, StorageError
from terramorph.pixels import DTYPES, Scaling
from terramorph.raster.raster import Raster
from terramorph.raster.resample import Resampling, resize_pixels

CACHE_FORMAT = 1
DEFAULT_CACHE = Path.home() / ".cache" / "terramorph"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Side:
    """One side of all pairs, decoded.

    Attributes:
        images: one (H, W, C) array a pair, views of the memory map.
        bands: names.
        dtype: numpy name.
        low, high: smallest and largest stored value.
        robust_low, robust_high: the 0.1 and 99.9 percentiles, from a sample of the pixels.
    """

    images: list[np.ndarray]
    bands: tuple[str, ...]
    dtype: str
    low: float
    high: float
    robust_low: float
    robust_high: float

    def scaling(self, wanted: tuple[float, float] | None = None, *, robust: bool = False) -> Scaling:
        """Stored values <-> [-1, 1]: the whole dtype for uint8, else the wanted or the measured range."""
        if wanted is not None:
            return Scaling(self.dtype, *wanted)
        if self.dtype == "uint8":
            return Scaling()
        low, high = (self.robust_low, self.robust_high) if robust else (self.low, self.high)
        return Scaling(self.dtype, low, high if high > low else low + 1.0)


@dataclass(frozen=True)
class DecodedPairs:
    """All pairs of a split, decoded and resized, as views of files on disk.

    Attributes:
        ids: one a pair.
        a, b: the sides.
        masks: uint8 (H, W) a pair, 1 where both sides hold real pixels; None if all do.
        fingerprint: of the files that were decoded.
        skipped: sentences about pairs that were left out.
        ground_resolution: median metres per pixel after resizing; None if the pairs have no place on Earth.
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
    """Decodes every pair once and keeps the result in the cache.

    The cache entry is named by the content of the files and the arguments, and appears whole: two processes that
    build it at once do the work twice and agree.

    Args:
        pairs: what `open_pairs` found.
        size: side in pixels that both halves are resized to; None keeps their size.
        resampling: the filter of that resize.
        at_least: pairs with a side under this many pixels after resizing are bad.
        cache: folder of the cache.
        skip_bad: leave out pairs that cannot be read, and list them.
        progress: called with (pairs done, pairs).

    Raises:
        DatasetError: naming the first file that cannot be used, before anything is trained.
        StorageError: if the cache cannot be written.
    """
    fingerprint = pairs.fingerprint()
    asked = f"{CACHE_FORMAT} {fingerprint} {size} {resampling} {at_least} {skip_bad} {len(pairs)}"
    entry = cache / hashlib.blake2b(asked.encode(), digest_size=12).hexdigest()
    if not (entry / "index.json").is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            building = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))
        except OSError as error:
            raise StorageError(
                f"The cache {cache} cannot be written ({error}); choose another with --cache."
            ) from error
        try:
            _Builder(building, pairs, size, resampling, at_least).build(skip_bad, progress)
            building.rename(entry)
        except OSError as error:
            # Another process may have finished the same entry first; its bytes are ours.
            if not (entry / "index.json").is_file():
                raise StorageError(
                    f"The cache {cache} cannot be written ({error}); free some space or choose another with --cache."
                ) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return _open(entry, fingerprint, pairs.skipped)


@dataclass(frozen=True)
class _Decoded:
    """One pair, decoded: sides (C, H, W), mask uint8 (H, W), metres per pixel, and (bands, dtype) of each side."""

    sides: tuple[np.ndarray, np.ndarray]
    mask: np.ndarray
    resolution: float | None
    kind: tuple[tuple[tuple[str, ...], str], ...]


class _Statistics:
    """The range of one side's valid values, and its percentiles from a sample of them."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self.sample: list[np.ndarray] = []

    def add(self, valid: np.ndarray) -> None:
        """Valid pixels (N, C) of one pair."""
        if valid.size:
            self.low, self.high = min(self.low, float(valid.min())), max(self.high, float(valid.max()))
            self.sample.append(valid[:: max(1, len(valid) // 256)].astype(np.float32).ravel())

    def document(self) -> dict[str, list[float]]:
        """For the index; a side without a valid pixel gets 0..1."""
        if not self.sample:
            return {"limits": [0.0, 1.0], "robust": [0.0, 1.0]}
        robust = np.percentile(np.concatenate(self.sample), (0.1, 99.9))
        return {"limits": [self.low, self.high], "robust": [float(value) for value in robust]}


class _Builder:
    """Decodes pairs with all cores, and writes them in order into the files of one cache entry."""

    def __init__(
        self, folder: Path, pairs: PairFolder, size: int | None, resampling: Resampling, at_least: int
    ) -> None:
        self.folder, self.pairs = folder, pairs
        self.size, self.resampling, self.at_least = size, resampling, at_least
        self.kind: tuple[tuple[tuple[str, ...], str], ...] | None = None

    def build(self, skip_bad: bool, progress: Progress | None) -> None:
        """Writes a.bin, b.bin, mask.bin and index.json."""
        ids: list[str] = []
        shapes: list[tuple[int, ...]] = []
        skipped: list[str] = []
        resolutions: list[float] = []
        statistics = (_Statistics(), _Statistics())
        masked = False
        with (
            (self.folder / "a.bin").open("wb") as file_a,
            (self.folder / "b.bin").open("wb") as file_b,
            (self.folder / "mask.bin").open("wb") as file_mask,
        ):
            for index, future in enumerate(self._ahead()):
                if progress:
                    progress(index + 1, len(self.pairs))
                try:
                    decoded = self._of_one_kind(index, future.result())
                except DatasetError as error:
                    if not skip_bad:
                        raise
                    skipped.append(str(error))
                    continue
                for side, file, seen in zip(decoded.sides, (file_a, file_b), statistics, strict=True):
                    interleaved = np.ascontiguousarray(side.transpose(1, 2, 0))
                    file.write(interleaved.tobytes())
                    seen.add(interleaved[decoded.mask > 0])
                file_mask.write(decoded.mask.tobytes())
                masked |= not decoded.mask.all()
                ids.append(self.pairs.ids[index])
                shapes.append(decoded.mask.shape)
                if decoded.resolution:
                    resolutions.append(decoded.resolution)
        if self.kind is None:
            where = self.pairs.root / self.pairs.split
            raise DatasetError(f"None of the {len(self.pairs)} pairs of {where} can be used; the first: {skipped[0]}")
        document = {
            "ids": ids,
            "shapes": shapes,
            "sides": [
                {"bands": bands, "dtype": dtype, **seen.document()}
                for (bands, dtype), seen in zip(self.kind, statistics, strict=True)
            ],
            "masked": bool(masked),
            "skipped": skipped,
            "ground_resolution": float(np.median(resolutions)) if resolutions else None,
        }
        (self.folder / "index.json").write_text(json.dumps(document))

    def _ahead(self) -> Iterator[Future[_Decoded]]:
        """Every pair's future in order, with a bounded number of them at work or waiting to be written."""
        workers = min(8, os.cpu_count() or 1)
        waiting: deque[Future[_Decoded]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            try:
                for index in range(len(self.pairs)):
                    waiting.append(pool.submit(self._load, index))
                    if len(waiting) > 4 * workers:
                        yield waiting.popleft()
                while waiting:
                    yield waiting.popleft()
            finally:
                for future in waiting:
                    future.cancel()

    def _of_one_kind(self, index: int, decoded: _Decoded) -> _Decoded:
        if self.kind is not None and decoded.kind != self.kind:
            raise DatasetError(
                f"{self._where(index)} holds {_describe(decoded.kind)} while the pairs before it hold "
                f"{_describe(self.kind)}; every pair of a dataset must have the same bands and dtypes."
            )
        self.kind = decoded.kind
        return decoded

    def _load(self, index: int) -> _Decoded:
        pair = self.pairs.read(index)
        height, width = (self.size, self.size) if self.size else (pair.a.height, pair.a.width)
        if min(height, width) < self.at_least:
            raise DatasetError(
                f"{self._where(index)} is {width}x{height} px and crops of {self.at_least} px are asked for; "
                "use a smaller crop or turn the resize on."
            )
        resolution = pair.a.grid.ground_resolution
        return _Decoded(
            (self._resized(pair.a, index, height, width), self._resized(pair.b, index, height, width)),
            resize_pixels(pair.mask[None].astype(np.uint8), height, width, "nearest")[0],
            resolution * pair.a.height / height if resolution else None,
            tuple((raster.bands, raster.pixels.dtype.name) for raster in (pair.a, pair.b)),
        )

    def _resized(self, raster: Raster, index: int, height: int, width: int) -> np.ndarray:
        pixels = raster.pixels
        if pixels.dtype.name not in DTYPES:
            raise DatasetError(
                f"{self._where(index)} holds {pixels.dtype.name} values; convert it to one of {', '.join(DTYPES)}."
            )
        if not raster.mask.all():
            # What lies under the mask is arbitrary, and must not reach its neighbours as infinity or NaN.
            pixels = np.where(raster.mask, pixels, 0).astype(pixels.dtype)
        if not np.isfinite(pixels).all():
            raise DatasetError(
                f"{self._where(index)} holds values that are not finite outside its mask; fill them or declare a "
                "nodata value."
            )
        return resize_pixels(pixels, height, width, self.resampling)

    def _where(self, index: int) -> str:
        return " and ".join(str(file) for file in self.pairs.files[index])


def _describe(kind: tuple[Any, ...]) -> str:
    return " | ".join(f"{len(bands)} bands of {dtype}" for bands, dtype in kind)


def _open(entry: Path, fingerprint: str, skipped_before: tuple[str, ...]) -> DecodedPairs:
    index = json.loads((entry / "index.json").read_text())
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
            *s["limits"],
            *s["robust"],
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
