"""Memory that is not needed any more, given back to the system."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8
"""Of glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Asks the C library to keep large pieces that are freed until `release_freed_memory`; glibc alone can be asked.

    It holds for the whole process, and for threads that begin later. Layers of a window take 50 to 200 MB each: given
    back one by one, the system clears each anew, which was a quarter of a window's processor time.
    """
    mallopt = _from_libc("mallopt")
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)  # others than the first cannot hold so large ones
        mallopt(_MMAP_THRESHOLD, 2**31 - 1)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Asks the C library for the pages that it keeps between small things that live on; glibc alone can be asked.

    After a U-Net 256 was made ready, these are 150 to 300 MB of 520 to 660, which stay until the end otherwise.
    """
    trim = _from_libc("malloc_trim")
    if trim is not None:
        trim(0)


def _from_libc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def release_pages(array: NDArray[Any]) -> None:
    """Takes the pages of a memory-mapped array that have been read out of this process; they are read again if needed.

    The system would do so when it runs short; until then they count as ours.
    """
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)
