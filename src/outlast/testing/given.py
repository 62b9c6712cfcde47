"""Given events, when a command, then events: how a decider's rules are written down as tests.

    given(RequestDecider(), requested, started).when(fail).then(failed)
    given(RequestDecider(), requested).when(cancel).refused("too-late")
    given(RequestDecider(), cancelled).when(cancel).nothing()

Every decision is also checked for what holds of all of them: it does not change the state it was given, its events
fold, and events and states survive their encoding unchanged.
"""

from __future__ import annotations

from typing import Any

import msgspec

from outlast.core.decider import Command, Decider, Deciders, Decision, Event, NewJob
from outlast.core.errors import Conflict, Refused


class Given:
    """A stream with these events behind it."""

    def __init__(self, decider: Decider[Any, Any], *events: Event) -> None:
        self._decider = decider
        self._deciders = Deciders([decider])
        self.state = self._deciders.fold(decider.kind, events)
        for event in events:
            self._survives_encoding(event)

    def when(self, command: Command) -> Outcome:
        """What the command leads to."""
        before = msgspec.json.encode(self.state)
        try:
            decision = self._decider.decide(command, self.state)
        except (Refused, Conflict) as error:
            return Outcome(error, self.state)
        assert msgspec.json.encode(self.state) == before, "deciding changed the state"
        state = self.state
        for event in decision.events:
            self._survives_encoding(event)
            state = self._decider.evolve(state, event)
        if state is not None:
            stored = msgspec.json.encode(state)
            assert self._deciders.decode_state(self._decider.kind, stored) == state
            assert len(state.label) <= 32
        return Outcome(decision, state)

    def _survives_encoding(self, event: Event) -> None:
        assert self._deciders.decode_event(event.name, msgspec.json.encode(event)) == event


class Outcome:
    """A decision or an error, and the state after it."""

    def __init__(self, result: Decision[Any] | Refused | Conflict, state: Any) -> None:
        self.result = result
        self.state = state

    @property
    def decision(self) -> Decision[Any]:
        """The decision; fails when there was an error."""
        assert isinstance(self.result, Decision), repr(self.result)
        return self.result

    def then(self, *events: Event, jobs: tuple[NewJob, ...] = ()) -> Any:
        """Exactly these events and jobs; returns the state after them."""
        assert self.decision.events == events, f"{self.decision.events}\nexpected {events}"
        assert self.decision.jobs == jobs, f"{self.decision.jobs}\nexpected {jobs}"
        return self.state

    def nothing(self) -> None:
        """The command was already true: no event, no job, no error."""
        self.then()

    def refused(self, code: str) -> None:
        """Refused with this code: nothing that repeating could help."""
        assert isinstance(self.result, Refused), repr(self.result)
        assert self.result.code == code, self.result.code

    def conflicts(self, code: str) -> None:
        """Somebody else was first; and repeating cannot help."""
        assert isinstance(self.result, Conflict), repr(self.result)
        assert (self.result.code, self.result.retry) == (code, "never")


def given(decider: Decider[Any, Any], *events: Event) -> Given:
    """A stream with these events behind it."""
    return Given(decider, *events)
