"""Translation of a raster in windows: each is read, predicted, blended with its neighbours and rounded once.

Every form of a translation (Raster, DataArray, file, lazy source) gets its pixels from here, so they are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from terramorph.bundle import Bands
from terramorph.geo import Cover, Grid, Window
from terramorph.raster import Raster, Source, default_bands
from terramorph.raster.writer import Strip

if TYPE_CHECKING:
    from terramorph.translate.model import Model

Unit = tuple[Window, ...]
"""Windows that are read together: one, or a row of them where a source can only be decoded from the top."""
Load = Callable[[Window], NDArray[Any] | None]
"""Function that returns the pixels (or the spread) of a window's part; None for a window without data."""


class Part(NamedTuple):
    """The core of a predicted window.

    Attributes:
        pixels: (D, h, w) in stored units from the middle of their range, NaN without data; float16 for targets of 8
            bits, else float32.
        spread: Standard deviation of the samples, float32 (1, h, w) in stored units, NaN without data; None for one
            sample.
    """

    pixels: NDArray[Any]
    spread: NDArray[np.float32] | None = None


def pixels_of(part: Part | None) -> NDArray[Any] | None:
    """Return the pixels of a part; None for a window without data."""
    return None if part is None else part.pixels


@dataclass(frozen=True)
class Tiled:
    """A model and the windows of a grid. It can be pickled if the model can.

    Attributes:
        grid: Grid on which it sees the source.
        samples: Number of samples, whose spread is kept.
        sample: Number of the first sample, which gives the pixels.
    """

    model: Model = field(repr=False)
    grid: Grid
    cover: Cover
    samples: int = 1
    sample: int = 0

    @property
    def target(self) -> Bands:
        """Bands of the target."""
        return self.model.header.target

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the pixels of parts."""
        return np.dtype("float16" if np.dtype(self.target.dtype).itemsize == 1 else "float32")

    def units(self, source: Source, done: Collection[int] = ()) -> Iterator[Unit]:
        """Yield the windows from the top.

        Args:
            done: Numbers of windows to leave out.
        """
        left = (window for window in self.cover.windows() if window.number not in done)
        if source.sequential:
            return (tuple(row) for _, row in groupby(left, key=lambda window: window.down))
        return ((window,) for window in left)

    def read(self, source: Source, unit: Unit) -> list[Raster]:
        """Read what the network sees of each window."""
        if not source.sequential:
            return [source.read(self.seen(window)) for window in unit]
        rows = source.read(self.grid.crop(unit[0].down.start, 0, unit[0].height, self.grid.width))
        return [rows.crop(0, w.across.start, w.height, w.width) for w in unit]

    def seen(self, window: Window) -> Grid:
        """Return the grid of what the network sees of a window."""
        return self.grid.crop(window.down.start, window.across.start, window.height, window.width)

    def predict(self, raster: Raster, window: Window) -> Part | None:
        """Predict a window, once per sample; None if it has no data."""
        core = window.inner
        if not raster.mask[core].any():
            return None
        draws = range(self.sample, self.sample + self.samples)
        return self.part([self.model.predict_one(raster, draw, core) for draw in draws], raster.mask[core], window)

    def part(self, draws: Sequence[NDArray[np.float32]], mask: NDArray[np.bool_], window: Window) -> Part:
        """Return the part of a window.

        Args:
            draws: Samples of its core, float32 (D, h, w) in [-1, 1] each.
            mask: bool (h, w), True where there is data.
        """
        none = ~mask
        pixels, *others = (self._stored_as_floats(draw) for draw in draws)
        spread = None
        if others:
            spread = np.stack([pixels, *others]).std(axis=0, ddof=1).mean(axis=0, keepdims=True)
            spread[:, none] = np.nan
        if self._is_integer:
            # Pixels that are not blended are rounded here, so that parts of few bits keep them exactly.
            alone = pixels[:, *self._alone(window)]
            np.rint(alone, out=alone)
        pixels -= self._middle
        pixels[:, none] = np.nan
        halved = torch.from_numpy(pixels).half().numpy() if self.dtype == np.float16 else pixels
        return Part(halved, spread)

    def strips(self, load: Load) -> Iterator[Strip]:
        """Yield the raster in rows from the top: (rows, pixels (D, h, W) in the target's dtype, mask bool (h, W)).

        Args:
            load: Called once for each window, in their order.
        """
        for rows, values, weight in self.cover.join(load, self.target.count, self.rows_at_once):
            yield rows, *self._finished(values, weight)

    def spread(self, load: Load) -> Iterator[Strip]:
        """Yield the spread of the samples likewise, float32 (1, h, W)."""
        for rows, values, weight in self.cover.join(load, 1, self.rows_at_once):
            mask = (weight > 0.0) & ~np.isnan(values[0])
            values[:, ~mask] = 0.0
            yield rows, values, mask

    def piece(self, load: Load, rows: slice, columns: slice) -> Raster:
        """Return a piece of the raster.

        Args:
            load: Called for each window whose core meets the piece.
            rows, columns: Ranges in pixels of the grid.
        """
        parts = ((window, load(window)) for window in self.cover.meeting(rows, columns))
        there = [(window, part) for window, part in parts if part is not None]
        values, weight = self.cover.blend(there, rows, columns, self.target.count)
        grid = self.grid.crop(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        return self.placed(*self._finished(values, weight), grid)

    def whole(self, source: Source) -> Raster:
        """Return the whole raster, in memory."""
        made = (
            self.predict(raster, window)
            for unit in self.units(source)
            for window, raster in zip(unit, self.read(source, unit), strict=True)
        )
        return self.joined(self.strips(lambda _: pixels_of(next(made))), self.grid)

    def joined(self, strips: Iterable[Strip], grid: Grid) -> Raster:
        """Return strips as one Raster on a grid."""
        pixels = np.empty((self.target.count, *grid.shape), self.target.dtype)
        mask = np.empty(grid.shape, np.bool_)
        for rows, values, real in strips:
            pixels[:, rows], mask[rows] = values, real
        return self.placed(pixels, mask, grid)

    def of_one(self, unit: NDArray[np.float32], mask: NDArray[np.bool_]) -> Raster:
        """Return the whole raster from the prediction of its only window, float32 (D, H, W) in [-1, 1]."""
        (window,) = self.cover.windows()
        pixels = self.part([unit], mask, window).pixels.astype(np.float32)
        return self.placed(*self._finished(pixels, np.ones(mask.shape, np.float32)), self.grid)

    def placed(self, pixels: NDArray[Any], mask: NDArray[np.bool_], grid: Grid) -> Raster:
        """Return pixels of the target as a Raster."""
        return Raster(pixels, mask, grid, self.bands, self.target.units)

    def within(self, pixels: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
        """Return pixels after resampling, which may overshoot, within the target's range; its lowest value without
        data."""
        ends = np.array([self.target.low, self.target.high])
        low, high = (np.rint(ends) if self._is_integer else ends).astype(self.target.dtype)
        found: NDArray[Any] = np.where(mask, np.clip(pixels, low, high), low)
        return found

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the target's bands."""
        names = self.target.names
        return names if len(names) == self.target.count else default_bands(self.target.count)

    @property
    def rows_at_once(self) -> int:
        """Rows of a strip; fewer for a wider raster, so that memory does not grow with it."""
        return max(16, min(256, (1 << 21) // self.cover.width))

    def _alone(self, window: Window) -> tuple[slice, slice]:
        """Return (rows, columns) of a core that are not blended with a neighbour."""
        alone = [np.flatnonzero(span.weights[span.inner] == 1.0) for span in (window.down, window.across)]
        y, x = (slice(found[0], found[-1] + 1) if len(found) else slice(0, 0) for found in alone)
        return y, x

    @property
    def _middle(self) -> float:
        """Middle of the stored range, which is subtracted because floats of few bits are finest around 0."""
        return self.target.scaling.middle

    @property
    def _is_integer(self) -> bool:
        return np.dtype(self.target.dtype).kind in "iu"

    def _stored_as_floats(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return values in [-1, 1] as float32 in stored units, not rounded; a copy."""
        values = np.clip(unit, np.float32(-1.0), np.float32(1.0), out=np.empty(unit.shape, np.float32))
        values *= np.float32(self.target.scaling.half)
        values += np.float32(self._middle)
        return values

    def _finished(
        self, values: NDArray[np.float32], weight: NDArray[np.float32]
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return blended values as pixels of the target's dtype, lowest value without data, and their mask."""
        mask = (weight > 0.0) & ~np.isnan(values[0])
        values += np.float32(self._middle)
        if self._is_integer:
            np.rint(values, out=values)
        values[:, ~mask] = self.target.low
        return values.astype(self.target.dtype), mask
