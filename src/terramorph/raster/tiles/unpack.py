"""Tiles and indices of tiles that were compressed once more, with a bound on what they may become."""

from __future__ import annotations

import zlib

MOST_BYTES = 64 << 20
"""The most that one tile or directory may hold when it is unpacked; the largest of real archives hold some MiB."""


def unpacked(data: bytes) -> bytes:
    """Data without their compression (gzip or zlib), which is told by the first bytes; others are given back.

    Raises:
        OSError: If they are damaged, or hold more than `MOST_BYTES`.
    """
    if data[:2] != b"\x1f\x8b" and data[:2] not in (b"\x78\x9c", b"\x78\xda", b"\x78\x01"):
        return data
    unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib
    try:
        found = unpacker.decompress(data, MOST_BYTES)
    except zlib.error as error:
        raise OSError(str(error)) from error
    if not unpacker.eof:
        raise OSError("it ends early" if len(found) < MOST_BYTES else f"it holds more than {MOST_BYTES >> 20} MiB")
    return found
