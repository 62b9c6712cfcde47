"""Errors as callers see them: RFC 9457 problem details that say what to do next.

Guarantees: every error has a stable ``code``, a ``retry`` class and a status that agree with each other; nothing of
an unexpected exception but its request id reaches the caller.
"""

from __future__ import annotations

import math

import msgspec

from outlast.core.errors import (
    Conflict,
    Corrupt,
    OutlastError,
    Refused,
    Retry,
    Unavailable,
    Unknown,
)

MEDIA_TYPE = "application/problem+json"
TYPE = "tag:outlast.invalid,2026:"
"""Before the code, a problem's type (RFC 4151): an identifier, nothing to be fetched."""
MAX_DETAIL_CHARS = 1_000
"""Of an error's own words: some quote the caller."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Problem details (RFC 9457). ``code`` is what programs compare; ``hint`` says what to do; ``retry`` is one of
    never, same, elsewhere, later, reauth; ``scope`` names what is affected; ``at`` locates a fault in the body.
    ``trace_id`` is there where the request is traced."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retry: Retry
    retry_after_s: float | None = None
    scope: str = ""
    hint: str = ""
    request_id: str = ""
    trace_id: str = ""


STATUS: dict[str, int] = {
    "request-malformed": 400,
    "header-invalid": 400,
    "idempotency-key-invalid": 400,
    "cursor-invalid": 400,
    "log-range": 404,
    "host-not-allowed": 400,
    "tile-path": 404,
    "link-invalid": 403,
    "link-other-method": 403,
    "link-other-type": 415,
    "link-expired": 410,
    "link-used-up": 410,
    "link-dropped": 410,
    "scrub-running": 409,
    "scrub-not-running": 409,
    "forbidden": 403,
    "scope-missing": 403,
    "self-approval": 403,
    "client-not-allowed": 403,
    "unknown-provider": 404,
    "unknown-job-kind": 404,
    "method-not-allowed": 405,
    "personal-fields-erased": 410,
    "not-signed-yet": 409,
    "not-published-yet": 409,
    "request-closed": 409,
    "too-late": 409,
    "api-key-exists": 409,
    "document-exists": 409,
    "request-exists": 409,
    "key-disabled": 409,
    "mode-not-held": 409,
    "job-state": 409,
    "version-conflict": 412,
    "body-too-large": 413,
    "pdf-too-large": 413,
    "bulk-size": 413,
    "batch-size": 413,
    "content-type": 415,
    "headers-too-large": 431,
    "idempotency-key-reused": 422,
    "rate-limited": 429,
}
"""Codes whose status is not that of their kind of error."""

_TITLES = {
    400: "The request is malformed",
    401: "Not authenticated",
    403: "Not permitted",
    404: "Not found",
    405: "Method not allowed",
    408: "The request came too slowly",
    409: "In conflict with the present state",
    410: "Gone",
    412: "It has changed meanwhile",
    413: "Too large",
    415: "Unsupported content type",
    422: "Refused",
    429: "Too many requests",
    431: "Header too large",
    500: "Stored data failed its check",
    502: "The outcome is unknown",
    503: "Temporarily unavailable",
}

_HINTS = {
    400: "Correct the request; see /openapi.json.",
    403: "Ask an administrator of this site.",
    404: "Check the identifier, and that the API key belongs to the right tenant.",
    409: "Read it again and decide on what it says now.",
    412: "Read it again and decide on what it says now.",
    413: "Send less.",
    422: "Correct what the detail names, then send it again.",
    500: "Nothing more is built on this. Tell the operator of this site, with the request_id.",
    502: "It may have happened: repeat it with the same Idempotency-Key, which cannot do it twice.",
    503: "Nothing happened. Send it again later, with the same Idempotency-Key.",
}


def status_of(error: OutlastError) -> int:
    """The HTTP status of an error."""
    status = STATUS.get(error.code)
    if status is not None:
        return status
    if error.retry == "reauth":
        return 401
    if isinstance(error, Refused):
        return 404 if error.code.endswith("not-found") else 422
    if isinstance(error, Conflict):
        return 409
    if isinstance(error, Unknown):
        return 502
    return 500 if isinstance(error, Corrupt) else 503


def problem_of(error: OutlastError, request_id: str) -> Problem:
    """An error as problem details."""
    status = status_of(error)
    after_s = error.retry_after_s
    if after_s is None and isinstance(error, Unavailable):
        after_s = 1.0
    return Problem(
        type=TYPE + error.code,
        title=_TITLES.get(status, "Error"),
        status=status,
        detail=error.message[:MAX_DETAIL_CHARS],
        code=error.code,
        retry=error.retry,
        retry_after_s=after_s,
        scope=error.scope,
        hint=error.hint[:MAX_DETAIL_CHARS] or _HINTS.get(status, ""),
        request_id=request_id,
    )


def unexpected(request_id: str) -> Problem:
    """For an exception that nobody foresaw."""
    return Problem(
        type=TYPE + "internal-error",
        title="Internal error",
        status=500,
        detail="something failed that should not have; it is in this site's log",
        code="internal-error",
        retry="same",
        hint="Repeat it with the same Idempotency-Key; if it persists, tell the operator the request_id.",
        request_id=request_id,
    )


def headers_of(problem: Problem) -> list[tuple[bytes, bytes]]:
    """The headers that go with a problem."""
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"no-store")]
    if problem.retry_after_s is not None:
        seconds = str(max(1, math.ceil(problem.retry_after_s)))
        headers.append((b"retry-after", seconds.encode()))
    if problem.status == 401:
        missing = problem.code == "token-missing"
        challenge = b'Bearer realm="outlast"' + (b"" if missing else b', error="invalid_token"')
        headers.append((b"www-authenticate", challenge))
    return headers


def too_large(limit: int) -> Refused:
    """A body above its limit, in bytes."""
    return Refused(
        "body-too-large",
        f"the body has more than {limit} bytes",
        hint=f"At most {limit} bytes are taken here.",
    )


def malformed(message: str, hint: str = "") -> Refused:
    """A request that cannot be read."""
    return Refused("request-malformed", message[:MAX_DETAIL_CHARS], hint=hint)
