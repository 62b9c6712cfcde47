"""The site's mode: the rule, and the decider given events, when command, then events."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.core.decider import Command, Deciders, Event
from outlast.core.errors import Refused, Unavailable
from outlast.operations.model.mode import (
    KIND,
    Assessment,
    AssessMode,
    Limits,
    Mode,
    ModeDecider,
    ModeEntered,
    ModeReleased,
    Observed,
    ReleaseMode,
    SetMode,
    SiteMode,
    assess,
    refusal,
)

LIMITS = Limits(disk_low_bytes=500 * 2**20, disk_ok_bytes=600 * 2**20)
WELL = Observed(remote_configured=2, remote_reachable=2, disk_free_bytes=2**40)
AILING = Observed(ejected=("hsm",), remote_configured=2, remote_reachable=1)
DECIDERS = Deciders([ModeDecider()])


def state_after(*events: Event) -> SiteMode | None:
    """The fold of a history."""
    state: SiteMode | None = DECIDERS.fold(KIND, events)
    return state


def decide(command: Command, *history: Event) -> tuple[Event, ...]:
    """What a command leads to after a history."""
    return ModeDecider().decide(command, state_after(*history)).events


def entered(mode: Mode, previous: Mode = "normal", by_hand: bool = False) -> ModeEntered:
    """A past entry into a mode."""
    return ModeEntered(
        mode=mode, previous=previous, reasons=("r",), actor="ann", by_hand=by_hand, at_ms=5
    )


@pytest.mark.parametrize(
    ("observed", "mode", "words"),
    [
        (Observed(), "normal", []),
        (WELL, "normal", []),
        (AILING, "degraded", ["provider-ejected"]),
        (Observed(disabled=("hsm",)), "degraded", ["provider-disabled"]),
        (Observed(timestamps_owed=3), "degraded", ["timestamps-owed"]),
        (Observed(remote_configured=1), "isolated", ["isolated"]),
        (
            Observed(remote_configured=1, ejected=("tsa",)),
            "isolated",
            ["isolated", "provider-ejected"],
        ),
        (Observed(disk_free_bytes=2**20, remote_configured=1), "read-only", ["disk-low"]),
        (Observed(log_damage="entry 7 differs"), "read-only", ["log-damaged"]),
    ],
)
def test_the_rule(observed: Observed, mode: Mode, words: list[str]) -> None:
    """The worst that applies wins, and every reason is named."""
    assessment = assess(observed, LIMITS)
    assert assessment.mode == mode
    assert [reason.partition(":")[0] for reason in assessment.reasons] == words


def test_the_disk_thresholds_do_not_flutter() -> None:
    """Between low and ok the mode stays what it is."""
    between = Observed(disk_free_bytes=550 * 2**20)
    assert assess(between, LIMITS, "normal").mode == "normal"
    assert assess(between, LIMITS, "read-only").mode == "read-only"


@given(
    st.builds(
        Observed,
        ejected=st.sampled_from([(), ("a",)]),
        timestamps_owed=st.integers(0, 2),
        remote_configured=st.integers(0, 2),
        remote_reachable=st.integers(0, 2),
        disk_free_bytes=st.sampled_from([None, 0, 550 * 2**20, 2**40]),
        log_damage=st.sampled_from(["", "x"]),
    ),
    st.sampled_from(["normal", "degraded", "isolated", "read-only"]),
)
def test_the_rule_settles(observed: Observed, current: Mode) -> None:
    """Applied to its own answer, the rule gives the same mode; any mode but normal has a reason."""
    first = assess(observed, LIMITS, current)
    assert assess(observed, LIMITS, first.mode).mode == first.mode
    assert bool(first.reasons) == (first.mode != "normal")


def test_entering_by_rule_is_recorded_once() -> None:
    """The first assessment writes, the same again does not."""
    command = AssessMode(at_ms=9, observed=AILING, limits=LIMITS)
    (event,) = decide(command)
    assert event == ModeEntered(
        mode="degraded",
        previous="normal",
        reasons=("provider-ejected: hsm",),
        actor="site",
        at_ms=9,
    )
    assert decide(command, event) == ()


def test_recovery_has_a_reason() -> None:
    """Back to normal says so."""
    (event,) = decide(AssessMode(at_ms=9, observed=WELL), entered("degraded"))
    assert isinstance(event, ModeEntered)
    assert (event.mode, event.reasons) == ("normal", ("recovered: all is well",))


def test_a_mode_set_by_hand_holds_until_released() -> None:
    """The rule is silent while a person's word stands; released, it speaks at once."""
    (by_hand,) = decide(SetMode(at_ms=1, mode="read-only", reason="audit", actor="ann"))
    assert isinstance(by_hand, ModeEntered)
    assert (by_hand.by_hand, by_hand.reasons, by_hand.actor) == (True, ("by-hand: audit",), "ann")
    assert decide(AssessMode(at_ms=2, observed=AILING), by_hand) == ()
    release = ReleaseMode(at_ms=3, reason="done", actor="ann", observed=AILING)
    released, after = decide(release, by_hand)
    assert released == ModeReleased(reason="done", actor="ann", at_ms=3)
    assert isinstance(after, ModeEntered)
    assert (after.mode, after.previous, after.by_hand) == ("degraded", "read-only", False)
    assert state_after(by_hand, released, after) == SiteMode(
        label="degraded", since_ms=3, reasons=after.reasons, actor="ann", held=False
    )


def test_setting_the_same_twice_is_once() -> None:
    """Same mode, same reason, already held: nothing is written."""
    command = SetMode(at_ms=1, mode="degraded", reason="drill", actor="ann")
    (event,) = decide(command)
    assert decide(command, event) == ()


def test_by_hand_needs_a_reason_and_release_something_held() -> None:
    """Refusals of the two commands."""
    with pytest.raises(Refused, match="reason-missing"):
        decide(SetMode(at_ms=1, mode="normal", reason="  ", actor="ann"))
    with pytest.raises(Refused, match="mode-not-held"):
        decide(ReleaseMode(at_ms=1, reason="x", actor="ann", observed=WELL), entered("degraded"))


@pytest.mark.parametrize(
    ("mode", "stopped"),
    [
        ("normal", set()),
        ("degraded", set()),
        ("isolated", {"remote"}),
        ("read-only", {"accept", "local", "remote"}),
    ],
)
def test_what_a_mode_stops(mode: Mode, stopped: set[str]) -> None:
    """Reading and operating never stop; what stops is Unavailable with a time, never Refused."""
    for work in ("read", "accept", "local", "remote", "operate"):
        error = refusal(mode, work)  # type: ignore[arg-type]  # the literals, spelt out
        assert (error is not None) == (work in stopped)
        if error is not None:
            assert isinstance(error, Unavailable)
            assert error.retry_after_s


def test_events_survive_the_log() -> None:
    """Encoded as JSON and decoded by their names, events fold to the same state."""
    events = [entered("isolated", by_hand=True), ModeReleased(reason="r", actor="a", at_ms=9)]
    again = [DECIDERS.decode_event(e.name, msgspec.json.encode(e)) for e in events]
    assert again == events
    assert state_after(*again) == state_after(*events)
    state = msgspec.json.encode(state_after(*events))
    assert DECIDERS.decode_state(KIND, state) == state_after(*events)


def test_assessment_of_nothing_is_normal() -> None:
    """A site with nothing configured outside and nothing wrong is normal, not isolated."""
    assert assess(Observed(), Limits()) == Assessment("normal")
