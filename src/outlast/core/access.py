"""API keys: who may call, for which tenant, to do what.

Guarantees: a key's secret exists in its holder's hands only; here is its SHA-256 (it has 256 random bits, so nobody
finds it from that, and a slow hash would only slow us down). Keys are made and revoked by events, so the log
says who could do what at any time. A revoked key is refused by this process from the commit on, by another node
of the site within a second (see `Authenticator`). What a key may do is the union of its scopes; no scope includes another.

Leaves to others: how a token travels (surfaces), and what a tenant's data is (domains).
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, ClassVar

import msgspec

from outlast.core.backpressure import Gate, GateConfig
from outlast.core.clock import Clock
from outlast.core.commit import Committer, Idempotency, Receipt, Submission
from outlast.core.decider import Command, Deciders, Decision, Event
from outlast.core.errors import Refused, Unavailable
from outlast.core.ids import Ids, token
from outlast.core.news import Written
from outlast.core.store.port import Store, StreamKey

KIND = "access.key"
SITE_TENANT = "-"
"""The tenant of what belongs to the site itself."""

SCOPES = (
    "documents:read",
    "documents:write",
    "signatures:read",
    "signatures:write",
    "signatures:approve",
    "keys:read",
    "keys:write",
    "log:read",
    "log:append",
    "operate",
    "admin",
)
"""All there are. ``operate``: jobs, providers, modes, metrics. ``admin``: API keys, of every tenant."""

CACHE_S = 30.0
"""How long a key is believed without asking the store, though nothing was heard of its revocation."""
MAX_CACHED = 4_096
"""Keys remembered, least recently used forgotten first."""
MAX_TITLE_CHARS = 200
MAX_TENANT_CHARS = 100
MAX_RATE_PER_S = 1_000_000.0
_PREFIX = "ol"
_KEY_ID_CHARS = 32
_SECRET_CHARS = 43
"""256 bits in unpadded base64."""


class ApiKeyCreated(Event, frozen=True, kw_only=True):
    """A key came to be. ``expires_ms`` 0: never; ``per_s`` 0: no limit of its own."""

    name: ClassVar[str] = "access.key_created"
    at_ms: int
    by: str
    tenant: str
    scopes: tuple[str, ...]
    secret_sha256: bytes
    title: str = ""
    expires_ms: int = 0
    per_s: float = 0.0


class ApiKeyRevoked(Event, frozen=True, kw_only=True):
    """A key opens nothing any longer."""

    name: ClassVar[str] = "access.key_revoked"
    at_ms: int
    by: str
    reason: str = ""


class CreateApiKey(Command, frozen=True, kw_only=True):
    """Make a key for a tenant. ``per_s``: requests per second it may make, 0 for no limit of its own."""

    by: str
    tenant: str
    scopes: tuple[str, ...]
    secret_sha256: bytes
    title: str = ""
    expires_ms: int = 0
    per_s: float = 0.0


class RevokeApiKey(Command, frozen=True, kw_only=True):
    """Take a key out of use, for good."""

    by: str
    reason: str = ""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key's state; ``label`` is ``active`` or ``revoked`` (expiry needs a clock: see ``expires_ms``)."""

    label: str
    tenant: str
    scopes: tuple[str, ...]
    secret_sha256: bytes
    title: str
    created_ms: int
    created_by: str
    expires_ms: int
    per_s: float
    revoked_ms: int = 0
    revoked_by: str = ""
    reason: str = ""


class ApiKeyDecider:
    """`Decider` of API keys."""

    kind = KIND
    state = ApiKey
    events = (ApiKeyCreated, ApiKeyRevoked)

    def decide(self, command: Any, state: ApiKey | None) -> Decision[ApiKeyCreated | ApiKeyRevoked]:
        """Revoking twice is no error; a key cannot be made twice or come back."""
        if isinstance(command, CreateApiKey):
            if state is not None:
                raise Refused("api-key-exists", "there is an API key with this id already")
            return Decision(events=(_created(command),))
        revoke: RevokeApiKey = command
        if state is None:
            raise Refused("api-key-not-found", "no such API key")
        if state.label == "revoked":
            return Decision()
        revoked = ApiKeyRevoked(at_ms=revoke.at_ms, by=revoke.by, reason=revoke.reason)
        return Decision(events=(revoked,))

    def evolve(self, state: ApiKey | None, event: Any) -> ApiKey:
        """The key after the event."""
        if isinstance(event, ApiKeyRevoked):
            assert state is not None
            return msgspec.structs.replace(
                state,
                label="revoked",
                revoked_ms=event.at_ms,
                revoked_by=event.by,
                reason=event.reason,
            )
        created: ApiKeyCreated = event
        return ApiKey(
            label="active",
            tenant=created.tenant,
            scopes=created.scopes,
            secret_sha256=created.secret_sha256,
            title=created.title,
            created_ms=created.at_ms,
            created_by=created.by,
            expires_ms=created.expires_ms,
            per_s=created.per_s,
        )


