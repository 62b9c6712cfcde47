"""What happened to a provider, as facts to be put on record.

The router only notices; whoever owns the log drains these and commits them (``operations.model.provider`` is
their aggregate), so that every failover has its reason in the evidence. ``at_ms`` and ``until_ms`` are Unix
milliseconds. ``reason`` is a stable word for programs, ``text`` is for people.
"""

from __future__ import annotations

from typing import ClassVar

from outlast.core.decider import Event


class ProviderEjected(Event, frozen=True, kw_only=True):
    """It is left alone until ``until_ms``; ``ejections`` counts those in a row."""

    name: ClassVar[str] = "operations.provider_ejected"
    provider: str
    at_ms: int
    reason: str
    text: str
    until_ms: int
    ejections: int


class ProviderProbing(Event, frozen=True, kw_only=True):
    """Its ejection is over and it is being tried."""

    name: ClassVar[str] = "operations.provider_probing"
    provider: str
    at_ms: int
    reason: str
    text: str


class ProviderRestored(Event, frozen=True, kw_only=True):
    """It takes normal traffic again; ``out_ms`` is how long it did not."""

    name: ClassVar[str] = "operations.provider_restored"
    provider: str
    at_ms: int
    reason: str
    text: str
    out_ms: int


class ProviderThrottled(Event, frozen=True, kw_only=True):
    """It asked to be left alone until ``until_ms``."""

    name: ClassVar[str] = "operations.provider_throttled"
    provider: str
    at_ms: int
    reason: str
    text: str
    until_ms: int


HealthChange = ProviderEjected | ProviderProbing | ProviderRestored | ProviderThrottled
