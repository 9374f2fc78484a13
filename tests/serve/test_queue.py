"""The queue of a server's work, and how many windows a minute a client gets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from terramorph.serve.queue import BusyError, Queue, RateLimit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def gate() -> tuple[threading.Event, Callable[[], str]]:
    """Work that waits until it is let go."""
    open_ = threading.Event()
    return open_, lambda: "gate" if open_.wait(240) else "late"


async def queued(queue: Queue[str], jobs: int, running: int = 1) -> None:
    """Waits until so many jobs are known, of which so many run."""
    while len(queue._jobs) != jobs or sum(job.running for job in queue._jobs.values()) != running:
        await asyncio.sleep(0.001)


async def asked(queue: Queue[str], key: str, client: str, order: list[str]) -> str:
    return await queue.get(key, client, lambda: order.append(key) or key)


def test_the_newest_of_each_client_comes_first_and_clients_take_turns() -> None:
    async def run() -> list[str]:
        queue, order = Queue[str](60), list[str]()
        release, wait = gate()
        first = asyncio.ensure_future(queue.get("gate", "x", wait))
        await queued(queue, 1)
        many = [asyncio.ensure_future(asked(queue, f"a{i}", "a", order)) for i in range(4)]
        few = [asyncio.ensure_future(asked(queue, f"b{i}", "b", order)) for i in range(2)]
        await queued(queue, 7)
        release.set()
        await asyncio.gather(first, *many, *few)
        await queue.close(1)
        return order

    assert asyncio.run(run()) == ["a3", "b1", "a2", "b0", "a1", "a0"]


def test_what_nobody_waits_for_is_dropped_and_what_somebody_waits_for_is_not() -> None:
    async def run() -> tuple[list[str], str, int, int]:
        queue, order = Queue[str](60), list[str]()
        release, wait = gate()
        running = asyncio.ensure_future(queue.get("gate", "x", wait))
        await queued(queue, 1)
        left = [asyncio.ensure_future(asked(queue, key, "a", order)) for key in ("gone", "shared")]
        stays = asyncio.ensure_future(asked(queue, "shared", "b", order))
        await queued(queue, 3)
        for task in (*left, running):
            task.cancel()
        await asyncio.wait((*left, running))
        release.set()
        result = await stays
        await queue.close(1)
        return order, result, queue.dropped, queue.joined

    assert asyncio.run(run()) == (["shared"], "shared", 1, 1)


def test_too_much_work_is_refused_with_the_time_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("terramorph.serve.queue.time", SimpleNamespace(monotonic=clock))

    def known() -> str:
        clock.now += 80
        return "known"

    async def run() -> float:
        queue = Queue[str](200)
        await queue.get("known", "a", known)
        release, wait = gate()
        held = [asyncio.ensure_future(queue.get(f"k{i}", "a", wait)) for i in range(2)]
        held.append(asyncio.ensure_future(queue.get("k2", "b", wait)))
        await queued(queue, 3)
        with pytest.raises(BusyError) as caught:
            await queue.get("more", "a", lambda: "more")
        joined = asyncio.ensure_future(queue.get("k1", "b", wait))  # joining is free
        while not queue.joined:
            await asyncio.sleep(0.001)
        release.set()
        assert await asyncio.gather(joined, *held) == ["gate"] * 4
        await queue.close(1)
        return caught.value.seconds

    assert asyncio.run(run()) == 3 * 80


def test_what_has_not_begun_in_time_is_refused() -> None:
    async def run() -> str:
        queue = Queue[str](0.1)  # how long its work takes is not known yet
        release, wait = gate()
        running = asyncio.ensure_future(queue.get("gate", "a", wait, patient=True))
        await queued(queue, 1)
        with pytest.raises(BusyError):
            await queue.get("late", "b", lambda: "late")
        assert queue.dropped == 1
        with pytest.raises(BusyError):
            await queue.get("gate", "b", wait)  # has begun, and takes too long
        assert queue.dropped == 1
        release.set()
        ended = await running
        await queue.close(1)
        return ended

    assert asyncio.run(run()) == "gate"


def test_an_error_reaches_all_who_wait_and_the_next_may_try_again() -> None:
    def fail() -> str:
        raise ValueError("no")

    async def run() -> tuple[list[object], str]:
        queue = Queue[str](60)
        got = await asyncio.gather(*(queue.get("k", c, fail) for c in "ab"), return_exceptions=True)
        again = await queue.get("k", "a", lambda: "fine")
        await queue.close(1)
        return got, again

    got, again = asyncio.run(run())
    assert [type(one) for one in got] == [ValueError, ValueError]
    assert again == "fine"


def test_closing_ends_what_runs_and_refuses_the_rest() -> None:
    async def run() -> tuple[object, object]:
        queue = Queue[str](60)
        release, wait = gate()
        running = asyncio.ensure_future(queue.get("gate", "a", wait))
        await queued(queue, 1)
        waits = asyncio.ensure_future(queue.get("queued", "a", lambda: "queued"))
        await queued(queue, 2)
        closing = asyncio.ensure_future(queue.close(240))
        with pytest.raises(BusyError):
            await waits
        assert not running.done()
        release.set()
        await closing
        found = await asyncio.gather(running, waits, return_exceptions=True)
        with pytest.raises(BusyError):
            await queue.get("later", "a", lambda: "later")
        return found[0], found[1]

    ended, refused = asyncio.run(run())
    assert ended == "gate"
    assert isinstance(refused, BusyError)


def test_a_bucket_refills_steadily_and_is_one_client_s_own() -> None:
    clock = Clock()
    limit = RateLimit(6, clock)
    limit.check("a")
    limit.spend("a", 6)
    with pytest.raises(BusyError) as refused:
        limit.check("a")
    assert refused.value.seconds == pytest.approx(10)
    limit.check("b")
    clock.now += 10
    limit.check("a")
    limit.spend("a", 13)  # a large piece, which it owes
    with pytest.raises(BusyError) as refused:
        limit.check("a")
    assert refused.value.seconds == pytest.approx(130)
    clock.now += 10_000
    limit.spend("a", 6)  # it is full again, and no fuller
    with pytest.raises(BusyError):
        limit.check("a")


def test_without_a_limit_nobody_is_refused() -> None:
    limit = RateLimit(None)
    limit.spend("a", 10_000)
    limit.check("a")
