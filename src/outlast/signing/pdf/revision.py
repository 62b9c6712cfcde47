"""A prepared revision: the bytes to append to a document so that it is signed, but for the signature.

    prepare (intake)          fill (signing time)               assemble
    revision with slots  ->   slots filled, ByteRange hashed -> CMS written into /Contents

Guarantees: `fill` works only on the very document that was prepared (length and SHA-256 are compared); nothing
after `fill` changes a byte that the digest covers; `embed_in_place` only adds to a signature, never replaces it.
Pure and cheap (one pass of the hash over the document): no PDF is parsed here and pyHanko is not imported.
Offsets are relative to the revision unless said otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import msgspec

from outlast.core.errors import Corrupt, Refused
from outlast.ports.keys import Algorithm
from outlast.signing.cms import DigestName, message_digest, signed_statement
from outlast.signing.cms.der import read
from outlast.signing.pdf.facts import PreparedKind
from outlast.signing.pdf.slots import SignatureFields, Slot, pad, slot_values


class HashState(Protocol):
    """What hashlib gives: a digest under way."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def copy(self) -> HashState: ...

    def digest(self) -> bytes: ...


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """The appended revision, to be kept beside the original document.

    ``contents_offset`` is that of the ``<`` of /Contents, ``reserved_bytes`` the room for the CMS (its hex takes
    twice as many). ``kind``: an approval or certification ``signature``, or a ``document-timestamp``.
    """

    kind: PreparedKind
    field_name: str
    revision: bytes
    original_length: int
    original_sha256: bytes
    contents_offset: int
    reserved_bytes: int
    slots: tuple[Slot, ...]

    def to_bytes(self) -> bytes:
        """Its stored form (MessagePack), the zeros of /Contents left out: 3 KB rather than 30."""
        start = self.contents_offset + 1
        end = start + 2 * self.reserved_bytes
        slim = self.revision[:start] + self.revision[end:]
        return msgspec.msgpack.encode(msgspec.structs.replace(self, revision=slim))

    @classmethod
    def from_bytes(cls, data: bytes) -> Prepared:
        """Back from `to_bytes`; raises Corrupt ``prepared-corrupt``."""
        try:
            slim = msgspec.msgpack.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise Corrupt("prepared-corrupt", "a prepared revision cannot be read") from error
        start = slim.contents_offset + 1
        whole = slim.revision[:start] + b"00" * slim.reserved_bytes + slim.revision[start:]
        return msgspec.structs.replace(slim, revision=whole)


class Filled(msgspec.Struct, frozen=True, kw_only=True):
    """A revision whose slots are final. ``digest`` covers the whole document but /Contents (its ByteRange)."""

    revision: bytes
    original_length: int
    contents_offset: int
    reserved_bytes: int
    digest: bytes
    digest_name: DigestName

    def place(self) -> ContentsPlace:
        """Where /Contents lies in the assembled document."""
        return ContentsPlace(self.original_length + self.contents_offset, self.reserved_bytes)


class ContentsPlace(msgspec.Struct, frozen=True):
    """``offset`` of the ``<`` of /Contents in a whole document, and the room in it, in bytes of CMS."""

    offset: int
    reserved_bytes: int


class DocumentHash:
    """The digests of an original that need all of its bytes, taken in one pass over chunks of it.

    For documents too large to hold: feed the chunks once, then `fill` any number of times.
    """

    def __init__(self, chunks: Iterable[bytes] = ()) -> None:
        self.length = 0
        self._states: dict[DigestName, HashState] = {
            "sha256": hashlib.sha256(),
            "sha512": hashlib.sha512(),
        }
        for chunk in chunks:
            self.update(chunk)

    def update(self, chunk: bytes) -> None:
        """Take the next bytes of the original."""
        self.length += len(chunk)
        for state in self._states.values():
            state.update(chunk)

    def state(self, name: DigestName) -> HashState:
        """A digest of the bytes so far, to be continued."""
        return self._states[name].copy()


def fill(
    original: bytes | DocumentHash,
    prepared: Prepared,
    fields: SignatureFields | None,
    algorithm: Algorithm = "ecdsa-p256-sha256",
) -> Filled:
    """The revision with its slots filled, and the digest that a signature with ``algorithm`` covers.

    ``fields`` is None for a document timestamp, whose digest is SHA-256. Raises Refused ``field-too-long``,
    Corrupt ``document-changed`` if ``original`` is not the document that was prepared.
    """
    name = message_digest(algorithm)
    state = _locked_state(original, prepared, name)
    revision = _with_slots(prepared, fields)
    view = memoryview(revision)
    state.update(view[: prepared.contents_offset])
    state.update(view[prepared.contents_offset + 2 * prepared.reserved_bytes + 2 :])
    return Filled(
        revision=revision,
        original_length=prepared.original_length,
        contents_offset=prepared.contents_offset,
        reserved_bytes=prepared.reserved_bytes,
        digest=state.digest(),
        digest_name=name,
    )


