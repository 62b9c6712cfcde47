"""What every TimestampAuthority must do: one suite for the fake and for the client of real authorities.

An authority under test is described once, as a `TimestampBench`. Each check is an async function that asserts;
``ALWAYS`` apply to all, ``STATES`` where the bench has that state. Tokens are verified again, offline, from their bytes alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import anyio
import msgspec

from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.core.rfc3161 import TsaRules, verify_token
from outlast.ports.timestamp import TimestampAuthority, Token

CONCURRENCY = 16
KILLED_WITHIN_S = 2.0
CALLER_TIMEOUT_S = 0.5
CANCEL_GRACE_S = 0.75
"""How much later than the caller's timeout a call may still return, on a busy machine."""

AuthorityContext = Callable[[], AbstractAsyncContextManager[TimestampAuthority]]


class TimestampBench(msgspec.Struct, frozen=True, kw_only=True):
    """One authority under test. ``now_ms`` reads the clock it is compared with. The optional contexts yield an
    authority in that state: ``killed`` cannot be reached, ``hung`` takes a request and is silent, ``rejecting``
    says no, ``lying`` issues tokens that must not be believed."""

    name: str
    open_authority: AuthorityContext
    rules: TsaRules
    now_ms: Callable[[], int]
    qualified: bool = False
    killed: AuthorityContext | None = None
    hung: AuthorityContext | None = None
    rejecting: AuthorityContext | None = None
    lying: AuthorityContext | None = None


Check = Callable[[TimestampBench], Awaitable[None]]


def digest_of(number: int) -> bytes:
    """A digest for tests."""
    return hashlib.sha256(f"document {number}".encode()).digest()


async def check_token_is_good(bench: TimestampBench) -> None:
    """A token verifies offline over its digest, says who and when, and is inside its response."""
    async with bench.open_authority() as authority:
        token = await authority.stamp(digest_of(1))
    verified = verify_token(token.der, digest_of(1), bench.rules)
    assert (verified.serial, verified.gen_time_ms) == (token.serial, token.gen_time_ms)
    assert verified.policy_oid == token.policy_oid
    assert token.der in token.response_der
    assert abs(token.gen_time_ms - bench.now_ms()) <= bench.rules.max_skew_ms
    assert token.authority == bench.name
    assert token.qualified is bench.qualified


async def check_token_is_over_its_digest_only(bench: TimestampBench) -> None:
    """The same token does not verify over another digest."""
    async with bench.open_authority() as authority:
        token = await authority.stamp(digest_of(1))
    try:
        verify_token(token.der, digest_of(2), bench.rules)
    except Refused as error:
        code = error.code
    else:
        code = ""
    assert code == "tsa-bad-token"


async def check_concurrent(bench: TimestampBench) -> None:
    """Many at once: each gets a token over its own digest, no serial number twice."""
    tokens: dict[int, Token] = {}

    async with bench.open_authority() as authority:

        async def one(number: int) -> None:
            tokens[number] = await authority.stamp(digest_of(number))

        async with anyio.create_task_group() as group:
            for number in range(CONCURRENCY):
                group.start_soon(one, number)
    for number, token in tokens.items():
        verify_token(token.der, digest_of(number), bench.rules)
    assert len({token.serial for token in tokens.values()}) == CONCURRENCY


async def check_same_digest_again(bench: TimestampBench) -> None:
    """A second token over the same digest does no harm and is another token."""
    async with bench.open_authority() as authority:
        one, two = await authority.stamp(digest_of(1)), await authority.stamp(digest_of(1))
    assert one.serial != two.serial
    assert one.der != two.der


async def check_reachable(bench: TimestampBench) -> None:
    """`check` returns for an authority that is there."""
    async with bench.open_authority() as authority:
        await authority.check()


async def check_closed(bench: TimestampBench) -> None:
    """A closed authority is Unavailable, and may be closed twice."""
    async with bench.open_authority() as authority:
        await authority.aclose()
        assert isinstance(await _failure(authority.stamp(digest_of(1))), Unavailable)
        await authority.aclose()


async def check_killed(bench: TimestampBench) -> None:
    """An authority that is gone is Unavailable at once, for tokens and for the check."""
    assert bench.killed is not None
    async with bench.killed() as authority:
        with anyio.fail_after(KILLED_WITHIN_S):
            assert isinstance(await _failure(authority.stamp(digest_of(1))), Unavailable)
            assert isinstance(await _failure(authority.check()), Unavailable)


async def check_hung(bench: TimestampBench) -> None:
    """A caller that gives up on a silent authority gets its way promptly."""
    assert bench.hung is not None
    async with bench.hung() as authority:
        with anyio.fail_after(CALLER_TIMEOUT_S + CANCEL_GRACE_S):
            with anyio.move_on_after(CALLER_TIMEOUT_S) as scope:
                await authority.stamp(digest_of(1))
            assert scope.cancelled_caught


async def check_rejecting(bench: TimestampBench) -> None:
    """A refusal is Refused ``tsa-rejected``, and sends the caller elsewhere."""
    assert bench.rejecting is not None
    async with bench.rejecting() as authority:
        error = await _failure(authority.stamp(digest_of(1)))
    assert isinstance(error, Refused)
    assert (error.code, error.retry) == ("tsa-rejected", "elsewhere")


async def check_lying(bench: TimestampBench) -> None:
    """A token that must not be believed is Refused ``tsa-bad-token``, and sends the caller elsewhere."""
    assert bench.lying is not None
    async with bench.lying() as authority:
        error = await _failure(authority.stamp(digest_of(1)))
    assert isinstance(error, Refused)
    assert (error.code, error.retry) == ("tsa-bad-token", "elsewhere")


ALWAYS: tuple[Check, ...] = (
    check_token_is_good,
    check_token_is_over_its_digest_only,
    check_concurrent,
    check_same_digest_again,
    check_reachable,
    check_closed,
)
STATES: dict[str, Check] = {
    "killed": check_killed,
    "hung": check_hung,
    "rejecting": check_rejecting,
    "lying": check_lying,
}
CHECKS: tuple[Check, ...] = (*ALWAYS, *STATES.values())


async def _failure(attempt: Awaitable[object]) -> OutlastError:
    try:
        await attempt
    except OutlastError as error:
        return error
    raise AssertionError("expected a failure")
