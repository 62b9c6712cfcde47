"""Kinds of job and nodes: what goes on record, and what changes nothing."""

from __future__ import annotations

import pytest

from outlast.core.decider import Command
from outlast.core.errors import Refused
from outlast.operations.model.jobkind import (
    JobKind,
    JobKindDecider,
    JobKindPaused,
    JobKindResumed,
    PauseJobKind,
    ResumeJobKind,
)
from outlast.operations.model.node import Node, NodeDecider, StartNode, StopNode
from outlast.operations.model.reason import MAX_REASON_CHARS


def pause(reason: str = "why", at_ms: int = 5) -> PauseJobKind:
    """A person pauses."""
    return PauseJobKind(at_ms=at_ms, kind="k", reason=reason, actor="p")


def resume(reason: str = "over", at_ms: int = 9) -> ResumeJobKind:
    """A person resumes."""
    return ResumeJobKind(at_ms=at_ms, kind="k", reason=reason, actor="q")


def folded(*commands: Command) -> JobKind | None:
    """The kind after commands."""
    decider, state = JobKindDecider(), None
    for command in commands:
        for event in decider.decide(command, state).events:
            state = decider.evolve(state, event)
    return state


def test_paused_and_resumed() -> None:
    """Each switch is one event with actor, reason and time."""
    decider = JobKindDecider()
    (event,) = decider.decide(pause(), None).events
    assert event == JobKindPaused(kind="k", reason="why", actor="p", at_ms=5)
    assert folded(pause()) == JobKind(label="paused", reason="why", actor="p", at_ms=5)
    (event,) = decider.decide(resume(), folded(pause())).events
    assert isinstance(event, JobKindResumed)
    assert folded(pause(), resume()) == JobKind(reason="over", actor="q", at_ms=9)


def test_what_holds_already_is_no_event() -> None:
    """Resuming what runs, or pausing again for the same reason, changes nothing; for another reason it is said."""
    decider = JobKindDecider()
    assert decider.decide(resume(), None).events == ()
    assert decider.decide(pause(), folded(pause())).events == ()
    assert len(decider.decide(pause("other"), folded(pause())).events) == 1


@pytest.mark.parametrize("command", [pause(" "), resume("")])
def test_nothing_without_a_reason(command: Command) -> None:
    """A switch without a reason is refused."""
    with pytest.raises(Refused, match="reason-missing"):
        JobKindDecider().decide(command, folded(pause()))


def test_a_long_reason_is_cut() -> None:
    """Nobody fills the log with one switch."""
    state = folded(pause("x" * 5000))
    assert state is not None
    assert len(state.reason) == MAX_REASON_CHARS


def node(*commands: Command) -> Node | None:
    """The node after commands."""
    decider, state = NodeDecider(), None
    for command in commands:
        for event in decider.decide(command, state).events:
            state = decider.evolve(state, event)
    return state


def start(process: str, at_ms: int) -> StartNode:
    """A process starts."""
    return StartNode(at_ms=at_ms, node="a", process=process, version="1")


def test_a_node_starts_and_stops() -> None:
    """Its record says since when, and until when."""
    up = node(start("p1", 1))
    assert up == Node(label="up", node="a", process="p1", version="1", started_ms=1)
    down = node(start("p1", 1), StopNode(at_ms=3, node="a", process="p1"))
    assert down is not None
    assert (down.label, down.stopped_ms) == ("stopped", 3)


def test_a_process_of_before_has_no_say() -> None:
    """Once another process has taken the name, the end of the first says nothing about the node."""
    found = node(start("p1", 1), start("p2", 2), StopNode(at_ms=3, node="a", process="p1"))
    assert found is not None
    assert (found.label, found.process) == ("up", "p2")
    assert NodeDecider().decide(StopNode(at_ms=1, node="a", process="x"), None).events == ()