def signed_revision(filled: Filled, cms_der: bytes) -> bytes:
    """The revision with the CMS in /Contents: what to append to the original.

    Raises Refused ``reservation-too-small``.
    """
    at = ContentsPlace(filled.contents_offset, filled.reserved_bytes)
    return _write_contents(filled.revision, at, cms_der)


def assemble(original: bytes, filled: Filled, cms_der: bytes) -> bytes:
    """The signed document; raises Refused ``reservation-too-small``, Corrupt ``document-changed``."""
    if len(original) != filled.original_length:
        raise _changed()
    return original + signed_revision(filled, cms_der)


def contents(document: bytes, place: ContentsPlace) -> bytes:
    """The CMS now in /Contents; raises Corrupt ``contents-not-found`` or Refused ``cms-malformed``."""
    raw = _reserved(document, place)
    try:
        padded = bytes.fromhex(raw.decode("ascii"))
    except ValueError as error:
        raise _not_found() from error
    return padded[: read(padded).end]


def embed_in_place(document: bytes, place: ContentsPlace, cms_der: bytes) -> bytes:
    """The document with its signature's CMS replaced by one that says more (a timestamp, taken later).

    /Contents lies outside its own ByteRange, so the signature stays valid; but a later revision covers it, so
    the signature must be the last thing in the document. Raises Refused ``reservation-too-small``,
    ``later-revision-covers`` (append a document timestamp instead), ``signature-differs`` (another signed
    statement); Corrupt ``contents-not-found``.
    """
    current = contents(document, place)
    after = place.offset + 2 * place.reserved_bytes + 2
    byte_range = f"[0 {place.offset} {after} {len(document) - after}]".encode()
    window = document[max(0, place.offset - BYTE_RANGE_WINDOW) : place.offset]
    if byte_range not in window:
        raise Refused(
            "later-revision-covers",
            "the document has grown since this signature, and the addition covers it",
            hint="Append a document timestamp as a further revision instead.",
        )
    if signed_statement(current) != signed_statement(cms_der):
        raise Refused(
            "signature-differs",
            "the new CMS is another signature than the one in the document",
            hint="Add to the CMS that is in the document; sign again as a new revision.",
        )
    return _write_contents(document, place, cms_der)


BYTE_RANGE_WINDOW = 512
"""Bytes before /Contents in which our revisions carry their /ByteRange."""


def _locked_state(
    original: bytes | DocumentHash, prepared: Prepared, name: DigestName
) -> HashState:
    if isinstance(original, DocumentHash):
        length, lock, state = original.length, original.state("sha256"), original.state(name)
    else:
        length, lock = len(original), hashlib.sha256(original)
        state = lock.copy() if name == "sha256" else hashlib.sha512(original)
    if length != prepared.original_length or lock.digest() != prepared.original_sha256:
        raise _changed()
    return state


def _with_slots(prepared: Prepared, fields: SignatureFields | None) -> bytes:
    if fields is None:
        return prepared.revision
    values = slot_values(fields)
    parts, position = [], 0
    for slot in prepared.slots:
        parts += [prepared.revision[position : slot.offset], pad(slot, values.get(slot.name, b""))]
        position = slot.offset + slot.width
    return b"".join((*parts, prepared.revision[position:]))


def _write_contents(data: bytes, place: ContentsPlace, cms_der: bytes) -> bytes:
    if len(cms_der) > place.reserved_bytes:
        raise Refused(
            "reservation-too-small",
            f"the signature takes {len(cms_der)} bytes, {place.reserved_bytes} were reserved",
            hint="Prepare the document again with a larger reservation.",
        )
    _reserved(data, place)
    start = place.offset + 1
    text = cms_der.hex().encode()
    padding = b"0" * (2 * place.reserved_bytes - len(text))
    return b"".join((data[:start], text, padding, data[start + 2 * place.reserved_bytes :]))


def _reserved(data: bytes, place: ContentsPlace) -> bytes:
    start, end = place.offset + 1, place.offset + 1 + 2 * place.reserved_bytes
    if data[start - 1 : start] != b"<" or data[end : end + 1] != b">":
        raise _not_found()
    return data[start:end]


def _not_found() -> Corrupt:
    return Corrupt("contents-not-found", "the reserved space is not where it was prepared")


def _changed() -> Corrupt:
    return Corrupt("document-changed", "the document is not the one that was prepared")
