"""Identifiers and randomness, made in one place.

Public identifiers are UUIDv7 (RFC 9562, section 5.7): time-ordered, so that indexes grow at their right edge
only. Randomness comes from the operating system; the simulator passes its own source instead.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import uuid
from collections.abc import Callable

from outlast.core.clock import Clock

Random = random.Random
"""A source of jitter, passed to whoever needs one."""


class EntropyPool:
    """Random bytes from the operating system, fetched POOL_BYTES at a time: a system call for each identifier or
    nonce would cost more than all else about it. Thread-safe. Not to be shared across a fork."""

    def __init__(self, source: Callable[[int], bytes] = os.urandom) -> None:
        self._source = source
        self._pool = b""
        self._at = 0
        self._lock = threading.Lock()

    def __call__(self, size: int) -> bytes:
        """``size`` bytes, none of them handed out before."""
        if size > POOL_BYTES:
            return self._source(size)
        with self._lock:
            if self._at + size > len(self._pool):
                self._pool, self._at = self._source(POOL_BYTES), 0
            self._at += size
            return self._pool[self._at - size : self._at]


POOL_BYTES = 4096
"""Random bytes fetched at once."""


class Ids:
    """Mints UUIDv7 text; strictly increasing within one instance, also within a millisecond.

    ``entropy(n)`` returns n random bytes. Thread-safe.
    """

    def __init__(self, clock: Clock, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock
        self._entropy = entropy
        self._last = 0
        self._lock = threading.Lock()

    def new(self) -> str:
        """A fresh identifier, 36 characters."""
        # 48 bits of ms and the 12 bits of rand_a form one growing number (RFC 9562, 6.2, method 1)
        with self._lock:
            self._last = max(self._last + 1, self._clock.now_ms() << 12)
            stamp = self._last
        tail = int.from_bytes(self._entropy(8), "big") >> 2 | 0b10 << 62
        left = f"{stamp >> 28:08x}-{stamp >> 12 & 0xFFFF:04x}-7{stamp & 0xFFF:03x}"
        return f"{left}-{tail >> 48:04x}-{tail & 0xFFFF_FFFF_FFFF:012x}"


def is_uuid(text: str) -> bool:
    """Whether the text is a UUID in its canonical lower-case form."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def token(prefix: str) -> str:
    """A secret for a person or program to present: prefix, underscore, 256 random bits in URL-safe text."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def system_random() -> Random:
    """A random source for jitter and tie-breaking, seeded by the operating system; not for secrets."""
    return Random(os.urandom(16))
