"""The little DER that signing needs, written and read strictly (X.690).

Guarantees: what ``tlv`` and ``set_of`` write is DER; what ``read`` accepts has a definite, minimal length that
fits its input. Refuses (``cms-malformed``) everything else. Only the outer layers of a structure are ever read;
certificates are left to ``cryptography`` and verification to pyHanko.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from outlast.core.errors import Refused

SEQUENCE = 0x30
SET = 0x31
OCTET_STRING = 0x04
INTEGER = 0x02
CONTEXT_0 = 0xA0
CONTEXT_1 = 0xA1

MAX_LENGTH_OCTETS = 4
"""Length octets accepted in a long-form length: 4 address 4 GiB, far beyond any CMS here."""


class Element(msgspec.Struct, frozen=True):
    """One TLV inside ``source``: the whole is ``source[start:end]``, its value ``source[body:end]``."""

    source: bytes
    tag: int
    start: int
    body: int
    end: int

    @property
    def whole(self) -> bytes:
        """Tag, length and value."""
        return self.source[self.start : self.end]

    @property
    def value(self) -> bytes:
        """The value octets."""
        return self.source[self.body : self.end]

    def children(self) -> Iterator[Element]:
        """The elements of a constructed value, in order; raises Refused ``cms-malformed``."""
        position = self.body
        while position < self.end:
            child = read(self.source, position, self.end)
            yield child
            position = child.end


def tlv(tag: int, *parts: bytes) -> bytes:
    """One DER element with the parts, joined, as its value."""
    value = b"".join(parts)
    length = len(value)
    if length < 0x80:
        return bytes((tag, length)) + value
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + value


def set_of(elements: Iterable[bytes], tag: int = SET) -> bytes:
    """A DER SET OF: members in ascending order of their encodings (X.690, 11.6)."""
    return tlv(tag, *sorted(elements))


def read(source: bytes, start: int = 0, limit: int | None = None) -> Element:
    """The element that begins at ``start`` and must end by ``limit``; raises Refused ``cms-malformed``."""
    stop = len(source) if limit is None else limit
    if start + 2 > stop:
        raise malformed("it ends inside a tag")
    tag, first = source[start], source[start + 1]
    if tag & 0x1F == 0x1F:
        raise malformed("it has a multi-byte tag")
    body, length = start + 2, first
    if first >= 0x80:
        count = first & 0x7F
        octets = source[body : body + count]
        if not 0 < count <= MAX_LENGTH_OCTETS or len(octets) < count or octets[0] == 0:
            raise malformed("a length is not DER")
        body, length = body + count, int.from_bytes(octets, "big")
        if length < 0x80:
            raise malformed("a length is not DER")
    if body + length > stop:
        raise malformed("an element runs past its container")
    return Element(source, tag, start, body, body + length)


def expect(element: Element, tag: int, what: str) -> Element:
    """The element itself, if it has the tag; raises Refused ``cms-malformed`` naming ``what``."""
    if element.tag != tag:
        raise malformed(f"{what} has tag 0x{element.tag:02x}, not 0x{tag:02x}")
    return element


def malformed(why: str) -> Refused:
    """The refusal to raise for a structure that cannot be used."""
    return Refused(
        "cms-malformed",
        f"the CMS structure cannot be read: {why}",
        hint="Supply a DER-encoded CMS SignedData (RFC 5652), not PEM and not BER.",
    )
