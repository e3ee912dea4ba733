"""The cache is bounded by count and by size, and forgets first what nobody asked for."""

from __future__ import annotations

import asyncio

import pytest

from cloudtaser.kube.registry.cache import BusyError, Cache, Flights


def test_what_was_asked_for_last_stays_longest() -> None:
    cache: Cache[str, int] = Cache(3, 100)
    for number, key in enumerate("abc"):
        cache.put(key, number)
    assert cache.get("a") == 0
    cache.put("d", 3)
    assert [cache.get(key) for key in "abcd"] == [0, None, 2, 3]
    assert len(cache) == 3


def test_many_small_or_few_large_entries_fit() -> None:
    cache: Cache[int, str] = Cache(1000, 100)
    for number in range(50):
        cache.put(number, "x", 30)
        assert cache.weight <= 100
    assert len(cache) == 3
    cache.put(99, "y", 101)
    assert (cache.get(99), len(cache), cache.weight) == (None, 0, 0)


def test_a_replaced_entry_weighs_once() -> None:
    cache: Cache[str, int] = Cache(10, 100)
    for weight in (10, 40, 20):
        cache.put("a", weight, weight)
    assert (cache.weight, cache.get("a")) == (20, 20)
    cache.drop("a")
    cache.drop("a")
    assert (cache.weight, len(cache)) == (0, 0)


async def test_work_that_failed_is_begun_anew_and_its_room_is_free() -> None:
    flights: Flights[str, int] = Flights(1, 1)
    begun = 0

    async def fail() -> int:
        nonlocal begun
        begun += 1
        await asyncio.sleep(0)
        raise ValueError

    for _ in range(3):
        first = asyncio.ensure_future(flights.join("a", "x", fail))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await flights.join("b", "y", fail)
        with pytest.raises(ValueError):
            await first
    assert (begun, len(flights)) == (3, 0)
