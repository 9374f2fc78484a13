"""A translation as a source of pixels, whose windows are predicted when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Condition
from typing import Any

import numpy as np
from cachetools import LRUCache, cached
from numpy.typing import NDArray
from odc.geo.geom import Geometry

from terramorph.errors import InputError
from terramorph.geo import Grid, Window
from terramorph.raster import Raster, Source
from terramorph.raster.array_source import ArrayLayout
from terramorph.translate.engine import identity
from terramorph.translate.tiled import Part, Tiled

Keep = Callable[[int, Callable[[], Part | None]], Part | None]
"""Function that returns a window by its number: one that is kept elsewhere, or predicted by the given function."""

MAX_READ = 2**26
"""Most pixels of the translation for one read."""


class LazySource(Source):
    """The raster that `Model.translate_to` would write, as a `Source`; from `Model.lazy`.

    A window is predicted when a pixel of it is first read, and kept until windows read since exceed `memory`. Several
    threads may read: they wait for each other's windows and predict none twice.

    Attributes:
        name, grid, extent, bands, dtype, units, sequential, licence: As in `Source`.

    Args:
        tiled: The model and its windows.
        source: The source.
        memory: Bytes of predicted windows to keep.
        opened: Context that is left when this source is closed.
        kept: Called for windows that are not in memory; None: they are predicted.
    """

    sequential = False

    def __init__(
        self,
        tiled: Tiled,
        source: Source,
        memory: int,
        opened: AbstractContextManager[Any],
        kept: Keep | None,
    ) -> None:
        self._tiled, self._source, self._opened, self._kept = tiled, source, opened, kept
        held: LRUCache[int, Part | None] = LRUCache(memory, getsizeof=_bytes)
        # The first thread that asks predicts a window; the others wait for it.
        self._window: Any = cached(held, key=lambda window: window.number, condition=Condition())(self._predict)
        self.name, self.licence = source.name, source.licence
        self.grid: Grid = tiled.grid
        self.extent: Geometry = tiled.grid.geobox.extent
        self.bands, self.units = tiled.bands, tiled.target.units
        self.dtype: np.dtype[Any] = np.dtype(tiled.target.dtype)
        self._layout = ArrayLayout(self.grid, self.bands, self.dtype, units=self.units)

    def __repr__(self) -> str:
        return f"LazySource({self.name}, {self.grid.height} x {self.grid.width} {self.dtype}, {', '.join(self.bands)})"

    def read(self, grid: Grid) -> Raster:
        """Read the translation on a grid: exact pixels on a window of its own grid, else warped.

        Raises:
            InputError: If the read needs more than `MAX_READ` pixels of the translation.
            RasterError: If the source cannot be read there.
        """
        where = self._layout.needed(grid)
        if where is None:
            return self._layout.laid(None, grid)
        rows, columns = where
        behind = (rows.stop - rows.start) * (columns.stop - columns.start)
        if behind > MAX_READ:
            raise InputError(
                f"{behind / 1e6:,.0f} million pixels would be translated for one read of {self.name}; read smaller or "
                "finer pieces, or write the whole with translate_to."
            )
        return self._layout.laid(self._tiled.piece(self._load, rows, columns), grid)

    def fingerprint(self) -> str:
        """Return a hex digest (blake2b, 16 bytes) of everything that decides the pixels."""
        plan = identity(self._tiled.model, self._source.fingerprint(), self._tiled.model.backend.name)
        text = json.dumps([plan, str(self.grid), str(self._tiled.cover), self._tiled.sample])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def close(self) -> None:
        """Release the windows, and close the source if it was opened for this one."""
        self._window.cache_clear()
        self._opened.__exit__(None, None, None)

    def _load(self, window: Window) -> NDArray[Any] | None:
        part = self._window(window)
        return None if part is None else part.pixels

    def _predict(self, window: Window) -> Part | None:
        def predicted() -> Part | None:
            (raster,) = self._tiled.read(self._source, (window,))
            return self._tiled.predict(raster, window)

        return predicted() if self._kept is None else self._kept(window.number, predicted)


def _bytes(part: Part | None) -> int:
    return 1 if part is None else part.pixels.nbytes
