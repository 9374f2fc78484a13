"""Mutated files for the tests of parsers: a parser may read a file or raise an error of ours, and nothing else."""

from __future__ import annotations

import os
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from terramorph.errors import TerramorphError

MUTATIONS = int(os.environ.get("TERRAMORPH_FUZZ", "300"))
"""Mutations of each file; TERRAMORPH_FUZZ=10000 looks more closely."""
SECONDS, MEGABYTES = 5.0, 1000
"""The most that one parse may take."""
CLEAR = Path("/proc/self/clear_refs")
_ABSURD = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_WORDS = (
    b"-1", b"0", b"1e999", b"nan", b"null", b"true", b"[]", b"{}", b'""', b"9" * 40, b"\xff\xfe", b"\x00", b"\xe9",
    b"[" * 3000, b'{"a":' * 3000, b"../../x", b"<", b";", b",", b"\n",
)  # fmt: skip


def mutations(data: bytes, seed: int, count: int = MUTATIONS) -> Iterator[bytes]:
    """Damaged copies of a file, the same for the same seed.

    Bits are flipped, bytes replaced, pieces cut out, doubled and moved, integers made absurd, and words put in that
    numbers, JSON and TOML trip over.
    """
    random = np.random.default_rng(seed)
    yield b""
    for _ in range(count - 1):
        damaged = bytearray(data)
        for _ in range(int(random.integers(1, 4))):
            damaged = _mutate(damaged, random)
        yield bytes(damaged)


def _mutate(data: bytearray, random: np.random.Generator) -> bytearray:
    at = int(random.integers(0, len(data) + 1))
    length = int(random.integers(1, max(2, len(data) // 4)))
    match int(random.integers(0, 7)):
        case 0:
            for place in random.integers(0, max(len(data), 1), 3):
                if data:
                    data[place % len(data)] ^= 1 << int(random.integers(0, 8))
        case 1:
            data[at : at + 1] = bytes([int(random.integers(0, 256))])
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = data[:length]
        case 4:
            order = "<" if random.integers(2) else ">"
            data[at : at + 4] = struct.pack(f"{order}I", _ABSURD[int(random.integers(len(_ABSURD)))])
        case 5:
            word = _WORDS[int(random.integers(len(_WORDS)))]
            data[at : at + int(random.integers(0, len(word) + 1))] = word
        case _:
            del data[at:]
    return data


def only_ours(parse: Callable[[bytes], object], data: bytes, seed: int = 0, count: int = MUTATIONS) -> int:
    """Parse mutations of a file, and fail at what is no error of ours, or takes too long or too much memory.

    Args:
        parse: Reads the content of a file, down to its last value.
        data: A good file, which must be read.
        seed, count: As `mutations` takes them.

    Returns:
        How many mutations were refused. A test should see that it is neither 0 nor all of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _refused(parse, data, seed, count)


def _refused(parse: Callable[[bytes], object], data: bytes, seed: int, count: int) -> int:
    parse(data)
    refused, peak = 0, _peak(afresh=True)
    for number, damaged in enumerate(mutations(data, seed, count)):
        begun = time.process_time()
        try:
            parse(damaged)
        except TerramorphError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"mutation {number} of seed {seed}: {type(error).__name__}: {error}") from error
        spent, taken = time.process_time() - begun, _peak() - peak
        assert spent < SECONDS, f"mutation {number} of seed {seed} took {spent:.1f} s"
        assert taken < MEGABYTES, f"mutation {number} of seed {seed} took {taken} MB"
        if taken > MEGABYTES // 10:
            peak = _peak(afresh=True)
    return refused


def _peak(*, afresh: bool = False) -> int:
    """The process's largest resident size since it was asked afresh, in MB; 0 where nobody tells (not Linux)."""
    if not CLEAR.exists():
        return 0
    import resource

    if afresh:
        CLEAR.write_text("5", encoding="ascii")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
