"""What the client was promised, in the client's own words: it believes its ledger, not the site.

One line of JSON for each acknowledgement, written when it arrives, in ``ledger.jsonl``. Afterwards everything in it
is demanded back.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import msgspec


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """An acknowledged request: our idempotency key, the id the site gave, where in its log it stands.

    ``attempts`` counts how often it was sent; ``asked_ms`` and ``acked_ms`` are Unix milliseconds; ``again`` marks
    the answer to asking once more for what was promised before.
    """

    key: str
    request: str
    document: str
    index: int
    asked_ms: int
    acked_ms: int
    attempts: int
    again: bool = False


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A request that the site would not take."""

    key: str
    code: str
    detail: str


class Ledger:
    """All promises in the order they were made; kept in ``path`` too."""

    def __init__(self, path: Path) -> None:
        self.promises: list[Promise] = []
        self.refusals: list[Refusal] = []
        self._file: IO[bytes] = path.open("ab")

    def acknowledged(self, promise: Promise) -> None:
        """Note an acknowledgement."""
        self.promises.append(promise)
        self._file.write(msgspec.json.encode(promise) + b"\n")
        self._file.flush()

    def refused(self, refusal: Refusal) -> None:
        """Note a refusal."""
        self.refusals.append(refusal)

    @property
    def accepted(self) -> int:
        """Keys that were acknowledged."""
        return len(self.by_key())

    def by_key(self) -> dict[str, Promise]:
        """The first promise of each key."""
        found: dict[str, Promise] = {}
        for promise in self.promises:
            found.setdefault(promise.key, promise)
        return found

    def close(self) -> None:
        """No more is written."""
        self._file.close()
