"""What has been written, as those who follow the log are told: by a flush of this process, or of another node.

A `WriteSet` is such news already. Of another node's flushes only the log tells, so news has no more than that: the
entries, and the streams that they belong to.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from outlast.core.store.port import EntryRow, StreamKey


class Written(Protocol):
    """What follows from a flush for those who only look."""

    @property
    def entries(self) -> Sequence[EntryRow]:
        """New entries, in order; their indices are without gaps."""
        ...

    @property
    def streams(self) -> Collection[StreamKey]:
        """The streams that have changed."""
        ...


class News(msgspec.Struct, frozen=True):
    """What other nodes have written. ``previous`` of its entries is not known and -1."""

    entries: tuple[EntryRow, ...]
    streams: frozenset[StreamKey]


class _Head(msgspec.Struct):
    """The few members of an entry that are needed here."""

    tenant: str
    stream: str


_decode_head = msgspec.json.Decoder(_Head).decode


def news_of(start: int, leaves: Sequence[bytes]) -> News:
    """The news in consecutive entries, the first of which has index ``start``."""
    streams = set()
    for leaf in leaves:
        head = _decode_head(leaf)
        kind, _, id_ = head.stream.partition("/")
        streams.add(StreamKey(head.tenant, kind, id_))
    rows = tuple(EntryRow(start + i, -1, leaf) for i, leaf in enumerate(leaves))
    return News(rows, frozenset(streams))
