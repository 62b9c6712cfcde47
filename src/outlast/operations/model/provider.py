"""Provider: what one configured outside service has been through.

    NoteHealth       -> ProviderEjected | ProviderRestored | ProviderThrottled   routing noticed
    DisableProvider  -> ProviderDisabled                                         by hand; holds until enabled
    EnableProvider   -> ProviderEnabled

Routing decides by its own memory and starts afresh with the process; this is the record, and the only place where
a person's word outlives a restart. What changes nothing for anybody is not recorded: probes, and pleas to slow
down within a minute of the last.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from outlast.core.decider import Command, Decision, Event
from outlast.core.errors import Refused
from outlast.core.routing.changes import (
    HealthChange,
    ProviderEjected,
    ProviderProbing,
    ProviderRestored,
    ProviderThrottled,
)
from outlast.operations.model.reason import stated

KIND = "operations.provider"

THROTTLE_RECORD_MS = 60_000
"""Least time between two recorded pleas of one provider to slow down."""


class ProviderDisabled(Event, frozen=True, kw_only=True):
    """A person took it out of use."""

    name: ClassVar[str] = "operations.provider_disabled"
    provider: str
    reason: str
    actor: str
    at_ms: int


class ProviderEnabled(Event, frozen=True, kw_only=True):
    """A person put it back to use."""

    name: ClassVar[str] = "operations.provider_enabled"
    provider: str
    reason: str
    actor: str
    at_ms: int


class NoteHealth(Command, frozen=True, kw_only=True):
    """Record what routing noticed. ``at_ms`` of the change counts, not of the command."""

    change: HealthChange


class DisableProvider(Command, frozen=True, kw_only=True):
    """Take a provider out of use, and say why."""

    provider: str
    reason: str
    actor: str


class EnableProvider(Command, frozen=True, kw_only=True):
    """Put a provider back to use, and say why."""

    provider: str
    reason: str
    actor: str


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's record. ``outages`` counts rows of ejections, ``out_ms`` what they lasted in all."""

    label: Literal["in-use", "ejected", "disabled"] = "in-use"
    provider: str
    disabled_reason: str = ""
    disabled_by: str = ""
    out_since_ms: int = 0
    """When the outage it is in began; 0: it is in none."""
    outages: int = 0
    ejections: int = 0
    out_ms: int = 0
    last_reason: str = ""
    throttled_at_ms: int = 0


ProviderEvent = (
    ProviderEjected | ProviderRestored | ProviderThrottled | ProviderDisabled | ProviderEnabled
)


class ProviderDecider:
    """`Decider` of providers' records."""

    kind = KIND
    state = Provider
    events = (
        ProviderEjected,
        ProviderRestored,
        ProviderThrottled,
        ProviderDisabled,
        ProviderEnabled,
    )

    def decide(self, command: Any, state: Provider | None) -> Decision[ProviderEvent]:
        """Raises Refused ``reason-missing`` when a person gives no reason."""
        if isinstance(command, NoteHealth):
            return Decision(events=_noted(command.change, state))
        if isinstance(command, DisableProvider):
            return _disable(command, state)
        if isinstance(command, EnableProvider):
            return _enable(command, state)
        raise Refused("unknown-command", f"a provider knows no {type(command).__name__}")

    def evolve(self, state: Provider | None, event: Event) -> Provider:
        """The record after ``event``."""
        assert isinstance(event, ProviderEvent)
        record = _folded(state or Provider(provider=event.provider), event)
        return msgspec.structs.replace(record, label=_label(record))


def _noted(change: HealthChange, state: Provider | None) -> tuple[ProviderEvent, ...]:
    if isinstance(change, ProviderProbing):
        return ()
    if isinstance(change, ProviderThrottled) and state is not None:
        since_ms = change.at_ms - state.throttled_at_ms
        return (change,) if since_ms >= THROTTLE_RECORD_MS else ()
    return (change,)


def _disable(command: DisableProvider, state: Provider | None) -> Decision[ProviderEvent]:
    reason = stated(command.reason)
    if state is not None and state.disabled_reason == reason:
        return Decision()
    event = ProviderDisabled(
        provider=command.provider, reason=reason, actor=command.actor, at_ms=command.at_ms
    )
    return Decision(events=(event,))


def _enable(command: EnableProvider, state: Provider | None) -> Decision[ProviderEvent]:
    reason = stated(command.reason)
    if state is None or not state.disabled_reason:
        return Decision()
    event = ProviderEnabled(
        provider=command.provider, reason=reason, actor=command.actor, at_ms=command.at_ms
    )
    return Decision(events=(event,))


def _folded(record: Provider, event: ProviderEvent) -> Provider:
    replace = msgspec.structs.replace
    if isinstance(event, ProviderEjected):
        fresh = not record.out_since_ms
        return replace(
            record,
            out_since_ms=event.at_ms if fresh else record.out_since_ms,
            outages=record.outages + fresh,
            ejections=record.ejections + 1,
            last_reason=f"{event.reason}: {event.text}",
        )
    if isinstance(event, ProviderRestored):
        lasted_ms = max(0, event.at_ms - record.out_since_ms) if record.out_since_ms else 0
        return replace(record, out_since_ms=0, out_ms=record.out_ms + lasted_ms)
    if isinstance(event, ProviderThrottled):
        return replace(record, throttled_at_ms=event.at_ms)
    if isinstance(event, ProviderDisabled):
        return replace(record, disabled_reason=event.reason, disabled_by=event.actor)
    return replace(record, disabled_reason="", disabled_by="")


def _label(record: Provider) -> Literal["in-use", "ejected", "disabled"]:
    if record.disabled_reason:
        return "disabled"
    return "ejected" if record.out_since_ms else "in-use"
