"""Several stores as one: writes owe what they could not do, reads find a good copy, crashes leave nothing worse."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from outlast.core.clock import SystemClock
from outlast.core.errors import OutlastError, Refused, Unavailable, Unknown
from outlast.core.replicas import fanout, store
from outlast.core.replicas.health import StoreHealth
from outlast.core.replicas.store import ReplicatedBlobs
from outlast.testing.blob import MemoryBlobs
from outlast.testing.suites.blob import CHECKS, Check, Interrupted, body, pieces, read

pytestmark = pytest.mark.anyio

DOWN = Unavailable("unreachable", "told to be")


class Books:
    """A ledger in memory that can fail."""

    def __init__(self) -> None:
        self.owed: dict[str, tuple[str, ...]] = {}
        self.deletions: dict[str, tuple[str, ...]] = {}
        self.suspected: list[str] = []
        self.error: OutlastError | None = None

    async def owe_copies(self, blob, stores, held, reasons):  # type: ignore[no-untyped-def]
        """See `Ledger`."""
        if self.error is not None:
            raise self.error
        assert len(reasons) == len(stores)
        assert held
        self.owed[blob] = tuple(stores)

    async def owe_deletion(self, blob, stores):  # type: ignore[no-untyped-def]
        """See `Ledger`."""
        self.deletions[blob] = tuple(stores)

    async def suspect(self, blob, missing=()):  # type: ignore[no-untyped-def]
        """See `Ledger`."""
        self.suspected.append(blob)


class Slow(MemoryBlobs):
    """Takes pieces at its own speed, or never answers."""

    def __init__(self, *, hangs: bool = False, after: int = 10**9) -> None:
        super().__init__()
        self.hangs = hangs
        self.after = after

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Reads ``after`` pieces, then hangs for good."""
        if self.hangs:
            async for _ in chunks:
                self.after -= 1
                if self.after <= 0:
                    break
            await asyncio.sleep(3_600)
        return await super().put(name, chunks)

    async def get(self, name: str, offset: int = 0) -> AsyncIterator[bytes]:
        """Says nothing while it hangs."""
        if self.hangs:
            await asyncio.sleep(3_600)
        async for piece in super().get(name, offset):
            yield piece


def made(*, copies: int = 1, **stores: MemoryBlobs) -> tuple[ReplicatedBlobs, Books]:
    """Stores as one, over a ledger in memory."""
    books = Books()
    return ReplicatedBlobs(stores, StoreHealth(list(stores), SystemClock()), books, copies), books


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds are the same kind of bounds when they are short."""
    for module, name in ((fanout, "LATE_S"), (fanout, "GRACE_S"), (store, "FIRST_BYTES_S")):
        monkeypatch.setattr(module, name, 0.1)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_conforms(check: Check) -> None:
    """Two stores together keep the contract that each keeps alone."""
    one, _ = made(a=MemoryBlobs(), b=MemoryBlobs())
    await check(one)


async def test_a_put_reaches_all_stores_and_owes_nothing() -> None:
    """With all stores well there is a copy in each and nothing on record."""
    a, b = MemoryBlobs(), MemoryBlobs()
    one, books = made(a=a, b=b)
    assert await one.put("x", pieces(body(300_000))) == 300_000
    assert a.stored == b.stored == {"x": body(300_000)}
    assert not books.owed


async def test_what_a_store_did_not_take_is_owed_before_the_answer() -> None:
    """A put with one store down succeeds, and the debt is there when it returns."""
    a, b = MemoryBlobs(), MemoryBlobs()
    b.down = DOWN
    one, books = made(a=a, b=b)
    await one.put("x", pieces(body(10)))
    assert books.owed == {"x": ("b",)}
    assert a.stored
    assert not b.stored


async def test_without_a_debt_on_record_there_is_no_blob() -> None:
    """When the debt cannot be written the put fails and the copy is taken back."""
    a, b = MemoryBlobs(), MemoryBlobs()
    b.down = DOWN
    one, books = made(a=a, b=b)
    books.error = Unavailable("storage-full", "told to")
    with pytest.raises(Unavailable, match="storage-full"):
        await one.put("x", pieces(body(10)))
    assert not a.stored


async def test_a_debt_that_may_be_on_record_keeps_its_blob() -> None:
    """When nobody knows whether the debt was written, the copy stays: the debt's job would look for it."""
    a, b = MemoryBlobs(), MemoryBlobs()
    b.down = DOWN
    one, books = made(a=a, b=b)
    books.error = Unknown("store-unknown", "told to")
    with pytest.raises(Unknown):
        await one.put("x", pieces(body(10)))
    assert a.stored


