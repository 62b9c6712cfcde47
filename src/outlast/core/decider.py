"""The one shape of every domain: a pair of pure functions per aggregate.

``decide(command, state)`` says what a command leads to, or raises Refused. ``evolve(state, event)`` says what
the state is afterwards. Neither reads a clock, makes an identifier or touches the world: time, identifiers and
sequence numbers arrive in the command. State is always the fold of events; that is what makes a copy of the
log a copy of the site.

A state is a frozen msgspec struct. Its ``label`` (a short word such as a status) is kept beside it, so that
lists can be filtered without decoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from outlast.core.errors import Refused


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A past fact. ``name`` (``domain.past_participle``) goes into the log entry's ``type`` field and is never
    reused for another meaning; fields may be added with defaults, never removed."""

    name: ClassVar[str]


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """An imperative. ``at_ms`` is the time its sender saw (Unix ms). ``numbers`` are sequence numbers that the
    commit hands out, by counter name; they are consumed only if the command leads to an event."""

    at_ms: int
    numbers: Mapping[str, int] = {}


class State(Protocol):
    """What a fold produces: a frozen msgspec struct with a label."""

    @property
    def label(self) -> str:
        """A short word to filter lists by, 32 characters at most."""
        ...


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """Work to be done because of a decision. ``payload`` is a msgspec struct (kept as JSON, 16 KiB at most)."""

    kind: str
    payload: msgspec.Struct
    run_at_ms: int = 0


S = TypeVar("S", bound=State)
E = TypeVar("E", bound=Event)


class Decision(msgspec.Struct, Generic[E], frozen=True, kw_only=True):
    """What a command leads to. No events: the command was already true, and ``reply`` says so."""

    events: tuple[E, ...] = ()
    jobs: tuple[NewJob, ...] = ()
    reply: msgspec.Struct | None = None


class Decider(Protocol[S, E]):
    """One aggregate. ``kind`` names its streams (``signing.request``); ``state`` is the type of its state."""

    @property
    def kind(self) -> str:
        """The name of its kind of stream."""
        ...

    @property
    def state(self) -> type[S]:
        """The type of its state."""
        ...

    @property
    def events(self) -> tuple[type[E], ...]:
        """The types of its events."""
        ...

    def decide(self, command: Any, state: S | None) -> Decision[E]:
        """What ``command`` leads to on ``state`` (None: the stream has no event yet). Raises Refused."""
        ...

    def evolve(self, state: S | None, event: E) -> S:
        """The state after ``event``. Total: it never refuses a fact."""
        ...


class Deciders:
    """All aggregates of a program by the kind of their streams, with codecs for their states and events."""

    def __init__(self, deciders: Iterable[Decider[Any, Any]]) -> None:
        self._by_kind = {decider.kind: decider for decider in deciders}
        self._state = {
            kind: msgspec.json.Decoder(decider.state) for kind, decider in self._by_kind.items()
        }
        self._event = {
            event.name: msgspec.json.Decoder(event)
            for decider in self._by_kind.values()
            for event in decider.events
        }

    def of(self, kind: str) -> Decider[Any, Any]:
        """The decider of a kind of stream; raises Refused ``unknown-kind``."""
        try:
            return self._by_kind[kind]
        except KeyError:
            raise Refused("unknown-kind", f"no aggregate is called {kind!r}") from None

    def decode_state(self, kind: str, data: bytes) -> Any:
        """A stored state back as its struct."""
        return self._state[kind].decode(data)

    def decode_event(self, name: str, data: bytes) -> Event:
        """A log entry's ``data`` back as its event; raises Refused ``unknown-event``."""
        try:
            decoder = self._event[name]
        except KeyError:
            raise Refused("unknown-event", f"no event is called {name!r}") from None
        event: Event = decoder.decode(data)
        return event

    def fold(self, kind: str, events: Iterable[Event]) -> Any:
        """The state that a stream's events lead to, or None when there are none."""
        decider, state = self.of(kind), None
        for event in events:
            state = decider.evolve(state, event)
        return state
