"""The parts of a sweep joined into its output: a Cloud Optimized GeoTIFF, or tiles, and the spread of its draws."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from terramorph._version import __version__
from terramorph.geo import Cover, Grid, Window
from terramorph.raster import ImageSource, Source
from terramorph.raster.tiles.write import write_tiles
from terramorph.raster.writer import Strip, write_cog
from terramorph.translate.memory import release_pages
from terramorph.translate.model import Model
from terramorph.translate.parts import Parts
from terramorph.translate.windows import Stages

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and of how much."""
Kind = Literal["cog", "xyz", "mbtiles", "pmtiles"]


@dataclass(frozen=True)
class Assembly:
    """What the parts of a sweep are joined with.

    Attributes:
        model: made the parts.
        source: what the output says it is from.
        grid: of the parts together.
        cover: the windows, a part each.
        parts: their pixels.
        tell: told how far each step is.
        stages: the seconds of joining and finishing are added to it.
    """

    model: Model
    source: Source
    grid: Grid
    cover: Cover
    parts: Parts
    tell: Progress
    stages: Stages

    def write(self, output: Path, kind: Kind, back: Grid | None) -> None:
        """Writes the output.

        Args:
            output: file or folder.
            kind: of it.
            back: the grid that a GeoTIFF is brought to; None: that of the parts.
        """
        if kind == "cog" and back is None:
            self._cog(output, self.grid, self._joined("joining"))
            return
        whole = self.parts.scratch / "whole.tif"
        self._cog(whole, self.grid, self._joined("joining"))
        # On the way back half a filter of real pixels is enough: each way would lose two more at every border.
        with ImageSource(whole, least=0.5) as made:
            if kind == "cog":
                assert back is not None
                self._cog(output, back, self._strips(made, back))
                return
            with self.stages.timed("finish_s"):
                write_tiles(
                    made,
                    output,
                    kind=kind,
                    name=output.stem,
                    attribution=self.source.licence,
                    progress=lambda done, total: self.tell("writing tiles", done, total),
                )

    def write_spread(self, output: Path) -> None:
        """Writes the standard deviation of the draws, a GeoTIFF."""
        strips = self._joined("joining the spread", spread=True)
        self._cog(output, self.grid, strips, ("standard deviation",), np.float32)

    def _cog(
        self,
        path: Path,
        grid: Grid,
        strips: Iterator[Strip],
        bands: tuple[str, ...] | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        """Writes a GeoTIFF; bands and dtype are the bundle's unless given."""
        target = self.model.header.target
        begun = joined = time.perf_counter()

        def progress(done: int, total: int) -> None:
            nonlocal joined
            if done == grid.height:
                joined = time.perf_counter()
            if done >= grid.height:  # what follows the last row: overviews, compression, reading back
                self.tell("writing", done - grid.height, total - grid.height)

        write_cog(
            path,
            grid,
            bands or target.names,
            dtype or target.dtype,
            strips,
            units=None if bands else target.units,
            tags=self._tags(),
            masked=True,
            progress=progress,
        )
        self.stages.join_s += joined - begun
        self.stages.finish_s += time.perf_counter() - joined

    def _tags(self) -> dict[str, str]:
        header = self.model.header
        tags = {
            "TERRAMORPH_VERSION": __version__,
            "TERRAMORPH_BUNDLE": f"{header.architecture.name}, {header.direction}, made by {header.made_by}",
            "TERRAMORPH_BUNDLE_DIGEST": self.model.digest,
            "TERRAMORPH_MODE": self.model.mode,
            "TERRAMORPH_SOURCE": self.source.name,
        }
        if header.note:
            tags["TERRAMORPH_BUNDLE_NOTE"] = header.note
        if self.source.licence:
            tags["TERRAMORPH_SOURCE_LICENCE"] = self.source.licence
        return tags

    def _joined(self, step: str, spread: bool = False) -> Iterator[Strip]:
        """Rows of the output from the top: (rows, pixels (C, h, W) in the stored dtype, mask bool (h, W))."""
        target, cover = self.model.header.target, self.cover
        bands = 1 if spread else target.count
        # Fewer rows at a time of a wider raster, so that memory does not grow with it.
        high = max(16, min(256, (1 << 21) // cover.width))
        opened: deque[NDArray[Any]] = deque(maxlen=2 * len(cover.columns))  # no more are in use at once

        def load(window: Window) -> NDArray[Any] | None:
            shape = (bands + 1, window.core_height, window.core_width)
            part = self.parts.load(window.number, shape, "float32" if spread else target.dtype, spread)
            if part is not None:
                opened.append(part)
            return part

        self.tell(step, 0, cover.height)
        for rows, values, weight in cover.join(load, bands + 1, high):
            pixels, mask = values[:bands], (values[bands] > 0.5) & (weight > 0)
            if not spread:
                stored = np.rint(pixels) if np.dtype(target.dtype).kind in "ui" else pixels
                pixels = stored.astype(target.dtype)
                pixels[:, ~mask] = np.asarray(target.low, target.dtype)
            self.tell(step, rows.stop, cover.height)
            yield rows, pixels, mask
            for part in opened:
                release_pages(part)

    def _strips(self, made: Source, grid: Grid) -> Iterator[Strip]:
        """A raster on another grid, in rows from the top."""
        high = max(16, (1 << 22) // grid.width)
        for top in range(0, grid.height, high):
            rows = slice(top, min(top + high, grid.height))
            raster = made.read(grid.crop(top, 0, rows.stop - top, grid.width))
            self.tell("bringing it to the source's grid", rows.stop, grid.height)
            yield rows, raster.pixels, raster.mask