async def test_no_store_at_all_is_unavailable() -> None:
    """All down: refused, to be tried again, nothing owed; and again when they are out of use."""
    a, b = MemoryBlobs(), MemoryBlobs()
    a.down = b.down = DOWN
    one, books = made(a=a, b=b)
    for _ in range(8):
        with pytest.raises(Unavailable) as failed:
            await one.put("x", pieces(body(10)))
        assert failed.value.code == "blob-stores-unavailable"
        assert failed.value.retry_after_s
    assert not books.owed
    with pytest.raises(Unavailable):
        await one.check()


async def test_too_few_copies_leave_nothing() -> None:
    """Where two copies are asked for, one is not enough, and does not stay."""
    a, b = MemoryBlobs(), MemoryBlobs()
    b.down = DOWN
    one, books = made(copies=2, a=a, b=b)
    with pytest.raises(Unavailable):
        await one.put("x", pieces(body(10)))
    assert not a.stored
    assert not books.owed


@pytest.mark.parametrize("after", [3, 10**9])
async def test_a_store_that_hangs_costs_a_bounded_time(after: int) -> None:
    """It may stop taking pieces or never answer at the end: the other has the blob, and the put returns."""
    a, b = MemoryBlobs(), Slow(hangs=True, after=after)
    one, books = made(a=a, b=b)
    async with asyncio.timeout(3):
        await one.put("x", pieces(body(4_000_000)))
    assert a.stored["x"] == body(4_000_000)
    assert books.owed == {"x": ("b",)}


