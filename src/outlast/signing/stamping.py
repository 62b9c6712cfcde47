"""Timestamps for signatures: from the first authority that answers with a token that verifies.

A token has no effect but itself, so a failed or silent authority is simply left for the next one; which were
tried is put on record with the token or the debt.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from outlast.core.errors import OutlastError, Unavailable
from outlast.core.routing.choose import Candidate, RoutePolicy, RouteRequest
from outlast.core.routing.outcome import CANCELLED, OK, TIMED_OUT, Outcome, outcome_of
from outlast.core.routing.router import Call
from outlast.ports.timestamp import Token
from outlast.signing.classes import DocumentClass
from outlast.signing.model.request import Stamp
from outlast.signing.world import World


class Stamped(msgspec.Struct, frozen=True):
    """A token, or None, and the authorities that failed (``name:outcome``)."""

    token: Token | None
    tried: tuple[str, ...]


async def obtain_token(
    world: World, tenant: str, document_class: DocumentClass, digest: bytes
) -> Stamped:
    """Ask the class's authorities in the order that routing gives. Never raises for an authority's failure."""
    router = world.authority_router
    names = document_class.authorities or tuple(world.authorities)
    candidates = [
        Candidate(name, world.regions.get(name, "")) for name in names if name in world.authorities
    ]
    denied = {
        name: reason
        for name in names
        if (reason := world.denied(tenant, document_class.name, name))
    }
    policy = RoutePolicy(preferred=names, regions=document_class.residency, denied=denied)
    tried: list[str] = []
    asked: set[str] = set()
    for _ in candidates:
        choice = router.plan(candidates, policy, RouteRequest(tried=frozenset(asked)))
        if not choice.order:
            break
        pick = choice.order[0]
        asked.add(pick.provider)
        call = router.started(pick)
        if call is None:
            continue
        token, outcome = await _asked(world, call, digest)
        router.finished(call, outcome)
        if token is not None:
            return Stamped(token, tuple(tried))
        tried.append(f"{pick.provider}:{outcome.kind}")
    return Stamped(None, tuple(tried))


async def _asked(world: World, call: Call, digest: bytes) -> tuple[Token | None, Outcome]:
    """`_ask`, as a span of its own where there is a tracer."""
    if world.tracer is None:
        return await _ask(world, call, digest)
    breaker = world.authority_router.state(call.provider)
    span = world.tracer.call("timestamp", "authority", call.provider, breaker)
    token, outcome = None, CANCELLED
    try:
        token, outcome = await _ask(world, call, digest)
    finally:
        if span is not None:
            span.called(outcome.kind, outcome.failed, outcome.code)
    return token, outcome


async def _ask(world: World, call: Call, digest: bytes) -> tuple[Token | None, Outcome]:
    authority = world.authorities[call.provider]
    deadline_ms = world.authority_router.deadline_ms(call.provider)
    try:
        return await world.within(deadline_ms, authority.stamp(digest)), OK
    except TimeoutError:
        return None, TIMED_OUT
    except Exception as error:
        return None, outcome_of(error)
    except BaseException:
        world.authority_router.finished(call, Outcome("cancelled"))
        raise


async def record_of(world: World, tenant: str, token: Token, *, document: bool = False) -> Stamp:
    """The token as it goes on record, its response stored."""
    blob = await world.bodies.put_bytes(tenant, token.response_der)
    return Stamp(
        authority=token.authority,
        gen_time_ms=token.gen_time_ms,
        token_sha256=sha256(token.der).hexdigest(),
        blob=blob,
        qualified=token.qualified,
        document=document,
    )


def nobody(tried: tuple[str, ...]) -> OutlastError:
    """No authority gave a token."""
    return Unavailable(
        "no-timestamp",
        f"no timestamp authority answered ({', '.join(tried) or 'all are ejected'})",
        hint="The request waits and is retried by itself; see `outlast status`.",
    )
