"""Gathering: threads that ask at once share passes, each gets its own answer, and one alone does not wait."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from terramorph.geo import Grid
from terramorph.raster import Raster, default_bands
from terramorph.translate.predictor import Gather

from ..processes import wait_until


class Passes:
    """Predicts the mean of each raster, and keeps the numbers of rasters of its passes."""

    def __init__(self) -> None:
        self.turn = threading.RLock()
        self.sizes: list[int] = []
        self.gather = Gather(self._run, lambda height, width: 4, self.turn)

    def _run(self, rasters: Any, sample: int, core: Any) -> np.ndarray:
        self.sizes.append(len(rasters))
        if any(raster.pixels.max() > 200 for raster in rasters):
            raise ValueError("It is too bright.")
        made = np.stack([raster.pixels.astype(np.float32) + 1000 * sample for raster in rasters])
        return made if core is None else made[..., *core]

    def at_once(self, asked: list[tuple[Any, ...]]) -> list[Future[np.ndarray]]:
        """Ask on a thread each, all while another pass runs."""
        with ThreadPoolExecutor(len(asked)) as pool:
            with self.turn:
                futures = [pool.submit(self.gather.one, *one) for one in asked]
                wait_until(lambda: len(self.gather._waiting) == len(asked))
            return futures


def raster(value: int, side: int = 8) -> Raster:
    pixels = np.full((3, side, side), value, np.uint8)
    return Raster(pixels, np.ones((side, side), bool), Grid.pixels(side, side), default_bands(3))


def test_threads_that_ask_at_once_share_passes_and_get_their_own_answers() -> None:
    passes = Passes()
    futures = passes.at_once([(raster(value), 0, None) for value in range(9)])
    for value, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(), np.full((3, 8, 8), value, np.float32))
    assert sorted(passes.sizes) == [1, 4, 4]
    assert len(passes.sizes) == 3


def test_a_thread_alone_has_a_pass_at_once() -> None:
    passes = Passes()
    for value in range(3):
        assert passes.gather.one(raster(value), 0, None).mean() == value
    assert passes.sizes == [1, 1, 1]


def test_other_sizes_samples_and_cores_are_other_passes() -> None:
    passes = Passes()
    core = (slice(2, 5), slice(1, 8))
    asked = [(raster(1), 0, None), (raster(1, 16), 0, None), (raster(1), 2, None), (raster(1), 0, core)]
    alone, large, sampled, cut = (future.result() for future in passes.at_once([*asked, (raster(5), 0, core)])[:4])
    assert (alone.shape, large.shape, cut.shape) == ((3, 8, 8), (3, 16, 16), (3, 3, 7))
    assert sampled.mean() == 2001
    assert sorted(passes.sizes) == [1, 1, 1, 2]


def test_an_error_reaches_those_who_share_its_pass_and_nobody_else() -> None:
    passes = Passes()
    bright, with_it, other = passes.at_once([(raster(250), 0, None), (raster(1), 0, None), (raster(2, 16), 0, None)])
    for future in (bright, with_it):
        with pytest.raises(ValueError, match="bright"):
            future.result()
    assert other.result().mean() == 2
    assert passes.gather.one(raster(3), 0, None).mean() == 3
