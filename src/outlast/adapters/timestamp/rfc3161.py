"""A time-stamping authority over HTTP (RFC 3161 section 3.4), believed only after `core.rfc3161` has checked its token.

Each request carries a fresh 64-bit nonce over a connection that is kept alive. A token without effect but itself
may be asked for twice, so nothing here is Unknown: no answer in time is Unavailable like no connection. An authority
that answers 429 or 503 is Unavailable with its own Retry-After. A redirect is not followed: an authority that has
moved is a change of configuration. Credentials are sent over TLS or to this machine only.
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from outlast.adapters.exchange import Exchange, ExchangeLimits, Reply, is_loopback
from outlast.core.clock import Clock
from outlast.core.errors import Refused, Unavailable
from outlast.core.rfc3161 import (
    MAX_RESPONSE_BYTES,
    NONCE_BYTES,
    TsaRules,
    bad_token,
    build_request,
    rejected,
    verify_response,
)
from outlast.ports.timestamp import Token

QUERY_TYPE = "application/timestamp-query"
REPLY_TYPE = "application/timestamp-reply"

LIMITS = ExchangeLimits(
    connect_timeout_s=1.0,
    answer_timeout_s=4.0,
    pool_timeout_s=1.0,
    connections=32,
    keepalive_s=30.0,
    answer_bytes=MAX_RESPONSE_BYTES,
)
"""An authority answers in milliseconds to a second; beyond this another one is asked."""


class Credentials:
    """What is sent as Authorization. Shows nothing of itself in logs."""

    def __init__(self, header: str) -> None:
        self.header = header

    @classmethod
    def basic(cls, user: str, password: str) -> Credentials:
        """HTTP Basic (RFC 7617), UTF-8."""
        return cls("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii"))

    @classmethod
    def bearer(cls, token: str) -> Credentials:
        """A bearer token (RFC 6750)."""
        return cls(f"Bearer {token}")

    def __repr__(self) -> str:
        return "Credentials(…)"


class Rfc3161Authority:
    """A TimestampAuthority at ``url``. ``name`` and ``qualified`` are what configuration says of it.

    ``request_policy``: the policy OID asked for; which ones are accepted is in ``rules``.
    """

    def __init__(
        self,
        url: str,
        rules: TsaRules,
        *,
        clock: Clock,
        name: str,
        qualified: bool = False,
        credentials: Credentials | None = None,
        request_policy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        limits: ExchangeLimits = LIMITS,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Raises Refused ``config-invalid`` for an URL that cannot be used, or credentials in the clear."""
        parts = _checked(url, name, with_credentials=credentials is not None)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": QUERY_TYPE, "Accept": REPLY_TYPE}
        if credentials is not None:
            self._headers["Authorization"] = credentials.header
        self._rules = rules
        self._clock = clock
        self._name = name
        self._qualified = qualified
        self._policy = request_policy
        self._entropy = entropy
        self._exchange = Exchange(
            f"{parts.scheme}://{parts.netloc}", scope=name, ssl_context=ssl_context, limits=limits
        )

    async def stamp(self, digest: bytes) -> Token:
        """See TimestampAuthority. Also Refused ``provider-auth`` (our credentials), ``tsa-rejected``."""
        nonce = int.from_bytes(self._entropy(NONCE_BYTES), "big")
        request = build_request(digest, nonce, self._policy)
        reply = await self._exchange.call(
            "POST", self._target, effect=False, body=request, headers=self._headers
        )
        self._check_status(reply)
        if reply.media_type != REPLY_TYPE:
            raise bad_token(f"the answer is {reply.media_type[:60] or 'of no type'}")
        token = verify_response(reply.content, digest, nonce, self._rules, self._clock.now_ms())
        return Token(
            der=token.der,
            response_der=token.response_der,
            gen_time_ms=token.gen_time_ms,
            serial=token.serial,
            policy_oid=token.policy_oid,
            authority=self._name,
            qualified=self._qualified,
        )

    async def check(self) -> None:
        """See TimestampAuthority. Asks for no token, which may cost money: any answer to a GET will do."""
        reply = await self._exchange.call("GET", self._target, effect=False)
        if reply.status >= 500 or reply.status == 429:
            self._check_status(reply)

    async def aclose(self) -> None:
        """See TimestampAuthority."""
        await self._exchange.aclose()

    def _check_status(self, reply: Reply) -> None:
        status = reply.status
        if status == 200:
            return
        if status in {429, 503}:
            raise Unavailable(
                "throttled",
                f"the authority answers {status}",
                retry_after_s=reply.retry_after_s,
                scope=self._name,
            )
        if status >= 500 or status == 408:
            raise Unavailable(
                "tsa-unavailable", f"the authority answers {status}", scope=self._name
            )
        if status in {401, 403, 407}:
            raise Refused(
                "provider-auth",
                f"the authority does not take our credentials ({status})",
                retry="reauth",
                scope=self._name,
            )
        raise rejected(f"HTTP status {status}")


def _checked(url: str, name: str, *, with_credentials: bool) -> SplitResult:
    """The URL in parts; raises Refused ``config-invalid``."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username is not None or not url.isascii() or not url.isprintable():
        raise Refused(
            "config-invalid",
            f"authority {name!r}: its URL must be http or https, with a host and no user in it",
            scope=name,
        )
    if with_credentials and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise Refused(
            "config-invalid",
            f"authority {name!r}: credentials are not sent without TLS",
            hint="Use an https URL, or leave the credentials out.",
            scope=name,
        )
    return parts
