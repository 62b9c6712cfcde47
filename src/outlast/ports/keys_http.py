"""The keys port as HTTP: the bodies that `adapters.keys.remote` and `surfaces.signer` exchange.

    POST /v1/signer/sign          SignBody -> SignatureBody      Idempotency-Key: the operation, required
    GET  /v1/signer/keys/{ref}    KeyBody
    GET  /livez                   the process answers
    GET  /readyz                  the keystore behind it answers

Byte strings are base64 (RFC 4648 section 4). Errors are RFC 9457 problem details (`ProblemBody`); the status alone
says which of the three kinds of failure it is: 4xx but 429 is Refused; 429 and 503 are Unavailable; any other
is Unknown.
"""

from __future__ import annotations

import msgspec

from outlast.core.errors import Retry
from outlast.ports.keys import MAX_TBS_BYTES, Algorithm

SIGN_PATH = "/v1/signer/sign"
KEYS_PATH = "/v1/signer/keys/"
LIVE_PATH = "/livez"
READY_PATH = "/readyz"

PROBLEM_TYPE = "application/problem+json"

MAX_BODY_BYTES = MAX_TBS_BYTES * 4 // 3 + 2048
"""The largest `SignBody`: MAX_TBS_BYTES in base64, and the names."""

MAX_OPERATION_CHARS = 255


class SignBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to sign, and with which key."""

    key: str
    algorithm: Algorithm
    tbs: bytes


class SignatureBody(msgspec.Struct, frozen=True, kw_only=True):
    """The answer; ``key`` and ``algorithm`` as asked."""

    key: str
    algorithm: Algorithm
    signature: bytes


class KeyBody(msgspec.Struct, frozen=True, kw_only=True):
    """Public half of a key; ``spki`` is SubjectPublicKeyInfo, DER."""

    key: str
    algorithm: Algorithm
    spki: bytes


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457 problem details with our extension members ``code``, ``retry`` and ``retry_after_s``."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    code: str = ""
    hint: str = ""
    retry: Retry = "never"
    retry_after_s: float | None = None
    scope: str = ""
