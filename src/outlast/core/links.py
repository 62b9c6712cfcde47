"""Short-lived links: a URL that lets whoever has it do one thing with one resource, without an API key.

A link's token is ``base64url(grant) "." base64url(HMAC-SHA256(key, "outlast link v1\\n" | grant))`` with no padding.
The grant says in JSON what it is for; it is signed and not encrypted, so it holds nothing but names that its owner
knows. The key is derived from the site's root key (HKDF, RFC 5869), so all nodes of a site know it and nobody keeps
another secret. Compared in constant time, before anything in it is looked at.

    MakeLink -> LinkMade        who made it, and for what
    UseLink  -> LinkUsed        before it has its effect; refused once it was used ``uses`` times
    DropLink -> LinkDropped     it is worth nothing any more
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Any, ClassVar, Literal

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from outlast.core.clock import Clock
from outlast.core.commit import Committer, Idempotency, Receipt, Submission
from outlast.core.decider import Command, Decision, Event
from outlast.core.errors import Refused
from outlast.core.ids import Ids

KIND = "access.link"
MAX_LIFE_S = 3_600
"""Longest life of a link."""
MAX_USES = 100
"""Most uses of one link: each is a log entry."""
MAX_TOKEN_CHARS = 2_048
_LABEL = b"outlast link v1"

Method = Literal["GET", "PUT"]


class Grant(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """What a link is for. ``resource`` is the path of what is read; for an upload it is ``/v1/documents``, and
    ``max_bytes``, ``media_type``, ``class_name`` and ``title`` bind the document."""

    id: str
    method: Method
    resource: str
    tenant: str
    expires_ms: int
    uses: int = 1
    max_bytes: int = 0
    media_type: str = ""
    class_name: str = ""
    title: str = ""


_decode_grant = msgspec.json.Decoder(Grant).decode


class LinkKey:
    """Signs and checks links of one site."""

    def __init__(self, root_secret: bytes) -> None:
        self._key = HKDF(algorithm=SHA256(), length=32, salt=None, info=_LABEL).derive(root_secret)

    def token(self, grant: Grant) -> str:
        """The link's token."""
        text = msgspec.json.encode(grant)
        return f"{_text(text)}.{_text(self._mac(text))}"

    def grant(self, token: str, method: str, now_ms: int) -> Grant:
        """What a token grants. Raises Refused ``link-invalid`` (not ours, or changed), ``link-expired``,
        ``link-other-method``."""
        body, _, mac = token.partition(".")
        if len(token) > MAX_TOKEN_CHARS:
            raise _invalid()
        given, text = _bytes(mac), _bytes(body)
        if not hmac.compare_digest(self._mac(text), given):
            raise _invalid()
        try:
            grant = _decode_grant(text)
        except msgspec.DecodeError:
            raise _invalid() from None
        if now_ms >= grant.expires_ms:
            raise Refused("link-expired", "this link has expired", hint="Ask for a new one.")
        if method != grant.method:
            raise Refused("link-other-method", f"this link is for {grant.method} only")
        return grant

    def _mac(self, text: bytes) -> bytes:
        return hmac.new(self._key, _LABEL + b"\n" + text, hashlib.sha256).digest()


class LinkMade(Event, frozen=True, kw_only=True):
    """A link was given out. The document's title, if the link has one, is not part of the record."""

    name: ClassVar[str] = "access.link_made"
    method: Method
    resource: str
    uses: int
    expires_ms: int
    by: str
    at_ms: int


class LinkUsed(Event, frozen=True, kw_only=True):
    """A link was used, for the ``use``-th time."""

    name: ClassVar[str] = "access.link_used"
    use: int
    at_ms: int


class LinkDropped(Event, frozen=True, kw_only=True):
    """A link was revoked."""

    name: ClassVar[str] = "access.link_dropped"
    by: str
    at_ms: int


class MakeLink(Command, frozen=True, kw_only=True):
    """Put a link on record before it is given out."""

    method: Method
    resource: str
    uses: int
    expires_ms: int
    by: str


class UseLink(Command, frozen=True, kw_only=True):
    """Count a use."""


