"""HTTP requests in, within bounds, and problem details out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio
import msgspec

from outlast.core.errors import Conflict, OutlastError, Refused, Unavailable
from outlast.ports.keys import SignRequest
from outlast.ports.keys_checks import check_tbs
from outlast.ports.keys_http import (
    MAX_BODY_BYTES,
    MAX_OPERATION_CHARS,
    PROBLEM_TYPE,
    ProblemBody,
    SignBody,
)

Scope = MutableMapping[str, Any]
"""As the ASGI specification has it: whatever the server says of a connection."""
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_TIMEOUT_S = 5.0
"""A client that takes longer to send its body is refused."""
MAX_TRACEPARENT_CHARS = 128

_STATUS = {
    "body-too-large": 413,
    "body-too-slow": 408,
    "client-not-allowed": 403,
    "idempotency-key-reused": 422,
    "key-algorithm-mismatch": 422,
    "key-not-allowed": 403,
    "key-not-found": 404,
    "method-not-allowed": 405,
    "not-found": 404,
    "provider-throttled": 429,
    "tbs-too-large": 413,
}
"""HTTP status of codes for which the kind of failure does not say enough."""

_DECODER = msgspec.json.Decoder(SignBody)


def allow_method(scope: Scope, method: str) -> None:
    """Raises Refused ``method-not-allowed``."""
    if scope["method"] != method:
        raise Refused("method-not-allowed", f"this path takes {method} only")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. Raises Refused ``body-too-large`` before reading it where its length is declared."""
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        with anyio.fail_after(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused("body-incomplete", "the client left before it had sent its body")
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise _too_large()
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError as error:
        raise Refused(
            "body-too-slow", f"the body has not come within {BODY_TIMEOUT_S:g} s"
        ) from error


def parse_sign_request(scope: Scope, body: bytes) -> SignRequest:
    """What is asked. Raises Refused ``request-invalid``, ``idempotency-key-missing``, ``tbs-too-large``, ``tbs-empty``."""
    operation = header(scope, b"idempotency-key")
    if not 0 < len(operation) <= MAX_OPERATION_CHARS:
        raise Refused(
            "idempotency-key-missing",
            f"an Idempotency-Key of 1 to {MAX_OPERATION_CHARS} characters is required",
        )
    try:
        asked = _DECODER.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        # msgspec's text names the place, not the contents
        raise Refused("request-invalid", f"the body is not a signing request: {error}") from error
    request = SignRequest(
        key_ref=asked.key,
        algorithm=asked.algorithm,
        tbs=asked.tbs,
        operation=operation,
        traceparent=header(scope, b"traceparent")[:MAX_TRACEPARENT_CHARS],
    )
    check_tbs(request)
    return request


def header(scope: Scope, name: bytes) -> str:
    """The first header of that name (lower case), or empty."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return ""


def problem(error: OutlastError) -> tuple[int, bytes, bytes, list[tuple[bytes, bytes]]]:
    """Status, content type, body and further headers (RFC 9457) of a failure."""
    status = _status(error)
    body = ProblemBody(
        title=error.code.replace("-", " ").capitalize(),
        status=status,
        detail=error.message,
        code=error.code,
        hint=error.hint,
        retry=error.retry,
        retry_after_s=error.retry_after_s,
    )
    headers: list[tuple[bytes, bytes]] = []
    if error.retry_after_s is not None:
        # Retry-After has whole seconds; the body has the exact figure
        headers.append((b"retry-after", b"%d" % -(-error.retry_after_s // 1)))
    return status, PROBLEM_TYPE.encode(), msgspec.json.encode(body), headers


def _status(error: OutlastError) -> int:
    """4xx Refused, 429 and 503 Unavailable, 504 Unknown: see `ports.keys_http`."""
    if isinstance(error, Refused):
        if error.code == "credentials-refused":
            # ours with the keystore, not the client's with us: the client may go elsewhere
            return 503
        return _STATUS.get(error.code, 400)
    if isinstance(error, Unavailable | Conflict):
        return _STATUS.get(error.code, 503)
    return 504


def _too_large() -> Refused:
    return Refused("body-too-large", f"a request has at most {MAX_BODY_BYTES} bytes")
