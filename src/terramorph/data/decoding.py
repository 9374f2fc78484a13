"""Decoding pairs with all cores into the files of one cache entry."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from terramorph.bands import Units, band_order, default_bands, same_bands
from terramorph.errors import DatasetError, InputError, warn
from terramorph.geo import Grid
from terramorph.pairs.folder import PairFolder
from terramorph.pixels import DTYPES
from terramorph.raster.image import probe_image
from terramorph.raster.raster import Raster
from terramorph.raster.resample import Resampling, resize_masked
from terramorph.raster.values import Suspects

Progress = Callable[[int, int], None]
Kind = tuple[tuple[int, str], ...]
"""Bands and dtype of each side."""


def digest_of(index: str) -> str:
    """Digest the lines of an index; its last line, so that damage is found."""
    return hashlib.blake2b(index.encode(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class _Decoded:
    """One pair, decoded: sides of C bands, mask uint8 (H, W), metres per pixel, and the kind."""

    sides: tuple[Raster, Raster]
    mask: np.ndarray
    resolution: float | None
    kind: Kind


class _Statistics:
    """Range and percentiles of one side's valid values, the latter from a sample; bands and their units."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.units: Units | None = None
        self.low, self.high = np.inf, -np.inf
        self.sample: list[np.ndarray] = []

    def fit(self, side: Raster) -> Raster:
        """Reorder a side's bands to those of the first pair, and convert its values to that pair's units."""
        if not self.names:
            self.names, self.units = side.bands, side.units
            return side
        order = band_order(side.bands, self.names) or range(side.count)
        fitted = side.arranged(order, self.units)
        if fitted.units != self.units:
            given = " and ".join(str(units or "none") for units in (self.units, fitted.units))
            warn(f"Of the pairs only some say scale and offset of their values ({given}): they are mixed as stored.")
        # Names are kept only where all pairs agree on them.
        if not same_bands(fitted.bands, self.names):
            self.names = default_bands(side.count)
        return fitted

    def add(self, valid: np.ndarray) -> None:
        """Add the valid pixels (N, C) of one pair."""
        if valid.size:
            self.low, self.high = min(self.low, float(valid.min())), max(self.high, float(valid.max()))
            self.sample.append(valid[:: max(1, len(valid) // 256)].astype(np.float32).ravel())

    def document(self) -> dict[str, Any]:
        """Return the entry of the index; a side without a valid pixel gets the range 0..1."""
        units = (self.units.scales, self.units.offsets) if self.units else None
        about: dict[str, Any] = {"bands": self.names, "units": units}
        if not self.sample:
            return {**about, "limits": [0.0, 1.0], "robust": [0.0, 1.0]}
        robust = np.percentile(np.concatenate(self.sample), (0.1, 99.9))
        return {**about, "limits": [self.low, self.high], "robust": [float(value) for value in robust]}


class Builder:
    """Decodes pairs with all cores, and writes them in order into the files of one cache entry."""

    def __init__(
        self, pairs: PairFolder, size: int | None, resampling: Resampling, at_least: int, skip_bad: bool
    ) -> None:
        self.pairs, self.skip_bad = pairs, skip_bad
        self.size, self.resampling, self.at_least = size, resampling, at_least
        self.kind = self._usual_kind() if skip_bad else None
        self.suspects = (Suspects(), Suspects())
        self.lock = Lock()

    def build(self, folder: Path, progress: Progress | None) -> None:
        """Write a.bin, b.bin, mask.bin and index.json.

        Args:
            folder: Folder of the entry, empty.
            progress: Called with (pairs done, pairs in all).

        Raises:
            DatasetError: If a pair cannot be read, is too small, holds values that cannot be used, or is of
                another kind than the others; or, where bad pairs are left out, if none is left.
            OSError: If the folder cannot be written; `decode` says what to do then.
        """
        ids: list[str] = []
        shapes: list[tuple[int, ...]] = []
        skipped: list[str] = []
        resolutions: list[float] = []
        statistics = (_Statistics(), _Statistics())
        masked = False
        with (
            (folder / "a.bin").open("wb") as file_a,
            (folder / "b.bin").open("wb") as file_b,
            (folder / "mask.bin").open("wb") as file_mask,
        ):
            for index, future in enumerate(self._ahead()):
                if progress:
                    progress(index + 1, len(self.pairs))
                try:
                    decoded = self._of_one_kind(index, future.result())
                except DatasetError as error:
                    if not self.skip_bad:
                        raise
                    skipped.append(str(error))
                    continue
                for side, file, seen in zip(decoded.sides, (file_a, file_b), statistics, strict=True):
                    interleaved = np.ascontiguousarray(seen.fit(side).pixels.transpose(1, 2, 0))
                    file.write(interleaved.tobytes())
                    seen.add(interleaved[decoded.mask > 0])
                file_mask.write(decoded.mask.tobytes())
                masked |= not decoded.mask.all()
                ids.append(self.pairs.ids[index])
                shapes.append(decoded.mask.shape)
                if decoded.resolution:
                    resolutions.append(decoded.resolution)
        if not ids or self.kind is None:
            where = self.pairs.root / self.pairs.split
            raise DatasetError(f"None of the {len(self.pairs)} pairs of {where} can be used; the first: {skipped[0]}")
        document = {
            "ids": ids,
            "shapes": shapes,
            "sides": [
                {"dtype": dtype, **seen.document(), "suspects": suspects.found()}
                for (_, dtype), seen, suspects in zip(self.kind, statistics, self.suspects, strict=True)
            ],
            "masked": bool(masked),
            "skipped": skipped,
            "ground_resolution": float(np.median(resolutions)) if resolutions else None,
        }
        text = json.dumps(document)
        (folder / "index.json").write_text(f"{text}\n{digest_of(text)}", encoding="utf-8")

    def _usual_kind(self) -> Kind | None:
        """Return the kind of most pairs, by their headers: it is kept where others are left out."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            kinds = Counter(kind for kind in pool.map(_probed, self.pairs.files) if kind is not None)
        return kinds.most_common(1)[0][0] if kinds else None

    def _ahead(self) -> Iterator[Future[_Decoded]]:
        """Yield every pair's future in order, with a bounded number of them at work or waiting to be written."""
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
            others = "most pairs" if self.skip_bad else "the pairs before it"
            raise DatasetError(
                f"{self._where(index)} holds {_describe(decoded.kind)} while {others} hold {_describe(self.kind)}; "
                "every pair of a dataset must have as many bands, of the same dtypes."
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
        a, b = (self._resized(side, index, height, width) for side in (pair.a, pair.b))
        for side, suspects in zip((pair.a, pair.b), self.suspects, strict=True):
            if side.dtype != np.uint8:  # before the filter makes other values of them
                with self.lock:
                    suspects.add(side.pixels[:, side.mask])
        return _Decoded(
            (a, b),
            (a.mask & b.mask).astype(np.uint8),
            resolution * pair.a.height / height if resolution else None,
            tuple((raster.count, raster.dtype.name) for raster in (pair.a, pair.b)),
        )

    def _resized(self, raster: Raster, index: int, height: int, width: int) -> Raster:
        pixels = raster.pixels
        if pixels.dtype.name not in DTYPES:
            raise DatasetError(
                f"{self._where(index)} holds {pixels.dtype.name} values; convert it to one of {', '.join(DTYPES)}."
            )
        if pixels.dtype.kind == "f" and not (np.isfinite(pixels) | ~raster.mask).all():
            raise DatasetError(
                f"{self._where(index)} holds values that are not finite outside its mask; fill them or declare a "
                "nodata value."
            )
        resized, mask = resize_masked(pixels, raster.mask, height, width, self.resampling)
        return Raster(resized, mask, Grid.pixels(height, width), raster.bands, raster.units)

    def _where(self, index: int) -> str:
        return " and ".join(str(file) for file in self.pairs.files[index])


def _probed(files: tuple[Path, ...]) -> Kind | None:
    """Return the kind of a pair by the headers of its files; None where they cannot be used."""
    try:
        probes = [probe_image(file) for file in files]
    except InputError:
        return None
    kind = tuple((bands, dtype) for _, _, bands, dtype in (probes * 2)[:2])
    return kind if all(dtype in DTYPES for _, dtype in kind) else None


def _describe(kind: Kind) -> str:
    return " | ".join(f"{bands} band{'' if bands == 1 else 's'} of {dtype}" for bands, dtype in kind)
