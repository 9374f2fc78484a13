"""Processes that tests start, copies of one that has imported what takes seconds to import; waiting, and ports."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import context
from multiprocessing.process import BaseProcess

PRELOADED = [
    "distributed", "optuna", "terramorph.evaluation", "terramorph.study", "terramorph.translate.worker",
    "torch._dynamo",  # every training imports it
]  # fmt: skip

if hasattr(context, "ForkServerContext"):  # not on Windows

    class Copy(context.ForkServerProcess):
        """A copy with the environment of whoever starts it, as a spawned process has."""

        def start(self) -> None:
            self._environment = dict(os.environ)
            super().start()

        def run(self) -> None:
            os.environ.clear()
            os.environ.update(self._environment)
            super().run()

    class Copies(context.ForkServerContext):
        """The context of such processes."""

        Process = Copy


def start_python(code: str, *words: object) -> BaseProcess:
    """Runs Python code, whose sys.argv[1:] are the words, in a process of its own."""
    head = f"import sys\nsys.argv = ['', *{list(map(str, words))!r}]\n"
    started = multiprocessing.get_context("spawn").Process(
        target=exec, args=(head + textwrap.dedent(code), {"__name__": "__main__"})
    )
    started.start()
    return started


def exit_code(code: str, *words: object) -> int | None:
    """The exit code of Python code that runs in a process of its own; negative: the signal that ended it."""
    started = start_python(code, *words)
    started.join()
    return started.exitcode


def wait_until(condition: Callable[[], object], seconds: float = 240) -> None:
    """Waits for a condition; fails after so many seconds, which a test that passes never needs."""
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last, f"what a test waits for did not come in {seconds:g} s"
        time.sleep(0.01)


def free_port() -> int:
    """A port that no process takes by itself until it is used: systems give those above 32767 to who asks for any."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextmanager
def nobody() -> Iterator[str]:
    """Host and port of this machine where nobody answers, nor takes the port meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and it does not listen
        yield f"127.0.0.1:{held.getsockname()[1]}"
