"""What every BlobStore must do: one suite for the fake and for every real store.

Each check is an async function of a fresh, empty store; ``CHECKS`` lists them. Checks that need a store without
room take one from the caller: ``check_full`` is given a store that can hold nothing more.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio

from outlast.core.blobref import StoredBlob
from outlast.core.errors import Refused, Unavailable
from outlast.ports.blob import BlobStore

SIZES = (0, 1, 2_048, 64 * 1024 + 1, 256 * 1024, 256 * 1024 + 1, 3_000_000)
"""Around the places where stores change their way of keeping things."""

CONCURRENCY = 32

Check = Callable[[BlobStore], Awaitable[None]]


class Interrupted(Exception):
    """The source of a body fails, as an upload that breaks off does."""


def body(size: int, seed: int = 0) -> bytes:
    """Bytes that differ by seed and position."""
    block = bytes((seed + i * 7) % 256 for i in range(256)) + seed.to_bytes(4, "big")
    return (block * (size // len(block) + 1))[:size]


async def pieces(data: bytes, size: int = 50_000) -> AsyncIterator[bytes]:
    """Data in pieces, the last one shorter."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(store: BlobStore, name: str, offset: int = 0) -> bytes:
    """A blob from ``offset`` on."""
    return b"".join([piece async for piece in store.get(name, offset)])


async def check_comes_back(store: BlobStore) -> None:
    """Bytes of every size come back, and put and size agree on how many."""
    for size in SIZES:
        name = f"size-{size}.v1_x"
        assert await store.put(name, pieces(body(size))) == size
        assert await store.size(name) == size
        assert await read(store, name) == body(size)


async def check_pieces_do_not_matter(store: BlobStore) -> None:
    """One byte at a time, empty pieces between, or all at once: the same blob."""

    async def with_gaps() -> AsyncIterator[bytes]:
        for byte in body(500):
            yield bytes([byte])
            yield b""

    await store.put("gaps", with_gaps())
    await store.put("whole", pieces(body(500), 500))
    assert await read(store, "gaps") == await read(store, "whole") == body(500)


async def check_same_bytes_again(store: BlobStore) -> None:
    """The same bytes under the same name are one write, also when they come at the same time."""
    for size in (2_048, 400_000):
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(store.put, f"same-{size}", pieces(body(size)))
        assert await store.put(f"same-{size}", pieces(body(size))) == size
        assert await read(store, f"same-{size}") == body(size)


async def check_other_bytes_are_refused(store: BlobStore) -> None:
    """A blob never changes: other bytes under its name are refused, shorter and longer ones too."""
    for first, second in ((100, 101), (100, 400_000), (400_000, 100), (400_000, 400_001)):
        name = f"fixed-{first}-{second}"
        await store.put(name, pieces(body(first)))
        for data in (body(second, seed=1), body(first, seed=1)):
            assert await _refusal(store.put(name, pieces(data))) == "blob-differs"
        assert await read(store, name) == body(first)


async def check_missing(store: BlobStore) -> None:
    """A blob that is not there is Refused for reading and no error to delete."""
    assert await _refusal(read(store, "missing")) == "blob-not-found"
    assert await _refusal(store.size("missing")) == "blob-not-found"
    await store.delete("missing")


async def check_delete(store: BlobStore) -> None:
    """A deleted blob is gone, others stay, and its name can be used for other bytes."""
    for size in (10, 400_000):
        await store.put(f"gone-{size}", pieces(body(size)))
        await store.put(f"kept-{size}", pieces(body(size)))
        await store.delete(f"gone-{size}")
        assert await _refusal(store.size(f"gone-{size}")) == "blob-not-found"
        await store.put(f"gone-{size}", pieces(body(size, seed=1)))
        assert await read(store, f"gone-{size}") == body(size, seed=1)
        assert await read(store, f"kept-{size}") == body(size)


async def check_names(store: BlobStore) -> None:
    """Dots are ordinary characters; anything that could leave the store is refused everywhere."""
    for name in (".", "..", "...", "-", "a" * 128, ".hidden", "a..b"):
        await store.put(name, pieces(name.encode()))
        assert await read(store, name) == name.encode()
    for name in ("", "a" * 129, "a/b", "../a", "A", "a b", "é", "a\n", "a\0"):
        for attempt in (
            store.put(name, pieces(b"x")),
            read(store, name),
            store.size(name),
            store.delete(name),
        ):
            assert await _refusal(attempt) == "bad-blob-name"


