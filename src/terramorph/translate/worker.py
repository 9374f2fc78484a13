"""Workers of a cluster: each opens model and source once, and translates the windows that it is given."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from terramorph.errors import InputError, TerramorphError
from terramorph.raster import Source
from terramorph.raster.source import ClippedSource
from terramorph.translate.engine import Job, Stages, identity, predict_windows
from terramorph.translate.model import Model
from terramorph.translate.tiled import Tiled, Unit

_WHAT = {"terramorph": "version of terramorph", "source": "content of the source", "bundle": "content of the bundle"}
_opened: dict[str, tuple[Tiled, Source]] = {}
_opening = threading.Lock()


@dataclass(frozen=True)
class Task:
    """The translation that windows belong to, sent with each of them; `model` and `source` open both on the worker."""

    model: Callable[[], Model]
    source: Callable[[], Source] = field(repr=False)  # a URL may have a key in it, and Dask logs what fails
    job: Job
    threads: int | None

    @property
    def key(self) -> str:
        """Key of the translation, by which its workers find what they have opened."""
        return hashlib.blake2b(f"{self.job.parts.folder} {self.job.parts.plan}".encode(), digest_size=16).hexdigest()


def translate_unit(task: Task, unit: Unit) -> tuple[str, Stages]:
    """Translate windows on a worker."""
    from distributed import get_worker

    worker, stages = get_worker(), Stages()
    with _sendable_errors():
        with _opening:
            if task.key not in _opened:
                _opened.clear()  # of a translation whose client was killed
                _opened[task.key] = open_task(task, worker.address)
            tiled, source = _opened[task.key]
        # In each of Dask's threads: OpenMP keeps the number for the thread that set it.
        torch.set_num_threads(task.threads or worker.state.nthreads)
        predict_windows(tiled, source, task.job.parts, [unit], stages, lambda: None)
    return worker.address, stages


def dask_setup(worker: Any) -> None:
    """Ignore Ctrl-C in a local worker, for a terminal sends it to all its processes; Dask calls this at the start."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def forget(key: str) -> None:
    opened = _opened.pop(key, None)
    if opened is not None:
        opened[1].close()


def backend_name(model: Callable[[], Model]) -> str:
    """Return the name of the backend on a worker."""
    with _sendable_errors():
        return model().backend.name


def open_task(task: Task, worker: str) -> tuple[Tiled, Source]:
    """Open model and source; raise InputError unless they are those of the translation."""
    job, parts = task.job, task.job.parts
    try:
        parts.done()
    except (OSError, TerramorphError) as error:
        raise InputError(
            f"The worker {worker} does not see the folder {parts.folder}; put the output in a folder that all "
            "machines share, or on object storage."
        ) from error
    try:
        model, source = task.model(), task.source()
        if job.area is not None:
            source = ClippedSource(source, job.area)
        mine = identity(model, source.fingerprint(), model.backend.name)
    except TerramorphError as error:
        raise type(error)(f"On the worker {worker}: {error}") from error
    for what, value in mine.items():
        if value != parts.plan[what]:
            raise InputError(
                f"The worker {worker} has another {_WHAT.get(what, what)} than this translation: {value}, not "
                f"{parts.plan[what]}; give all machines the same files, and use workers of one kind."
            )
    return replace(job.tiled, model=model), source


@contextmanager
def _sendable_errors() -> Iterator[None]:
    """Remove the causes of errors, which may be of a kind that cannot be pickled, as GDAL's are."""
    try:
        yield
    except TerramorphError as error:
        error.__cause__ = error.__context__ = None
        raise
