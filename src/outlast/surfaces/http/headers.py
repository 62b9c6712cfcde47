"""What request headers say, read strictly: a header that cannot be understood is refused, not guessed at.

Sources: RFC 7240 (Prefer), RFC 9110 (conditional requests, content types), draft-ietf-httpapi-idempotency-key-header,
W3C Trace Context.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from outlast.core.errors import Refused

RawHeaders = Mapping[bytes, bytes]
"""Lower-case names; of a repeated header the last counts."""

MAX_WAIT_S = 60.0
"""Longest that a caller may have an answer held back."""
MAX_KEY_CHARS = 255
"""Of an Idempotency-Key."""
MAX_MEDIA_TYPE_CHARS = 127
"""Of a content type, parameters left out (RFC 6838, section 4.2)."""

NDJSON = "application/x-ndjson"
"""A JSON value on each line."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_IDEMPOTENCY_KEY = re.compile(rb'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])+)"|([\x21\x23-\x7e]+)')
_WAIT = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,3})?")
_ETAG = re.compile(rb'(?:W/)?"([0-9]{1,18})"')
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")


class Prefer(msgspec.Struct, frozen=True):
    """What a caller prefers (RFC 7240). ``wait_s`` 0: answer at once; ``published``: answer when the entries are
    under a signed checkpoint."""

    wait_s: float = 0.0
    published: bool = False


_AT_ONCE = Prefer()


def request_id(headers: RawHeaders) -> bytes | None:
    """The caller's X-Request-Id; None when there is none that could be repeated safely."""
    given = headers.get(b"x-request-id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else None


def traceparent(headers: RawHeaders) -> bytes | None:
    """The caller's trace context; None when there is none, or not a valid one."""
    given = headers.get(b"traceparent")
    return given if given is not None and _TRACEPARENT.fullmatch(given) else None


def bearer_token(headers: RawHeaders) -> str:
    """The token presented. Raises Refused ``token-missing``, ``token-invalid`` (reauth)."""
    given = headers.get(b"authorization")
    if given is None:
        raise Refused(
            "token-missing",
            "this needs an API key",
            hint="Send `Authorization: Bearer <token>`. `outlast serve` prints a first token.",
            retry="reauth",
        )
    scheme, _, token = given.partition(b" ")
    if scheme.lower() != b"bearer":
        raise Refused(
            "token-invalid",
            "only bearer tokens are taken",
            hint="Send `Authorization: Bearer <token>`.",
            retry="reauth",
        )
    return token.strip().decode("latin-1")


def idempotency_key(headers: RawHeaders) -> str:
    """The Idempotency-Key, empty when there is none; as a quoted string (the draft) or bare. Raises Refused
    ``idempotency-key-invalid``."""
    given = headers.get(b"idempotency-key")
    if given is None:
        return ""
    match = _IDEMPOTENCY_KEY.fullmatch(given.strip())
    key = (match[1] or match[2]) if match else b""
    if not 0 < len(key) <= MAX_KEY_CHARS:
        raise Refused(
            "idempotency-key-invalid",
            f"an Idempotency-Key has 1 to {MAX_KEY_CHARS} visible ASCII characters",
            hint='For example: Idempotency-Key: "0198f7f2-6a40-7c3e-9d1b-1f0f3a3c5e11"',
        )
    return key.decode("ascii")


def prefer(headers: RawHeaders) -> Prefer:
    """What is preferred; preferences unknown here are passed over, as RFC 7240 section 2 demands."""
    given = headers.get(b"prefer")
    if given is None:
        return _AT_ONCE
    wait_s, published = 0.0, False
    for part in given.decode("latin-1").split(","):
        name, _, value = part.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "wait" and _WAIT.fullmatch(value):
            wait_s = min(float(value), MAX_WAIT_S)
        elif name == "receipt":
            published = value.lower() == "published"
    return Prefer(wait_s, published)


def if_match(headers: RawHeaders) -> int | None:
    """The version that must be the newest; None: any. Raises Refused ``header-invalid``."""
    given = headers.get(b"if-match")
    if given is None or given.strip() == b"*":
        return None
    match = _ETAG.fullmatch(given.strip())
    if match is None:
        raise Refused(
            "header-invalid",
            "If-Match must be one ETag as it was given out",
            hint='For example: If-Match: "3"',
        )
    return int(match[1])


def none_match(headers: RawHeaders) -> int | None:
    """The version the caller has already, None for none (an ETag we never gave out is none)."""
    given = headers.get(b"if-none-match")
    match = _ETAG.fullmatch(given.strip()) if given is not None else None
    return int(match[1]) if match else None


def media_type(headers: RawHeaders) -> str:
    """The content type without parameters, lower case; empty when there is none. Raises Refused
    ``content-type``."""
    given = headers.get(b"content-type")
    if given is None:
        return ""
    text = given.partition(b";")[0].strip().lower().decode("latin-1")
    if len(text) > MAX_MEDIA_TYPE_CHARS or not _MEDIA_TYPE.fullmatch(text):
        raise Refused("content-type", "Content-Type is not of the form type/subtype")
    return text
