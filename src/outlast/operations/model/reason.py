"""The reason that a person gives for a switch: there is none without one, and it goes on record."""

from __future__ import annotations

from outlast.core.errors import Refused

MAX_REASON_CHARS = 500
"""Of a reason given by hand."""


def stated(text: str) -> str:
    """The reason without surrounding white space, cut to its limit. Raises Refused ``reason-missing``."""
    if not text.strip():
        raise Refused("reason-missing", "say why", hint="The reason goes on record.")
    return text.strip()[:MAX_REASON_CHARS]
