"""Engines, which schedule the windows of a translation with parts on disk: in this process, or on a cluster."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import count, islice
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
"""Windows between releases of freed memory, whose fragments grow to hundreds of MB otherwise."""


@dataclass
class Stages:
    """Seconds of each step. Steps run in parallel, and on a cluster on many machines, so the sum exceeds the elapsed
    time.

    Attributes:
        read_s: Reading the source.
        compute_s: Running the network.
        write_s: Writing parts.
        join_s: Joining parts to rows, and writing them to an uncompressed file.
        finish_s: Overviews, compression, reading back; tiles, and resampling to the source's grid.
    """

    read_s: float = 0.0
    compute_s: float = 0.0
    write_s: float = 0.0
    join_s: float = 0.0
    finish_s: float = 0.0

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to one of the attributes."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - begun)

    def add(self, other: Stages) -> None:
        """Add the seconds of other stages."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True)
class Job:
    """Windows to predict, and the folder of their parts.

    Attributes:
        source: The source, cut to the area.
        area: Area to which the source is cut; None if it is not cut.
        parts: Parts of the output, one file per window.
    """

    tiled: Tiled
    source: Source
    area: Geometry | None
    parts: Parts


class Engine(Protocol):
    """Scheduler of the windows of a job: `LocalEngine`, or `cluster.DaskEngine`."""

    @property
    def backend(self) -> str:
        """Name of the backend; with equal numbers of threads, results of one name are equal."""
        ...

    def compute(self, job: Job, stages: Stages, tell: Callable[[int, int], None]) -> None:
        """Make every missing part of a job.

        Args:
            stages: Receives the seconds of each step.
            tell: Called with (finished windows, all windows).
        """
        ...


@dataclass(frozen=True)
class LocalEngine:
    """The engine that computes in this process."""

    model: Model

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return self.model.backend.name

    def compute(self, job: Job, stages: Stages, tell: Callable[[int, int], None]) -> None:
        """Make every missing part of a job."""
        done, total = job.parts.done(), len(job.tiled.cover)
        numbers = count(len(done))
        tell(next(numbers), total)
        left = job.tiled.units(job.source, done)
        predict_windows(job.tiled, job.source, job.parts, left, stages, lambda: tell(next(numbers), total))
        # Joining, which comes next, needs memory too.
        self.model.backend.release()
        release_freed_memory()


def identity(model: Model, source: str, backend: str) -> dict[str, Any]:
    """Return what decides the pixels of a window besides its place; processes with equal values give equal bytes.

    Args:
        source: Digest of the source's pixels.
    """
    return {
        "terramorph": __version__,
        "bundle": model.digest,
        "source": source,
        "mode": model.mode,
        "backend": backend,
        "seed": model.seed,
    }


def predict_windows(
    tiled: Tiled, source: Source, parts: Parts, units: Iterable[Unit], stages: Stages, tell: Callable[[], None]
) -> None:
    """Predict windows and save them: one is computed while the next are read and the last are written.

    Args:
        parts: Parts of the output, in which results are saved.
        units: The windows, in the order in which they are read.
        stages: Receives the seconds of each step.
        tell: Called after each window.

    Raises:
        RasterError: If a window of the source cannot be read.
        StorageError: If a part cannot be written.
    """

    def read(unit: Unit) -> tuple[Unit, list[Raster]]:
        with stages.timed("read_s"):
            return unit, tiled.read(source, unit)

    def keep(window: Window, part: Part | None) -> None:
        with stages.timed("write_s"):
            parts.save(window.number, part)

    coming, computed = iter(units), 0
    # Few are read ahead: a unit may be a whole row of windows, which takes much memory.
    depth = 1 if source.sequential else 2
    with ThreadPoolExecutor(1, "terramorph-read") as reader, ThreadPoolExecutor(1, "terramorph-write") as writer:
        ahead = deque(reader.submit(read, unit) for unit in islice(coming, depth))
        writing: deque[Future[None]] = deque()
        try:
            while ahead:
                unit, rasters = ahead.popleft().result()
                ahead.extend(reader.submit(read, unit) for unit in islice(coming, 1))
                for window, raster in zip(unit, rasters, strict=True):
                    # Other threads of the process read and write meanwhile.
                    with tiled.model.turn, stages.timed("compute_s"):
                        part = tiled.predict(raster, window)
                    writing.append(writer.submit(keep, window, part))
                    while len(writing) > 2:
                        writing.popleft().result()
                    computed += 1
                    if computed % TRIMMED == 0:
                        release_freed_memory()
                    tell()
            for written in writing:
                written.result()
        except BaseException:
            reader.shutdown(wait=False, cancel_futures=True)
            raise
