"""What happened to a provider, as facts to be put on record.

The router only notices; whoever owns the log drains these and commits them, so that every failover has its
reason in the evidence. ``at_ms`` and ``until_ms`` are Unix milliseconds. ``reason`` is a stable word for
programs, ``text`` is for people.
"""

from __future__ import annotations

import msgspec


class ProviderEjected(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It is left alone until ``until_ms``; ``ejections`` counts those in a row."""

    provider: str
    at_ms: int
    reason: str
    text: str
    until_ms: int
    ejections: int


class ProviderProbing(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Its ejection is over and it is being tried."""

    provider: str
    at_ms: int
    reason: str
    text: str


class ProviderRestored(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It takes normal traffic again; ``out_ms`` is how long it did not."""

    provider: str
    at_ms: int
    reason: str
    text: str
    out_ms: int


class ProviderThrottled(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It asked to be left alone until ``until_ms``."""

    provider: str
    at_ms: int
    reason: str
    text: str
    until_ms: int


HealthChange = ProviderEjected | ProviderProbing | ProviderRestored | ProviderThrottled
