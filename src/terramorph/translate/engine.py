"""Engines: what schedules the windows of a translation, whose parts are kept on disk. This process, or a cluster."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Protocol

from odc.geo.geom import Geometry

from terramorph._version import __version__
from terramorph.geo import Window
from terramorph.raster import Raster, Source
from terramorph.translate.memory import release_freed_memory
from terramorph.translate.model import Model
from terramorph.translate.parts import Parts
from terramorph.translate.tiled import Part, Tiled, Unit

TRIMMED = 4
"""Windows after which freed memory is given back: their layers' outputs leave gaps, which grow to hundreds of MB."""


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
    """Windows to be predicted, and where their parts go.

    Attributes:
        plan: what makes two jobs the same, to the last pixel; plain data.
        tiled: the windows.
        source: what is read, cut to the area.
        area: outside of which the source is not looked at; None: nowhere.
        parts: a file for each window.
    """

    plan: dict[str, Any]
    tiled: Tiled
    source: Source
    area: Geometry | None
    parts: Parts


class Engine(Protocol):
    """Has the windows of a job predicted: `LocalEngine`, or `cluster.DaskEngine`."""

    @property
    def backend(self) -> str:
        """Name of what runs the network; with as many threads, results of one name are equal."""
        ...

    def compute(self, job: Job, stages: Stages, tell: Callable[[int, int], None]) -> None:
        """Makes every part of a job that is not there.

        Args:
            job: the windows, and where their parts go.
            stages: the seconds of each step are added to it.
            tell: called with the number of windows that are done, and of all.
        """
        ...


@dataclass(frozen=True)
class LocalEngine:
    """The engine that is this process."""

    model: Model

    @property
    def backend(self) -> str:
        """Name of what runs the network."""
        return self.model.backend.name

    def compute(self, job: Job, stages: Stages, tell: Callable[[int, int], None]) -> None:
        """Makes every part of a job that is not there."""
        done = job.parts.done()
        count, total = len(done), len(job.tiled.cover)
        tell(count, total)

        def computed(more: int) -> None:
            nonlocal count
            count += more
            tell(count, total)

        predict_windows(job.tiled, job.source, job.parts, job.tiled.units(job.source, done), stages, computed)
        # Joining wants memory too, and comes after.
        self.model.backend.release()
        release_freed_memory()


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


def predict_windows(
    tiled: Tiled, source: Source, parts: Parts, units: Iterable[Unit], stages: Stages, tell: Callable[[int], None]
) -> None:
    """Predicts windows and keeps them: one is computed while the next are read and the last are written.

    Args:
        tiled: what predicts them.
        source: what is read.
        parts: where they are kept.
        units: the windows, in the order in which they are read.
        stages: the seconds of each step are added to it.
        tell: called with the number of windows that are computed.

    Raises:
        RasterError: if a part of the source cannot be read.
        StorageError: if a part cannot be written.
    """

    def read(unit: Unit) -> tuple[Unit, list[Raster]]:
        with stages.timed("read_s"):
            return unit, tiled.read(source, unit)

    def keep(window: Window, part: Part | None) -> None:
        with stages.timed("write_s"):
            parts.save(window.number, part)

    coming, computed = iter(units), 0
    # No more than is needed to stay ahead: a row of windows takes as much memory as all of them.
    depth = 1 if source.sequential else 2
    with ThreadPoolExecutor(1, "terramorph-read") as reader, ThreadPoolExecutor(1, "terramorph-write") as writer:
        ahead = deque(reader.submit(read, unit) for unit in islice(coming, depth))
        writing: deque[Future[None]] = deque()
        try:
            while ahead:
                unit, rasters = ahead.popleft().result()
                ahead.extend(reader.submit(read, unit) for unit in islice(coming, 1))
                for window, raster in zip(unit, rasters, strict=True):
                    # Where a process has several threads, the others read and write meanwhile.
                    with tiled.model.turn, stages.timed("compute_s"):
                        part = tiled.predict(raster, window)
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
