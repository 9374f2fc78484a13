"""Dask as an engine: windows are tasks, and a window is done when its part exists.

Every task writes its part whole, so a window may be computed twice: when a worker dies or is slow, or when the
scheduler is restarted. After each of these the parts are listed; the state of the scheduler is never asked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, Self

import torch

from terramorph.errors import ConfigError, InputError, RunError, TerramorphError, reason_of
from terramorph.imports import needs
from terramorph.raster import Source
from terramorph.translate.engine import Job, Stages
from terramorph.translate.model import Model
from terramorph.translate.tiled import Unit
from terramorph.translate.worker import Task, backend_name, forget, translate_unit

IN_FLIGHT = 4
"""Tasks per worker at the scheduler: enough to keep workers busy, whatever the number of windows."""

ATTEMPTS = 5
"""How often a lost scheduler is reconnected before a translation fails."""

PATIENCE = 120.0
"""Seconds to wait for a lost scheduler, for a first worker, and for a part written on another machine (a shared folder
may show it late)."""

FIRST_WINDOW = 600.0
"""Seconds after which a window counts as stuck while none has finished to compare it with."""

_CONNECT = 10.0
_PULSE = 1.0
_GO_ON = "run the same command again, which resumes"


class Cluster:
    """Dask workers: processes on this machine, or those of a running scheduler.

        with Cluster(workers=2) as cluster:
            model.translate_to(source, output, engine=DaskEngine(cluster, open_model, open_source))

    Workers start, or the scheduler is connected, when first needed, after the input was checked. Local workers import
    the main module again, so a script needs `if __name__ == "__main__":`.

    Args:
        scheduler: Address of a scheduler, such as tcp://10.0.0.1:8786. It and its workers need the same terramorph.
        workers: Number of processes on this machine instead, which share its cores.

    Attributes:
        threads: Threads of each worker; None: as many as it was started with.

    Raises:
        ConfigError: If neither or both are given, or workers < 1.
    """

    def __init__(self, scheduler: str | None = None, workers: int | None = None) -> None:
        if scheduler is not None and workers is not None:
            raise ConfigError("A scheduler has its own workers; give `scheduler` or `workers`, not both.")
        if scheduler is None and workers is None:
            raise ConfigError("A cluster needs `scheduler`, an address, or `workers`, a number; give one of them.")
        if workers is not None and workers < 1:
            raise ConfigError(f"`workers` must be >= 1, got {workers}.")
        self._address, self._count = scheduler, workers
        # Counted now, before anything in this process lowers the number.
        self.threads = None if workers is None else max(1, torch.get_num_threads() // workers)
        self._opened: ExitStack | None = None
        self._client: Any = None

    @property
    def name(self) -> str:
        return self._address or "of this machine"

    @property
    def client(self) -> Any:
        """Dask's client, connected; local workers are started first.

        Raises:
            InputError: If the scheduler does not answer.
        """
        if self._opened is None:
            raise ConfigError("The cluster must be open; use it in a with statement.")
        if self._client is None:
            self._start(self._opened)
        return self._client

    def __enter__(self) -> Self:
        """Open the cluster; workers start when first needed."""
        with needs("Dask", "cluster"):
            import distributed  # noqa: F401
        self._opened = ExitStack()
        return self

    def _start(self, opened: ExitStack) -> None:
        import dask
        from distributed import LocalCluster

        log = logging.getLogger("distributed")
        opened.callback(log.setLevel, log.level)
        log.setLevel(logging.CRITICAL + 1)  # errors are told as sentences
        if self._count is not None:
            # By default Dask sets OMP_NUM_THREADS, and leaves it set in this process and its children.
            opened.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": {}}))
            local = LocalCluster(
                n_workers=self._count,
                threads_per_worker=2,  # one reads and writes while the other computes
                processes=True,
                memory_limit=0,  # a window's memory is known, and dask counts mapped files as memory
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
                preload=["terramorph.translate.worker"],
            )
            self._address = opened.enter_context(local).scheduler_address
        opened.callback(self._disconnect)
        self._client = self._connect(_CONNECT)

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    def reconnect(self) -> None:
        """Connect to a lost scheduler again."""
        self._disconnect()
        try:
            self._client = self._connect(PATIENCE)
        except InputError as error:
            raise RunError(
                f"The scheduler {self.name} was lost for {PATIENCE:.0f} s; start it and {_GO_ON}."
            ) from error

    def deserted(self) -> RunError:
        return RunError(
            f"The scheduler {self.name} has had no worker for {PATIENCE:.0f} s; start some with `dask worker "
            f"{self.name}` and {_GO_ON}."
        )

    def _connect(self, seconds: float) -> Any:
        """Connect; Dask tries again until the seconds are over."""
        from distributed import Client

        try:
            # Not the default client: dask computations of the user must not go to it.
            return Client(self._address, timeout=seconds, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"The scheduler {self._address} does not answer; start one with `dask scheduler`, or check host and "
                "port, as in tcp://10.0.0.1:8786."
            ) from error

    def _disconnect(self) -> None:
        if self._client is not None:
            with suppress(Exception):  # the scheduler may be gone
                self._client.close(timeout=2)
        self._client = None


@dataclass(frozen=True)
class DaskEngine:
    """The engine that computes on a cluster.

    Attributes:
        cluster: An open cluster.
        model: Function that opens the bundle on a worker, such as `functools.partial(load, path)`, with paths as they
            are there.
        source: Function that opens the source on a worker, such as `functools.partial(open_source, path)`.
    """

    cluster: Cluster
    model: Callable[[], Model]
    source: Callable[[], Source]

    @cached_property
    def backend(self) -> str:
        """Name of the workers' backend.

        Raises:
            RunError: If there are no workers, or the scheduler is lost.
        """
        client = self.cluster.client
        try:
            with _listening():
                client.wait_for_workers(1, timeout=PATIENCE)
                return str(_result(client.submit(backend_name, self.model, pure=False)))
        except _LostError as error:
            if isinstance(error.__cause__, TimeoutError):
                raise self.cluster.deserted() from error
            raise RunError(f"The scheduler {self.cluster.name} was lost; start it and {_GO_ON}.") from error

    def compute(self, job: Job, stages: Stages, tell: Callable[[int, int], None]) -> None:
        """Make every missing part of a job; see `Engine`.

        Raises:
            ConfigError: If the model or the source cannot be pickled.
            InputError: If a worker has another bundle or source, a window cannot be read, or its part is not seen here.
            RunError: If the scheduler stays lost, or has no workers.
        """
        from distributed.protocol.pickle import dumps

        # The worker opens its own model and source; and a cover is sent without its cached values.
        tiled = replace(job.tiled, model=None, cover=replace(job.tiled.cover))  # type: ignore[arg-type]
        sent = replace(job, tiled=tiled, source=None)  # type: ignore[arg-type]
        task = Task(self.model, self.source, sent, self.cluster.threads)
        try:
            dumps(task)
        except Exception as error:  # pickle's errors share no base
            raise ConfigError(
                f"`model` and `source` must be functions that pickle can send ({error}), such as "
                "functools.partial(open_source, path)."
            ) from error
        for _ in range(ATTEMPTS):
            try:
                _Round(self.cluster, task, job, stages, tell).run()
            except _LostError:
                self.cluster.reconnect()
            if len(job.parts.done()) == len(job.tiled.cover):
                return
        raise RunError(
            f"The scheduler {self.cluster.name}, or parts, were lost {ATTEMPTS} times; check both and {_GO_ON}."
        )


class _LostError(Exception):
    """Loss of the connection to the scheduler."""


class _Round:
    """The windows of a translation over one connection; one is submitted when another has finished."""

    def __init__(
        self, cluster: Cluster, task: Task, job: Job, stages: Stages, tell: Callable[[int, int], None]
    ) -> None:
        done = job.parts.done()
        self._cluster, self._task, self._job, self._stages, self._tell = cluster, task, job, stages, tell
        self._count, self._left = len(done), job.tiled.units(job.source, done)
        self._running: dict[Any, tuple[Unit, float]] = {}
        self._doubled: set[Unit] = set()
        self._trusted: set[str] = set()
        self._slowest = 0.0
        self._moved = self._peopled = time.monotonic()

    def run(self) -> None:
        """Compute every window without a part."""
        self._tell(self._count, len(self._job.tiled.cover))
        try:
            with _listening():
                while self._hand_out():
                    for future in self._finished():
                        self._take(future)
            with suppress(Exception):  # a worker that is gone has nothing to forget
                self._cluster.client.run(forget, self._task.key)
        finally:
            with suppress(Exception):
                self._cluster.client.cancel(list(self._running))

    def _hand_out(self) -> bool:
        """Submit as many windows as keep the workers busy; return whether any are running."""
        now, workers = time.monotonic(), len(self._cluster.client.nthreads())
        if workers:
            self._peopled = now
        elif now - self._peopled > PATIENCE:
            raise self._cluster.deserted()
        room = IN_FLIGHT * max(workers, 1) - len(self._running)
        fresh = list(islice(self._left, max(room, 0)))
        if room > 0 and not fresh and now - self._moved > (2 * self._slowest or FIRST_WINDOW):
            # No other window is left, and one is slow or stuck: another worker may be faster.
            fresh = [unit for unit, _ in self._running.values() if unit not in self._doubled]
            self._doubled.update(fresh)
        for unit in fresh:
            future = self._cluster.client.submit(translate_unit, self._task, unit, pure=False)
            self._running[future] = unit, now
        return bool(self._running)

    def _finished(self) -> list[Any]:
        """Wait for a moment; return the tasks that have finished."""
        from distributed import wait

        with suppress(TimeoutError), self._cluster.client.as_current():
            wait(list(self._running), timeout=_PULSE, return_when="FIRST_COMPLETED")
        return [future for future in self._running if future.status != "pending"]

    def _take(self, future: Any) -> None:
        """Count the windows of a task, unless its double finished first."""
        if future not in self._running:
            return
        worker, spent = _result(future)
        unit, begun = self._running[future]
        if worker not in self._trusted:
            self._wait_for_parts(worker, unit)
            self._trusted.add(worker)
        for other in [other for other, (same, _) in self._running.items() if same == unit]:
            del self._running[other]
            other.cancel()
        self._stages.add(spent)
        self._moved = time.monotonic()
        self._slowest = max(self._slowest, self._moved - begun)
        self._count += len(unit)
        self._tell(self._count, len(self._job.tiled.cover))

    def _wait_for_parts(self, worker: str, unit: Unit) -> None:
        """Wait until the parts of a worker are seen here; raise InputError if they are not."""
        deadline = time.monotonic() + PATIENCE
        while not {window.number for window in unit} <= self._job.parts.done():
            if time.monotonic() > deadline:
                raise InputError(
                    f"The parts of worker {worker} in {self._job.parts.folder} are not seen on this machine; put the "
                    "output in a folder that all machines share, or on object storage."
                )
            time.sleep(_PULSE)


def _result(future: Any) -> Any:
    """Return the result of a task; raise its TerramorphError, or RunError for any other failure."""
    from distributed import KilledWorker, wait

    with future.client.as_current():
        wait(future)
    if future.status == "finished":
        return future.result()
    if future.status != "error":
        raise _LostError
    error = future.exception()
    if isinstance(error, TerramorphError):
        raise error
    if isinstance(error, KilledWorker):
        raise RunError(
            f"Several workers died in the same window, probably out of memory; give them more, or a machine fewer "
            f"workers, and {_GO_ON}."
        ) from error
    reason = reason_of(error)
    raise RunError(
        f"A worker failed with {type(error).__name__} ({reason}); install the same terramorph and dask on scheduler, "
        f"workers and this machine, and {_GO_ON}."
    ) from error


@contextmanager
def _listening() -> Iterator[None]:
    """Raise _LostError for a lost scheduler; let other errors pass."""
    from distributed.client import ClosedClientError

    try:
        yield
    except TerramorphError:
        raise
    except (OSError, CancelledError, ClosedClientError) as error:
        raise _LostError from error
