"""Encrypted bodies over a blob store: what is put comes back for its tenant only, and damage is found."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from outlast.core.blobs import Blobs
from outlast.core.clock import ManualClock
from outlast.core.envelope import Envelope, LocalRootKey, RootKeys
from outlast.core.errors import Corrupt, OutlastError, Refused, Unavailable, Unknown
from outlast.core.ids import Ids
from outlast.testing.blob import MemoryBlobs
from outlast.testing.suites.blob import body, pieces

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> MemoryBlobs:
    """An empty store in memory."""
    return MemoryBlobs()


def opened(store: MemoryBlobs) -> Blobs:
    """Encrypted bodies over a store, as a process that has just started sees them."""
    envelope = Envelope(RootKeys(LocalRootKey("root-1", b"k" * 32)))
    return Blobs(store, envelope, Ids(ManualClock()))


@pytest.fixture
def blobs(store: MemoryBlobs) -> Blobs:
    """Encrypted bodies over the store."""
    return opened(store)


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_000])
async def test_put_and_read(blobs: Blobs, store: MemoryBlobs, size: int) -> None:
    """A body comes back; its reference says its digest and size; the store never saw it."""
    ref = await blobs.put("acme", pieces(body(size)))
    assert (ref.sha256, ref.size) == (hashlib.sha256(body(size)).hexdigest(), size)
    assert await blobs.read("acme", ref) == body(size)
    assert await opened(store).read("acme", ref) == body(size)
    assert size == 0 or body(size)[:200] not in store.stored[ref.name] or size < 200


async def test_equal_bodies_do_not_show(blobs: Blobs, store: MemoryBlobs) -> None:
    """Equal bodies of two tenants have different names and different ciphertexts."""
    one = await blobs.put_bytes("acme", b"the same contract")
    two = await blobs.put_bytes("other", b"the same contract")
    assert one.name != two.name
    assert store.stored[one.name] != store.stored[two.name]


async def test_another_tenant_cannot_read(blobs: Blobs) -> None:
    """A reference in another tenant's hands opens nothing."""
    ref = await blobs.put_bytes("acme", b"secret")
    with pytest.raises(Corrupt):
        await blobs.read("other", ref)


async def test_damage_is_found(blobs: Blobs, store: MemoryBlobs) -> None:
    """A flipped bit, a cut, and another body under the name are Corrupt."""
    ref = await blobs.put_bytes("acme", body(1000))
    other = await blobs.put_bytes("acme", body(1000))
    good = store.stored[ref.name]
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[:-1], store.stored[other.name]):
        store.stored[ref.name] = bad
        with pytest.raises(Corrupt):
            await opened(store).read("acme", ref)
    assert await blobs.read("acme", ref) == body(1000)  # remembered since it was put


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"size": 5}, {"size": 7}])
async def test_a_wrong_reference_is_found(blobs: Blobs, changes: dict[str, str | int]) -> None:
    """A body that opens but is not what the reference names is Corrupt, not another document."""
    ref = await blobs.put_bytes("acme", b"sixsix")
    with pytest.raises(Corrupt) as caught:
        await blobs.read("acme", msgspec.structs.replace(ref, **changes))
    assert caught.value.code == "blob-corrupt"


async def test_too_large_is_refused_early(blobs: Blobs, store: MemoryBlobs) -> None:
    """A body beyond the limit is refused after at most one piece too many, and nothing is stored."""
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(1000)

    with pytest.raises(Refused) as caught:
        await blobs.put("acme", endless(), max_bytes=10_000)
    assert caught.value.code == "body-too-large"
    assert taken == 11
    assert store.stored == {}


async def test_reading_has_a_limit(blobs: Blobs) -> None:
    """A reader names how much it can hold; a larger body is refused before a byte is read."""
    ref = await blobs.put_bytes("acme", body(1000))
    with pytest.raises(Refused) as caught:
        await blobs.read("acme", ref, max_bytes=999)
    assert caught.value.code == "body-too-large"


@pytest.mark.parametrize(
    ("when", "kind", "left"), [("before", Unavailable, 0), ("after", Unknown, 1)]
)
async def test_store_failures_pass_through(
    blobs: Blobs, store: MemoryBlobs, when: str, kind: type[OutlastError], left: int
) -> None:
    """A store that fails before or after storing says so; another put works and has its own name."""
    store.fail_next("before" if when == "before" else "after")
    with pytest.raises(kind):
        await blobs.put_bytes("acme", b"body")
    assert len(store.stored) == left
    ref = await blobs.put_bytes("acme", b"body")
    assert await blobs.read("acme", ref) == b"body"


async def test_delete(blobs: Blobs) -> None:
    """A deleted body is not found; deleting again is no error."""
    ref = await blobs.put_bytes("acme", b"body")
    await blobs.delete(ref)
    await blobs.delete(ref)
    with pytest.raises(Corrupt) as caught:
        await blobs.read("acme", ref)
    assert caught.value.code == "blob-missing"
