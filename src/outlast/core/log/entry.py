"""One event as it stands in the log: a JSON object whose bytes, as first written, are the leaf.

Guarantees: ``encode_entry`` is the only place where an entry becomes bytes. Those bytes are stored, hashed, mirrored
and published unchanged: nothing is ever re-serialised to check it, so neither a newer version of this program nor
another JSON library can invalidate a proof.

Refuses entries above ``MAX_ENTRY_BYTES`` (the uint16 length prefix of tlog-tiles, "Log entries"): larger things
belong in the blob store, their digest in the entry. Leaves to others: what ``data`` means (the event's own struct),
and encrypting what is personal in it.
"""

from __future__ import annotations

import msgspec

from outlast.core.errors import Corrupt, Refused

MAX_ENTRY_BYTES = 65_535
"""Longest entry, in bytes: entry bundles prefix each with a big-endian uint16."""

VERSION = 1
"""The form of entry written here. A reader refuses versions it does not know."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a site's log.

    ``type`` is the event's name; ``site`` who wrote it; ``hlc`` the hybrid timestamp, 16 hex digits; ``vec`` the
    count of each site's events of this stream that the writer had seen; ``stream`` is ``kind/id`` and ``seq`` the
    stream's version after this event; ``epoch`` the number that fences an old home; ``actor`` who asked; ``cause``
    the command or event this follows from; ``flags`` such as ``degraded_auth``; ``data`` the event as JSON.
    """

    v: int = VERSION
    type: str
    site: str
    hlc: str
    vec: dict[str, int]
    tenant: str
    stream: str
    seq: int
    epoch: int
    actor: str
    cause: str = ""
    flags: tuple[str, ...] = ()
    data: msgspec.Raw


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


def encode_entry(entry: Entry) -> bytes:
    """The entry's bytes: what is stored, hashed and published. Raises Refused ``entry-too-large``.

    ``data`` is copied as it is: the caller made it with a JSON encoder.
    """
    encoded = _encode(entry)
    if len(encoded) > MAX_ENTRY_BYTES:
        raise Refused(
            "entry-too-large",
            f"an entry of type {entry.type} has {len(encoded)} bytes, the log takes {MAX_ENTRY_BYTES}",
            hint="Put the large part into the blob store and log its digest.",
        )
    return encoded


def decode_entry(encoded: bytes) -> Entry:
    """The entry that these bytes are; raises Corrupt ``entry-malformed``.

    Members this version does not know are passed over: a newer site may have written them.
    """
    if len(encoded) > MAX_ENTRY_BYTES:
        raise Corrupt("entry-malformed", f"{len(encoded)} bytes are more than an entry can have")
    try:
        entry = _decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt("entry-malformed", f"not a log entry: {type(error).__name__}") from error
    if entry.v != VERSION:
        raise Corrupt(
            "entry-malformed",
            f"an entry of version {entry.v}; this program knows {VERSION}",
            hint="Read this log with a newer Outlast.",
        )
    return entry
