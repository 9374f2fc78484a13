"""Cover: windows that cover a grid too large for one pass, and how their outputs become one image again.

With a bounded receptive field, each output pixel is taken from one window, equal to that of the whole image. Otherwise
each window gives other pixels, and overlapping windows are blended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Span:
    """One window along one axis.

    Attributes:
        start, stop: Pixels [start, stop) that the network sees.
        first, last: Pixels [first, last) of these that its output is used for.
        weights: float32 (stop - start,), read-only, the share of this window in each output pixel, 0 outside
            the pixels used. Over all spans of an axis they add up to 1.
    """

    start: int
    stop: int
    first: int
    last: int
    weights: NDArray[np.float32]

    @property
    def core(self) -> slice:
        """Pixels that its output is used for."""
        return slice(self.first, self.last)

    @property
    def inner(self) -> slice:
        """The core, counted from the start of the window."""
        return slice(self.first - self.start, self.last - self.start)


@dataclass(frozen=True)
class Window:
    """One window of a cover.

    Attributes:
        number: From 0, row by row.
        down, across: The rows and the columns that it is made of. They lie in the grid.
    """

    number: int
    down: Span
    across: Span

    @property
    def height(self) -> int:
        """Rows that the network sees."""
        return self.down.stop - self.down.start

    @property
    def width(self) -> int:
        """Columns that the network sees."""
        return self.across.stop - self.across.start

    @property
    def seen(self) -> tuple[slice, slice]:
        """(rows, columns) of the grid that the network sees."""
        return slice(self.down.start, self.down.stop), slice(self.across.start, self.across.stop)

    @property
    def core(self) -> tuple[slice, slice]:
        """(rows, columns) of the grid that the window's output is used for."""
        return self.down.core, self.across.core

    @property
    def inner(self) -> tuple[slice, slice]:
        """(rows, columns) of the core within the window: ``output[:, *window.inner]`` is what `Cover.join` takes."""
        return self.down.inner, self.across.inner


