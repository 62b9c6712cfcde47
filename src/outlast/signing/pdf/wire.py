"""What the site and its PDF worker processes say to each other: length-prefixed MessagePack over pipes.

Typed and bounded on both sides, and never pickle: a worker that a hostile document has taken over can at worst
send a wrong answer of the declared shape.
"""

from __future__ import annotations

from typing import IO

import msgspec

from outlast.signing.pdf.facts import Limits, PdfFacts, PrepareOptions

_LENGTH_BYTES = 8
MAX_REPLY_BYTES = 2 * 1024 * 1024
"""A reply is facts and a revision of some KiB; a form with very many fields needs more."""


class Job(msgspec.Struct, frozen=True, tag=True):
    """One document to examine: its bytes, or the ``path`` of a file that holds them, else empty.
    ``cpu_s``: most CPU seconds."""

    data: bytes
    path: str
    limits: Limits
    options: PrepareOptions
    cpu_s: int


class Examined(msgspec.Struct, frozen=True, tag=True):
    """It may be signed. ``prepared`` is `Prepared.to_bytes`."""

    facts: PdfFacts
    prepared: bytes


class Declined(msgspec.Struct, frozen=True, tag=True):
    """It may not: the parts of a Refused."""

    code: str
    message: str
    hint: str


HELLO = b"ready\n"
"""What a worker writes once it has imported the parser and set its bounds."""

Reply = Examined | Declined


def send(pipe: IO[bytes], message: Job | Reply) -> None:
    """Write one message; raises OSError when the other side is gone."""
    body = msgspec.msgpack.encode(message)
    pipe.write(len(body).to_bytes(_LENGTH_BYTES, "big"))
    pipe.write(body)
    pipe.flush()


def receive(pipe: IO[bytes], limit: int) -> bytes | None:
    """The next message's bytes, or None at the end of the pipe or where it is longer than ``limit``."""
    head = pipe.read(_LENGTH_BYTES)
    length = int.from_bytes(head, "big")
    if len(head) < _LENGTH_BYTES or length > limit:
        return None
    body = pipe.read(length)
    return body if len(body) == length else None
