"""A primary with a synchronous standby, two real servers: the primary dies, freezes, comes back; the standby takes over.

Nothing acknowledged is lost, clients see retryable errors at most, and work goes on without anybody's help.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from outlast.core.store.port import Head
from outlast.core.store.postgres import engine, session
from outlast.core.store.postgres.engine import PostgresStore
from outlast.testing.crowd import Crowd, Node
from outlast.testing.postgres import PostgresServer
from outlast.testing.postgres_pair import PostgresPair, running_pair

pytestmark = pytest.mark.anyio

OUTAGES = int(os.environ.get("OUTLAST_OUTAGES", "1"))
"""How often the primary dies; `make outages` has each server be both."""
RETRYABLE = {"storage-unreachable", "storage-answer-lost", "storage-read-only", "storage-busy"}


@pytest.fixture(scope="module")
def servers(free_ports: Callable[[], int]) -> Iterator[PostgresPair]:
    """The two servers, for all tests of this file."""
    with running_pair((free_ports(), free_ports())) as pair:
        yield pair


@asynccontextmanager
async def nodes(dsn: str, count: int) -> AsyncIterator[list[Node]]:
    """Nodes of one site."""
    stores = [await PostgresStore.open(dsn) for _ in range(count)]
    try:
        yield [Node(store, f"n{number}") for number, store in enumerate(stores)]
    finally:
        for store in stores:
            await store.close()


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_when_the_primary_dies(servers: PostgresPair) -> None:
    """SIGKILL of the primary under load, a second without any, promotion, and a new standby."""
    name = await asyncio.to_thread(servers.create_database)
    async with nodes(servers.dsn(name), 2) as two:
        crowd = Crowd(two, clients=8)
        async with crowd.running():
            for _ in range(OUTAGES):
                await crowd.until(200)
                await asyncio.to_thread(servers.primary.power_off)
                await asyncio.sleep(0.5)
                await asyncio.to_thread(servers.promote)
                await crowd.until(200)
                await asyncio.to_thread(servers.follow)
            await crowd.until(200)
        found = await crowd.check()
    assert len(found.entries) == 2 * len(crowd.acked) > 600
    assert crowd.errors.keys() <= RETRYABLE
    assert crowd.errors["storage-unreachable"] + crowd.errors["storage-read-only"]


@contextmanager
def silent_server(port: int) -> Iterator[str]:
    """An address that swallows all packets, as a machine that is gone does: the queue of its port is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield f"127.0.0.1:{port}"


async def test_a_dead_machine_named_first_costs_nothing(
    database: str, free_port: int, postgres_server: PostgresServer
) -> None:
    """Connection attempts to a machine that is gone get no answer at all; the next server named is used all the same."""
    here = f"127.0.0.1:{postgres_server.port}"
    with silent_server(free_port) as gone:
        began = time.monotonic()
        async with nodes(database.replace(here, f"{gone},{here}"), 1) as (node,):
            crowd = Crowd([node], clients=4)
            async with crowd.running():
                await crowd.until(50)
            assert time.monotonic() - began < 4
            await crowd.check()


@pytest.mark.slow
async def test_a_frozen_primary_that_comes_back_is_not_believed(
    servers: PostgresPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary stands still (its machine is moved, say), the standby takes over, the old one goes on as if nothing
    had happened: what it still says is not taken for the truth, and nothing is written to it, though it is named first."""
    monkeypatch.setattr(engine, "FLUSH_LIMIT_S", 1.0)
    monkeypatch.setattr(session, "READ_TIMEOUT_S", 1.0)
    name = await asyncio.to_thread(servers.create_database)
    async with nodes(servers.dsn(name, first=servers.primary), 2) as two:
        crowd = Crowd(two, clients=6)
        async with crowd.running():
            await crowd.until(100)
            await asyncio.gather(
                *(two[0].store.head() for _ in range(8))
            )  # sessions of the old one
            await asyncio.to_thread(servers.primary.suspend)
            await asyncio.to_thread(servers.promote)
            await crowd.until(200)
            seen = (await two[0].store.head()).size
            servers.standby.resume()
            for _ in range(40):
                heads = await asyncio.gather(
                    *(two[0].store.head() for _ in range(8)), return_exceptions=True
                )
                sizes = [head.size for head in heads if isinstance(head, Head)]
                assert min(sizes, default=seen) >= seen, "the old primary was asked"
                seen = max(sizes, default=seen)
                await asyncio.sleep(0.02)
            await crowd.until(200)
            async with nodes(servers.dsn(name, first=servers.standby), 1) as (late,):
                assert (await late.store.head()).size >= seen
        await crowd.check()
    assert crowd.errors.keys() <= RETRYABLE
    await asyncio.to_thread(servers.standby.power_off)
    await asyncio.to_thread(servers.follow)


async def test_queries_of_the_page_can_be_asked(servers: PostgresPair) -> None:
    """What docs/howto/postgresql-ha.md has an operator ask runs on a real primary; the standby is seen to be synchronous."""
    page = pathlib.Path(__file__).parents[2] / "docs" / "howto" / "postgresql-ha.md"
    queries = re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL)
    name = await asyncio.to_thread(servers.create_database)
    async with nodes(servers.dsn(name), 1):
        answers = [servers.primary.run(sql, servers.primary.dsn(name)) for sql in queries]
    assert len(answers) == 8
    assert "|sync|" in answers[0]
    assert "outlast|" in answers[6]
    assert answers[7].endswith("|f")
