"""Filter of two rasterio warnings that are no faults here: missing georeference, several masks."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning

_lock = threading.Lock()
_inside = 0
_silence = warnings.catch_warnings()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence them while the block runs, in all threads.

    Python's warning filters are shared by all threads, and two that save and restore them at the same time undo each
    other. So the first one in saves them and the last one out restores them.
    """
    global _inside, _silence
    with _lock:
        if _inside == 0:
            _silence = warnings.catch_warnings()
            _silence.__enter__()
            for remark in (NotGeoreferencedWarning, NodataShadowWarning):
                warnings.simplefilter("ignore", remark)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _silence.__exit__(None, None, None)
