"""Every blob store passes the one suite of its port (`outlast.testing.suites.blob`)."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from outlast.adapters.blob.filesystem import FilesystemBlobs
from outlast.ports.blob import BlobStore
from outlast.testing.blob import MemoryBlobs
from outlast.testing.suites.blob import CHECKS, Check, body, check_full, pieces, read

pytestmark = pytest.mark.anyio

ALL_FREE_BYTES = 1 << 60
"""A reserve larger than any disk: the store is full from the start."""


@pytest.fixture(params=["memory", "filesystem"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[BlobStore]:
    """An empty store of each kind."""
    if request.param == "memory":
        yield MemoryBlobs()
        return
    blobs = FilesystemBlobs(tmp_path / "blobs", min_free_bytes=0)
    yield blobs
    blobs.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_conforms(store: BlobStore, check: Check) -> None:
    """The store keeps this part of the port's contract."""
    await check(store)


async def test_full_memory() -> None:
    """A full fake refuses new blobs and serves the old ones."""
    store = MemoryBlobs(capacity_bytes=100)
    await store.put("old", pieces(body(100)))
    await check_full(store)
    assert await read(store, "old") == body(100)


async def test_full_filesystem(tmp_path: pathlib.Path) -> None:
    """Below its reserve of free disk the store refuses new blobs, small and large, and serves the old ones."""
    before = FilesystemBlobs(tmp_path, min_free_bytes=0)
    for size in (100, 400_000):
        await before.put(f"old-{size}", pieces(body(size)))
    before.close()
    store = FilesystemBlobs(tmp_path, min_free_bytes=ALL_FREE_BYTES)
    await check_full(store)
    for size in (100, 400_000):
        assert await read(store, f"old-{size}") == body(size)
        await store.delete(f"old-{size}")
    store.close()
