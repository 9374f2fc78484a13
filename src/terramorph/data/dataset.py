"""Pairs -> batches: decoded once into a memory-mapped cache, then cut, augmented and scaled at memory speed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from terramorph.data.augment import Augmentation, Draw, cut, draw, gather, generator_for, jitter_colours
from terramorph.data.folder import PairFolder
from terramorph.errors import DatasetError, StorageError
from terramorph.pixels import DTYPES, Batch, Scaling
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
            _build(building, pairs, size, resampling, at_least, skip_bad, progress)
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


def _build(
    folder: Path,
    pairs: PairFolder,
    size: int | None,
    resampling: Resampling,
    at_least: int,
    skip_bad: bool,
    progress: Progress | None,
) -> None:
    def load(index: int) -> tuple[list[np.ndarray], np.ndarray, float | None, tuple[Any, ...]]:
        pair = pairs.read(index)
        height, width = (size, size) if size else (pair.a.height, pair.a.width)
        where = " and ".join(str(file) for file in pairs.files[index])
        for raster in (pair.a, pair.b):
            if raster.pixels.dtype.name not in DTYPES:
                raise DatasetError(
                    f"{where} holds {raster.pixels.dtype.name} values; convert it to one of {', '.join(DTYPES)}."
                )
            if raster.pixels.dtype.kind == "f" and not np.isfinite(raster.pixels[:, raster.mask]).all():
                raise DatasetError(
                    f"{where} holds values that are not finite outside its mask; fill them or declare a nodata value."
                )
        if min(height, width) < at_least:
            raise DatasetError(
                f"{where} is {width}x{height} px and crops of {at_least} px are asked for; use a "
                f"smaller crop or turn the resize on."
            )
        sides = [
            np.nan_to_num(
                resize_pixels(np.where(r.mask, r.pixels, 0).astype(r.pixels.dtype), height, width, resampling)
            )
            for r in (pair.a, pair.b)
        ]
        mask = resize_pixels(pair.mask[None].astype(np.uint8), height, width, "nearest")[0]
        resolution = pair.a.grid.ground_resolution
        kind = tuple((r.bands, r.pixels.dtype.name) for r in (pair.a, pair.b))
        return sides, mask, resolution and resolution * pair.a.height / height, kind

    kept: list[int] = []
    shapes: list[tuple[int, int]] = []
    skipped: list[str] = []
    resolutions: list[float] = []
    kind: tuple[Any, ...] | None = None
    limits = np.array([[np.inf, -np.inf], [np.inf, -np.inf]])
    samples: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    masked = False
    workers = min(8, os.cpu_count() or 1)
    with (
        (folder / "a.bin").open("wb") as file_a,
        (folder / "b.bin").open("wb") as file_b,
        (folder / "mask.bin").open("wb") as file_mask,
        ThreadPoolExecutor(workers) as pool,
    ):
        ahead = 4 * workers  # bounds the memory of decoded pairs that wait to be written
        waiting = [pool.submit(load, i) for i in range(min(ahead, len(pairs)))]
        try:
            for index in range(len(pairs)):
                future = waiting.pop(0)
                if index + ahead < len(pairs):
                    waiting.append(pool.submit(load, index + ahead))
                try:
                    sides, mask, resolution, this = future.result()
                    if kind is not None and this != kind:
                        raise DatasetError(
                            f"{' and '.join(map(str, pairs.files[index]))} holds {_describe(this)} "
                            f"while the pairs before it hold "
                            f"{_describe(kind)}; every pair of a dataset must have the same bands and dtypes."
                        )
                except DatasetError as error:
                    if not skip_bad:
                        raise
                    skipped.append(str(error))
                    continue
                kind = this
                for n, (side, file) in enumerate(zip(sides, (file_a, file_b), strict=True)):
                    side = np.ascontiguousarray(side.transpose(1, 2, 0))
                    file.write(side.tobytes())
                    valid = side[mask > 0]
                    if valid.size:
                        limits[n] = min(limits[n, 0], valid.min()), max(limits[n, 1], valid.max())
                        samples[n].append(valid[:: max(1, len(valid) // 256)].astype(np.float32).ravel())
                file_mask.write(mask.tobytes())
                masked |= not mask.all()
                kept.append(index)
                shapes.append(mask.shape)
                if resolution:
                    resolutions.append(resolution)
                if progress:
                    progress(index + 1, len(pairs))
        finally:
            for future in waiting:
                future.cancel()
    if not kept or kind is None:
        raise DatasetError(
            f"None of the {len(pairs)} pairs of {pairs.root / pairs.split} can be used; the first: {skipped[0]}"
        )
    document = {
        "ids": [pairs.ids[i] for i in kept],
        "shapes": shapes,
        "sides": [
            {
                "bands": bands,
                "dtype": dtype,
                "limits": [float(v) for v in limits[n]] if samples[n] else [0.0, 1.0],
                "robust": [float(v) for v in np.percentile(np.concatenate(samples[n]), (0.1, 99.9))]
                if samples[n]
                else [0.0, 1.0],
            }
            for n, (bands, dtype) in enumerate(kind)
        ],
        "masked": bool(masked),
        "skipped": skipped,
        "ground_resolution": float(np.median(resolutions)) if resolutions else None,
    }
    (folder / "index.json").write_text(json.dumps(document))


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


class TrainingBatches:
    """Augmented batches by number: batch k is the same whenever and wherever it is asked for.

    Samples are numbered through the whole run; each epoch is a permutation of the pairs, and a batch may reach over
    the end of one into the next.

    Args:
        pairs: decoded pairs.
        source, target: their sides for the direction of training.
        scalings: of source and target.
        augmentation: what is done to every sample.
        seed: of the permutations and the augmentation.
        device: where batches are made. On an accelerator the whole set moves there if it fits in half of its free
            memory and all pairs have one size; then it is cut and augmented there.
    """

    def __init__(
        self,
        pairs: DecodedPairs,
        source: Side,
        target: Side,
        scalings: tuple[Scaling, Scaling],
        augmentation: Augmentation,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        self.pairs = pairs
        self.sides = (source, target)
        self.scalings = scalings
        self.augmentation = augmentation
        self.seed = seed
        self.device = device or torch.device("cpu")
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self.resident = self._move() if self.device.type != "cpu" else None

    def batch(self, first: int, count: int) -> Batch:
        """Samples first to first + count - 1 of the run, as a batch on the device (channels_last)."""
        numbers = range(first, first + count)
        index = [self._pair(number) for number in numbers]
        drawn = [
            draw(self.augmentation, self._height_width(i), self.seed, number)
            for i, number in zip(index, numbers, strict=True)
        ]
        if self.resident is not None:
            where = torch.tensor(index, device=self.device)
            stored = [gather(images, where, drawn, self.augmentation.crop) for images in self.resident]
        else:
            stored = [self._cut(side.images, index, drawn) for side in self.sides]
            if self.pairs.masks is not None:
                stored.append(
                    self._cut(
                        [mask[..., None] for mask in (self.pairs.masks[i] for i in index)],
                        range(count),
                        drawn,
                    )
                )
        source, target = (
            scaling.to_unit(images, _memory(images)).permute(0, 3, 1, 2)
            for scaling, images in zip(self.scalings, stored, strict=False)
        )
        if self.augmentation.jitter:
            source = jitter_colours(source, drawn)
        mask = stored[2].permute(0, 3, 1, 2).float() if len(stored) == 3 else None
        return Batch(source, target, mask)

    def _height_width(self, index: int) -> tuple[int, int]:
        height, width, _ = self.sides[0].images[index].shape
        return height, width

    def _pair(self, number: int) -> int:
        epoch, position = divmod(number, len(self.pairs))
        if self._order[0] != epoch:
            self._order = (epoch, generator_for(self.seed, 0, epoch).permutation(len(self.pairs)))
        return int(self._order[1][position])

    def _cut(self, images: list[np.ndarray], index: Any, drawn: list[Draw]) -> Tensor:
        crop = self.augmentation.crop
        stack = np.empty((len(drawn), crop, crop, images[0].shape[-1]), images[0].dtype)
        stacked = torch.from_numpy(stack)
        for slot, i, d in zip(stacked, index, drawn, strict=True):
            slot.copy_(cut(torch.from_numpy(images[i]), d, crop))
        return stacked.to(self.device, non_blocking=True)

    def _move(self) -> list[Tensor] | None:
        stacks = [side.images for side in self.sides]
        if self.pairs.masks is not None:
            stacks.append([mask[..., None] for mask in self.pairs.masks])
        size = sum(image.nbytes for images in stacks for image in images)
        if len({image.shape[:2] for image in stacks[0]}) > 1:
            return None
        if self.device.type == "cuda" and size > torch.cuda.mem_get_info(self.device)[0] // 2:
            return None
        return [torch.from_numpy(np.stack(images)).to(self.device) for images in stacks]


def _memory(like: Tensor) -> Tensor | None:
    """float32 memory of a tensor's shape, on huge pages.

    numpy asks the system for huge pages and torch does not; with small ones, more time goes into mapping fresh
    memory than into filling it.
    """
    return torch.from_numpy(np.empty(like.shape, np.float32)) if like.device.type == "cpu" else None
