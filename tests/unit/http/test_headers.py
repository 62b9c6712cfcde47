"""Headers are understood strictly, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.core.errors import Refused
from outlast.surfaces.http import headers
from outlast.surfaces.http.headers import MAX_WAIT_S, Prefer


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (None, Prefer()),
        (b"wait=5", Prefer(5.0)),
        (b"respond-async, wait=0.25", Prefer(0.25)),
        (b"WAIT=7;foo=bar , receipt=published", Prefer(7.0, True)),
        (b'receipt="published"', Prefer(0.0, True)),
        (b"wait=100000", Prefer(MAX_WAIT_S)),
        (b"wait=-1", Prefer()),
        (b"wait=inf", Prefer()),
        (b"wait=1e9", Prefer()),
        (b"wait", Prefer()),
        (b"receipt=accepted", Prefer()),
        (b",,;=,", Prefer()),
    ],
)
def test_prefer(given_: bytes | None, expected: Prefer) -> None:
    """Preferences known are taken, bounded; others are passed over (RFC 7240)."""
    assert headers.prefer({} if given_ is None else {b"prefer": given_}) == expected


@pytest.mark.parametrize(
    ("given_", "key"),
    [
        (None, ""),
        (b'"abc"', "abc"),
        (b"abc", "abc"),
        (b'"with space"', "with space"),
        (b"x" * 255, "x" * 255),
        (b'"' + b"x" * 255 + b'"', "x" * 255),
    ],
)
def test_idempotency_keys(given_: bytes | None, key: str) -> None:
    """Quoted as the draft has it, or bare."""
    assert headers.idempotency_key({b"idempotency-key": given_} if given_ else {}) == key


@pytest.mark.parametrize("given_", [b"", b'""', b'"', b"a b", b'a"b', b"x" * 256, b"\xc3\xa9"])
def test_idempotency_keys_refused(given_: bytes) -> None:
    """Empty, too long, or not visible ASCII."""
    with pytest.raises(Refused, match="idempotency-key-invalid"):
        headers.idempotency_key({b"idempotency-key": given_})


@pytest.mark.parametrize(("given_", "version"), [(b'"3"', 3), (b'W/"3"', 3), (b"*", None)])
def test_if_match(given_: bytes, version: int | None) -> None:
    """An ETag that was given out, or any."""
    assert headers.if_match({b"if-match": given_}) == version


@pytest.mark.parametrize("given_", [b"3", b'"x"', b'"1", "2"', b'""', b'"' + b"9" * 30 + b'"'])
def test_if_match_refused(given_: bytes) -> None:
    """Anything else is refused: ignoring it would drop the caller's condition."""
    with pytest.raises(Refused, match="header-invalid"):
        headers.if_match({b"if-match": given_})


def test_if_none_match_of_strangers_matches_nothing() -> None:
    """An ETag that is none of ours just does not match."""
    assert headers.none_match({b"if-none-match": b'"abc"'}) is None
    assert headers.none_match({b"if-none-match": b'"12"'}) == 12


@pytest.mark.parametrize("given_", [b"text", b"a/b c", b"/pdf", b"a/" + b"b" * 200, b"t\xff/x"])
def test_content_types_refused(given_: bytes) -> None:
    """What is not type/subtype is refused."""
    with pytest.raises(Refused, match="content-type"):
        headers.media_type({b"content-type": given_})


def test_content_type_without_parameters() -> None:
    """Parameters are cut off, case is folded."""
    given_ = {b"content-type": b"Application/PDF; charset=x"}
    assert headers.media_type(given_) == "application/pdf"


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    """Whatever stands in a header, it is read or Refused."""
    for read, name in (
        (headers.prefer, b"prefer"),
        (headers.idempotency_key, b"idempotency-key"),
        (headers.if_match, b"if-match"),
        (headers.none_match, b"if-none-match"),
        (headers.media_type, b"content-type"),
        (headers.bearer_token, b"authorization"),
        (headers.request_id, b"x-request-id"),
        (headers.traceparent, b"traceparent"),
    ):
        try:
            read({name: data})
        except Refused:
            continue