@dataclass(frozen=True)
class Cover:
    """Windows over the pixels of a grid, as a plan: a value that is compared, hashed and written down.

    Windows start at multiples of ``align`` and have the full side, but for the last of a row or column, which ends
    with the grid: it is smaller, though always larger than what it shares.

    Attributes:
        height, width: Pixels to cover.
        window: Side of a window in pixels; more than the overlap, or than twice the halo, by at least
            ``align``.
        halo: If the receptive field is bounded: pixels that an output depends on on each side. Each output
            pixel then comes from one window that sees all of them, and the joint is exact. None: windows are
            blended linearly, over half the overlap in the middle of what they share.
        overlap: Pixels that neighbours share at least, where they are blended; of no effect with a halo.
        align: Starts are multiples of this.
        offset: (y, x), multiples of ``align``: the lattice of windows begins at minus this. Another tiling of
            the same ground; two that agree have no seams.

    Raises:
        ConfigError: If a side is under 1, a window leaves no room for a step, or an offset does not fit.
    """

    height: int
    width: int
    window: int
    halo: int | None = None
    overlap: int = 0
    align: int = 1
    offset: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.window, self.align) < 1 or min(self.overlap, self.halo or 0) < 0:
            raise ConfigError(f"Sizes of a cover must be >= 1 pixel, halo and overlap >= 0, got {self}.")
        if max(self.height, self.width) > self.window and self.step < self.align:
            raise ConfigError(
                f"A window of {self.window} pixels is too small for {self._shared} shared with its neighbour in "
                f"steps of {self.align}; make it {self._shared + self.align} or larger."
            )
        if any(value < 0 or value % self.align for value in self.offset):
            raise ConfigError(f"`offset` must be multiples of {self.align} pixels, got {self.offset}.")

    @property
    def step(self) -> int:
        """Pixels from one window to the next, but for those at the border of the grid."""
        return (self.window - self._shared) // self.align * self.align

    @cached_property
    def rows(self) -> tuple[Span, ...]:
        """The windows from top to bottom."""
        return self._spans(self.height, self.offset[0])

    @cached_property
    def columns(self) -> tuple[Span, ...]:
        """The windows from left to right."""
        return self._spans(self.width, self.offset[1])

    @property
    def cells(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """(rows, columns): the grid cut in pieces, one a window and the middle of its core."""
        return _cells(self.rows), _cells(self.columns)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.rows) * len(self.columns)

    def windows(self) -> Iterator[Window]:
        """Yield every window, row by row."""
        for row in range(len(self.rows)):
            for column in range(len(self.columns)):
                yield self._window(row, column)

    def meeting(self, rows: slice, columns: slice) -> list[Window]:
        """Return the windows whose cores meet a piece of the grid, row by row."""
        down = [n for n, span in enumerate(self.rows) if span.first < rows.stop and span.last > rows.start]
        across = [n for n, span in enumerate(self.columns) if span.first < columns.stop and span.last > columns.start]
        return [self._window(row, column) for row in down for column in across]

    def _window(self, row: int, column: int) -> Window:
        return Window(row * len(self.columns) + column, self.rows[row], self.columns[column])

    def join(
        self, parts: Callable[[Window], NDArray[Any] | None], bands: int, rows: int = 256
    ) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.float32]]]:
        """Blend the outputs of all windows to one image: rows from top to bottom, as soon as they are final.

        Each window is asked for once, in the order of `windows`, not before the rows above it have been taken, and is
        let go of after its last row. What is added up is a few rows of the whole width; parts may be memory-mapped.

        Args:
            parts: Gives a window's output on its core, any real dtype (bands, height, width), or
                None for a window without one. Its share then goes to the windows that overlap it.
            bands: Bands of the output.
            rows: At most so many at a time.

        Yields:
            (rows, values, weight). values: float32 (bands, h, width) of these rows, 0 where no window has an
            output. weight: float32 (h, width) in 0..1, the share of the windows that had one: 0 where there
            is no value, under 1 where a neighbour is missing. Both may be written to.

        Raises:
            ValueError: If a part has another shape.
        """
        windows, following = self.windows(), deque(self.rows)
        live: list[tuple[Window, NDArray[Any]]] = []
        for top in range(0, self.height, rows):
            bottom = min(top + rows, self.height)
            live = [(window, part) for window, part in live if window.down.last > top]
            while following and following[0].first < bottom:
                following.popleft()
                live += [(w, part) for w, part in self._row(windows, parts, bands) if part is not None]
            rows_now = slice(top, bottom)
            yield rows_now, *self.blend(live, rows_now, slice(0, self.width), bands)

    def blend(
        self, parts: Iterable[tuple[Window, NDArray[Any]]], rows: slice, columns: slice, bands: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Blend one piece of the image from the windows whose cores meet it.

        Args:
            parts: Windows with their outputs, as `join` takes them; others than those that meet do nothing.
            rows, columns: The piece, in pixels of the grid.
            bands: Bands of the output.

        Returns:
            (values, weight) as `join` yields them.
        """
        # The last plane is the weight.
        piece = np.zeros((bands + 1, rows.stop - rows.start, columns.stop - columns.start), np.float32)
        for window, part in parts:
            self._add(piece, rows, columns, window, part)
        values, weight = piece[:-1], piece[-1]
        # Shares add up to 1 but for rounding, so only what lacks a window is scaled.
        lacking = (weight > 0.0) & (weight < 1.0 - 1e-6)
        if lacking.any():
            values[:, lacking] /= weight[lacking]
        return values, weight

    def _row(
        self, windows: Iterator[Window], parts: Callable[[Window], NDArray[Any] | None], bands: int
    ) -> Iterator[tuple[Window, NDArray[Any] | None]]:
        for window in islice(windows, len(self.columns)):
            part, down, across = parts(window), window.down, window.across
            expected = (bands, down.last - down.first, across.last - across.first)
            if part is not None and part.shape != expected:
                raise ValueError(f"the part of window {window.number} is {part.shape}, but its core is {expected}")
            yield window, part

    def _add(self, piece: NDArray[np.float32], rows: slice, columns: slice, window: Window, part: NDArray[Any]) -> None:
        """Add a window's part, and its weight as one more plane, to a piece, float32 (bands + 1, h, w)."""
        down, across = window.down, window.across
        top, bottom = max(down.first, rows.start), min(down.last, rows.stop)
        left, right = max(across.first, columns.start), min(across.last, columns.stop)
        if top >= bottom or left >= right:
            return
        weight = (
            down.weights[top - down.start : bottom - down.start, None]
            * across.weights[left - across.start : right - across.start]
        )
        place = piece[:, top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]
        own = slice(top - down.first, bottom - down.first), slice(left - across.first, right - across.first)
        place[:-1] += part[:, *own] * weight
        place[-1] += weight

    @property
    def _fade(self) -> int:
        """Pixels over which one window fades into the next. What is shared beyond is left to the window that sees
        farther: near its border an output lacks half of what it depends on."""
        return self.overlap // 2 if self.halo is None else 0

    @property
    def _shared(self) -> int:
        return self.overlap if self.halo is None else 2 * self.halo

    def _spans(self, length: int, offset: int) -> tuple[Span, ...]:
        if length <= self.window:
            return (_span(0, length, 0, length, np.ones(length, np.float32)),)
        last = -(-(length - self.window) // self.align) * self.align
        lattice = range(-(offset % self.step), last + self.step, self.step)
        starts = sorted({max(start, 0) for start in lattice})
        stops = [min(start + self.window, length) for start in starts]
        # The middle between two windows is farthest from the border of both; at least a halo where there is one.
        middles = [(start + stop) // 2 for start, stop in zip(starts[1:], stops[:-1], strict=True)]
        half = self._fade // 2
        firsts, ends = [0, *(m - half for m in middles)], [*(m + half for m in middles), length]
        total = np.zeros(length, np.float32)
        raw = []
        for start, stop, first, end in zip(starts, stops, firsts, ends, strict=True):
            weight = np.zeros(stop - start, np.float32)
            used = weight[first - start : end - start]
            used[:] = 1.0
            if half and first > 0:
                used[: 2 * half] *= (np.arange(2 * half, dtype=np.float32) + 0.5) / (2 * half)
            if half and end < length:
                used[-2 * half :] *= (np.arange(2 * half, dtype=np.float32)[::-1] + 0.5) / (2 * half)
            total[start:stop] += weight
            raw.append(weight)
        return tuple(
            _span(start, stop, first, end, weight / total[start:stop])
            for start, stop, first, end, weight in zip(starts, stops, firsts, ends, raw, strict=True)
        )


def _span(start: int, stop: int, first: int, last: int, weights: NDArray[np.float32]) -> Span:
    weights.flags.writeable = False
    return Span(start, stop, first, last, weights)


def _cells(spans: tuple[Span, ...]) -> tuple[slice, ...]:
    middles = [(span.last + following.first) // 2 for span, following in pairwise(spans)]
    return tuple(slice(*ends) for ends in pairwise([spans[0].first, *middles, spans[-1].last]))