class DropLink(Command, frozen=True, kw_only=True):
    """Revoke a link."""

    by: str


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A link as it stands."""

    label: Literal["open", "used-up", "dropped"] = "open"
    method: Method
    resource: str
    uses: int
    used: int = 0
    expires_ms: int
    by: str


LinkEvent = LinkMade | LinkUsed | LinkDropped


class LinkDecider:
    """`Decider` of links."""

    kind = KIND
    state = Link
    events = (LinkMade, LinkUsed, LinkDropped)

    def decide(self, command: Any, state: Link | None) -> Decision[LinkEvent]:
        """Raises Refused ``link-life``, ``link-used-up``, ``link-invalid``."""
        if isinstance(command, MakeLink):
            return _make(command, state)
        if state is None:
            raise _invalid()
        if isinstance(command, UseLink):
            if state.label == "dropped":
                raise Refused("link-dropped", "this link was revoked")
            if command.at_ms >= state.expires_ms:
                raise Refused("link-expired", "this link has expired", hint="Ask for a new one.")
            if state.used >= state.uses:
                raise Refused(
                    "link-used-up",
                    f"this link has been used {state.used} of {state.uses} times",
                    hint="Ask for a new one.",
                )
            return Decision(events=(LinkUsed(use=state.used + 1, at_ms=command.at_ms),))
        drop: DropLink = command
        dropped = LinkDropped(by=drop.by, at_ms=drop.at_ms)
        return Decision(events=() if state.label == "dropped" else (dropped,))

    def evolve(self, state: Link | None, event: Event) -> Link:
        """The link after ``event``."""
        if isinstance(event, LinkMade):
            return Link(
                method=event.method,
                resource=event.resource,
                uses=event.uses,
                expires_ms=event.expires_ms,
                by=event.by,
            )
        assert state is not None
        if isinstance(event, LinkDropped):
            return msgspec.structs.replace(state, label="dropped")
        assert isinstance(event, LinkUsed)
        label = "used-up" if event.use >= state.uses else "open"
        return msgspec.structs.replace(state, used=event.use, label=label)


class Links:
    """Links of one site: given out, and used."""

    def __init__(self, door: Committer, clock: Clock, ids: Ids, key: LinkKey) -> None:
        self._door = door
        self._clock = clock
        self._ids = ids
        self._key = key

    async def make(
        self, by: str, ask: Grant, life_s: int, idempotency: Idempotency | None = None
    ) -> tuple[str, Grant, Receipt]:
        """A link for what ``ask`` says (its id and expiry are set here): token, grant, receipt. Raises Refused
        ``link-life``. Asked again under the same idempotency key it is another token for the same link."""
        now_ms = self._clock.now_ms()
        grant = msgspec.structs.replace(ask, id=self._ids.new(), expires_ms=now_ms + life_s * 1000)
        command = MakeLink(
            at_ms=now_ms,
            method=grant.method,
            resource=grant.resource,
            uses=grant.uses,
            expires_ms=grant.expires_ms,
            by=by,
        )
        receipt = await self._submit(grant, by, command, idempotency)
        grant = msgspec.structs.replace(grant, id=receipt.stream)
        return self._key.token(grant), grant, receipt

    def open(self, token: str, method: str) -> Grant:
        """What a token grants; raises as `LinkKey.grant` does. Nothing is on record of it yet."""
        return self._key.grant(token, method, self._clock.now_ms())

    async def use(self, grant: Grant) -> Receipt:
        """Put a use on record; raises Refused ``link-used-up``, ``link-dropped``."""
        command = UseLink(at_ms=self._clock.now_ms())
        return await self._submit(grant, f"link:{grant.id}", command)

    async def drop(self, by: str, tenant: str, link_id: str) -> Receipt:
        """Revoke a link; raises Refused ``link-invalid`` where there is none."""
        command = DropLink(at_ms=self._clock.now_ms(), by=by)
        grant = Grant(id=link_id, method="GET", resource="", tenant=tenant, expires_ms=0)
        return await self._submit(grant, by, command)

    async def _submit(
        self, grant: Grant, actor: str, command: Command, idempotency: Idempotency | None = None
    ) -> Receipt:
        return await self._door.submit(
            Submission(
                tenant=grant.tenant,
                actor=actor,
                kind=KIND,
                stream=grant.id,
                command=command,
                idempotency=idempotency,
            )
        )


def _make(command: MakeLink, state: Link | None) -> Decision[LinkEvent]:
    life_ms = command.expires_ms - command.at_ms
    if not 0 < life_ms <= MAX_LIFE_S * 1000 or not 1 <= command.uses <= MAX_USES:
        raise Refused(
            "link-life", f"a link lives 1 to {MAX_LIFE_S} seconds and has 1 to {MAX_USES} uses"
        )
    if state is not None:
        raise Refused("link-exists", "a link with this id exists already")
    event = LinkMade(
        method=command.method,
        resource=command.resource,
        uses=command.uses,
        expires_ms=command.expires_ms,
        by=command.by,
        at_ms=command.at_ms,
    )
    return Decision(events=(event,))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _invalid() from None


def _invalid() -> Refused:
    return Refused(
        "link-invalid",
        "this is no link of this site, or it was changed",
        hint="Copy it whole, or ask for a new one.",
    )
