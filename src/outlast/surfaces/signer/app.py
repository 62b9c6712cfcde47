"""The appliance's HTTP: routes, bounds, problem details and the audit line. Bodies are those of `ports.keys_http`.

An ASGI application that answers only requests which carry a client certificate in the ASGI TLS extension
(``scope["extensions"]["tls"]["client_cert_chain"]``); `server` puts it there.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import TypeVar
from urllib.parse import unquote

import anyio
import msgspec
from cryptography import x509

from outlast.core.clock import Clock, iso
from outlast.core.errors import OutlastError, Refused, Unavailable, Unknown
from outlast.core.telemetry import (
    HTTP_METHOD,
    HTTP_ROUTE,
    HTTP_STATUS,
    Tracer,
    current_span,
    traced,
)
from outlast.ports.keys import KeyInfo, Signer, SignRequest
from outlast.ports.keys_http import (
    KEYS_PATH,
    LIVE_PATH,
    READY_PATH,
    SIGN_PATH,
    KeyBody,
    SignatureBody,
)
from outlast.surfaces.signer.access import AccessList, Client, ClientRule
from outlast.surfaces.signer.audit import AuditLine, write_audit_line
from outlast.surfaces.signer.memory import REMEMBERED_OPERATIONS, RecentOperations
from outlast.surfaces.signer.messages import (
    Receive,
    Scope,
    Send,
    allow_method,
    header,
    parse_sign_request,
    problem,
    read_body,
)

MAX_IN_FLIGHT = 256
"""Signatures being made at once; more is answered 503 with Retry-After BUSY_RETRY_AFTER_S."""
BUSY_RETRY_AFTER_S = 0.2
SIGN_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 2.0
MAX_KNOWN_CERTIFICATES = 1024

_Result = TypeVar("_Result")

_log = logging.getLogger("outlast.signer.audit")
_log = logging.getLogger("outlast.signer")


class SignerApp:
    """Serves ``signer`` to ``clients``."""

    def __init__(
        self,
        signer: Signer,
        clients: tuple[ClientRule, ...],
        clock: Clock,
        *,
        sign_timeout_s: float = SIGN_TIMEOUT_S,
        max_in_flight: int = MAX_IN_FLIGHT,
        remembered_operations: int = REMEMBERED_OPERATIONS,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._signer = signer
        self._access = AccessList(clients)
        self._clock = clock
        self._sign_timeout_s = sign_timeout_s
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._recent = RecentOperations(remembered_operations)
        self._identify = lru_cache(MAX_KNOWN_CERTIFICATES)(self._identify_pem)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            raise NotImplementedError(f"the appliance does not speak {scope['type']}")
        respond, span = self._respond(scope, receive, send), None
        if self._tracer is not None:
            span = self._tracer.server(header(scope, b"traceparent").encode("latin-1"))
        await (respond if span is None else traced(span, respond))

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            status, content_type, body = await self._answer(scope, receive)
            headers: list[tuple[bytes, bytes]] = []
        except OutlastError as error:
            status, content_type, body, headers = problem(error)
        except Exception:
            # the port forbids it, so it is our bug; what a client may conclude is still "Unknown"
            _log.exception("request failed unexpectedly")
            unknown = Unknown("internal-error", "the appliance failed in a way it should not")
            status, content_type, body, headers = problem(unknown)
        if self._tracer is not None:
            _describe(scope, status)
        headers += [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes, bytes]:
        client = self._client(scope)
        # raw_path: an escaped slash within a key name must not become a separator
        path = scope["raw_path"].decode("ascii", "replace")
        if path == SIGN_PATH:
            allow_method(scope, "POST")
            answer = await self._sign(client, scope, receive)
            return 200, b"application/json", msgspec.json.encode(answer)
        if path.startswith(KEYS_PATH):
            allow_method(scope, "GET")
            key = await self._describe(client, unquote(path.removeprefix(KEYS_PATH)))
            body = KeyBody(key=key.key_ref, algorithm=key.algorithm, spki=key.spki_der)
            return 200, b"application/json", msgspec.json.encode(body)
        if path in {LIVE_PATH, READY_PATH}:
            allow_method(scope, "GET")
            if path == READY_PATH:
                await _bounded(self._signer.check, READY_TIMEOUT_S)
            return 200, b"text/plain", b"ok\n"
        raise Refused("not-found", "there is nothing at this path")

    async def _sign(self, client: Client, scope: Scope, receive: Receive) -> SignatureBody:
        request = parse_sign_request(scope, await read_body(scope, receive))
        started_s = self._clock.monotonic_s()
        outcome, signature = "failed", b""
        try:
            _allow_key(client, request.key_ref)
            signature, repeated = await self._recent.once(
                client.fingerprint_sha256,
                request.operation,
                _request_digest(request),
                partial(self._sign_now, request),
            )
            outcome = "repeated" if repeated else "signed"
        except OutlastError as error:
            outcome = error.code
            raise
        finally:
            duration_s = self._clock.monotonic_s() - started_s
            self._audit(client, request, outcome, signature, duration_s)
        return SignatureBody(key=request.key_ref, algorithm=request.algorithm, signature=signature)

    async def _sign_now(self, request: SignRequest) -> bytes:
        if self._in_flight >= self._max_in_flight:
            raise Unavailable(
                "provider-busy",
                f"{self._max_in_flight} signatures are being made already",
                retry_after_s=BUSY_RETRY_AFTER_S,
            )
        self._in_flight += 1
        try:
            return await _bounded(partial(self._signer.sign, request), self._sign_timeout_s)
        finally:
            self._in_flight -= 1

    async def _describe(self, client: Client, key_ref: str) -> KeyInfo:
        _allow_key(client, key_ref)
        return await _bounded(partial(self._signer.describe, key_ref), self._sign_timeout_s)

    def _client(self, scope: Scope) -> Client:
        tls = scope.get("extensions", {}).get("tls", {})
        chain = tls.get("client_cert_chain", ())
        if not chain:
            raise Refused("client-not-allowed", "a client certificate is required")
        return self._identify(chain[0])

    def _identify_pem(self, pem: str) -> Client:
        return self._access.identify(x509.load_pem_x509_certificate(pem.encode("ascii")))

    def _audit(
        self,
        client: Client,
        request: SignRequest,
        outcome: str,
        signature: bytes,
        duration_s: float,
    ) -> None:
        write_audit_line(
            AuditLine(
                time=iso(self._clock.now_ms()),
                client=client.rule.name,
                client_fingerprint_sha256=client.fingerprint_sha256,
                key=request.key_ref,
                algorithm=request.algorithm,
                operation=request.operation,
                traceparent=request.traceparent,
                tbs_sha256=hashlib.sha256(request.tbs).hexdigest(),
                outcome=outcome,
                signature_sha256=hashlib.sha256(signature).hexdigest() if signature else "",
                duration_ms=round(duration_s * 1000, 3),
            )
        )


def _describe(scope: Scope, status: int) -> None:
    """What the semantic conventions say of a server's span; key names stay out of it."""
    span, path = current_span(), scope["raw_path"].decode("ascii", "replace")
    if span is None:
        return
    route = KEYS_PATH + "{ref}" if path.startswith(KEYS_PATH) else path
    if route in _ROUTES and scope["method"] in ("GET", "POST"):
        span.name = f"{scope['method']} {route}"
        span.set(HTTP_METHOD, scope["method"])
        span.set(HTTP_ROUTE, route)
    span.set(HTTP_STATUS, status)
    if status >= 500:
        span.failed(str(status))


_ROUTES = frozenset({SIGN_PATH, KEYS_PATH + "{ref}", LIVE_PATH, READY_PATH})


def _allow_key(client: Client, key_ref: str) -> None:
    if not client.rule.allows(key_ref):
        raise Refused(
            "key-not-allowed",
            f"client {client.rule.name!r} may not use key {key_ref[:200]!r}",
            hint="Add the key to the client's rule on the appliance.",
        )


def _request_digest(request: SignRequest) -> bytes:
    """Tells whether two requests ask for the same signature."""
    parts = (request.key_ref.encode(), request.algorithm.encode(), request.tbs)
    # each part is hashed by itself, so that none can run into the next
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


async def _bounded(call: Callable[[], Awaitable[_Result]], timeout_s: float) -> _Result:
    """The keystore's answer, or Unknown ``provider-answer-lost`` after ``timeout_s``."""
    try:
        with anyio.fail_after(timeout_s):
            return await call()
    except TimeoutError as error:
        raise Unknown(
            "provider-answer-lost", f"the keystore has not answered within {timeout_s:g} s"
        ) from error
