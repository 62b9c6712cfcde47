"""Which provider to try first, which next, and why not the others.

``choose`` is a pure function of what is allowed, what is preferred and what is known of each provider's health.
Guarantees: a provider that policy or region forbids is never in the order, whatever else fails; nobody disabled
by hand and nobody who asked to be left alone is; if any provider is allowed but all are ejected, they are tried
all the same, each at a bounded rate (``last-resort``): an open breaker on the only way is an outage of our own
making. The same input gives the same order. Every provider is in the answer once, with a stable word and a text.

It knows no clock: ``Health`` says how many milliseconds remain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from outlast.core.routing.breaker import State

PickReason = Literal["preferred", "next", "unranked", "probe", "burning", "last-resort"]
RejectReason = Literal[
    "policy",
    "region",
    "already-tried",
    "disabled",
    "throttled",
    "retry-budget",
    "ejected",
    "probing",
]


class Candidate(msgspec.Struct, frozen=True):
    """A provider that could do the work. ``region`` is dash-separated from wide to narrow: ``eu-de-1``."""

    provider: str
    region: str = ""


class RoutePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy class asks of routing."""

    preferred: tuple[str, ...] = ()
    """Providers in the order the class wants them. Others follow by name."""
    regions: tuple[str, ...] = ()
    """Regions the work may be done in; ``eu`` admits ``eu-de-1``. Empty: anywhere."""
    denied: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Providers that policy forbids for this request, and the policy's reason."""


class RouteRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work to be routed."""

    tried: frozenset[str] = frozenset()
    """Providers already tried in this round: not again."""
    retrying: frozenset[str] = frozenset()
    """Providers tried in an earlier round: again only within their retry budget."""


class Health(msgspec.Struct, frozen=True):
    """What routing needs to know of one provider now. Times are milliseconds from now; 0: over."""

    state: State = "closed"
    probe_free: bool = False
    """Half-open, and a user's request may probe it now."""
    burning: bool = False
    """It spends its error budget too fast."""
    disabled: str = ""
    """Why a person disabled it; empty: nobody did."""
    throttled_ms: int = 0
    open_ms: int = 0
    last_resort_ms: int = 0
    """Until it may be tried although it is ejected."""
    retry_ms: int = 0
    """Until its retry budget allows a retry."""


HEALTHY = Health()


class Pick(msgspec.Struct, frozen=True):
    """A provider to try, and why it stands where it stands."""

    provider: str
    reason: PickReason
    text: str


class Rejection(msgspec.Struct, frozen=True):
    """A provider not to try, and why."""

    provider: str
    reason: RejectReason
    text: str


class Choice(msgspec.Struct, frozen=True):
    """Providers to try in order, and the others. With nothing to try, ``retry_in_ms`` says when there will be
    something if nothing else changes; None: time alone does not help (a new round may, after ``already-tried``)."""

    order: tuple[Pick, ...]
    rejected: tuple[Rejection, ...]
    retry_in_ms: int | None = None


def choose(
    candidates: Sequence[Candidate],
    policy: RoutePolicy,
    health: Mapping[str, Health],
    request: RouteRequest,
) -> Choice:
    """Order the candidates. A provider without an entry in ``health`` counts as healthy; one given twice
    counts once."""
    picks: list[tuple[int, int, Pick]] = []
    rejected: list[Rejection] = []
    ejected: list[tuple[int, Candidate, Health]] = []
    waits: list[int] = []
    for rank, candidate in _ranked(candidates, policy.preferred):
        state = health.get(candidate.provider, HEALTHY)
        refusal = _forbidden(candidate, policy, request)
        if refusal is None and state is not HEALTHY:
            refusal = _blocked(candidate, state, request)
        if refusal is not None:
            rejected.append(refusal)
            if refusal.reason in ("throttled", "retry-budget"):
                waits.append(max(state.throttled_ms, state.retry_ms))
        elif state.state == "closed" or state.probe_free:
            picks.append((1 if state.burning else 0, rank, _pick(candidate, state, rank, policy)))
        else:
            ejected.append((rank, candidate, state))
    if not picks:
        return _last_resort(ejected, rejected, waits)
    rejected.extend(_out(candidate, state) for _, candidate, state in ejected)
    picks.sort(key=_place)
    return Choice(tuple(pick for _, _, pick in picks), tuple(rejected))


