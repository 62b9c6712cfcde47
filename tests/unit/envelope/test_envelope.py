"""Sealed objects, subject keys and fields: what was written comes back, and nothing else does."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlast.core.envelope import (
    CHUNK_BYTES,
    Envelope,
    LocalRootKey,
    RootKeys,
    context,
    open_field,
    root_key_id,
    seal_field,
)
from outlast.core.errors import Corrupt

TAG = 16
OLD = LocalRootKey("root-2025", b"o" * 32)
NEW = LocalRootKey("root-2026", b"n" * 32)
ENVELOPE = Envelope(RootKeys(NEW, [OLD]))
AAD = context("object", "acme", "doc-1")
HEADER = len(ENVELOPE.seal(b"", AAD)) - TAG


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    """Pieces as an async iterator."""
    for piece in pieces:
        yield piece


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    """All of an async iterator."""
    return b"".join([chunk async for chunk in chunks])


async def sealed(plaintext: bytes, tenant: str = "acme", name: str = "doc-1") -> bytes:
    """A plaintext sealed as a stream."""
    return await collect(ENVELOPE.seal_stream(stream(plaintext), tenant, name))


async def opened(data: bytes, tenant: str = "acme", name: str = "doc-1") -> bytes:
    """A sealed stream opened."""
    return await collect(ENVELOPE.open_stream(stream(data), tenant, name))


SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 7]


@pytest.mark.anyio
@pytest.mark.parametrize("size", SIZES)
async def test_every_boundary_size_comes_back(size: int) -> None:
    """Sizes around chunk boundaries survive sealing and opening."""
    plaintext = bytes(i % 251 for i in range(size))
    assert await opened(await sealed(plaintext)) == plaintext


@given(plaintext=st.binary(max_size=300), cuts=st.lists(st.integers(0, 400), max_size=8))
@settings(deadline=None)
def test_pieces_do_not_matter(plaintext: bytes, cuts: list[int]) -> None:
    """However a sealed object is cut into pieces on its way, the same plaintext comes out."""
    whole = ENVELOPE.seal(plaintext, AAD)
    edges = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    pieces = [whole[a:b] for a, b in pairwise(edges)]

    async def run() -> bytes:
        return await collect(ENVELOPE.open_stream(stream(*pieces), "acme", "doc-1"))

    assert _drive(run()) == plaintext


@given(st.binary(max_size=200), st.data())
@settings(deadline=None)
def test_any_flipped_bit_is_found(plaintext: bytes, data: st.DataObject) -> None:
    """No bit of a sealed object, header included, can change unnoticed."""
    whole = bytearray(ENVELOPE.seal(plaintext, AAD))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Corrupt):
        ENVELOPE.open(bytes(whole), AAD)


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_noise_is_corrupt(noise: bytes) -> None:
    """Bytes that were never sealed raise Corrupt and nothing else."""
    with pytest.raises(Corrupt):
        ENVELOPE.open(noise, AAD)
    with pytest.raises(Corrupt):
        ENVELOPE.open(b"OLB1\x10" + noise, AAD)


@pytest.mark.anyio
async def test_truncation_at_every_kind_of_place_is_found() -> None:
    """A cut in the header, inside a chunk, at a chunk boundary and of the last byte are all found."""
    whole = await sealed(bytes(2 * CHUNK_BYTES + 100))
    for length in (0, 3, 13, HEADER, HEADER + 5, HEADER + CHUNK_BYTES + TAG, len(whole) - 1):
        with pytest.raises(Corrupt):
            await opened(whole[:length])


@pytest.mark.anyio
async def test_reordered_repeated_and_appended_chunks_are_found() -> None:
    """Chunks swapped, doubled, dropped from the front, or added at the end are found."""
    step = CHUNK_BYTES + TAG
    whole = await sealed(b"a" * CHUNK_BYTES + b"b" * CHUNK_BYTES + b"c" * 10)
    head, first, second = whole[:HEADER], whole[HEADER:][:step], whole[HEADER + step :][:step]
    tail = whole[HEADER + 2 * step :]
    for parts in (
        (second, first, tail),
        (first, first, second, tail),
        (second, tail),
        (first, second, tail, tail),
        (first, second, tail, b"x"),
        (first, second),
    ):
        with pytest.raises(Corrupt):
            await opened(head + b"".join(parts))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("tenant", "name"), [("other", "doc-1"), ("acme", "doc-2"), ("acm", "edoc-1")]
)
async def test_an_object_in_another_place_is_found(tenant: str, name: str) -> None:
    """A sealed object moved to another tenant or name does not open."""
    with pytest.raises(Corrupt):
        await opened(await sealed(b"secret"), tenant, name)


@pytest.mark.anyio
async def test_a_chunk_of_another_object_is_found() -> None:
    """Chunks of two objects of the same place and length cannot be mixed."""
    one, two = await sealed(b"1" * 50), await sealed(b"2" * 50)
    with pytest.raises(Corrupt):
        await opened(one[:HEADER] + two[HEADER:])


@pytest.mark.anyio
async def test_memory_stays_bounded() -> None:
    """Sealing and opening 64 MiB holds a few chunks at a time, not the object."""

    async def plaintext() -> AsyncIterator[bytes]:
        block = bytes(256 * 1024)
        for _ in range(256):
            yield block

    tracemalloc.start()
    total = 0
    sealing = ENVELOPE.seal_stream(plaintext(), "acme", "big")
    async for chunk in ENVELOPE.open_stream(sealing, "acme", "big"):
        total += len(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 64 * 1024 * 1024
    assert peak < 4 * 1024 * 1024


def test_rotation_wraps_with_the_newest_and_reads_the_older() -> None:
    """After rotation old objects open, new ones use the new key, and a rewrapped key drops the old one."""
    before = Envelope(RootKeys(OLD))
    after = Envelope(RootKeys(NEW, [OLD]))
    assert after.open(before.seal(b"kept", AAD), AAD) == b"kept"
    subject = before.new_subject_key(AAD)
    moved = after.rewrap(subject.wrapped, AAD)
    assert (root_key_id(subject.wrapped), root_key_id(moved)) == ("root-2025", "root-2026")
    assert Envelope(RootKeys(NEW)).open_subject_key(moved, AAD) == subject.key


def test_a_missing_root_key_says_which() -> None:
    """An object under a root key that is not configured names that key, so an operator can restore it."""
    whole = Envelope(RootKeys(OLD)).seal(b"kept", AAD)
    with pytest.raises(Corrupt) as caught:
        Envelope(RootKeys(NEW)).open(whole, AAD)
    assert caught.value.code == "root-key-unknown"
    assert "root-2025" in caught.value.message


def test_root_keys_with_one_id_are_refused() -> None:
    """Two different keys under one id would make objects unreadable at random."""
    with pytest.raises(ValueError, match="same id"):
        RootKeys(OLD, [LocalRootKey("root-2025", b"x" * 32)])


@pytest.mark.parametrize("key_id", ["", "Upper", "a" * 65, "-x", "ü"])
def test_malformed_root_key_ids_are_refused(key_id: str) -> None:
    """Key ids stay within what the format and log lines can carry."""
    with pytest.raises(ValueError, match="root key id"):
        LocalRootKey(key_id, bytes(32))


def test_two_seals_of_one_plaintext_differ() -> None:
    """Equal plaintexts do not show as equal ciphertexts."""
    assert ENVELOPE.seal(b"same", AAD)[HEADER:] != ENVELOPE.seal(b"same", AAD)[HEADER:]


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_fields_come_back(plaintext: bytes, aad: bytes) -> None:
    """A field opens with its own key and AAD."""
    subject = ENVELOPE.new_subject_key(aad)
    assert open_field(subject.key, aad, seal_field(subject.key, aad, plaintext)) == plaintext


@given(st.binary(max_size=60), st.data())
def test_changed_field_text_is_found(plaintext: bytes, data: st.DataObject) -> None:
    """Replacing or dropping any character of a sealed field raises Corrupt, also in unused trailing bits."""
    text = seal_field(b"k" * 32, b"aad", plaintext)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("Aaz09-_=+/ é").filter(lambda char: char != text[at]))
    for changed in (text[:at] + other + text[at + 1 :], text[:at] + text[at + 1 :], text + other):
        with pytest.raises(Corrupt):
            open_field(b"k" * 32, b"aad", changed)


@given(st.text(max_size=60))
def test_noise_as_a_field_is_corrupt(noise: str) -> None:
    """Text that was never sealed raises Corrupt and nothing else."""
    with pytest.raises(Corrupt):
        open_field(b"k" * 32, b"aad", noise)


def test_fields_are_bound_to_key_and_aad() -> None:
    """A field moved to another subject or another column does not open."""
    text = seal_field(b"k" * 32, context("acme", "email"), b"a@example.org")
    with pytest.raises(Corrupt):
        open_field(b"k" * 32, context("acme", "phone"), text)
    with pytest.raises(Corrupt):
        open_field(b"j" * 32, context("acme", "email"), text)


def test_subject_keys_do_not_print() -> None:
    """A subject key in a traceback or log line shows nothing of itself."""
    subject = ENVELOPE.new_subject_key(AAD)
    assert repr(subject) == "SubjectKey(…)"


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_contexts_are_unambiguous(one: list[str], other: list[str]) -> None:
    """Two lists of texts have the same context only when they are equal."""
    assert (context(*one) == context(*other)) == (one == other)


def _drive(coroutine: object) -> bytes:
    """Run a coroutine that never really waits, without an event loop."""
    try:
        coroutine.send(None)  # type: ignore[attr-defined]  # a coroutine, typed loosely for brevity
    except StopIteration as done:
        result: bytes = done.value
        return result
    raise AssertionError("the coroutine waited for something")