async def test_waiting_for_one_store_is_not_held_against_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store that answered at once stays in use however long the put then waits for another."""
    monkeypatch.setattr(fanout, "GRACE_S", 1.6)  # beyond what counts as slow
    a, b = MemoryBlobs(), Slow(hangs=True)
    one, _ = made(a=a, b=b)
    await asyncio.gather(*(one.put(f"x{i}", pieces(body(10))) for i in range(12)))
    assert one.health.in_use("a")
    assert not one.health.in_use("b")


async def test_a_source_that_breaks_off_leaves_nothing_anywhere() -> None:
    """No store shows any of it, none is blamed, and nothing is owed."""

    async def broken() -> AsyncIterator[bytes]:
        yield body(100_000)
        raise Interrupted

    a, b = MemoryBlobs(), MemoryBlobs()
    one, books = made(a=a, b=b)
    for _ in range(5):
        with pytest.raises(Interrupted):
            await one.put("x", broken())
    assert not a.stored
    assert not b.stored
    assert not books.owed
    assert one.health.in_use("a")
    assert one.health.in_use("b")


async def test_reading_falls_back_when_a_copy_is_missing_or_wrong() -> None:
    """The reader gets the right bytes, and somebody is told to look."""
    a, b = MemoryBlobs(), MemoryBlobs()
    one, books = made(a=a, b=b)
    await one.put("gone", pieces(body(10)))
    await one.put("bad", pieces(body(500_000)))
    del a.stored["gone"]
    a.stored["bad"] = b"x" + a.stored["bad"][1:]
    assert await read(one, "gone") == body(10)
    assert await read(one, "bad") == body(500_000)
    assert books.suspected == ["gone", "bad"]
    del b.stored["gone"]
    with pytest.raises(Refused, match="blob-not-found"):
        await read(one, "gone")


async def test_reading_goes_on_at_the_offset_when_a_store_dies() -> None:
    """A store that fails on the way is left; the other gives the rest."""
    a, b = MemoryBlobs(), MemoryBlobs()
    one, _ = made(a=a, b=b)
    await one.put("x", pieces(body(1_000_000)))
    got, number = b"", 0
    async for piece in one.get("x"):
        got += piece
        number += 1
        if number == 3:
            a.down = DOWN
    assert hashlib.sha256(got).digest() == hashlib.sha256(body(1_000_000)).digest()


async def test_a_store_that_is_silent_is_left_for_another() -> None:
    """Hanging is found out in bounded time, and after a few times it is not asked first any more."""
    a, b = Slow(), MemoryBlobs()
    one, _ = made(a=a, b=b)
    await one.put("x", pieces(body(1_000)))
    a.hangs = True
    for _ in range(4):
        async with asyncio.timeout(1):
            assert await read(one, "x") == body(1_000)
    assert one.health.order()[0] == "b"


async def test_nothing_is_called_missing_while_a_store_cannot_be_asked() -> None:
    """A blob that one store lacks and the other cannot tell of is unavailable, not gone."""
    a, b = MemoryBlobs(), MemoryBlobs()
    one, _ = made(a=a, b=b)
    b.down = DOWN
    with pytest.raises(Unavailable):
        await read(one, "x")
    with pytest.raises(Unavailable):
        await one.size("x")


async def test_a_deletion_that_a_store_missed_is_owed() -> None:
    """Gone where it can be, on record where it cannot."""
    a, b = MemoryBlobs(), MemoryBlobs()
    one, books = made(a=a, b=b)
    await one.put("x", pieces(body(10)))
    b.down = DOWN
    await one.delete("x")
    assert not a.stored
    assert b.stored
    assert books.deletions == {"x": ("b",)}


async def test_a_store_that_refuses_us_is_out_at_once_and_says_why() -> None:
    """A wrong bucket is no bad luck: one answer takes the store out, and who is refused is told the store's reason."""
    a, b = MemoryBlobs(), MemoryBlobs()
    blobs, books = made(a=a, b=b)
    b.down = Refused("bucket-not-found", "there is no bucket")
    await blobs.put("one", pieces(body(10)))
    assert books.owed == {"one": ("b",)}
    assert (blobs.health.in_use("a"), blobs.health.in_use("b")) == (True, False)
    a.down = Refused("credentials-refused", "no such key")
    with pytest.raises(Unavailable, match=r"a: credentials-refused, b: ejected"):
        await blobs.put("two", pieces(body(10)))
    with pytest.raises(Unavailable, match=r"a: ejected \(credentials-refused\).*bucket-not-found"):
        await blobs.check()


async def test_what_a_disabled_store_may_have_is_not_gone() -> None:
    """Only when all stores say so is a blob gone; its readers would give up for good."""
    a, b = MemoryBlobs(), MemoryBlobs()
    b.down = DOWN
    one, _ = made(a=a, b=b)
    await one.put("x", pieces(b"1"))
    b.down = None
    one.health.router.disable("blobs.a", "maintenance")
    for asked in (read(one, "x"), one.size("x"), one.digest("x")):
        with pytest.raises(Unavailable, match="blob-stores-unavailable"):
            await asked
    one.health.router.enable("blobs.a")
    assert await read(one, "x") == b"1"
    with pytest.raises(Refused, match="blob-not-found"):
        await read(one, "y")


async def test_what_a_store_refuses_to_show_is_not_gone() -> None:
    """A store that refuses our credentials says nothing of what it has."""
    a, b = MemoryBlobs(), MemoryBlobs()
    one, _ = made(a=a, b=b)
    await one.put("x", pieces(b"1"))
    del b.stored["x"]
    a.down = Refused("credentials-refused", "told to")
    with pytest.raises(Unavailable, match="credentials-refused"):
        await read(one, "x")
