"""Zips that no site makes: bombs, tricks with names, two things at once. All are refused, quickly and in bounds."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.core.errors import Refused
from outlast.signing.evidence import unpack as unpacking
from outlast.signing.evidence.unpack import unpack
from outlast.signing.evidence.verify import verify_bundle

Pack = Callable[[dict[str, bytes]], bytes]


def refused(data: bytes) -> str:
    """Why it is refused."""
    with pytest.raises(Refused) as error:
        unpack(data)
    assert error.value.code == "bundle-malformed"
    return error.value.message


def with_entry(name: str, content: bytes = b"x", **changes: Any) -> bytes:
    """A zip of one file whose entry is made to order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(name)
        for attribute, value in changes.items():
            setattr(info, attribute, value)
        archive.writestr(info, content)
    return buffer.getvalue()


def test_plain_files_come_out_as_they_went_in(pack: Pack) -> None:
    """Names and contents of an ordinary zip."""
    files = {"bundle.json": b"{}", "log/entries/0.json": b"x" * 100_000}
    assert unpack(pack(files)) == files


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/passwd", "a/../b", "a//b", "./a", "a/.", "a\\b", "C:evil", ".hidden", "a/.git",
        "a b", "ä", "a\nb", "con\x7f", "a/", "x" * 300,
    ],
)  # fmt: skip
def test_odd_names_are_refused(name: str) -> None:
    """Nothing that could mean two things, or a place outside, is a name here."""
    assert "is called" in refused(with_entry(name))


def test_a_name_with_a_null_is_refused() -> None:
    """A zero byte, at which some readers stop reading a name, is no name."""
    data = with_entry("aXb").replace(b"aXb", b"a\0b")
    refused(data)


def test_a_name_given_twice_is_refused() -> None:
    """Two files of one name would let two readers see different bundles."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"two")
    assert "twice" in refused(buffer.getvalue())


def test_links_are_refused() -> None:
    """A symbolic link is not a plain file."""
    assert "plain file" in refused(with_entry("a", b"/etc/passwd", external_attr=0o120777 << 16))


def test_unusual_compression_is_refused() -> None:
    """Only what our bundles use."""
    assert "unusual" in refused(with_entry("a", b"x" * 99, compress_type=zipfile.ZIP_LZMA))


def test_encrypted_files_are_refused() -> None:
    """A set encryption bit."""
    data = bytearray(with_entry("a"))
    at = data.index(b"PK\x01\x02") + 8
    data[at] |= 1
    assert "encrypted" in refused(bytes(data))


@pytest.mark.parametrize("where", ["before", "behind", "comment"])
def test_nothing_else_may_be_in_the_file(where: str, pack: Pack) -> None:
    """A PDF in front, bytes behind, or a comment: the file would be two things at once."""
    data = pack({"a": b"x"})
    if where == "before":
        data = b"%PDF-1.7\n" + data
    elif where == "behind":
        data += b"more"
    else:
        data = data[:-2] + struct.pack("<H", 4) + b"more"
    refused(data)


def test_a_bomb_is_refused_by_what_it_declares(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that would expand beyond the bound are not expanded."""
    monkeypatch.setattr(unpacking, "MAX_UNPACKED_BYTES", 1_000_000)
    assert "bytes" in refused(pack({"a": bytes(600_000), "b": bytes(600_000)}))


def test_a_bomb_that_lies_is_cut_off(pack: Pack) -> None:
    """Where the declared size is smaller than the content, no more than that is expanded, and it is refused."""
    data = bytearray(pack({"a": bytes(5_000_000)}))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<L", 10)
    refused(bytes(data))


def test_too_many_files_are_refused_before_they_are_listed(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory's own count bounds what is read of it."""
    monkeypatch.setattr(unpacking, "MAX_FILES", 3)
    assert "more than 3" in refused(pack({f"f{i}": b"" for i in range(4)}))


def test_a_directory_elsewhere_is_refused(pack: Pack) -> None:
    """The directory stands right behind the files; no other is looked for."""
    data = bytearray(pack({"a": b"x"}))
    data[-6:-2] = struct.pack("<L", 0)
    assert "directory" in refused(bytes(data))


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_zip_is_refused(data: bytes) -> None:
    """Nothing, beginnings, and an empty zip."""
    refused(data)


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_any_bytes_get_a_verdict(noise: bytes, at: int, byte: int) -> None:
    """Noise, and a small zip with one byte changed, are judged, never raised."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bundle.json", b'{"v":1}')
        archive.writestr("README.txt", b"read me")
    data = bytearray(buffer.getvalue())
    data[at % len(data)] = byte
    for candidate in (noise, b"PK\x03\x04" + noise, bytes(data)):
        assert verify_bundle(candidate, (), (), (), 0).verdict == "invalid"
