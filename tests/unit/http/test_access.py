"""API keys: what is on record, whose a token is, and how fast a revocation is noticed."""

from __future__ import annotations

import pytest

from outlast.core.access import (
    CACHE_S,
    SCOPES,
    Access,
    ApiKeyDecider,
    Authenticator,
    CreateApiKey,
    Principal,
    RevokeApiKey,
)
from outlast.core.clock import HybridClock, ManualClock
from outlast.core.commit import Committer, Idempotency, Planner
from outlast.core.decider import Deciders
from outlast.core.errors import Refused, Unavailable
from outlast.core.ids import Ids
from outlast.core.store.port import WriteSet
from outlast.testing.store import MemoryStore

pytestmark = pytest.mark.anyio


class Bench:
    """Keys over a store in memory. ``informed``: the authenticator sees the commits."""

    def __init__(self, *, informed: bool = True) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore()
        deciders = Deciders([ApiKeyDecider()])
        planner = Planner(deciders, HybridClock(self.clock), "here")
        self.authenticator = Authenticator(self.store, deciders, self.clock)

        def on_commit(write: WriteSet) -> None:
            if informed:
                self.authenticator.committed(write)

        committer = Committer(self.store, planner, self.clock, on_commit)
        self.access = Access(committer, self.store, deciders, self.clock, Ids(self.clock))

    async def make(self, *scopes: str, expires_ms: int = 0, per_s: float = 0.0) -> tuple[str, str]:
        """A key's id and token."""
        made = await self.access.create(
            by="me", tenant="t", scopes=scopes or SCOPES, expires_ms=expires_ms, per_s=per_s
        )
        assert made.token is not None
        return made.id, made.token


async def test_token_opens_what_its_key_may() -> None:
    """A token gives tenant, actor and scopes of its key."""
    bench = Bench()
    key_id, token = await bench.make("documents:read")
    principal = await bench.authenticator.authenticate(token)
    assert principal == Principal(
        tenant="t", actor=f"api-key:{key_id}", scopes=frozenset({"documents:read"})
    )
    principal.require("documents:read")
    with pytest.raises(Refused, match="scope-missing"):
        principal.require("admin")


async def test_secret_is_nowhere() -> None:
    """Neither log nor state holds the secret or the token."""
    bench = Bench()
    _, token = await bench.make()
    secret = token.rsplit("_", 1)[1].encode()
    everything = repr(bench.store.disk.entries) + repr(bench.store.disk.streams)
    assert secret.decode() not in everything


async def test_revoked_key_is_refused_at_once() -> None:
    """In the process that commits the revocation, the next request is refused."""
    bench = Bench()
    key_id, token = await bench.make()
    await bench.authenticator.authenticate(token)
    await bench.access.revoke(by="me", key_id=key_id)
    with pytest.raises(Refused, match="token-revoked"):
        await bench.authenticator.authenticate(token)


async def test_another_nodes_revocation_is_noticed_in_time() -> None:
    """Without seeing the commit, a remembered key is asked for anew after CACHE_S."""
    bench = Bench(informed=False)
    key_id, token = await bench.make()
    await bench.authenticator.authenticate(token)
    await bench.access.revoke(by="me", key_id=key_id)
    await bench.authenticator.authenticate(token)
    bench.clock.advance(int(CACHE_S * 1000))
    with pytest.raises(Refused, match="token-revoked"):
        await bench.authenticator.authenticate(token)


async def test_expiry() -> None:
    """A key opens nothing from its expiry on, also while remembered."""
    bench = Bench()
    _, token = await bench.make(expires_ms=bench.clock.now_ms() + 1000)
    await bench.authenticator.authenticate(token)
    bench.clock.advance(1000)
    with pytest.raises(Refused, match="token-expired") as caught:
        await bench.authenticator.authenticate(token)
    assert caught.value.retry == "reauth"


async def test_rate_survives_being_looked_up_again() -> None:
    """A key's own rate holds, refills with time, and does not start afresh when the cache does."""
    bench = Bench()
    _, token = await bench.make(per_s=1.0)
    await bench.authenticator.authenticate(token)
    with pytest.raises(Unavailable, match="rate-limited"):
        await bench.authenticator.authenticate(token)
    bench.clock.advance(1000)
    await bench.authenticator.authenticate(token)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "ol",
        "ol__",
        "ol_x_y",
        "xx_" + "0" * 32 + "_" + "A" * 43,
        "ol_" + "é" * 32 + "_" + "A" * 43,
    ],
)
async def test_tokens_of_no_form_never_reach_the_store(token: str) -> None:
    """What does not look like a token is refused without a look-up."""
    bench = Bench()

    async def stream(key: object) -> None:
        raise AssertionError("the store was asked")

    bench.store.stream = stream  # type: ignore[method-assign,assignment]  # it must not be called
    with pytest.raises(Refused, match="token-invalid"):
        await bench.authenticator.authenticate(token)


async def test_creation_is_idempotent_but_shows_the_token_once() -> None:
    """The same Idempotency-Key names the same key; its token is not told again."""
    bench = Bench()
    once = Idempotency("k", b"body")
    made = [
        await bench.access.create(by="me", tenant="t", scopes=["operate"], idempotency=once)
        for _ in range(2)
    ]
    assert made[0].id == made[1].id
    assert made[0].token is not None
    assert made[1].token is None


def wish(**changes: object) -> CreateApiKey:
    """A good wish for a key, changed."""
    good = {"at_ms": 1000, "by": "me", "tenant": "t", "scopes": ("operate",), "secret_sha256": b"x"}
    return CreateApiKey(**{**good, **changes})  # type: ignore[arg-type]  # tests change any field


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"scopes": ()}, "unknown-scope"),
        ({"scopes": ("root",)}, "unknown-scope"),
        ({"tenant": ""}, "tenant-invalid"),
        ({"tenant": "a\nb"}, "tenant-invalid"),
        ({"title": "x" * 201}, "field-too-long"),
        ({"expires_ms": 999}, "expiry-past"),
        ({"per_s": -1.0}, "rate-invalid"),
        ({"per_s": float("nan")}, "rate-invalid"),
    ],
)
def test_wishes_refused(changes: dict[str, object], code: str) -> None:
    """A key that makes no sense is not made."""
    with pytest.raises(Refused, match=code):
        ApiKeyDecider().decide(wish(**changes), None)


def test_revoking_twice_and_what_is_not_there() -> None:
    """Given a revoked key, revoking again changes nothing; given none, it is not found."""
    decider = ApiKeyDecider()
    key = decider.evolve(None, decider.decide(wish(), None).events[0])
    revoke = RevokeApiKey(at_ms=2000, by="me", reason="lost")
    gone = decider.evolve(key, decider.decide(revoke, key).events[0])
    assert (gone.label, gone.revoked_ms, gone.reason) == ("revoked", 2000, "lost")
    assert decider.decide(revoke, gone).events == ()
    with pytest.raises(Refused, match="api-key-not-found"):
        decider.decide(revoke, None)
    with pytest.raises(Refused, match="api-key-exists"):
        decider.decide(wish(), gone)
