"""SIGINT and SIGTERM: short work stops at once, training after the current step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NOTICE = "Stopping after this step; press again to stop at once."


class Terminated(BaseException):
    """Arrival of SIGTERM. Like KeyboardInterrupt it is not an Exception, so that no handler but cleaning up sees it."""


@contextmanager
def terminate_as_exception() -> Iterator[None]:
    """Make SIGTERM raise `Terminated`, so that half-written files are removed."""

    def raise_terminated(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with _handlers({signal.SIGTERM: raise_terminated}):
        yield


class StoppedBefore(BaseException):
    """Arrival of a signal while a run was prepared; not an Exception, for the same reason.

    Attributes:
        exit_code: 128 + the signal's number.
        already_told: Whether another process prints the sentence.
    """

    def __init__(self, sentence: str, exit_code: int, already_told: bool = False) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
        self.already_told = already_told


class StopFlag:
    """The first signal, which a long run polls after each step; while not `stepping`, the run stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.stepping = True

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """Exit code of the signal by the shell's convention, 128 + its number."""
        return 128 + (self.signal or 0)


@contextmanager
def stop_after_step(notice: str = NOTICE) -> Iterator[StopFlag]:
    """Turn the first SIGINT or SIGTERM into a flag, with a notice; the second has its usual effect at once."""
    flag = StopFlag()

    def note(number: int, frame: FrameType | None) -> None:
        flag.signal = number
        for each, handler in previous.items():
            signal.signal(each, handler)
        # Not print: the signal may interrupt one, and buffered files are not reentrant.
        os.write(2, f"{notice}\n".encode() if notice and flag.stepping else b"")

    with _handlers({signal.SIGINT: note, signal.SIGTERM: note}) as previous:
        yield flag


@contextmanager
def _handlers(wanted: dict[int, Any]) -> Iterator[dict[int, Any]]:
    """Install signal handlers for the block, in the main thread only; yield the ones they replace."""
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    previous = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield previous
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
