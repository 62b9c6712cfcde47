"""Log entries: one encoding, bounded, and read back whatever else a newer site wrote."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.core.errors import Corrupt, Refused
from outlast.core.log.entry import MAX_ENTRY_BYTES, Entry, decode_entry, encode_entry


def make(data: bytes = b'{"digest":"00ff"}', **more: object) -> Entry:
    """An entry with these data."""
    base = Entry(
        type="SignatureObtained",
        site="eu-1",
        hlc="0190f7c3a1b20001",
        vec={"eu-1": 4, "eu-2": 1},
        tenant="acme",
        stream="request/0190f7c3",
        seq=4,
        epoch=1,
        actor="key:ops",
        cause="0190f7c3-cause",
        flags=("degraded_auth",),
        data=msgspec.Raw(data),
    )
    return msgspec.structs.replace(base, **more)


def test_an_entry_is_plain_json_with_every_field() -> None:
    """Any JSON reader sees all members, the event's data inline, not as text."""
    seen = json.loads(encode_entry(make()))
    assert list(seen) == [
        *("v", "type", "site", "hlc", "vec", "tenant", "stream", "seq", "epoch"),
        *("actor", "cause", "flags", "data"),
    ]
    assert (seen["v"], seen["data"], seen["vec"]) == (1, {"digest": "00ff"}, {"eu-1": 4, "eu-2": 1})


def test_an_entry_reads_back() -> None:
    """Decoding gives the entry again, its data as the bytes written."""
    entry = decode_entry(encode_entry(make(b'{"b":1,  "a":2}')))
    assert bytes(entry.data) == b'{"b":1,  "a":2}'
    assert msgspec.structs.replace(entry, data=make().data) == make()


def test_the_longest_entry_and_one_byte_more() -> None:
    """65,535 bytes are taken, 65,536 refused: a bundle's length prefix ends there."""
    room = MAX_ENTRY_BYTES - len(encode_entry(make(b'""')))
    assert len(encode_entry(make(b'"' + b"x" * room + b'"'))) == MAX_ENTRY_BYTES
    with pytest.raises(Refused) as caught:
        encode_entry(make(b'"' + b"x" * (room + 1) + b'"'))
    assert caught.value.code == "entry-too-large"


def test_members_of_a_newer_site_are_passed_over() -> None:
    """A member this version does not know does not stop it from reading."""
    seen = json.loads(encode_entry(make()))
    assert decode_entry(json.dumps({**seen, "region": "eu"}).encode()) is not None


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"{}",
        b"null",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"v":1,"data":' + b"[" * 60_000,
        encode_entry(make()).replace(b'"v":1', b'"v":2'),
        encode_entry(make()).replace(b'"seq":4', b'"seq":"4"'),
        encode_entry(make()).replace(b"eu-1", b"\xff\xff"),
        encode_entry(make()) + b"x",
        b" " * (MAX_ENTRY_BYTES + 1),
    ],
)
def test_what_is_no_entry_is_corrupt(encoded: bytes) -> None:
    """Anything else, however long or deep, is Corrupt and nothing worse."""
    with pytest.raises(Corrupt) as caught:
        decode_entry(encoded)
    assert caught.value.code == "entry-malformed"


@given(st.binary(max_size=200))
def test_noise_is_corrupt(noise: bytes) -> None:
    """Random bytes never do anything but raise Corrupt."""
    with pytest.raises(Corrupt):
        decode_entry(noise)
