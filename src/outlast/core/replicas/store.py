"""``ReplicatedBlobs``: the BlobStore that several stores make together.

Promises: a put returns when ``write_copies`` stores have the blob durably and every other store has it or owes it on
record; a store that hangs costs a put a bounded time, once it is known not even that. A get finds the blob as long as
one store has a good copy and goes on at another when one fails on the way. A deletion reaches every store, now or
later. ``core.replicas`` tells the life of a copy.

Refuses (Unavailable ``blob-stores-unavailable``, ``storage-full``) a put that too few stores take, and leaves nothing
of it where it can. Leaves to others: whether the bytes of a large blob are right (`core.envelope` sees that piece by
piece, and asks for ``copies``), and damage that nobody reads (``scrub``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from outlast.core.blobref import StoredBlob
from outlast.core.errors import Corrupt, OutlastError, Unavailable, Unknown
from outlast.core.replicas.fanout import Fanout, Lane
from outlast.core.replicas.health import RETRY_AFTER_S, StoreHealth, none_in_use
from outlast.core.routing.outcome import PROVIDER_REFUSALS
from outlast.core.routing.router import Call

log = logging.getLogger("outlast.blobs")

CALL_S = 5.0
"""How long a store may take for what carries no body."""
FIRST_BYTES_S = 3.0
"""How long a store may take until the first bytes of a blob, before another is asked."""
NEXT_BYTES_S = 10.0
"""How long it may be silent between two pieces."""
MAX_LISTED = 1_000
"""Most blobs in one answer of ``page``."""

T = TypeVar("T")
_OF_THE_CALLER = frozenset({"blob-differs", "bad-blob-name"})
"""Codes of Refused that no other store would answer otherwise."""


class One(Protocol):
    """One store; `outlast.ports.blob.BlobStore` satisfies it and documents it."""

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int: ...

    def get(self, name: str, offset: int = 0) -> AsyncIterator[bytes]: ...

    async def size(self, name: str) -> int: ...

    async def digest(self, name: str) -> str | None: ...

    async def page(self, after: str = "", limit: int = ...) -> tuple[StoredBlob, ...]: ...

    async def delete(self, name: str) -> None: ...

    async def free_bytes(self) -> int | None: ...

    async def check(self) -> None: ...


class Ledger(Protocol):
    """Puts on record what is owed. Raises as a commit does."""

    async def owe_copies(
        self, blob: str, stores: Sequence[str], held: Sequence[str], reasons: Sequence[str]
    ) -> None:
        """``stores`` lack the blob: on record, with a job for each, when it returns."""
        ...

    async def owe_deletion(self, blob: str, stores: Sequence[str]) -> None:
        """The blob shall be gone and ``stores`` (possibly none) have not confirmed it; copies of it that were owed
        are not any more."""
        ...

    async def suspect(self, blob: str, missing: tuple[str, ...] = ()) -> None:
        """A copy was found wrong or missing when it was read: have all of them looked at. Where nothing is wrong but that
        the stores named ``missing`` have none, and each of them is owed one, nothing is done."""
        ...


class ReplicatedBlobs:
    """A BlobStore over ``stores``, in order of preference."""

    def __init__(
        self,
        stores: Mapping[str, One],
        health: StoreHealth,
        ledger: Ledger,
        write_copies: int = 1,
    ) -> None:
        if not 1 <= write_copies <= len(stores):
            raise ValueError("write_copies is at least 1 and at most the number of stores")
        self.stores = dict(stores)
        self.health = health
        self._ledger = ledger
        self._write_copies = write_copies

    # -- writing ----------------------------------------------------------------------------------------------

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """See BlobStore."""
        plan = self.health.plan()
        if len(plan.use) < self._write_copies:
            for call in plan.use.values():
                self.health.finished(call, asyncio.CancelledError())
            raise none_in_use(self.health.explained(plan.out))
        fanout = Fanout(
            name,
            {store: self.stores[store] for store in plan.use},
            lambda lane: self._judge(lane, plan.use[lane.store], None),
        )
        counted = _Counted(chunks)
        try:
            await fanout.run(
                counted.stream(),
                self._write_copies,
                lambda: self.health.sent(plan.use.values()),
            )
        except BaseException as error:
            for lane in fanout.lanes:
                self._judge(lane, plan.use[lane.store], error)
            raise
        for lane in fanout.lanes:
            self._judge(lane, plan.use[lane.store], None)
        await self._conclude(name, fanout.lanes, plan.out)
        return counted.size

    def _judge(self, lane: Lane, call: Call, source: BaseException | None) -> None:
        """Hold a lane's end for or against its store, once; it is no fault of a store that the source broke off."""
        if lane.error is not None and source is None:
            self.health.sent((call,))  # what fails before the end of the source counts too
        self.health.finished(call, asyncio.CancelledError() if source else lane.error)

    async def _conclude(self, name: str, lanes: Sequence[Lane], out: Mapping[str, str]) -> None:
        held = [lane.store for lane in lanes if lane.done]
        failed = {lane.store: lane.error for lane in lanes if not lane.done}
        for error in failed.values():
            if error is not None and error.code in _OF_THE_CALLER:
                raise error
        if len(held) < self._write_copies:
            await self._forget(name, held)
            raise _too_few(failed, dict(out))
        missing = {store: error.code if error else "failed" for store, error in failed.items()}
        missing.update(out)
        if not missing:
            return
        stores = sorted(missing)
        try:
            await self._ledger.owe_copies(name, stores, held, [missing[s] for s in stores])
        except Unknown:
            raise  # the debt may be on record: its job will find the blob
        except OutlastError:
            await self._forget(name, held)
            raise

    async def _forget(self, name: str, stores: Sequence[str]) -> None:
        """As far as it goes: what stays is unreferenced, and a scrub finds it."""
        for store in stores:
            try:
                async with asyncio.timeout(CALL_S):
                    await self.stores[store].delete(name)
            except (OutlastError, TimeoutError) as error:
                log.warning("store %s keeps an unreferenced blob: %s", store, error)

    async def delete(self, name: str) -> None:
        """See BlobStore."""
        used = [store for store in self.stores if self.health.in_use(store)]
        ends = await asyncio.gather(
            *(self._short(store, self.stores[store].delete(name)) for store in used),
            return_exceptions=True,
        )
        unconfirmed = self.stores.keys() - set(used)
        for store, end in zip(used, ends, strict=True):
            if isinstance(end, OutlastError) and end.code not in _OF_THE_CALLER:
                unconfirmed.add(store)
            elif isinstance(end, BaseException):
                raise end
        await self._ledger.owe_deletion(name, sorted(unconfirmed))

    # -- reading ----------------------------------------------------------------------------------------------

    async def get(self, name: str, offset: int = 0) -> AsyncIterator[bytes]:
        """See BlobStore. Goes on at the next store, from where it is, when one fails on the way."""
        failures: dict[str, OutlastError] = {}
        given = 0
        for store in self.health.order():
            stream = self._watched(store, self.stores[store].get(name, offset + given))
            async with contextlib.aclosing(stream):
                try:
                    async for piece in stream:
                        given += len(piece)
                        yield piece
                except OutlastError as error:
                    failures[store] = error
                    continue
                wrong = {s: error for s, error in failures.items() if _is_damage(error)}
                if wrong:
                    is_missing = not any(isinstance(error, Corrupt) for error in wrong.values())
                    await self.suspect(name, tuple(wrong) if is_missing else ())
                return
        raise self._worst(name, list(failures.values()))

    def copies(self, name: str) -> list[AsyncIterator[bytes]]:
        """The blob from each store alone, best first, for a reader that found what `get` gave wrong."""
        return [self.stores[store].get(name) for store in self.health.order()]

    async def suspect(self, name: str, missing: tuple[str, ...] = ()) -> None:
        """Have all copies of a blob looked at soon. Raises nothing: a reader has its answer already."""
        try:
            await self._ledger.suspect(name, missing)
        except OutlastError as error:
            log.warning("blob %s has a bad copy, and that is not on record: %s", name, error)

    async def size(self, name: str) -> int:
        """See BlobStore."""
        return await self._first(name, lambda one: one.size(name))

    async def digest(self, name: str) -> str | None:
        """See BlobStore."""
        return await self._first(name, lambda one: one.digest(name))

    async def page(self, after: str = "", limit: int = MAX_LISTED) -> tuple[StoredBlob, ...]:
        """See BlobStore: what any store in use has. Raises Unavailable where one in use cannot list."""
        used = [store for store in self.stores if self.health.in_use(store)] or list(self.stores)
        pages = {
            store: await self._short(store, self.stores[store].page(after, limit)) for store in used
        }
        found, _ = merged(pages, limit)
        return tuple(StoredBlob(name, max(sizes.values())) for name, sizes in found.items())[:limit]

    async def free_bytes(self) -> int | None:
        """The least room of the stores that can tell."""
        rooms = [await one.free_bytes() for one in self.stores.values()]
        return min((room for room in rooms if room is not None), default=None)

    async def check(self) -> None:
        """See BlobStore: whether a put would find enough stores."""
        usable = [store for store in self.stores if self.health.in_use(store)]
        if len(usable) < self._write_copies:
            out = dict.fromkeys(self.stores.keys() - set(usable), "ejected")
            raise none_in_use(self.health.explained(out))

    # -- inside -----------------------------------------------------------------------------------------------

    async def _first(self, name: str, ask: Callable[[One], Awaitable[T]]) -> T:
        failures: list[OutlastError] = []
        for store in self.health.order():
            try:
                return await self._short(store, ask(self.stores[store]))
            except OutlastError as error:
                failures.append(error)
        raise self._worst(name, failures)

    def _worst(self, name: str, failures: Sequence[OutlastError]) -> OutlastError:
        """What to say when no store gave the blob: that it is gone only if all there are say so. One that a person has
        taken out of use, or that refuses our credentials, may be the only one to have it."""
        for kind in (Unavailable, Unknown, Corrupt):
            for error in failures:
                if isinstance(error, kind):
                    return error
        refusing = [error.code for error in failures if error.code in PROVIDER_REFUSALS]
        if failures and not refusing and len(failures) == len(self.stores):
            return failures[0]
        why = refusing[0] if refusing else "the others are disabled"
        return Unavailable(
            "blob-stores-unavailable",
            f"blob {name} is in no store that gives anything now ({why})",
            hint="`outlast blobs status` shows them.",
            retry_after_s=RETRY_AFTER_S,
            scope="site",
        )

    async def _short(self, store: str, work: Awaitable[T]) -> T:
        """A call without a body, bounded in time and held for or against the store."""

        async def bounded() -> T:
            try:
                async with asyncio.timeout(CALL_S):
                    return await work
            except TimeoutError:
                raise Unavailable("unreachable", f"store {store} does not answer") from None

        return await self.health.watched(store, bounded())

    async def _watched(
        self, store: str, stream: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        """A store's pieces; silence is an error, and the first bytes are held for or against it."""
        call, limit_s = self.health.started(store), FIRST_BYTES_S
        try:
            while True:
                try:
                    async with asyncio.timeout(limit_s):
                        piece = await anext(stream)
                except StopAsyncIteration:
                    self.health.finished(call)
                    return
                except TimeoutError:
                    raise Unavailable("unreachable", f"store {store} is silent") from None
                self.health.finished(call)
                limit_s = NEXT_BYTES_S
                yield piece
        except OutlastError as error:
            # one bad copy says nothing about the store, the next reader may find a good one there
            late = self.health.started(store)
            for judged in (call, late):
                self.health.finished(judged, None if isinstance(error, Corrupt) else error)
            raise
        finally:
            self.health.finished(call, asyncio.CancelledError())


def merged(
    pages: Mapping[str, Sequence[StoredBlob]], limit: int
) -> tuple[dict[str, dict[str, int]], bool]:
    """Pages of several stores as one: name -> store -> size, in order of the names, only as far as every page
    reaches; and whether that is the end. ``limit`` is what each store was asked for."""
    full = [page[-1].name for page in pages.values() if len(page) >= limit]
    horizon = min(full, default=None)
    found: dict[str, dict[str, int]] = {}
    for store, page in pages.items():
        for blob in page:
            if horizon is None or blob.name <= horizon:
                found.setdefault(blob.name, {})[store] = blob.size
    return dict(sorted(found.items())), horizon is None


class _Counted:
    """Counts what passes through."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.size = 0

    async def stream(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            self.size += len(chunk)
            yield bytes(chunk)


def _is_damage(error: OutlastError) -> bool:
    return isinstance(error, Corrupt) or error.code == "blob-not-found"


def _too_few(failed: Mapping[str, OutlastError | None], out: dict[str, str]) -> OutlastError:
    full = [e for e in failed.values() if e is not None and e.code == "storage-full"]
    if full and len(full) == len(failed):
        return full[0]
    return none_in_use({**out, **{store: e.code if e else "failed" for store, e in failed.items()}})
