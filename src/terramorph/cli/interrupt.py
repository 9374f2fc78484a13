"""SIGINT and SIGTERM: at once for short work, after the current step for training."""

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
    """SIGTERM arrived. No Exception, like KeyboardInterrupt: only cleaning up should see it on its way."""


@contextmanager
def terminate_as_exception() -> Iterator[None]:
    """Makes SIGTERM raise `Terminated`, so that half-written files are removed on the way out."""

    def raise_terminated(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with _handlers({signal.SIGTERM: raise_terminated}):
        yield


class StoppedBefore(BaseException):
    """A signal arrived while a run was being made ready. No Exception, for the same reason.

    Attributes:
        exit_code: 128 + the signal's number.
        already_told: whether another process says the sentence.
    """

    def __init__(self, sentence: str, exit_code: int, already_told: bool = False) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
        self.already_told = already_told


class StopFlag:
    """What a long run polls after each step, the first signal; while not `stepping`, who asks stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.stepping = False

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, the shell's convention."""
        return 128 + (self.signal or 0)


@contextmanager
def stop_after_step(notice: str = NOTICE) -> Iterator[StopFlag]:
    """Turns the first SIGINT or SIGTERM into a flag, with a notice; the second does what it did before, at once."""
    flag = StopFlag()

    def note(number: int, frame: FrameType | None) -> None:
        flag.signal = number
        for each, handler in previous.items():
            signal.signal(each, handler)
        # Not print: the signal may have arrived within one, and buffered files do not take a second writer.
        os.write(2, f"{notice}\n".encode() if notice and flag.stepping else b"")

    with _handlers({signal.SIGINT: note, signal.SIGTERM: note}) as previous:
        yield flag


@contextmanager
def _handlers(wanted: dict[int, Any]) -> Iterator[dict[int, Any]]:
    """Installs signal handlers for a while; yields what they replace. Only the main thread can do that."""
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    previous = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield previous
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
