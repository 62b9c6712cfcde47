"""What the log's tests share: a key, entries, and a log that has been published to some size."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import sign_checkpoint
from outlast.core.log.logkey import LogKey

ORIGIN = "log.example/eu-1"

Entries = Callable[[int, int], list[bytes]]
Publish = Callable[[TileArchive, int], bytes]


@pytest.fixture(scope="session")
def key() -> LogKey:
    """The log's keys, the same in every run."""
    return LogKey(ORIGIN, bytes(range(32)), bytes(range(32, 64)))


@pytest.fixture(scope="session")
def entries() -> Entries:
    """``entries(start, end)``: distinct entries of varying length."""

    def make(start: int, end: int) -> list[bytes]:
        return [b'{"index":%d,"pad":"%s"}' % (at, b"x" * (at % 7)) for at in range(start, end)]

    return make


@pytest.fixture(scope="session")
def publish(key: LogKey, entries: Entries) -> Publish:
    """``publish(archive, size)``: grow to ``size``, publish a checkpoint signed with Ed25519, return it."""

    def grow_and_sign(archive: TileArchive, size: int) -> bytes:
        old = archive.size
        head = archive.grow(old, entries(old, size))
        checkpoint = sign_checkpoint(ORIGIN, head.size, head.root, key.signers[:1])
        archive.publish(checkpoint)
        return checkpoint

    return grow_and_sign
