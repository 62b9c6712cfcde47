"""What the end of a call says about its provider.

The rule: a provider is judged by its own failures only. A request that was wrong, work we gave up, and a plea to
slow down leave its health alone; refused credentials, silence, broken connections, and answers that fail their
check count against it.
"""

from __future__ import annotations

import logging
from typing import Literal

import msgspec

from outlast.core.errors import Corrupt, OutlastError, Refused, Unavailable, Unknown

log = logging.getLogger("outlast.routing")

Kind = Literal[
    "ok",
    "request-refused",
    "auth-refused",
    "bad-answer",
    "unreachable",
    "unknown",
    "throttled",
    "cancelled",
]
"""How a call ended. ``bad-answer``: it answered with something that fails our check."""

PROVIDER_REFUSALS: dict[str, Kind] = {
    "provider-auth": "auth-refused",
    "credentials-refused": "auth-refused",
    "bucket-not-found": "auth-refused",
    "secret-unreadable": "auth-refused",
    "secret-exposed": "auth-refused",
    "bad-signature": "bad-answer",
    "tsa-bad-token": "bad-answer",
    "provider-protocol": "bad-answer",
}
"""Codes of Refused that are the provider's fault (or our credentials' with it), not the request's."""

MAX_THROTTLE_MS = 15 * 60_000
"""Longest Retry-After that is believed: nobody ejects themselves for ever."""

THROTTLE_CODES = frozenset({"throttled", "rate-limited"})
DEFAULT_THROTTLE_MS = 1_000
"""How long a provider is left alone that says it is throttling but not for how long."""


class Outcome(msgspec.Struct, frozen=True):
    """The end of one call: what kind, the stable code of its error, and how long to stay away (throttled)."""

    kind: Kind
    code: str = ""
    throttle_ms: int = 0

    @property
    def failed(self) -> bool:
        """Whether it counts against the provider."""
        return self.kind in ("auth-refused", "bad-answer", "unreachable", "unknown")


ADAPTER_ERROR = "adapter-error"
"""The code of what no port may raise: a fault of the adapter."""

OK = Outcome("ok")
CANCELLED = Outcome("cancelled", "cancelled")
TIMED_OUT = Outcome("unknown", "timed-out")
BAD_SIGNATURE = Outcome("bad-answer", "bad-signature")
"""The caller's verdict on a returned signature that does not verify."""


def outcome_of(error: BaseException) -> Outcome:
    """Classify what a port raised. Anything that is not an OutlastError is a fault of the adapter: it is judged as a
    bad answer, and its traceback, which nobody else has, goes into the process's log."""
    if isinstance(error, Refused):
        return Outcome(PROVIDER_REFUSALS.get(error.code, "request-refused"), error.code)
    if isinstance(error, Unavailable):
        return _unavailable(error)
    if isinstance(error, Unknown | Corrupt):
        return Outcome("unknown" if isinstance(error, Unknown) else "bad-answer", error.code)
    if isinstance(error, OutlastError):
        return Outcome("cancelled", error.code)
    if isinstance(error, TimeoutError):
        return TIMED_OUT
    if isinstance(error, Exception):
        log.error("an adapter raised what no port may: %s", type(error).__name__, exc_info=error)
        return Outcome("bad-answer", ADAPTER_ERROR)
    return CANCELLED  # CancelledError, KeyboardInterrupt: we stopped, the provider did not fail


def _unavailable(error: Unavailable) -> Outcome:
    if error.retry_after_s is None and error.code not in THROTTLE_CODES:
        return Outcome("unreachable", error.code)
    asked_ms = DEFAULT_THROTTLE_MS
    if error.retry_after_s is not None:
        asked_ms = int(max(0.0, min(error.retry_after_s * 1000, MAX_THROTTLE_MS)))
    return Outcome("throttled", error.code, asked_ms)
