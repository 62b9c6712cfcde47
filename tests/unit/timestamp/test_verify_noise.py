"""Hostile bytes: whatever they are, the answer is Refused (or Unavailable), soon."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlast.core.clock import ManualClock
from outlast.core.errors import Refused, Unavailable
from outlast.core.rfc3161 import build_request, verify_response, verify_token
from outlast.testing.timestamp import FakeAuthority

DIGEST = hashlib.sha256(b"document").digest()
FAKE = FakeAuthority(ManualClock())
GOOD = FAKE._respond(build_request(DIGEST, 5), None, 5)


def refused(response: bytes) -> None:
    """Verify; nothing but our two kinds of error may come out, or a token over the same digest."""
    try:
        verify_response(response, DIGEST, 5, FAKE.rules, FAKE._clock.now_ms())
    except (Refused, Unavailable):
        pass
    try:
        verify_token(response, DIGEST, FAKE.rules)
    except Refused:
        pass


@given(st.binary(max_size=300))
def test_noise(noise: bytes) -> None:
    """Any bytes."""
    refused(noise)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_several_bytes_changed(changes: list[tuple[int, int]]) -> None:
    """A good response with several bytes changed."""
    bad = bytearray(GOOD)
    for at, value in changes:
        bad[at] = value
    refused(bytes(bad))


@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.binary(max_size=40))
def test_cut_and_spliced(start: int, end: int, patch: bytes) -> None:
    """A good response with a part replaced by other bytes."""
    refused(GOOD[:start] + patch + GOOD[end:])


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x30\x80" * 20_000,
        b"".join(b"\x30\x83" + (60_000 - 5 * n).to_bytes(3, "big") for n in range(12_000)),
        b"\x30\x84\xff\xff\xff\xff",
        b"\x30\x89" + b"\xff" * 20,
        b"\x02\x82\xf0\x00" + b"\x7f" * 61_440,
    ],
    ids=["indefinite nesting", "definite nesting", "huge length", "absurd length", "huge integer"],
)
def test_bombs_cost_little(bomb: bytes) -> None:
    """Nesting and lengths made to exhaust a parser are refused within a second."""
    start = time.monotonic()
    refused(bomb)
    assert time.monotonic() - start < 1


def test_good_stays_good() -> None:
    """The response the others are made from is a good one."""
    token: Any = verify_response(GOOD, DIGEST, 5, FAKE.rules, FAKE._clock.now_ms())
    assert token.der in GOOD
