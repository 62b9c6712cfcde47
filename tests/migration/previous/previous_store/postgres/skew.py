"""Whether this node's clock and the server's agree: leases, due times and timestamps of several nodes depend on it.

The server tells its time with every load. All nodes are compared with the one server, so two of them differ by twice
the bound at most. What the answer's way took is allowed for: the server's time lies between the node's when it asked
and when it had the answer, and only what lies outside counts.
"""

from __future__ import annotations

from outlast.core.errors import Unavailable

MAX_SKEW_MS = 2_000
"""How far a node's clock may be from the server's."""
RETRY_S = 5.0


def skew_ms(asked_ms: int, server_ms: int, answered_ms: int) -> int:
    """How far this node's clock is ahead of the server's (negative: behind), at the very least."""
    if server_ms < asked_ms:
        return asked_ms - server_ms
    return min(0, answered_ms - server_ms)


def refuse_skew(asked_ms: int, server_ms: int, answered_ms: int) -> None:
    """Raise Unavailable ``clock-skew`` beyond MAX_SKEW_MS; nothing has been written then."""
    skew = skew_ms(asked_ms, server_ms, answered_ms)
    if abs(skew) <= MAX_SKEW_MS:
        return
    raise Unavailable(
        "clock-skew",
        f"this machine's clock is {abs(skew) / 1000:.1f} s {'ahead of' if skew > 0 else 'behind'} the database"
        f" server's; at most {MAX_SKEW_MS / 1000:g} s are allowed",
        hint="Set both by NTP (chronyc tracking, timedatectl); work resumes by itself once they agree.",
        retry_after_s=RETRY_S,
        scope="site",
    )
