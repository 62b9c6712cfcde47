"""Proof that bytes existed at a time, from an authority others trust (RFC 3161).

A ``TimestampAuthority`` answers for one configured authority. It returns a token only after everything that
RFC 3161 lets a client check has been checked; a token that fails a check is as bad as no answer.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A verified token. ``der`` is the TimeStampToken (a CMS ContentInfo), ``response_der`` the whole
    TimeStampResp it came in: verifiers differ in which they take. ``gen_time_ms`` is Unix milliseconds."""

    der: bytes
    response_der: bytes
    gen_time_ms: int
    serial: int
    policy_oid: str
    authority: str
    qualified: bool
    """Whether configuration declares the authority qualified; a local authority never is."""


class TimestampAuthority(Protocol):
    """One authority. Errors: Refused (it rejects the request, or its token fails verification: code
    ``tsa-bad-token``), Unavailable (not reached, throttled), Unknown never (a second token does no harm)."""

    async def stamp(self, digest: bytes) -> Token:
        """A token over a SHA-256 digest (32 bytes)."""
        ...

    async def check(self) -> None:
        """Returns when the authority can be reached; raises Unavailable otherwise."""
        ...

    async def aclose(self) -> None:
        """Frees connections."""
        ...
