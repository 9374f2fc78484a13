"""Dask as the engine of a sweep: windows are tasks, and the parts they leave are all that counts.

Every task writes its part whole, so it does no harm to do a window twice: when a worker dies, when one is slow, or when
the scheduler is restarted. What is asked after each of these is which parts are there, and never what the scheduler
remembers.
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
"""Tasks that the scheduler holds for each worker: enough to keep it busy, and few however many windows there are."""

ATTEMPTS = 5
"""How often a lost scheduler is looked for again before a sweep is given up."""

PATIENCE = 120.0
"""Seconds until a scheduler answers that did before, until a worker joins, and until a part is seen that was written on
another machine (a shared folder may show it late)."""

FIRST_WINDOW = 600.0
"""Seconds after which something is taken to be stuck before any window has come back to compare it with."""

_CONNECT = 10.0
_PULSE = 1.0
_GO_ON = "run the same command again, it goes on from here"


class Cluster:
    """Dask workers: processes of this machine, or those of a scheduler that runs somewhere.

        with Cluster(workers=2) as cluster:
            model.translate_to(source, output, engine=DaskEngine(cluster, open_model, open_source))

    The workers start, or are looked for, when they are first needed: what cannot be translated is refused before.
    Python starts local workers by importing the main module again, so a script needs `if __name__ == "__main__":`.

    Args:
        scheduler: address of a scheduler, such as tcp://10.0.0.1:8786. It and its workers need the same terramorph.
        workers: or so many processes here, which share the cores among them.

    Attributes:
        threads: that each worker computes with; None: as many as it was started with.

    Raises:
        ConfigError: if neither or both are given, or there are under 1 workers.
    """

    def __init__(self, scheduler: str | None = None, workers: int | None = None) -> None:
        if scheduler is not None and workers is not None:
            raise ConfigError("A scheduler has workers of its own; give a scheduler or workers and not both.")
        if scheduler is None and workers is None:
            raise ConfigError("A cluster is made of something; give the address of a scheduler or a number of workers.")
        if workers is not None and workers < 1:
            raise ConfigError(f"{workers} workers do nothing; give workers 1 or more.")
        self._address, self._count = scheduler, workers
        # Of the machine, before anything else in this process takes fewer.
        self.threads = None if workers is None else max(1, torch.get_num_threads() // workers)
        self._opened: ExitStack | None = None
        self._client: Any = None

    @property
    def name(self) -> str:
        return self._address or "of this machine"

    @property
    def client(self) -> Any:
        """Dask's client, connected: to workers that are started first, if they are of this machine.

        Raises:
            InputError: if nobody answers at the scheduler's address.
        """
        if self._opened is None:
            raise ConfigError("The cluster is not open; use it in a with statement.")
        if self._client is None:
            self._start(self._opened)
        return self._client

    def __enter__(self) -> Self:
        """Starts nothing yet."""
        with needs("Dask", "cluster"):
            import distributed  # noqa: F401
        self._opened = ExitStack()
        return self

    def _start(self, held: ExitStack) -> None:
        import dask
        from distributed import LocalCluster

        with ExitStack() as opened:
            opened.enter_context(_quiet())
            if self._count is not None:
                # By default Dask sets OMP_NUM_THREADS, and leaves it set in this process and for all that it starts.
                opened.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": {}}))
                local = LocalCluster(
                    n_workers=self._count,
                    threads_per_worker=2,  # one reads and writes while the other computes
                    processes=True,
                    memory_limit=0,  # what a window takes is known, and dask counts mapped files as memory
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                    preload=["terramorph.translate.worker"],
                )
                self._address = opened.enter_context(local).scheduler_address
            self._client = self._connect(_CONNECT)
            opened.callback(self._disconnect)
            held.enter_context(opened.pop_all())

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    def reconnect(self) -> None:
        """Looks for a scheduler that was lost."""
        self._disconnect()
        try:
            self._client = self._connect(PATIENCE)
        except InputError as error:
            raise RunError(
                f"The scheduler {self.name} is gone and has not come back; start it and {_GO_ON}."
            ) from error

    def deserted(self) -> RunError:
        return RunError(
            f"The scheduler {self.name} has had no worker for {PATIENCE:.0f} s; start some with `dask worker "
            f"{self.name}` and {_GO_ON}."
        )

    def _connect(self, seconds: float) -> Any:
        from distributed import Client

        deadline = time.monotonic() + seconds
        while True:
            try:
                # Not the default: what a user computes with dask meanwhile, and afterwards, is none of its business.
                return Client(self._address, timeout=_CONNECT, set_as_default=False)
            except (OSError, ValueError) as error:
                if isinstance(error, ValueError) or time.monotonic() > deadline:
                    raise InputError(
                        f"Nobody answers at the scheduler's address {self._address}; start one with `dask scheduler`, "
                        "or check host and port, as in tcp://10.0.0.1:8786."
                    ) from error
                time.sleep(_PULSE)

    def _disconnect(self) -> None:
        if self._client is not None:
            with suppress(Exception):  # there may be nobody to say goodbye to
                self._client.close(timeout=2)
        self._client = None


@dataclass(frozen=True)
class DaskEngine:
    """The engine that is a cluster.

    Attributes:
        cluster: in its with statement.
        model: opens the bundle on a worker, such as `functools.partial(load, path)`; with paths that are right there.
        source: opens the source on a worker, such as `functools.partial(open_source, path)`.
    """

    cluster: Cluster
    model: Callable[[], Model]
    source: Callable[[], Source]

    @cached_property
    def backend(self) -> str:
        """What runs the network on the workers, by name; a RunError without workers."""
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
        """See `Engine`.

        Raises:
            ConfigError: if the model or the source cannot be sent to a worker.
            InputError: if a worker sees another bundle or source, or a window cannot be read.
            RunError: if the scheduler stays away, there are no workers, or their parts are not seen here.
        """
        from distributed.protocol.pickle import dumps

        threads = self.cluster.threads
        tiled = replace(job.tiled.cover), job.tiled.samples, job.tiled.sample  # a cover without what it has computed
        task = Task(self.model, self.source, job.area, job.tiled.grid, *tiled, job.parts, job.plan, threads)
        try:
            dumps(task)
        except Exception as error:  # pickle's errors share no base
            raise ConfigError(
                f"The model or the source cannot be sent to a worker ({error}); give functions that open them there, "
                "such as functools.partial(open_source, path)."
            ) from error
        for _ in range(ATTEMPTS):
            try:
                _Round(self.cluster, task, job, stages, tell).run()
            except _LostError:
                self.cluster.reconnect()
            if len(job.parts.done()) == len(job.tiled.cover):
                return
        raise RunError(
            f"The scheduler {self.cluster.name} was lost, or parts were, {ATTEMPTS} times; see to it and {_GO_ON}."
        )


class _LostError(Exception):
    """There is no scheduler any more."""


class _Round:
    """A sweep as far as one connection carries it: windows are handed out as others come back."""

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
        """Ends when every window that had no part has come back."""
        self._tell(self._count, len(self._job.tiled.cover))
        try:
            with _listening():
                while self._hand_out():
                    for future in self._finished():
                        self._take(future)
            with suppress(Exception):  # a worker that is not there has nothing to forget
                self._cluster.client.run(forget, self._task.key)
        finally:
            with suppress(Exception):
                self._cluster.client.cancel(list(self._running))

    def _hand_out(self) -> bool:
        """Submits as many windows as keep the workers busy; whether any are under way."""
        now, workers = time.monotonic(), len(self._cluster.client.nthreads())
        if workers:
            self._peopled = now
        elif now - self._peopled > PATIENCE:
            raise self._cluster.deserted()
        room = IN_FLIGHT * max(workers, 1) - len(self._running)
        fresh = list(islice(self._left, max(room, 0)))
        if room > 0 and not fresh and now - self._moved > (2 * self._slowest or FIRST_WINDOW):
            # Nothing else is left, and something is slow or stuck: another worker may be faster.
            fresh = [unit for unit, _ in self._running.values() if unit not in self._doubled]
            self._doubled.update(fresh)
        for unit in fresh:
            future = self._cluster.client.submit(translate_unit, self._task, unit, pure=False)
            self._running[future] = unit, now
        return bool(self._running)

    def _finished(self) -> list[Any]:
        """The tasks that came to an end, within a moment."""
        from distributed import wait

        with suppress(TimeoutError), self._cluster.client.as_current():
            wait(list(self._running), timeout=_PULSE, return_when="FIRST_COMPLETED")
        return [future for future in self._running if future.status != "pending"]

    def _take(self, future: Any) -> None:
        """Counts the windows of a task, unless its double was first."""
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
        """Makes sure that what a worker writes is seen here."""
        deadline = time.monotonic() + PATIENCE
        while not {window.number for window in unit} <= self._job.parts.done():
            if time.monotonic() > deadline:
                raise InputError(
                    f"The worker {worker} has a folder {self._job.parts.folder} of its own, and what it writes there "
                    "is not seen here; put the output where all machines share a folder, or on object storage."
                )
            time.sleep(_PULSE)


def _result(future: Any) -> Any:
    """What a task gave, or the TerramorphError that it raised; RunError if it failed in another way."""
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
            f"Several workers died over the same window, probably for want of memory; give them more, or fewer of them "
            f"to a machine, and {_GO_ON}."
        ) from error
    reason = reason_of(error)
    raise RunError(
        f"A worker failed with {type(error).__name__} ({reason}); see that scheduler and workers have the same "
        f"terramorph and dask as this machine, and {_GO_ON}."
    ) from error


@contextmanager
def _listening() -> Iterator[None]:
    """Tells a lost scheduler from everything else."""
    from distributed.client import ClosedClientError

    try:
        yield
    except TerramorphError:
        raise
    except (OSError, CancelledError, ClosedClientError) as error:
        raise _LostError from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps dask's log out of the terminal: what is worth saying of it is said in sentences."""
    log = logging.getLogger("distributed")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)
