"""What is permitted for a class of documents: which providers, which level, which degradations."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["B-B", "B-T"]
"""PAdES / CAdES baseline level (ETSI EN 319 142-1, 319 122-1): without, or with, a trusted timestamp."""

Format = Literal["pades", "cms"]
"""A signature inside a PDF, or a detached CMS beside any file."""


RESERVE_BYTES: dict[Level, int] = {"B-B": 8 * 1024, "B-T": 14 * 1024}
"""Room for a CMS of each level."""


class DocumentClass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One class of the configuration. Times in the unit their name ends with.

    ``providers`` is the order of preference; routing leaves out what policy forbids and what is ill.
    ``authorities`` likewise for timestamps. With ``owe_timestamp`` a document whose authorities all fail is
    released at B-B after ``timestamp_patience_ms`` and must get its timestamp within ``timestamp_deadline_s``.
    """

    name: str = ""
    key: str = "default"
    level: Level = "B-B"
    providers: tuple[str, ...] = ()
    authorities: tuple[str, ...] = ()
    owe_timestamp: bool = False
    timestamp_patience_ms: int = 3_000
    timestamp_deadline_s: int = 86_400
    manual_approval: bool = False
    residency: tuple[str, ...] = ()
    max_bytes: int = 64 * 1024 * 1024
    max_pages: int = 5_000
    reserve_bytes: int = 0
    max_signatures: int = 16

    @property
    def reserve(self) -> int:
        """Bytes kept for a signature's CMS in a PDF (the file grows by twice as many); 0: as the level
        needs: a chain of three certificates, and at B-T a token with its own."""
        return self.reserve_bytes or RESERVE_BYTES[self.level]