def region_allowed(region: str, allowed: Iterable[str]) -> bool:
    """Whether a region lies in one of the allowed ones, by whole dash-separated parts."""
    for wide in allowed:  # a loop: a generator costs three times as much
        if region.startswith(wide) and (region == wide or region[len(wide)] == "-"):
            return True
    return False


def _place(entry: tuple[int, int, Pick]) -> tuple[int, int, str]:
    return entry[0], entry[1], entry[2].provider


def _ranked(
    candidates: Sequence[Candidate], preferred: tuple[str, ...]
) -> Iterable[tuple[int, Candidate]]:
    seen: set[str] = set()
    unranked = len(preferred)
    for candidate in candidates:
        provider = candidate.provider
        if provider in seen:
            continue
        seen.add(provider)
        yield (preferred.index(provider) if provider in preferred else unranked), candidate


def _forbidden(
    candidate: Candidate, policy: RoutePolicy, request: RouteRequest
) -> Rejection | None:
    """Rules that no outage softens."""
    provider = candidate.provider
    if policy.denied and provider in policy.denied:
        return Rejection(provider, "policy", policy.denied[provider])
    if policy.regions and not region_allowed(candidate.region, policy.regions):
        allowed = ", ".join(policy.regions)
        where = candidate.region or "an unnamed region"
        return Rejection(provider, "region", f"it is in {where}; the class allows {allowed}")
    if request.tried and provider in request.tried:
        return Rejection(provider, "already-tried", "it was tried in this round")
    return None


def _blocked(candidate: Candidate, health: Health, request: RouteRequest) -> Rejection | None:
    """Reasons of the moment that hold even for the last provider."""
    provider = candidate.provider
    if health.disabled:
        return Rejection(provider, "disabled", f"disabled by hand: {health.disabled}")
    if health.throttled_ms > 0:
        text = f"it asked to be left alone for {health.throttled_ms} ms more"
        return Rejection(provider, "throttled", text)
    if health.retry_ms > 0 and provider in request.retrying:
        return Rejection(provider, "retry-budget", "its retry budget is spent")
    return None


def _pick(candidate: Candidate, health: Health, rank: int, policy: RoutePolicy) -> Pick:
    provider = candidate.provider
    if health.state == "half-open":
        return Pick(provider, "probe", "its ejection is over; this request probes it")
    if health.burning:
        return Pick(provider, "burning", "it spends its error budget too fast; others come first")
    if rank == 0 and policy.preferred:
        return Pick(provider, "preferred", "first choice of the class")
    if rank < len(policy.preferred):
        return Pick(provider, "next", f"choice {rank + 1} of the class")
    return Pick(provider, "unranked", "allowed, without a rank in the class")


def _out(candidate: Candidate, health: Health) -> Rejection:
    if health.state == "open":
        return Rejection(candidate.provider, "ejected", f"ejected for {health.open_ms} ms more")
    return Rejection(candidate.provider, "probing", "it is being probed; no further probe is due")


def _last_resort(
    ejected: list[tuple[int, Candidate, Health]], rejected: list[Rejection], waits: list[int]
) -> Choice:
    """Nobody healthy is allowed: try the ejected ones whose last try is long enough ago."""
    ejected.sort(key=lambda entry: (entry[0], entry[1].provider))
    picks: list[Pick] = []
    for _, candidate, health in ejected:
        if health.last_resort_ms > 0:
            rejected.append(_out(candidate, health))
            waits.append(health.last_resort_ms)
        else:
            text = "ejected, but no other allowed provider is left"
            picks.append(Pick(candidate.provider, "last-resort", text))
    if picks:
        return Choice(tuple(picks), tuple(rejected))
    return Choice((), tuple(rejected), min(waits, default=None))
