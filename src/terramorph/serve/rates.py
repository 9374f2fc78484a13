"""Rate limit: how many windows a client may have predicted per minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cachetools import TTLCache

from terramorph.serve.queue import BusyError

_CLIENTS, _FORGOTTEN = 1 << 16, 3600.0
"""Most clients that are remembered, and seconds without a window after which one is forgotten."""


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
