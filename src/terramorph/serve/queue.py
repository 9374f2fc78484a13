"""Queue of jobs: equal jobs run once, those that nobody waits for are dropped; clients take turns, up to their rate."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cachetools import TTLCache
from starlette.exceptions import HTTPException

_T = TypeVar("_T")
_SHARE = 0.2
"""Weight of the latest job in the moving average of seconds per job."""
_CLIENTS, _FORGOTTEN = 1 << 16, 3600.0
"""Most clients that are remembered, and seconds without a window after which one is forgotten."""


class BusyError(HTTPException):
    """A request is refused because too much is asked for; `seconds` after which to ask again."""

    def __init__(self, seconds: float, why: str = "{:.0f} s of work are queued", status: int = 503) -> None:
        headers = {"Retry-After": str(max(1, round(seconds))), "Cache-Control": "no-store"}
        super().__init__(status, f"Busy: {why.format(seconds)}.", headers)
        self.seconds = seconds


@dataclass
class _Job(Generic[_T]):
    work: Callable[[], _T]
    future: asyncio.Future[_T]
    waiting: int = 0
    running: bool = False
    clients: list[str] = field(default_factory=list)


class Queue(Generic[_T]):
    """Jobs by key, run on other threads.

    The newest job of a client runs first, as the client looks at it now; clients take turns. A job that nobody waits
    for any more is dropped, unless it runs already.

    Attributes:
        computed, joined, dropped: Numbers of jobs so far that were run, joined by a further request, dropped.

    Args:
        max_wait: Seconds of queued work over which new jobs are refused, and after which a request is refused.
        at_once: Number of jobs that run at once.
    """

    def __init__(self, max_wait: float, at_once: int = 1) -> None:
        self.computed = self.joined = self.dropped = 0
        self._max_wait = max_wait
        self._jobs: dict[Hashable, _Job[_T]] = {}
        self._turns: OrderedDict[str, list[Hashable]] = OrderedDict()
        self._mean = 0.0
        self._busy = 0
        self._closing = False
        self._at_once = at_once
        self._pool = ThreadPoolExecutor(at_once, "terramorph-compute")
        self._runners: list[asyncio.Task[None]] = []
        self._more = asyncio.Event()

    @property
    def seconds(self) -> float:
        """Estimated seconds of queued work, by the durations of past jobs."""
        return (sum(len(keys) for keys in self._turns.values()) + self._busy) * self._mean / self._at_once

    async def get(self, key: Hashable, client: str, work: Callable[[], _T], *, patient: bool = False) -> _T:
        """Return the result of a job, which is queued unless it is already.

        Args:
            key: Key of the job; requests with the same key share a job.
            client: Key of the client.
            work: Function that makes the result, called on another thread.
            patient: Whether to wait for work that has begun, however long it takes.

        Raises:
            BusyError: If too much is queued, the result takes longer than `max_wait`, or the queue is closing.
            Exception: Any exception of `work`.
        """
        if not self._runners:
            loop = asyncio.get_running_loop()
            self._runners = [loop.create_task(self._run()) for _ in range(self._at_once)]
        job = self._jobs.get(key)
        if job is not None:
            self.joined += 1
        else:
            if self._closing or self.seconds > self._max_wait:
                raise BusyError(max(1.0, self.seconds))
            job = self._jobs[key] = _Job(work, asyncio.get_running_loop().create_future())
        if not job.running and client not in job.clients:
            job.clients.append(client)
            self._turns.setdefault(client, []).append(key)
            self._more.set()
        job.waiting += 1
        try:
            await asyncio.wait({job.future}, timeout=self._max_wait)
            if not job.future.done() and not (patient and job.running):
                raise BusyError(max(1.0, self.seconds))  # what has begun goes on, for the next request
            return await asyncio.shield(job.future)
        finally:
            job.waiting -= 1
            if not job.waiting and not job.running and not job.future.done():
                self._drop(key, job)

    async def close(self, seconds: float) -> None:
        """Drop jobs that have not begun, and wait at most ``seconds`` for the running ones."""
        self._closing = True
        for key, job in list(self._jobs.items()):
            if not job.running:
                self._drop(key, job)
                job.future.set_exception(BusyError(1.0))
                job.future.exception()  # maybe nobody waits for it any more
        running = [job.future for job in self._jobs.values()]
        if running:
            await asyncio.wait(running, timeout=seconds)
        for runner in self._runners:
            runner.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _drop(self, key: Hashable, job: _Job[_T]) -> None:
        self.dropped += 1
        del self._jobs[key]
        for client in job.clients:
            self._forget(client, key)

    def _forget(self, client: str, key: Hashable) -> None:
        keys = self._turns.get(client, [])
        if key in keys:
            keys.remove(key)
        if not keys:
            self._turns.pop(client, None)

    def _next(self) -> tuple[Hashable, _Job[_T]] | None:
        if not self._turns:
            return None
        client, keys = next(iter(self._turns.items()))
        key = keys[-1]
        job = self._jobs[key]
        for other in job.clients:
            self._forget(other, key)
        if client in self._turns:
            self._turns.move_to_end(client)
        return key, job

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            found = self._next()
            if found is None:
                self._more.clear()
                await self._more.wait()
                continue
            key, job = found
            job.running = True
            self._busy += 1
            begun = time.monotonic()
            try:
                result = await loop.run_in_executor(self._pool, job.work)
            except Exception as error:
                job.future.set_exception(error)
                job.future.exception()
            else:
                job.future.set_result(result)
            self.computed += 1
            spent = time.monotonic() - begun
            self._mean = spent if not self._mean else (1 - _SHARE) * self._mean + _SHARE * spent
            self._busy -= 1
            del self._jobs[key]


class RateLimit:
    """A bucket of windows per client, which refills steadily; tiles that need no window are free.

    A client with windows left may start any work, so one large piece may take more than are left, which it owes then.

    Args:
        per_minute: Windows per minute, also the size of the bucket; None for no limit.
        clock: Clock in seconds.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = per_minute, clock
        self._left: TTLCache[str, tuple[float, float]] = TTLCache(_CLIENTS, _FORGOTTEN, clock)
        self._lock = threading.Lock()

    def check(self, client: str) -> None:
        """Check that a client has windows left.

        Raises:
            BusyError: With status 429 and the seconds until it has one, if it has none.
        """
        if self._most is None:
            return
        with self._lock:
            left = self._now(client, self._most)
        if left < 1.0:
            why = "this client has had its share of the model; ask again in {:.0f} s"
            raise BusyError((1.0 - left) * 60.0 / self._most, why, 429)

    def spend(self, client: str, windows: int) -> None:
        """Take windows from the bucket of a client."""
        if self._most is None or not windows:
            return
        with self._lock:
            self._left[client] = self._now(client, self._most) - windows, self._clock()

    def _now(self, client: str, most: float) -> float:
        left, then = self._left.get(client, (most, self._clock()))
        return min(most, left + (self._clock() - then) * most / 60.0)
