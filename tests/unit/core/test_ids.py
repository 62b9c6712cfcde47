"""Identifiers: UUIDv7, growing, well-formed; tokens long enough to be secret."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

from outlast.core.clock import ManualClock
from outlast.core.ids import Ids, is_uuid, system_random, token

MS = 1_800_000_000_000


def test_identifiers_are_uuid_version_7() -> None:
    """Version, variant and time are where RFC 9562 wants them; the rest is the entropy given."""
    made = Ids(ManualClock(MS), lambda size: b"\xff" * size).new()
    parsed = uuid.UUID(made)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == MS
    assert parsed.int & ((1 << 62) - 1) == (1 << 62) - 1


def test_identifiers_grow() -> None:
    """Strictly, also when many are made within one millisecond or by many threads; text order is time order."""
    clock = ManualClock(MS)
    ids = Ids(clock)
    made = [ids.new() for _ in range(10_000)]
    clock.advance(5)
    made.append(ids.new())
    assert made == sorted(set(made))
    with ThreadPoolExecutor(4) as pool:
        many = list(pool.map(lambda _: ids.new(), range(4_000)))
    assert len(set(many)) == 4_000


def test_uuid_has_one_form() -> None:
    """Only the canonical lower-case form is taken."""
    made = Ids(ManualClock()).new()
    assert is_uuid(made)
    for other in (made.upper(), made.replace("-", ""), "{" + made + "}", "x", ""):
        assert not is_uuid(other)


def test_tokens_are_secret() -> None:
    """256 bits behind a prefix that tells what it is."""
    first, second = token("olk"), token("olk")
    assert first != second
    assert first.startswith("olk_")
    assert len(first) == len("olk_") + 43


def test_jitter_differs() -> None:
    """Two sources do not jitter alike."""
    assert system_random().random() != system_random().random()
