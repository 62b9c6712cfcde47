"""Signing with keys that another Outlast process keeps: the remote signing appliance.

Speaks `ports.keys_http` over TLS 1.3 with a client certificate, to a server whose certificate must be of the configured
CA and name. Each call carries its operation as Idempotency-Key, so a repeated operation gets the same signature.
A refused connection is Unavailable at once; an appliance that takes the request and is silent is Unknown after
``limits.answer_timeout_s``, or whenever the caller gives up.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from outlast.adapters.exchange import Exchange, ExchangeLimits, Reply, checked_base
from outlast.core.errors import OutlastError, Refused, Unavailable, Unknown
from outlast.ports.keys import KeyInfo, SignRequest
from outlast.ports.keys_checks import check_tbs, key_not_found
from outlast.ports.keys_http import (
    KEYS_PATH,
    READY_PATH,
    SIGN_PATH,
    KeyBody,
    ProblemBody,
    SignatureBody,
    SignBody,
)

MAX_KEY_REF_CHARS = 255
_Answer = TypeVar("_Answer", SignatureBody, KeyBody)

_UNPATHABLE = frozenset({".", ".."})
"""Names that a URL path loses on its way."""


class RemoteSigner:
    """A ``Signer`` over HTTPS. ``base_url`` is ``https://host:port``; ``ssl_context`` see `client_tls`.

    Errors: Refused ``key-not-found``, ``key-not-allowed``, ``key-algorithm-mismatch``, ``tbs-too-large``,
    ``credentials-refused``, ``idempotency-key-reused``; Unavailable and Unknown as `adapters.exchange` and the
    appliance's own keystore say.
    """

    def __init__(
        self,
        base_url: str,
        ssl_context: ssl.SSLContext,
        *,
        name: str = "remote",
        limits: ExchangeLimits | None = None,
    ) -> None:
        self._name = name
        base_url = checked_base(base_url, name, plain_on_loopback=False)
        self._exchange = Exchange(base_url, scope=name, ssl_context=ssl_context, limits=limits)

    async def sign(self, request: SignRequest) -> bytes:
        """The appliance's signature over ``request.tbs``."""
        check_tbs(request)
        _check_ref(request.key_ref)
        body = SignBody(key=request.key_ref, algorithm=request.algorithm, tbs=request.tbs)
        headers = {"content-type": "application/json", "idempotency-key": request.operation}
        if request.traceparent:
            headers["traceparent"] = request.traceparent
        reply = await self._exchange.call(
            "POST", SIGN_PATH, effect=True, body=msgspec.json.encode(body), headers=headers
        )
        if reply.status != 200:
            raise self._failure(reply)
        answer = _decode(reply, SignatureBody, self._name)
        if (answer.key, answer.algorithm) != (request.key_ref, request.algorithm):
            raise _bad_answer("it is about another key", self._name)
        return answer.signature

    async def describe(self, key_ref: str) -> KeyInfo:
        """Public half of a key. Raises Refused ``key-not-found``."""
        _check_ref(key_ref)
        reply = await self._exchange.call("GET", KEYS_PATH + quote(key_ref, safe=""), effect=False)
        if reply.status != 200:
            raise self._failure(reply)
        answer = _decode(reply, KeyBody, self._name)
        return KeyInfo(key_ref=key_ref, algorithm=answer.algorithm, spki_der=answer.spki)

    async def check(self) -> None:
        """Returns when the appliance and the keystore behind it answer; raises Unavailable otherwise."""
        reply = await self._exchange.call("GET", READY_PATH, effect=False)
        if reply.status != 200:
            error = self._failure(reply)
            raise Unavailable(error.code, error.message, hint=error.hint, scope=self._name)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._exchange.aclose()

    def _failure(self, reply: Reply) -> OutlastError:
        """What a status other than 200 means; see `ports.keys_http`."""
        try:
            problem = msgspec.json.decode(reply.content, type=ProblemBody)
        except (msgspec.DecodeError, msgspec.ValidationError):
            problem = ProblemBody(code="provider-bad-answer", detail=f"HTTP {reply.status}")
        kind: type[OutlastError] = Unknown
        if reply.status in {429, 503}:
            kind = Unavailable
        elif 400 <= reply.status < 500:
            kind = Refused
        after = problem.retry_after_s if problem.retry_after_s is not None else reply.retry_after_s
        # to a caller it is the same trouble as a certificate that TLS turns away
        code = "credentials-refused" if problem.code == "client-not-allowed" else problem.code
        return kind(
            code or "provider-bad-answer",
            problem.detail or problem.title or f"HTTP {reply.status}",
            hint=problem.hint,
            retry=problem.retry if kind is Refused else None,
            retry_after_s=after,
            scope=self._name,
        )


def client_tls(ca_file: Path, certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    """TLS 1.3 with our certificate, trusting the one CA. Reads the three PEM files; raises OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=ca_file)
    context.load_cert_chain(certificate_file, key_file)
    return context


def _check_ref(key_ref: str) -> None:
    if not 0 < len(key_ref) <= MAX_KEY_REF_CHARS or key_ref in _UNPATHABLE:
        raise key_not_found(key_ref)


def _decode(reply: Reply, kind: type[_Answer], name: str) -> _Answer:
    try:
        return msgspec.json.decode(reply.content, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise _bad_answer("it is not what the protocol says", name) from error


def _bad_answer(why: str, name: str) -> Unknown:
    return Unknown("provider-bad-answer", f"the provider's answer is unusable: {why}", scope=name)
