"""DER, read and written element by element (X.690 section 8.1 and 10.1), where exact bytes matter.

What a signature covers must be taken as it came, never as a parser would write it again; and writing a known
structure this way costs a tenth of building it from a schema.
"""

from __future__ import annotations

import msgspec
from asn1crypto import parser

SEQUENCE = 0x30
"""Identifier octet of a SEQUENCE (universal, constructed, 16)."""


class Element(msgspec.Struct, frozen=True):
    """``raw`` is the whole element; ``identifier`` its first octet (class, form and tag); ``contents`` what is inside."""

    identifier: int
    raw: bytes
    contents: bytes


def elements(contents: bytes, limit: int) -> list[Element]:
    """The elements one after the other in ``contents``. Raises ValueError when they are malformed or more than
    ``limit``."""
    found: list[Element] = []
    start = 0
    while start < len(contents):
        if len(found) == limit:
            raise ValueError(f"more than {limit} elements")
        end = start + parser.peek(contents[start:])
        raw = contents[start:end]
        _, _, _, header, inside, _ = parser.parse(raw, strict=True)
        if header[-1:] == b"\x80" and len(header) == 2:
            raise ValueError("indefinite length")  # BER; DER forbids it (X.690 section 10.1)
        found.append(Element(header[0], raw, inside))
        start = end
    return found


def tlv(identifier: int, *contents: bytes) -> bytes:
    """One element with a one-octet identifier around ``contents``."""
    body = b"".join(contents)
    length = len(body)
    if length < 0x80:
        return bytes([identifier, length]) + body
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([identifier, 0x80 | len(octets)]) + octets + body
