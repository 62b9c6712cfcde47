"""What an error says about a provider."""

from __future__ import annotations

import asyncio

import pytest

from outlast.core.errors import Conflict, Corrupt, Refused, Unavailable, Unknown
from outlast.core.routing.outcome import MAX_THROTTLE_MS, outcome_of


@pytest.mark.parametrize(
    ("error", "kind", "failed"),
    [
        (Refused("key-disabled", "m"), "request-refused", False),
        (Refused("provider-auth", "m"), "auth-refused", True),
        (Refused("tsa-bad-token", "m"), "bad-answer", True),
        (Unavailable("provider-unreachable", "m"), "unreachable", True),
        (Unavailable("throttled", "m", retry_after_s=2), "throttled", False),
        (Unavailable("throttled", "m"), "throttled", False),
        (Unknown("no-answer", "m"), "unknown", True),
        (TimeoutError(), "unknown", True),
        (Corrupt("key-file", "m"), "bad-answer", True),
        (Conflict("version", "m"), "cancelled", False),
        (RuntimeError("bug"), "bad-answer", True),
        (asyncio.CancelledError(), "cancelled", False),
    ],
)
def test_classification(error: BaseException, kind: str, failed: bool) -> None:
    """Only a provider's own failures count against it."""
    outcome = outcome_of(error)
    assert (outcome.kind, outcome.failed) == (kind, failed)


@pytest.mark.parametrize("asked_s", [1e9, float("inf"), -5.0, float("nan")])
def test_retry_after_is_clamped(asked_s: float) -> None:
    """No provider ejects itself for ever, or crashes us, with its Retry-After."""
    outcome = outcome_of(Unavailable("throttled", "m", retry_after_s=asked_s))
    assert 0 <= outcome.throttle_ms <= MAX_THROTTLE_MS


def test_an_adapters_bug_leaves_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """What no port may raise is in the process's log with where it came from; what ports do raise is not."""
    assert outcome_of(KeyError("no such field")).code == "adapter-error"
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError
    outcome_of(Refused("x", "no"))
    outcome_of(TimeoutError())
    assert len(caplog.records) == 1
