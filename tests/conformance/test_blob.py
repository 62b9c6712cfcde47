"""Every blob store passes the one suite of its port (`outlast.testing.suites.blob`)."""

from __future__ import annotations

import itertools
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator

import pytest

from outlast.adapters.blob.filesystem import FilesystemBlobs
from outlast.adapters.blob.s3 import S3Blobs, S3Settings
from outlast.ports.blob import BlobStore
from outlast.testing.blob import MemoryBlobs
from outlast.testing.seaweed import SeaweedServer
from outlast.testing.suites.blob import CHECKS, Check, body, check_full, pieces, read

pytestmark = pytest.mark.anyio

ALL_FREE_BYTES = 1 << 60
"""A reserve larger than any disk: the store is full from the start."""


_numbers = itertools.count()


@pytest.fixture(scope="module")
def seaweed(free_ports: Callable[[], int]) -> Iterator[SeaweedServer]:
    """An S3 server; one for all tests here, each of which has a prefix of its own."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="outlast-seaweed-"))
    server = SeaweedServer(folder, free_ports)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def foreign_s3() -> S3Blobs | None:
    """The bucket that the environment names, if it does; see docs/howto/object-stores.md."""
    if "OUTLAST_S3_ENDPOINT" not in os.environ:
        return None
    access, secret = (
        pathlib.Path(os.environ[f"OUTLAST_S3_{half}_KEY_FILE"]).read_text().strip()
        for half in ("ACCESS", "SECRET")
    )
    settings = S3Settings(
        endpoint=os.environ["OUTLAST_S3_ENDPOINT"],
        bucket=os.environ["OUTLAST_S3_BUCKET"],
        region=os.environ.get("OUTLAST_S3_REGION", "us-east-1"),
        prefix=f"outlast-conformance/{secrets.token_hex(8)}",
    )
    return S3Blobs(settings, access, secret)


def s3_blobs(server: SeaweedServer, **given: object) -> S3Blobs:
    """A store with a fresh prefix."""
    settings = {
        "endpoint": server.endpoint,
        "bucket": server.bucket,
        "prefix": f"site/{next(_numbers)}",
        **given,
    }
    access, secret = (
        f.read_text().strip() for f in (server.access_key_file, server.secret_key_file)
    )
    return S3Blobs(S3Settings(**settings), access, secret)  # type: ignore[arg-type]  # as given


@pytest.fixture(params=["memory", "filesystem", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[BlobStore]:
    """An empty store of each kind."""
    if request.param == "memory":
        yield MemoryBlobs()
    elif request.param == "s3":
        yield foreign_s3() or s3_blobs(request.getfixturevalue("seaweed"))
    else:
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
