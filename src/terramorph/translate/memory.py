"""Release of unused memory to the system."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8
"""Parameters of mallopt, from glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Keep freed large blocks in the process until `release_freed_memory`; no effect without glibc.

    The setting applies to the whole process, and to threads that start later. Layers of a window take 50 to 200 MB
    each: if they are released one by one, the system clears each anew, a quarter of a window's CPU time.
    """
    mallopt = _from_libc("mallopt")
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)  # only the first arena can hold blocks this large
        mallopt(_MMAP_THRESHOLD, 2**31 - 1)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Release the free pages that the C library keeps; no effect without glibc.

    After a U-Net 256 is loaded, these are 150 to 300 MB of 520 to 660, which otherwise stay until the process ends.
    """
    trim = _from_libc("malloc_trim")
    if trim is not None:
        trim(0)


def _from_libc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def release_pages(array: NDArray[Any]) -> None:
    """Release the pages of a memory-mapped array from the process; they are read again if needed.

    The system does so only when memory runs short; until then they count as memory of the process.
    """
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)
