"""The cache of encoded tiles in memory."""

from __future__ import annotations

from terramorph.serve.cache import MemoryCache


def test_the_least_recently_used_go() -> None:
    cache = MemoryCache(10_000)
    for number in range(4):
        cache.put(f"{number}", bytes([number]) * 2000)
    assert cache.get("0") == bytes(2000)
    cache.put("4", b"4" * 2000)
    assert cache.get("1") is None  # for 0 was asked for since
    assert cache.get("0") == bytes(2000)
    assert (cache.hits, cache.misses) == (2, 1)
    assert 8000 < cache.bytes <= 10_000
    cache.put("large", b"x" * 20_000)
    assert cache.get("large") is None
    assert 8000 < cache.bytes <= 10_000
    cache.put("4", b"")
    assert cache.get("4") == b""


def test_empty_tiles_are_bounded_too() -> None:
    cache = MemoryCache(10_000)
    for number in range(1000):
        cache.put(f"{number}", b"")
    assert sum(cache.get(f"{number}") is not None for number in range(1000)) < 50
