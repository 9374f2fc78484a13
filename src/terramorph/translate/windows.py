"""Windows through the network: read, translated and kept as parts, by this process or by any other that sees the same.

`translate_windows` is all the computing of a sweep: one process is given every window, a task on a cluster a few.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import groupby, islice
from typing import Any

import numpy as np
from odc.geo.geom import Geometry

from terramorph._version import __version__
from terramorph.geo import Cover, Grid, Window
from terramorph.raster import Raster, Source
from terramorph.translate.memory import release_freed_memory
from terramorph.translate.model import Model
from terramorph.translate.parts import Part, Parts

TRIMMED = 4
"""Windows after which freed memory is given back: their layers' outputs leave gaps, which grow to hundreds of MB."""

Unit = tuple[Window, ...]
"""Windows that are read at once: one, or a row of them where a source can only be decoded from the top."""


@dataclass
class Stages:
    """Seconds at work, by what was done. Reading, computing and keeping run beside each other, and on a cluster on many
    machines at once, so these add up to more than the time that went by.

    Attributes:
        read_s: pixels of the source.
        compute_s: the network.
        write_s: parts.
        join_s: parts to rows, and the rows to an uncompressed file.
        finish_s: overviews, compression, reading back; tiles, and the way back to the source's grid.
    """

    read_s: float = 0.0
    compute_s: float = 0.0
    write_s: float = 0.0
    join_s: float = 0.0
    finish_s: float = 0.0

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the seconds of a block to one of the attributes."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - begun)

    def add(self, other: Stages) -> None:
        """Adds another's seconds."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True)
class Job:
    """The windows of a sweep, and where their results go.

    Attributes:
        plan: what makes two sweeps the same, to the last pixel; plain data.
        grid: on which the network sees the source.
        cover: the windows.
        parts: a result each.
        area: outside of which the source is not looked at; None: nowhere.
        samples: draws for each pixel.
        sequential: whether the source can only be decoded from the top.
    """

    plan: dict[str, Any]
    grid: Grid
    cover: Cover
    parts: Parts
    area: Geometry | None
    samples: int
    sequential: bool

    def left(self, done: set[int]) -> Iterator[Unit]:
        """The windows without a part, from the top; made one by one, for a country has very many.

        Args:
            done: the numbers of those that have one.
        """
        left = (window for window in self.cover.windows() if window.number not in done)
        if self.sequential:
            return (tuple(row) for _, row in groupby(left, key=lambda window: window.row))
        return ((window,) for window in left)


@dataclass(frozen=True)
class Worker:
    """What a process translates windows with.

    Attributes:
        model: the model.
        source: the imagery, cut to the area.
        grid: on which the network sees it.
        parts: where results go.
        samples: draws for each pixel.
        turn: held to compute. Where a worker has several threads, the others read and write meanwhile.
    """

    model: Model
    source: Source
    grid: Grid
    parts: Parts
    samples: int
    turn: threading.Lock = field(default_factory=threading.Lock)

    def read(self, unit: Unit) -> list[Raster]:
        """What the network sees of each window."""
        if not self.source.sequential:
            return [self.source.read(self.grid.crop(w.y, w.x, w.height, w.width)) for w in unit]
        rows = self.source.read(self.grid.crop(unit[0].y, 0, unit[0].height, self.grid.width))
        return [rows.crop(0, w.x, w.height, w.width) for w in unit]

    def translate(self, raster: Raster, window: Window) -> Part | None:
        """One window through the network, as often as asked, cut to what is used of it; None where there is no data."""
        rows, columns = window.inner
        real = raster.mask[None, rows, columns]
        if not real.any():
            return None
        draws = [self.model.translate_window(raster, i)[:, rows, columns] for i in range(self.samples)]
        spread = None
        if self.samples > 1:
            stack = np.stack(draws).astype(np.float32)
            deviation = stack.std(axis=0, ddof=1).mean(axis=0, keepdims=True)
            spread = np.concatenate([deviation, real.astype(np.float32)])
        return Part(np.concatenate([draws[0], real.astype(draws[0].dtype)]), spread)


def identity(model: Model, source: Source, backend: str) -> dict[str, Any]:
    """What decides the pixels of a window, apart from its place: processes that agree on it give the same bytes."""
    return {
        "terramorph": __version__,
        "bundle": model.digest,
        "source": source.fingerprint(),
        "mode": model.mode,
        "backend": backend,
        "seed": model.seed,
    }


def translate_windows(worker: Worker, units: Iterable[Unit], stages: Stages, tell: Callable[[int], None]) -> None:
    """Translates windows and keeps them: one is computed while the next are read and the last are written.

    Args:
        worker: what to do it with.
        units: the windows, in the order in which they are read.
        stages: the seconds of each step are added to it.
        tell: called with the number of windows that are computed.

    Raises:
        RasterError: if a part of the source cannot be read.
        StorageError: if a part cannot be written.
    """

    def read(unit: Unit) -> tuple[Unit, list[Raster]]:
        with stages.timed("read_s"):
            return unit, worker.read(unit)

    def keep(window: Window, part: Part | None) -> None:
        with stages.timed("write_s"):
            worker.parts.save(window.number, part)

    coming, computed = iter(units), 0
    # No more than is needed to stay ahead: a row of windows takes as much memory as all of them.
    depth = 1 if worker.source.sequential else 2
    with ThreadPoolExecutor(1, "terramorph-read") as reader, ThreadPoolExecutor(1, "terramorph-write") as writer:
        ahead = deque(reader.submit(read, unit) for unit in islice(coming, depth))
        writing: deque[Future[None]] = deque()
        try:
            while ahead:
                unit, rasters = ahead.popleft().result()
                ahead.extend(reader.submit(read, unit) for unit in islice(coming, 1))
                for window, raster in zip(unit, rasters, strict=True):
                    with worker.turn, stages.timed("compute_s"):
                        part = worker.translate(raster, window)
                    writing.append(writer.submit(keep, window, part))
                    while len(writing) > 2:
                        writing.popleft().result()
                    computed += 1
                    if computed % TRIMMED == 0:
                        release_freed_memory()
                    tell(1)
            for written in writing:
                written.result()
        except BaseException:
            reader.shutdown(wait=False, cancel_futures=True)
            raise
