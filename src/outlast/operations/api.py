"""What surfaces may ask of operations: other systems' own entries, put into the site's log.

Guarantees: a batch is in the log whole and in its order, without another entry of its journal between, or not at all; the
same idempotency key with the same bytes is answered as the first time. Refuses what `operations.lines` refuses, a
journal's name that is none, and everything while the site takes no new work.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

import anyio.to_thread
import msgspec

from outlast.core.clock import Clock, hlc_text
from outlast.core.commit import Idempotency, Receipt, Submission, recall
from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.core.log.entry import MAX_ENTRY_BYTES, Entry, encode_entry
from outlast.core.store.port import Store
from outlast.operations.lines import parse_lines
from outlast.operations.model.journal import KIND, JournalRecorded, RecordEntries

DEFAULT_JOURNAL = "default"
MAX_JOURNAL_CHARS = 100
IN_THREAD_FROM_BYTES = 64 * 1024
"""Batches from this size on are checked in a thread: one may take 10 ms."""

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_JOURNAL_CHARS - 1}}}")
_MOST = (1 << 63) - 1
"""The longest sequence number an entry's frame may have to hold."""


class Door(Protocol):
    """The committer, as far as it is needed here."""

    async def submit(self, work: Submission) -> Receipt: ...


class Journals:
    """Takes batches in. ``refusal`` says why the site takes no new work now, or None."""

    def __init__(
        self,
        door: Door,
        store: Store,
        clock: Clock,
        site: str,
        refusal: Callable[[], OutlastError | None],
    ) -> None:
        self._door = door
        self._store = store
        self._clock = clock
        self._site = site
        self._refusal = refusal

    async def append(
        self,
        tenant: str,
        actor: str,
        journal: str,
        body: bytes,
        idempotency: Idempotency | None = None,
    ) -> Receipt:
        """Record the lines of ``body`` in ``journal``; the receipt's ``index`` .. ``index + count - 1`` are theirs.

        Raises Refused ``journal-invalid``, ``batch-size``, ``entry-malformed``, ``entry-too-large``,
        ``idempotency-key-reused``; Unavailable while nothing new is taken.
        """
        try:
            return await self._append(tenant, actor, journal, body, idempotency)
        except (Refused, Unavailable):
            # whoever was told "accepted", and lost the answer, must not be told "refused" now
            known = idempotency and await recall(self._store, tenant, idempotency)
            if not known:
                raise
            return known

    async def _append(
        self, tenant: str, actor: str, journal: str, body: bytes, idempotency: Idempotency | None
    ) -> Receipt:
        refused = self._refusal()
        if refused is not None:
            raise refused
        if not _NAME.fullmatch(journal):
            raise Refused(
                "journal-invalid",
                f"a journal's name has 1 to {MAX_JOURNAL_CHARS} letters, digits, dots, dashes, underscores",
                hint="For example: billing.audit",
            )
        longest = MAX_ENTRY_BYTES - self._frame_bytes(tenant, actor, journal)
        if len(body) < IN_THREAD_FROM_BYTES:
            lines = parse_lines(body, longest)
        else:
            lines = await anyio.to_thread.run_sync(parse_lines, body, longest)
        return await self._door.submit(
            Submission(
                tenant=tenant,
                actor=actor,
                kind=KIND,
                stream=journal,
                command=RecordEntries(at_ms=self._clock.now_ms(), lines=lines),
                idempotency=idempotency,
                weight=len(lines),
            )
        )

    def _frame_bytes(self, tenant: str, actor: str, journal: str) -> int:
        """What an entry of this journal has around a caller's line, at most."""
        empty = Entry(
            type=JournalRecorded.name,
            site=self._site,
            hlc=hlc_text(0),
            vec={self._site: _MOST},
            tenant=tenant,
            stream=f"{KIND}/{journal}",
            seq=_MOST,
            epoch=_MOST,
            actor=actor,
            data=msgspec.Raw(b'{"data":}'),
        )
        return len(encode_entry(empty))