async def check_broken_source(store: BlobStore) -> None:
    """When the source breaks off nothing is visible, and the name is free."""

    async def broken(size: int) -> AsyncIterator[bytes]:
        async for piece in pieces(body(size)):
            yield piece
        raise Interrupted

    for size in (10, 400_000, 3_000_000):
        try:
            await store.put("broken", broken(size))
        except Interrupted:
            pass
        else:
            raise AssertionError("the failure of the source was swallowed")
        assert await _refusal(store.size("broken")) == "blob-not-found"
    await store.put("broken", pieces(b"whole"))
    assert await read(store, "broken") == b"whole"


async def check_concurrent(store: BlobStore) -> None:
    """Many writers and readers at once each get their own bytes."""

    async def one(number: int) -> None:
        data = body((number % 4) * 120_000 + number, seed=number)
        await store.put(f"many-{number}", pieces(data))
        assert await read(store, f"many-{number}") == data

    async with anyio.create_task_group() as group:
        for number in range(CONCURRENCY):
            group.start_soon(one, number)


async def check_reading_may_stop(store: BlobStore) -> None:
    """A reader that stops early leaves the blob readable and deletable."""
    await store.put("long", pieces(body(3_000_000)))
    reader = store.get("long")
    first = await anext(reader)
    assert first == body(3_000_000)[: len(first)]
    await reader.aclose()  # type: ignore[attr-defined]  # stores implement get as a generator
    assert await read(store, "long") == body(3_000_000)
    await store.delete("long")


async def check_offset(store: BlobStore) -> None:
    """Reading can begin anywhere; at or beyond the end there is nothing."""
    for size in (0, 10, 400_000, 3_000_000):
        name = f"offset-{size}"
        await store.put(name, pieces(body(size)))
        for offset in (0, 1, size // 2, max(0, size - 1), size, size + 1):
            assert await read(store, name, offset) == body(size)[offset:]


async def check_digest(store: BlobStore) -> None:
    """A store remembers the SHA-256 of what was put, also when it was put twice."""
    for size in SIZES:
        name, expected = f"digest-{size}", hashlib.sha256(body(size)).hexdigest()
        for _ in range(2):
            await store.put(name, pieces(body(size)))
            assert await store.digest(name) == expected
        await store.delete(name)
        assert await _refusal(store.digest(name)) == "blob-not-found"


async def check_page(store: BlobStore) -> None:
    """All blobs, small and large, in order of their names, page by page."""
    assert await store.page() == ()
    names = sorted(
        ("a", "a-b", "a.b", "a0", "aa", "b..", "...", "z_", *(f"n{i}" for i in range(9)))
    )
    for number, name in enumerate(reversed(names)):
        await store.put(name, pieces(body(400_000 if number % 3 == 0 else number)))
    listed: list[StoredBlob] = []
    after = ""
    while found := await store.page(after, 4):
        assert len(found) <= 4
        listed += found
        after = found[-1].name
    assert [blob.name for blob in listed] == names
    for blob in listed:
        assert blob.size == await store.size(blob.name)
    await store.delete("aa")
    assert [blob.name for blob in await store.page("a0", 2)] == ["b..", "n0"]


async def check_usable(store: BlobStore) -> None:
    """A store that works says so."""
    await store.check()


async def check_free_bytes(store: BlobStore) -> None:
    """Room is a number that is not negative, or unknown."""
    room = await store.free_bytes()
    assert room is None or room >= 0


async def check_full(store: BlobStore) -> None:
    """Given a store without room: a put is Unavailable ``storage-full``, leaves nothing, and room is 0 or unknown.
    Blobs that were there can be read and deleted."""
    for size in (2_048, 3_000_000):
        code = ""
        try:
            await store.put(f"full-{size}", pieces(body(size)))
        except Unavailable as error:
            code = error.code
        assert code == "storage-full"
        assert await _refusal(store.size(f"full-{size}")) == "blob-not-found"
    assert await store.free_bytes() in (0, None)


CHECKS: tuple[Check, ...] = (
    check_comes_back,
    check_pieces_do_not_matter,
    check_same_bytes_again,
    check_other_bytes_are_refused,
    check_missing,
    check_delete,
    check_names,
    check_broken_source,
    check_concurrent,
    check_reading_may_stop,
    check_offset,
    check_digest,
    check_page,
    check_usable,
    check_free_bytes,
)


async def _refusal(attempt: Awaitable[object]) -> str:
    """The code with which it was Refused."""
    try:
        await attempt
    except Refused as error:
        return error.code
    raise AssertionError("expected Refused")
