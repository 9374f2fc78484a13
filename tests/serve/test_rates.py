"""Rate limit: a client has so many windows a minute, whatever others do, and what needs no window is free."""

from __future__ import annotations

import pytest

from terramorph.serve.queue import BusyError
from terramorph.serve.rates import RateLimit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


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
