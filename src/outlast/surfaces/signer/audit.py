"""One line for every signing request, whatever became of it: JSON, to the logger ``outlast.signer.audit``.

It holds digests, never the bytes signed. The handler decides where lines go; `__main__` writes them to a file.
"""

from __future__ import annotations

import logging

import msgspec

AUDIT_LOGGER = "outlast.signer.audit"

_log = logging.getLogger(AUDIT_LOGGER)


class AuditLine(msgspec.Struct, frozen=True, kw_only=True):
    """``outcome`` is ``signed``, ``repeated`` (answered from memory), an error's code, or ``failed``.

    ``time`` is RFC 3339 in UTC; digests are hex.
    """

    time: str
    client: str
    client_fingerprint_sha256: str
    key: str
    algorithm: str
    operation: str
    traceparent: str
    tbs_sha256: str
    outcome: str
    signature_sha256: str
    duration_ms: float


def write_audit_line(line: AuditLine) -> None:
    """Hand the line to logging, as one JSON object without a newline in it."""
    _log.info(msgspec.json.encode(line).decode())
