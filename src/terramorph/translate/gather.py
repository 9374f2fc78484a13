"""Gathering: predictions that several threads ask for at once share passes of the network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terramorph.networks import Core
from terramorph.raster import Raster

Predict = Callable[[Sequence[Raster], int, Core | None], NDArray[np.float32]]
"""Function of rasters of one size, the number of a sample, and the core to return: float32 (N, D, h, w)."""


@dataclass(eq=False)
class _Request:
    raster: Raster
    sample: int
    core: Core | None
    made: Future[NDArray[np.float32]] = field(default_factory=Future)

    def shares(self, other: _Request) -> bool:
        """Return whether one pass can make both."""
        alike = self.raster.pixels.shape == other.raster.pixels.shape
        return alike and (self.sample, self.core) == (other.sample, other.core)


class Gather:
    """Predicts single rasters for several threads: those asked for while a pass runs share the next one.

    No request waits for others to come, so a thread alone loses nothing.

    Args:
        predict: Function that predicts rasters in one pass.
        at_once: Function of (height, width) in pixels that returns the most rasters per pass.
        turn: Lock of the computation.
    """

    def __init__(self, predict: Predict, at_once: Callable[[int, int], int], turn: AbstractContextManager[Any]) -> None:
        self._predict, self._at_once, self._turn = predict, at_once, turn
        self._waiting: list[_Request] = []
        self._lock = threading.Lock()

    def one(self, raster: Raster, sample: int, core: Core | None) -> NDArray[np.float32]:
        """Predict a raster, float32 (D, h, w) in [-1, 1].

        Raises:
            Exception: Any exception of its pass.
        """
        asked = _Request(raster, sample, core)
        with self._lock:
            self._waiting.append(asked)
        with self._turn:
            if not asked.made.done():  # no other thread has made it in its pass
                self._run(self._taken(asked))
        return asked.made.result()

    def _taken(self, first: _Request) -> list[_Request]:
        """Take a request and those that share its pass, the oldest first."""
        with self._lock:
            others = [other for other in self._waiting if other is not first and other.shares(first)]
            taken = [first, *others][: self._at_once(*first.raster.mask.shape)]
            self._waiting = [other for other in self._waiting if other not in taken]
        return taken

    def _run(self, requests: list[_Request]) -> None:
        first = requests[0]
        try:
            made = self._predict([request.raster for request in requests], first.sample, first.core)
        except BaseException as error:
            for request in requests:
                request.made.set_exception(error)
        else:
            for request, one in zip(requests, made, strict=True):
                request.made.set_result(one)
