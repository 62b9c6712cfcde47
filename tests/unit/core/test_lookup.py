"""Reads that are asked for at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from outlast.core.errors import Unavailable
from outlast.core.store.postgres.lookup import AT_ONCE, MOST, Lookup

pytestmark = pytest.mark.anyio


class Table:
    """Values that may change, behind a gate that holds queries back."""

    def __init__(self) -> None:
        self.values = {f"k{number}": 0 for number in range(1_000)}
        self.queries: list[tuple[str, ...]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def find(self, keys: Sequence[str]) -> dict[str, int]:
        """What there is when the query is sent; it takes until the gate is open."""
        self.queries.append(tuple(keys))
        found = {key: self.values[key] for key in keys if key in self.values}
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return found


async def test_many_share_a_query() -> None:
    """Those who ask at once are one query, each key once; what is not there is None."""
    table = Table()
    lookup = Lookup(table.find)
    got = await asyncio.gather(*[lookup.get(key) for key in ("k1", "k2", "k1", "none")])
    assert got == [0, 0, 0, None]
    assert table.queries == [("k1", "k2", "none")]


async def test_nobody_gets_what_was_read_before_he_asked() -> None:
    """Who asks while queries are under way is answered by a later one."""
    table = Table()
    lookup = Lookup(table.find)
    table.gate.clear()
    early = [asyncio.create_task(lookup.get("k1"))]
    for _ in range(AT_ONCE):
        await asyncio.sleep(0)
        early.append(asyncio.create_task(lookup.get("k1")))
    await asyncio.sleep(0.01)
    assert len(table.queries) == AT_ONCE
    table.values["k1"] = 7
    late = asyncio.create_task(lookup.get("k1"))
    await asyncio.sleep(0.01)
    table.gate.set()
    assert await late == 7
    assert [await task for task in early][:AT_ONCE] == [0] * AT_ONCE


async def test_a_failure_is_everybodys_and_the_next_goes_on() -> None:
    """All of a failed query hear of it; one who gave up harms nobody."""
    table = Table()
    lookup = Lookup(table.find)
    table.failure = Unavailable("storage-unreachable", "gone")
    failed = await asyncio.gather(*[lookup.get("k1") for _ in range(3)], return_exceptions=True)
    assert [type(error) for error in failed] == [Unavailable] * 3
    table.failure = None
    table.gate.clear()
    impatient, patient = (asyncio.create_task(lookup.get(key)) for key in ("k1", "k2"))
    await asyncio.sleep(0.01)
    impatient.cancel()
    table.gate.set()
    assert await patient == 0
    await lookup.close()


async def test_queries_are_bounded() -> None:
    """More than MOST keys are several queries."""
    table = Table()
    lookup = Lookup(table.find)
    await asyncio.gather(*[lookup.get(f"k{number}") for number in range(MOST + 10)])
    assert sorted(map(len, table.queries)) == [10, MOST]


async def test_who_asks_again_when_all_queries_have_just_ended_is_answered() -> None:
    """The first thing an answered caller does may be its next question; nobody else need come by for its answer."""
    table = Table()
    lookup = Lookup(table.find)
    table.gate.clear()

    async def twice() -> int | None:
        await lookup.get("k1")
        return await lookup.get("k2")

    again = asyncio.create_task(twice())
    others = []
    for number in range(1, AT_ONCE):
        await asyncio.sleep(0.01)
        others.append(asyncio.create_task(lookup.get(f"k{number + 2}")))
    await asyncio.sleep(0.01)
    assert len(table.queries) == AT_ONCE
    table.gate.set()
    async with asyncio.timeout(2):
        assert await again == 0
        assert await asyncio.gather(*others) == [0] * len(others)
