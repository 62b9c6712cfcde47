"""Encryption at rest: every object under its own key, every key wrapped by a root key.

Promises, for streams of any size in bounded memory:

- Nothing but the exact object comes back. A flipped bit, a missing, extra or moved chunk, a cut at any byte, or
  an object of another tenant or name put in its place raises Corrupt ``envelope-corrupt``.
- Chunks given out by ``open_stream`` are authentic at once; that the stream is whole is known only at its end,
  so a consumer must not act on a prefix before the iterator has finished.
- Root keys rotate: the newest wraps, every older one still unwraps, ``rewrap`` moves a key forward. An object
  under a root key that is not configured raises Corrupt ``root-key-unknown``, whose hint names the key.

Left to others: where root keys come from, when to rotate, what an object's name is.

Format of a sealed object (integers big-endian)::

    header  "OLB1" | log2 of chunk size: u8 | nonce prefix: 7 bytes | length: u16 | wrapped data key
    chunk   AES-256-GCM(data key, nonce = prefix | index: u32 | last: u8, AAD = first 12 bytes of header | context)

which is the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015). Every chunk but the last is full; the
last is empty only when the object is. The wrapped key is outside the AAD, so that rotation can replace it without
touching a chunk: it is bound to the context by its own tag.

Format of a wrapped key: ``1: u8 | length: u8 | root key id | nonce: 24 | XAES-256-GCM(root key, data key, context)``.
Format of a sealed field: base64url without padding of ``1: u8 | nonce: 12 | AES-256-GCM(key, plaintext, AAD)``.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from outlast.core.errors import Corrupt, Refused
from outlast.core.xaes import KEY_BYTES, NONCE_BYTES, TAG_BYTES, XAes256Gcm

CHUNK_BYTES = 64 * 1024
"""Plaintext bytes per chunk as written; about 10 us of AES-GCM, so the event loop is never held up."""

MIN_CHUNK_LOG2, MAX_CHUNK_LOG2 = 12, 20
"""Chunk sizes accepted on reading: 4 KiB to 1 MiB, which bounds what an opener holds in memory."""

MAX_WRAPPED_BYTES = 512
"""Longest wrapped key accepted on reading."""

Entropy = Callable[[int], bytes]
"""``entropy(n)`` gives n random bytes."""

_MAGIC = b"OLB1"
_PREFIX_BYTES = 7
_STABLE_BYTES = len(_MAGIC) + 1 + _PREFIX_BYTES
_HEADER_BYTES = _STABLE_BYTES + 2
_MAX_CHUNKS = 1 << 32
_WRAP_VERSION = 1
_FIELD_VERSION = b"\x01"
_FIELD_NONCE_BYTES = 12
_KEY_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")


def context(*parts: str) -> bytes:
    """Texts as unambiguous bytes (each with its length before it), to bind a ciphertext to where it belongs."""
    encoded = [part.encode() for part in parts]
    return b"".join([len(part).to_bytes(4, "big") + part for part in encoded])


class KeyWrapper(Protocol):
    """Wraps data keys under keys it keeps. Does no I/O: it is called on the event loop, once per object."""

    def wrap(self, data_key: bytes, aad: bytes) -> bytes:
        """``data_key`` (32 bytes) encrypted and bound to ``aad``; names its root key itself."""
        ...

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """The data key; raises Corrupt ``envelope-corrupt`` or ``root-key-unknown``."""
        ...


class LocalRootKey:
    """One root key held in memory. ``key_id`` is 1-64 of ``[a-z0-9._-]`` and is stored beside what it wraps."""

    def __init__(self, key_id: str, key: bytes, entropy: Entropy = os.urandom) -> None:
        """``key`` is 32 secret bytes; ValueError for another length or a malformed id."""
        if not _KEY_ID.fullmatch(key_id):
            raise ValueError(
                "a root key id is 1-64 of [a-z0-9._-] and starts with a letter or digit"
            )
        self.key_id = key_id
        self._cipher = XAes256Gcm(key)
        self._entropy = entropy
        self._head = bytes([_WRAP_VERSION, len(key_id)]) + key_id.encode()

    def wrap(self, data_key: bytes, aad: bytes) -> bytes:
        """See KeyWrapper."""
        nonce = self._entropy(NONCE_BYTES)
        return self._head + nonce + self._cipher.encrypt(nonce, data_key, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """See KeyWrapper."""
        key_id, nonce, ciphertext = _split_wrapped(wrapped)
        if key_id != self.key_id:
            raise _root_key_unknown(key_id)
        data_key = self._cipher.decrypt(nonce, ciphertext, aad)
        if data_key is None:
            raise _corrupt("a wrapped key fails its authentication")
        return data_key


class RootKeys:
    """Root keys by id, as one KeyWrapper: the newest wraps, all unwrap."""

    def __init__(self, newest: LocalRootKey, older: Iterable[LocalRootKey] = ()) -> None:
        """ValueError when two keys share an id."""
        keys = [newest, *older]
        self._newest = newest
        self._by_id = {key.key_id: key for key in keys}
        if len(self._by_id) != len(keys):
            raise ValueError("two root keys have the same id")

    def wrap(self, data_key: bytes, aad: bytes) -> bytes:
        """See KeyWrapper."""
        return self._newest.wrap(data_key, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """See KeyWrapper."""
        key_id = root_key_id(wrapped)
        key = self._by_id.get(key_id)
        if key is None:
            raise _root_key_unknown(key_id)
        return key.unwrap(wrapped, aad)


def root_key_id(wrapped: bytes) -> str:
    """Which root key wraps this key; raises Corrupt ``envelope-corrupt``."""
    return _split_wrapped(wrapped)[0]


class SubjectKey(msgspec.Struct, frozen=True):
    """The key of one data subject: ``key`` (32 secret bytes, for ``seal_field``) and ``wrapped`` (to be stored).

    Forgetting ``wrapped`` everywhere makes every field sealed under it unreadable (crypto-shredding).
    """

    key: bytes
    wrapped: bytes

    def __repr__(self) -> str:
        return "SubjectKey(…)"  # a traceback or a log line must not carry the key


class Envelope:
    """Seals and opens objects with keys that a KeyWrapper wraps. Holds no state between calls."""

    def __init__(self, wrapper: KeyWrapper, entropy: Entropy = os.urandom) -> None:
        self._wrapper = wrapper
        self._entropy = entropy

    async def seal_stream(
        self, chunks: AsyncIterator[bytes], tenant: str, name: str
    ) -> AsyncIterator[bytes]:
        """The sealed object, in pieces of about CHUNK_BYTES, from plaintext pieces of any size."""
        sealer = _Sealer(self._wrapper, self._entropy, _object_context(tenant, name))
        yield sealer.header
        async for chunk in chunks:
            for sealed in sealer.feed(chunk):
                yield sealed
        yield sealer.finish()

    def seal_object(self, plaintext: bytes, tenant: str, name: str) -> bytes:
        """What `seal_stream` makes of a body that is in memory."""
        return self.seal(plaintext, _object_context(tenant, name))

    async def open_stream(
        self, chunks: AsyncIterator[bytes], tenant: str, name: str
    ) -> AsyncIterator[bytes]:
        """The plaintext, in pieces; raises Corrupt at the first wrong chunk, or at the end where one is missing."""
        opener = _Opener(self._wrapper, _object_context(tenant, name))
        async for chunk in chunks:
            for plaintext in opener.feed(chunk):
                yield plaintext
        yield opener.finish()

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        """A small object sealed in one go, same format; ``aad`` binds it (see ``context``)."""
        sealer = _Sealer(self._wrapper, self._entropy, aad)
        return b"".join((sealer.header, *sealer.feed(plaintext), sealer.finish()))

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """What ``seal`` was given; raises Corrupt."""
        opener = _Opener(self._wrapper, aad)
        return b"".join((*opener.feed(sealed), opener.finish()))

    def new_subject_key(self, aad: bytes) -> SubjectKey:
        """A fresh key for ``seal_field``, its wrapped form bound to ``aad`` (tenant and subject)."""
        key = self._entropy(KEY_BYTES)
        return SubjectKey(key, self._wrapper.wrap(key, aad))

    def seal_field(self, key: bytes, aad: bytes, plaintext: bytes) -> str:
        """`seal_field` under a subject's key, with this envelope's entropy."""
        return seal_field(key, aad, plaintext, self._entropy)

    def open_subject_key(self, wrapped: bytes, aad: bytes) -> bytes:
        """The key itself, 32 bytes; raises Corrupt."""
        return self._wrapper.unwrap(wrapped, aad)

    def rewrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """The same key under the newest root key; what it encrypts stays as it is."""
        return self._wrapper.wrap(self._wrapper.unwrap(wrapped, aad), aad)


def seal_field(key: bytes, aad: bytes, plaintext: bytes, entropy: Entropy = os.urandom) -> str:
    """One field under a subject's key as base64url text: 29 bytes longer than the plaintext before encoding.

    ``key`` may seal 2**32 fields (random 96-bit nonces, NIST SP 800-38D, 8.3).
    """
    nonce = entropy(_FIELD_NONCE_BYTES)
    sealed = _FIELD_VERSION + nonce + AESGCM(key).encrypt(nonce, plaintext, aad)
    return _to_base64url(sealed).decode("ascii")


def open_field(key: bytes, aad: bytes, sealed: str) -> bytes:
    """What ``seal_field`` was given; raises Corrupt ``envelope-corrupt`` for anything else."""
    raw = _from_base64url(sealed)
    if raw[:1] != _FIELD_VERSION or len(raw) < 1 + _FIELD_NONCE_BYTES + TAG_BYTES:
        raise _corrupt("a sealed field is cut short or of an unknown version")
    nonce, ciphertext = raw[1 : 1 + _FIELD_NONCE_BYTES], raw[1 + _FIELD_NONCE_BYTES :]
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, aad)
    except InvalidTag:
        raise _corrupt("a sealed field fails its authentication") from None


class _Sealer:
    """Cuts plaintext into chunks; holds back the last full one, because only the end tells which is last."""

    def __init__(self, wrapper: KeyWrapper, entropy: Entropy, aad: bytes) -> None:
        data_key = entropy(KEY_BYTES)
        self._prefix = entropy(_PREFIX_BYTES)
        stable = _MAGIC + bytes([CHUNK_BYTES.bit_length() - 1]) + self._prefix
        wrapped = wrapper.wrap(data_key, aad)
        self.header = stable + len(wrapped).to_bytes(2, "big") + wrapped
        self._cipher = AESGCM(data_key)
        self._aad = stable + aad
        self._index = 0
        self._pending = bytearray()

    def feed(self, plaintext: bytes) -> Iterator[bytes]:
        self._pending += plaintext
        yield from _full_chunks(self._pending, CHUNK_BYTES, self._seal)

    def finish(self) -> bytes:
        return self._seal(bytes(self._pending), last=True)

    def _seal(self, plaintext: bytes, *, last: bool = False) -> bytes:
        nonce = _chunk_nonce(self._prefix, self._index, last=last)
        self._index += 1
        return self._cipher.encrypt(nonce, plaintext, self._aad)


class _Opener:
    """The mirror image of _Sealer; everything it reads is hostile until a tag says otherwise."""

    def __init__(self, wrapper: KeyWrapper, aad: bytes) -> None:
        self._wrapper = wrapper
        self._context = aad
        self._pending = bytearray()
        self._cipher: AESGCM | None = None
        self._prefix = self._aad = b""
        self._sealed_chunk_bytes = 0
        self._index = 0

    def feed(self, sealed: bytes) -> Iterator[bytes]:
        self._pending += sealed
        if self._cipher is None and not self._read_header():
            return
        yield from _full_chunks(self._pending, self._sealed_chunk_bytes, self._open)

    def finish(self) -> bytes:
        if self._cipher is None:
            raise _corrupt("a sealed object ends inside its header")
        plaintext = self._open(bytes(self._pending), last=True)
        if not plaintext and self._index > 1:
            raise _corrupt(
                "a sealed object has an empty last chunk"
            )  # nobody writes one: two forms of one object
        return plaintext

    def _read_header(self) -> bool:
        head = bytes(self._pending[:_HEADER_BYTES])
        if not _MAGIC.startswith(head[: len(_MAGIC)]):
            raise _corrupt("not a sealed object")
        if len(head) < _HEADER_BYTES:
            return False
        log2, length = head[len(_MAGIC)], int.from_bytes(head[_STABLE_BYTES:], "big")
        if not MIN_CHUNK_LOG2 <= log2 <= MAX_CHUNK_LOG2 or length > MAX_WRAPPED_BYTES:
            raise _corrupt("a sealed object's header is out of bounds")
        if len(self._pending) < _HEADER_BYTES + length:
            return False
        wrapped = bytes(self._pending[_HEADER_BYTES : _HEADER_BYTES + length])
        del self._pending[: _HEADER_BYTES + length]
        self._cipher = AESGCM(self._wrapper.unwrap(wrapped, self._context))
        self._prefix = head[_STABLE_BYTES - _PREFIX_BYTES : _STABLE_BYTES]
        self._aad = head[:_STABLE_BYTES] + self._context
        self._sealed_chunk_bytes = (1 << log2) + TAG_BYTES
        return True

    def _open(self, sealed: bytes, *, last: bool = False) -> bytes:
        assert self._cipher is not None
        nonce = _chunk_nonce(self._prefix, self._index, last=last)
        self._index += 1
        try:
            return self._cipher.decrypt(nonce, sealed, self._aad)
        except InvalidTag:
            raise _corrupt(
                f"chunk {self._index - 1} of a sealed object is not as written"
            ) from None


def _full_chunks(
    pending: bytearray, size: int, convert: Callable[[bytes], bytes]
) -> Iterator[bytes]:
    """Convert and remove every chunk that more bytes follow, so that none of them can be the last."""
    start = 0
    while len(pending) - start > size:
        yield convert(bytes(pending[start : start + size]))
        start += size
    del pending[:start]


def _chunk_nonce(prefix: bytes, index: int, *, last: bool) -> bytes:
    if index >= _MAX_CHUNKS:
        raise Refused("envelope-too-large", "an object has more chunks than a nonce can count")
    return prefix + index.to_bytes(4, "big") + (b"\x01" if last else b"\x00")


def _object_context(tenant: str, name: str) -> bytes:
    return context("object", tenant, name)


def _split_wrapped(wrapped: bytes) -> tuple[str, bytes, bytes]:
    """Root key id, nonce, ciphertext; raises Corrupt."""
    if len(wrapped) < 2 or wrapped[0] != _WRAP_VERSION:
        raise _corrupt("a wrapped key is of an unknown version")
    nonce_at = 2 + wrapped[1]
    key_id = wrapped[2:nonce_at].decode("ascii", errors="replace")
    if (
        not _KEY_ID.fullmatch(key_id)
        or len(wrapped) != nonce_at + NONCE_BYTES + KEY_BYTES + TAG_BYTES
    ):
        raise _corrupt("a wrapped key is malformed")
    return key_id, wrapped[nonce_at : nonce_at + NONCE_BYTES], wrapped[nonce_at + NONCE_BYTES :]


def _to_base64url(raw: bytes) -> bytes:
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URL).rstrip(b"=")


def _from_base64url(text: str) -> bytes:
    try:
        encoded = text.encode("ascii")
        padded = encoded.translate(_FROM_URL) + b"=" * (-len(encoded) % 4)
        raw = binascii.a2b_base64(padded, strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        raise _corrupt("a sealed field is not base64url") from None
    if _to_base64url(raw) != encoded:  # one ciphertext, one text: no second spelling
        raise _corrupt("a sealed field is not canonical base64url")
    return raw


def _corrupt(message: str) -> Corrupt:
    return Corrupt(
        "envelope-corrupt",
        message,
        hint="Restore the object from a copy; it was damaged, moved, or sealed under other keys.",
    )


def _root_key_unknown(key_id: str) -> Corrupt:
    return Corrupt(
        "root-key-unknown",
        f"the root key {key_id!r} is not configured",
        hint="Add the retired root key of that id to the configuration, then try again.",
    )