def _created(command: CreateApiKey) -> ApiKeyCreated:
    unknown = sorted(set(command.scopes) - set(SCOPES))
    if unknown or not command.scopes:
        raise Refused(
            "unknown-scope",
            f"there is no scope {unknown[0]!r}" if unknown else "a key needs a scope",
            hint=f"Scopes are: {', '.join(SCOPES)}.",
        )
    if not 0 < len(command.tenant) <= MAX_TENANT_CHARS or not command.tenant.isprintable():
        raise Refused("tenant-invalid", f"a tenant has 1 to {MAX_TENANT_CHARS} characters")
    if len(command.title) > MAX_TITLE_CHARS:
        raise Refused("field-too-long", f"title has more than {MAX_TITLE_CHARS} characters")
    if 0 < command.expires_ms <= command.at_ms:
        raise Refused("expiry-past", "the key would have expired already")
    if not 0 <= command.per_s <= MAX_RATE_PER_S:
        raise Refused("rate-invalid", f"a rate is between 0 and {MAX_RATE_PER_S:g} per second")
    return ApiKeyCreated(
        at_ms=command.at_ms,
        by=command.by,
        tenant=command.tenant,
        scopes=tuple(s for s in SCOPES if s in command.scopes),
        secret_sha256=command.secret_sha256,
        title=command.title,
        expires_ms=command.expires_ms,
        per_s=command.per_s,
    )


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key just made. ``token`` is shown this once; None when the answer is a replay of an earlier one."""

    id: str
    token: str | None
    receipt: Receipt


class KeyItem(msgspec.Struct, frozen=True):
    """A key in a listing."""

    id: str
    version: int
    key: ApiKey


class Access:
    """Makes, lists and revokes keys."""

    def __init__(
        self, committer: Committer, store: Store, deciders: Deciders, clock: Clock, ids: Ids
    ) -> None:
        self._committer = committer
        self._store = store
        self._deciders = deciders
        self._clock = clock
        self._ids = ids

    async def create(
        self,
        *,
        by: str,
        tenant: str,
        scopes: Collection[str],
        title: str = "",
        expires_ms: int = 0,
        per_s: float = 0.0,
        idempotency: Idempotency | None = None,
    ) -> NewKey:
        """A new key and its token. Raises Refused ``unknown-scope`` and what else is wrong with the wish."""
        key_id = self._ids.new().replace("-", "")
        made = token(f"{_PREFIX}_{key_id}")
        command = CreateApiKey(
            at_ms=self._clock.now_ms(),
            by=by,
            tenant=tenant,
            scopes=tuple(scopes),
            secret_sha256=hashlib.sha256(made[-_SECRET_CHARS:].encode()).digest(),
            title=title,
            expires_ms=expires_ms,
            per_s=per_s,
        )
        receipt = await self._submit(by, key_id, command, idempotency)
        return NewKey(id=receipt.stream, token=None if receipt.replayed else made, receipt=receipt)

    async def revoke(
        self, *, by: str, key_id: str, reason: str = "", idempotency: Idempotency | None = None
    ) -> Receipt:
        """Take a key out of use. Raises Refused ``api-key-not-found``."""
        command = RevokeApiKey(at_ms=self._clock.now_ms(), by=by, reason=reason)
        return await self._submit(by, key_id, command, idempotency)

    async def list(self, *, before: str | None = None, limit: int = 100) -> list[KeyItem]:
        """Keys, newest first, those with an id less than ``before``."""
        items = await self._store.streams(SITE_TENANT, KIND, before=before, limit=limit)
        return [
            KeyItem(item.id, item.row.version, self._deciders.decode_state(KIND, item.row.state))
            for item in items
        ]

    async def _submit(
        self, by: str, key_id: str, command: Command, idempotency: Idempotency | None
    ) -> Receipt:
        if idempotency is not None:
            # the stream is the site's, the key its caller's: others may have chosen the same
            idempotency = Idempotency(f"{by}/{idempotency.key}", idempotency.body)
        return await self._committer.submit(
            Submission(
                tenant=SITE_TENANT,
                actor=by,
                kind=KIND,
                stream=key_id,
                command=command,
                idempotency=idempotency,
            )
        )


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever presented a valid token. ``actor`` goes on record."""

    tenant: str
    actor: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raises Refused ``scope-missing`` naming the scope needed."""
        if scope not in self.scopes:
            raise Refused(
                "scope-missing",
                f"this needs the scope {scope}, which the API key does not have",
                hint=f"Use a key with the scope {scope}; an administrator can create one.",
                scope=scope,
            )


class _Known(msgspec.Struct):
    """A key as remembered. ``gate`` holds its own rate, if it has one."""

    principal: Principal
    secret_sha256: bytes
    revoked: bool
    expires_ms: int
    stale_s: float
    gate: Gate | None


class Authenticator:
    """Says whose a token is. Give ``committed`` every flush, and what other nodes have written.

    ``is_current()``: whether that is being told, and no later than a second after it was written. While it is not,
    nothing is believed from memory: every call asks the store.
    """

    def __init__(
        self,
        store: Store,
        deciders: Deciders,
        clock: Clock,
        is_current: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._deciders = deciders
        self._clock = clock
        self._is_current = is_current
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._changes = 0

    def committed(self, write: Written) -> None:
        """Forget the keys that have changed."""
        for key in write.streams:
            if key.kind == KIND:
                self._changes += 1
                self._known.pop(key.id, None)

    async def authenticate(self, presented: str) -> Principal:
        """The token's principal. Raises Refused ``token-invalid``, ``token-revoked`` or ``token-expired``, all
        to be retried with other credentials, and Unavailable ``rate-limited``."""
        key_id, secret = _split(presented)
        known = self._known.get(key_id)
        is_stale = known is None or self._clock.monotonic_s() >= known.stale_s
        if known is None or is_stale or not self._is_current():
            known = await self._load(key_id)
        digest = hashlib.sha256(secret.encode()).digest()
        if not hmac.compare_digest(digest, known.secret_sha256):
            raise _invalid()
        if known.revoked:
            raise _reauth("token-revoked", "this API key has been revoked")
        if known.expires_ms and self._clock.now_ms() >= known.expires_ms:
            raise _reauth("token-expired", "this API key has expired")
        if known.gate is not None:
            spend(known.gate, key_id)
        return known.principal

    async def _load(self, key_id: str) -> _Known:
        changes = self._changes
        row = await self._store.stream(StreamKey(SITE_TENANT, KIND, key_id))
        if row is None:
            raise _invalid()
        key: ApiKey = self._deciders.decode_state(KIND, row.state)
        gate = None
        if key.per_s > 0:
            config = GateConfig(tenant_per_s=key.per_s, tenant_burst=max(1.0, key.per_s))
            gate = Gate(config, self._clock)
        known = _Known(
            principal=Principal(
                tenant=key.tenant, actor=f"api-key:{key_id}", scopes=frozenset(key.scopes)
            ),
            secret_sha256=key.secret_sha256,
            revoked=key.label == "revoked",
            expires_ms=key.expires_ms,
            stale_s=self._clock.monotonic_s() + CACHE_S,
            gate=gate,
        )
        before = self._known.get(key_id)
        if before is not None and before.gate is not None and gate is not None:
            known.gate = before.gate  # looking again must not refill its bucket
        if changes != self._changes:
            return known  # a key changed while we read: what we read may be what it was before
        self._known[key_id] = known
        self._known.move_to_end(key_id)
        if len(self._known) > MAX_CACHED:
            self._known.popitem(last=False)
        return known


def spend(gate: Gate, who: str) -> None:
    """Count one request against a rate. Raises Unavailable ``rate-limited``."""
    try:
        gate.admit(0, who)
    except Unavailable as error:
        raise Unavailable(
            error.code,
            "this API key makes more requests per second than it may",
            hint="Nothing was done. Send it again after the given time, and more slowly.",
            retry_after_s=error.retry_after_s,
            scope="api-key",
        ) from None
    gate.leave()  # only the rate counts here; what is under way is counted where work is accepted


def _split(presented: str) -> tuple[str, str]:
    """Key id and secret of a token of the right form; anything else never reaches the store."""
    prefix, _, rest = presented.partition("_")
    key_id, _, secret = rest.partition("_")
    well_formed = prefix == _PREFIX and len(key_id) == _KEY_ID_CHARS and key_id.isalnum()
    if not well_formed or len(secret) != _SECRET_CHARS or not presented.isascii():
        raise _invalid()
    return key_id, secret


def _invalid() -> Refused:
    return _reauth("token-invalid", "this is not the token of an API key of this site")


def _reauth(code: str, message: str) -> Refused:
    return Refused(
        code,
        message,
        hint="Send `Authorization: Bearer <token>` with a valid key; an administrator can create one.",
        retry="reauth",
    )
