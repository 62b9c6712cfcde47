"""Providers' records and the status page."""

from __future__ import annotations

import msgspec
import pytest

from outlast.core.clock import ManualClock
from outlast.core.decider import Command, Deciders, Event
from outlast.core.errors import Refused
from outlast.core.routing.changes import (
    ProviderEjected,
    ProviderProbing,
    ProviderRestored,
    ProviderThrottled,
)
from outlast.core.routing.choose import Pick
from outlast.core.routing.outcome import BAD_SIGNATURE
from outlast.core.routing.router import Router
from outlast.operations.model.mode import Limits, Observed, SiteMode
from outlast.operations.model.provider import (
    KIND,
    DisableProvider,
    EnableProvider,
    NoteHealth,
    Provider,
    ProviderDecider,
    ProviderDisabled,
    ProviderEnabled,
)
from outlast.operations.views import out_of_use, status

DECIDERS = Deciders([ProviderDecider()])


def ejected(at_ms: int, ejections: int = 1) -> ProviderEjected:
    """Routing left it alone."""
    return ProviderEjected(
        provider="hsm", at_ms=at_ms, reason="failing", text="3", until_ms=0, ejections=ejections
    )


def restored(at_ms: int) -> ProviderRestored:
    """Routing took it back."""
    return ProviderRestored(provider="hsm", at_ms=at_ms, reason="recovered", text="", out_ms=0)


def throttled(at_ms: int) -> ProviderThrottled:
    """It asked to be left alone."""
    return ProviderThrottled(provider="hsm", at_ms=at_ms, reason="throttled", text="", until_ms=0)


def state_after(*events: Event) -> Provider | None:
    """The fold of a history."""
    state: Provider | None = DECIDERS.fold(KIND, events)
    return state


def decide(command: Command, *history: Event) -> tuple[Event, ...]:
    """What a command leads to after a history."""
    return ProviderDecider().decide(command, state_after(*history)).events


def test_an_outage_is_counted_once_and_timed() -> None:
    """Two ejections in a row are one outage, from the first to the recovery."""
    state = state_after(ejected(1_000), ejected(3_000, 2), restored(9_000))
    assert state is not None
    assert (state.label, state.outages, state.ejections, state.out_ms) == ("in-use", 1, 2, 8_000)
    assert state_after(ejected(1_000)).label == "ejected"  # type: ignore[union-attr]  # not None after an event


def test_what_routing_noticed_is_recorded() -> None:
    """Ejections and recoveries are events as they come."""
    assert decide(NoteHealth(at_ms=9, change=ejected(5))) == (ejected(5),)
    assert decide(NoteHealth(at_ms=9, change=restored(7)), ejected(5)) == (restored(7),)


def test_what_changes_nothing_is_not_recorded() -> None:
    """Probes are not, nor pleas to slow down within a minute of the last."""
    probing = ProviderProbing(provider="hsm", at_ms=1, reason="ejection-over", text="")
    assert decide(NoteHealth(at_ms=1, change=probing)) == ()
    assert decide(NoteHealth(at_ms=1, change=throttled(100_000))) == (throttled(100_000),)
    history = throttled(100_000)
    assert decide(NoteHealth(at_ms=1, change=throttled(159_999)), history) == ()
    assert decide(NoteHealth(at_ms=1, change=throttled(160_000)), history) != ()


def test_disabling_by_hand_holds_and_is_idempotent() -> None:
    """Disabled with reason and actor, recovered health does not put it back; enabling does."""
    disable = DisableProvider(at_ms=1, provider="hsm", reason="ceremony", actor="ann")
    (event,) = decide(disable)
    assert event == ProviderDisabled(provider="hsm", reason="ceremony", actor="ann", at_ms=1)
    assert decide(disable, event) == ()
    state = state_after(event, ejected(2), restored(3))
    assert state is not None
    assert (state.label, state.disabled_by) == ("disabled", "ann")
    enable = EnableProvider(at_ms=4, provider="hsm", reason="done", actor="bob")
    (back,) = decide(enable, event)
    assert back == ProviderEnabled(provider="hsm", reason="done", actor="bob", at_ms=4)
    assert decide(enable, event, back) == ()
    assert decide(enable) == ()


def test_by_hand_needs_a_reason() -> None:
    """No reason, no change."""
    with pytest.raises(Refused, match="reason-missing"):
        decide(DisableProvider(at_ms=1, provider="hsm", reason="", actor="ann"))


def test_events_survive_the_log() -> None:
    """Encoded and decoded by name, the fold is the same; its label fits the store."""
    events = [ejected(1), throttled(2), restored(3)]
    again = [DECIDERS.decode_event(e.name, msgspec.json.encode(e)) for e in events]
    assert state_after(*again) == state_after(*events)
    state = state_after(*events)
    assert state is not None
    assert len(state.label) <= 32
    assert DECIDERS.decode_state(KIND, msgspec.json.encode(state)) == state


def test_status_page_says_what_is() -> None:
    """One signer ejected, one disabled: partial outage, with reasons, and it encodes."""
    router = Router(ManualClock())
    for _ in range(3):
        call = router.started(Pick("a", "preferred", ""))
        assert call is not None
        router.finished(call, BAD_SIGNATURE)
    router.disable("b", "ceremony")
    signers = router.snapshot()
    out, disabled = out_of_use(signers)
    assert (out, disabled) == (("a",), ("b",))
    page = status(
        site="home",
        version="0.1",
        at_ms=1,
        mode=SiteMode(label="degraded"),
        observed=Observed(ejected=out, disabled=disabled),
        limits=Limits(),
        signers=signers,
    )
    assert page.mode_since_ms is None, "not the start of 1970"
    assert page.verdict == "partial-outage"
    assert page.reasons == ("provider-ejected: a", "provider-disabled: b")
    assert b'"verdict":"partial-outage"' in msgspec.json.encode(page)


@pytest.mark.parametrize(
    ("mode", "verdict"),
    [
        ("normal", "operational"),
        ("degraded", "degraded"),
        ("isolated", "degraded"),
        ("read-only", "outage"),
    ],
)
def test_the_word_at_the_top(mode: str, verdict: str) -> None:
    """Each mode has its word."""
    page = status(
        site="home",
        version="0.1",
        at_ms=1,
        mode=SiteMode(label=mode),  # type: ignore[arg-type]  # the literals, spelt out
        observed=Observed(),
        limits=Limits(),
    )
    assert page.verdict == verdict
