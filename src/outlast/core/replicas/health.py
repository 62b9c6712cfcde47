"""Which blob stores are in use now: a router over them, asked by name.

A store is judged by how it answers once it has been given everything (a put) or has been asked (a get, until its
first bytes): how long a large body takes to arrive is its sender's affair. One that refuses our credentials, or has no
such bucket, is out at once: every call would be answered the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from outlast.core.clock import Clock
from outlast.core.errors import OutlastError, Unavailable
from outlast.core.routing.breaker import BreakerConfig
from outlast.core.routing.choose import Candidate, RoutePolicy, RouteRequest
from outlast.core.routing.health import ProviderConfig
from outlast.core.routing.latency import DeadlineConfig
from outlast.core.routing.outcome import OK, outcome_of
from outlast.core.routing.router import Call, Router

STALL_MS = 2_000
"""A store that owes an answer for so long is left."""
RETRY_AFTER_S = 5.0
"""Suggested wait when no store can be used and none says when."""

STORE_HEALTH = ProviderConfig(
    breaker=BreakerConfig(
        check_first=True,
        stall_ms=STALL_MS,
        slow_call_ms=STALL_MS - 500,
        refusal_opens=True,
    ),
    deadline=DeadlineConfig(max_ms=STALL_MS),
)

PREFIX = "blobs."
"""Before a store's name where it stands among providers: on record, in figures, when it is disabled by hand."""

T = TypeVar("T")
_ANY = RouteRequest()


class Plan(NamedTuple):
    """``use``: calls to make by store, the preferred first; ``out``: the others and why (a stable word)."""

    use: dict[str, Call]
    out: dict[str, str]


class StoreHealth:
    """Health of the named stores; ``names`` in order of preference. ``router`` may be shown and drained."""

    def __init__(self, names: Sequence[str], clock: Clock) -> None:
        self.names = tuple(names)
        routed = tuple(PREFIX + name for name in self.names)
        self.router = Router(clock, dict.fromkeys(routed, STORE_HEALTH))
        self._candidates = [Candidate(name) for name in routed]
        self._policy = RoutePolicy(preferred=routed)

    def routed(self, stores: Mapping[str, T]) -> dict[str, T]:
        """Stores by the names that the router knows them by."""
        return {PREFIX + name: store for name, store in stores.items()}

    def order(self) -> tuple[str, ...]:
        """Stores to read from, best first; those out of use last: one of them may be the only one to have it."""
        choice = self.router.plan(self._candidates, self._policy, _ANY)
        first = [_store(pick.provider) for pick in choice.order]
        disabled = {_store(r.provider) for r in choice.rejected if r.reason == "disabled"}
        return (*first, *(n for n in self.names if n not in first and n not in disabled))

    def plan(self) -> Plan:
        """Stores to write to, all at once."""
        choice = self.router.plan(self._candidates, self._policy, _ANY)
        out: dict[str, str] = {_store(r.provider): r.reason for r in choice.rejected}
        use: dict[str, Call] = {}
        for pick in choice.order:
            call = self.router.begin(pick)
            if call is None:
                out[_store(pick.provider)] = "ejected"
            else:
                use[_store(pick.provider)] = call
        return Plan(use, out)

    def in_use(self, name: str) -> bool:
        """Whether a store takes normal traffic."""
        choice = self.router.plan([Candidate(PREFIX + name)], self._policy, _ANY)
        return any(pick.reason != "last-resort" for pick in choice.order)

    def sent(self, calls: Iterable[Call]) -> None:
        """From now on these stores owe an answer."""
        for call in calls:
            self.router.sent(call)

    def started(self, name: str) -> Call | None:
        """A call that is made now whatever the store's state; None where it would say nothing about its health."""
        choice = self.router.plan([Candidate(PREFIX + name)], self._policy, _ANY)
        return self.router.started(choice.order[0]) if choice.order else None

    def finished(self, call: Call | None, error: BaseException | None = None) -> None:
        """How a call ended; a second end is ignored."""
        if call is not None:
            self.router.finished(call, OK if error is None else outcome_of(error))

    async def watched(self, name: str, work: Awaitable[T]) -> T:
        """The result of a short call to a store, held for or against it."""
        call = self.started(name)
        try:
            result = await work
        except BaseException as error:
            self.finished(call, error)
            raise
        self.finished(call)
        return result

    def explained(self, out: Mapping[str, str]) -> dict[str, str]:
        """``out`` of a plan, for people: with the code of each ejected store's last failure."""
        last = {_store(s.provider): s.last_failure for s in self.router.snapshot()}
        return {
            name: f"{word} ({last[name]})" if word == "ejected" and last.get(name) else word
            for name, word in out.items()
        }


def _store(provider: str) -> str:
    return provider.removeprefix(PREFIX)


def none_in_use(out: dict[str, str]) -> OutlastError:
    """No store takes a blob now."""
    why = ", ".join(f"{name}: {word}" for name, word in sorted(out.items()))
    return Unavailable(
        "blob-stores-unavailable",
        f"no blob store takes anything now ({why})",
        hint="`outlast blobs status` shows them. Nothing was stored.",
        retry_after_s=RETRY_AFTER_S,
        scope="site",
    )
