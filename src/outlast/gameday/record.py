"""What really happened, read from the log's entries and from nothing else.

The game day does not ask the site how it went: it reads each entry's bytes, as published, and counts. Entries of
other kinds than those it knows are passed over. Pure: bytes in, facts out. Times are Unix milliseconds of the site
that wrote the entry.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from outlast.core.blobref import BlobRef
from outlast.core.clock import hlc_ms
from outlast.core.log.entry import Entry, decode_entry

REQUEST_KIND = "signing.request"


class _Place(msgspec.Struct):
    key: str


class _Requested(msgspec.Struct):
    document: str
    places: tuple[_Place, ...]


class _Pin(msgspec.Struct):
    attempt: int
    provider: str


class _Started(msgspec.Struct):
    pin: _Pin


class _Failed(msgspec.Struct):
    attempt: int
    provider: str
    outcome: str
    detail: str = ""


class _Obtained(msgspec.Struct):
    provider: str
    key_number: int
    document_number: int
    place: int


class _File(msgspec.Struct):
    blob: BlobRef


class _Stamp(msgspec.Struct):
    authority: str


class _Revision(msgspec.Struct):
    place: int
    revision: _File
    timestamp: str
    stamp: _Stamp | None = None


class _Settled(msgspec.Struct):
    revision: _File
    stamp: _Stamp


class _GaveUp(msgspec.Struct):
    reason: str = ""


class _Health(msgspec.Struct):
    provider: str
    text: str
    out_ms: int = 0


class _Mode(msgspec.Struct):
    mode: str
    previous: str
    reasons: tuple[str, ...] = ()


class Attempt(msgspec.Struct, frozen=True):
    """A provider was asked. ``outcome`` is empty where it signed, or has not answered yet."""

    number: int
    provider: str
    started_ms: int
    outcome: str = ""
    detail: str = ""
    failed_ms: int = 0


class Obtained(msgspec.Struct, frozen=True):
    """A signature value was recorded."""

    place: int
    provider: str
    at_ms: int
    key_number: int
    document_number: int


@dataclass
class RequestRecord:
    """One signature request as the log tells it. ``file_sha256`` is the newest signed file's."""

    id: str
    accepted_ms: int = 0
    times_requested: int = 0
    document: str = ""
    keys: tuple[str, ...] = ()
    attempts: list[Attempt] = field(default_factory=list)
    obtained: list[Obtained] = field(default_factory=list)
    revisions: list[int] = field(default_factory=list)
    file_sha256: str = ""
    authority: str = ""
    completed_ms: int = 0
    owed: bool = False
    settled: int = 0
    missed: bool = False
    failed: str = ""

    @property
    def complete(self) -> bool:
        """Whether every signature is in its file, and no timestamp is owed."""
        return len(self.revisions) >= max(1, len(self.keys)) and (not self.owed or self.settled > 0)

    @property
    def failed_over_ms(self) -> int | None:
        """From the start of the attempt that failed at one provider to the signature by another; None where
        that did not happen. Attempts cut off by the site's own death are not the provider's."""
        if not self.obtained:
            return None
        signed = self.obtained[0]
        gone = [
            a for a in self.attempts
            if a.outcome and a.detail != "interrupted" and a.provider != signed.provider
        ]  # fmt: skip
        return signed.at_ms - gone[0].started_ms if gone else None

    @property
    def interrupted(self) -> int:
        """Attempts that the site's death cut off."""
        return sum(a.detail == "interrupted" for a in self.attempts)


class Note(msgspec.Struct, frozen=True):
    """Something the site put on record about itself: a provider left or taken back, a mode entered.

    ``kind`` is ``ejected``, ``restored`` or ``mode``; ``subject`` the provider, or the mode.
    """

    at_ms: int
    kind: str
    subject: str
    text: str


class Failover(msgspec.Struct, frozen=True):
    """A signature by another provider than the one first asked."""

    at_ms: int
    provider: str
    instead_of: str
    took_ms: int


class Record:
    """All requests of the log, by id, and what the site noted about itself. Feed it entries in log order."""

    def __init__(self) -> None:
        self.size = 0
        self.requests: dict[str, RequestRecord] = {}
        self.notes: list[Note] = []
        self.failovers: list[Failover] = []

    def read(self, leaves: Iterable[bytes]) -> None:
        """Take in the next entries. Raises Corrupt ``entry-malformed``."""
        for leaf in leaves:
            entry = decode_entry(leaf)
            self.size += 1
            kind, _, stream = entry.stream.partition("/")
            at_ms = hlc_ms(int(entry.hlc, 16))
            if kind == REQUEST_KIND:
                request = self.requests.setdefault(stream, RequestRecord(stream))
                self._of_request(request, entry, at_ms)
            else:
                self._of_site(entry, at_ms)

    def _of_request(self, request: RequestRecord, entry: Entry, at_ms: int) -> None:
        match entry.type:
            case "signing.requested":
                asked = msgspec.json.decode(entry.data, type=_Requested)
                request.times_requested += 1
                request.accepted_ms, request.document = at_ms, asked.document
                request.keys = tuple(place.key for place in asked.places)
            case "signing.attempt_started":
                pin = msgspec.json.decode(entry.data, type=_Started).pin
                request.attempts.append(Attempt(pin.attempt, pin.provider, at_ms))
            case "signing.attempt_failed":
                _fail(request, msgspec.json.decode(entry.data, type=_Failed), at_ms)
            case "signing.signature_obtained":
                self._obtained(request, msgspec.json.decode(entry.data, type=_Obtained), at_ms)
            case "signing.revision_signed":
                _revision(request, msgspec.json.decode(entry.data, type=_Revision), at_ms)
            case "signing.timestamp_settled":
                settled = msgspec.json.decode(entry.data, type=_Settled)
                request.settled += 1
                request.file_sha256 = settled.revision.blob.sha256
                request.authority = settled.stamp.authority
            case "signing.timestamp_missed":
                request.missed = True
            case "signing.failed" | "signing.cancelled":
                gave_up = msgspec.json.decode(entry.data, type=_GaveUp)
                request.failed = gave_up.reason or entry.type

    def _obtained(self, request: RequestRecord, event: _Obtained, at_ms: int) -> None:
        request.obtained.append(
            Obtained(event.place, event.provider, at_ms, event.key_number, event.document_number)
        )
        took_ms = request.failed_over_ms
        if len(request.obtained) == 1 and took_ms is not None:
            first = next(a.provider for a in request.attempts if a.provider != event.provider)
            self.failovers.append(Failover(at_ms, event.provider, first, took_ms))

    def _of_site(self, entry: Entry, at_ms: int) -> None:
        match entry.type:
            case "operations.provider_ejected":
                health = msgspec.json.decode(entry.data, type=_Health)
                self.notes.append(Note(at_ms, "ejected", health.provider, health.text))
            case "operations.provider_restored":
                health = msgspec.json.decode(entry.data, type=_Health)
                text = f"back after {health.out_ms / 1000:.1f} s"
                self.notes.append(Note(at_ms, "restored", health.provider, text))
            case "operations.mode_entered":
                mode = msgspec.json.decode(entry.data, type=_Mode)
                self.notes.append(Note(at_ms, "mode", mode.mode, mode.previous))

    # -- what follows from it ----------------------------------------------------------------------------------

    @property
    def signed(self) -> int:
        """Requests with a signature on record."""
        return sum(bool(r.obtained) for r in self.requests.values())

    @property
    def completed(self) -> int:
        """Requests with all that was asked for, owed timestamps included."""
        return sum(r.complete for r in self.requests.values())

    @property
    def owed(self) -> int:
        """Requests that were released owing their timestamp."""
        return sum(r.owed for r in self.requests.values())

    @property
    def settled(self) -> int:
        """Of those, requests that have got it."""
        return sum(r.owed and r.settled > 0 for r in self.requests.values())

    def by_provider(self) -> dict[str, int]:
        """Signatures by provider."""
        counts: dict[str, int] = {}
        for request in self.requests.values():
            for obtained in request.obtained:
                counts[obtained.provider] = counts.get(obtained.provider, 0) + 1
        return counts

    def by_authority(self) -> dict[str, int]:
        """Timestamps by authority."""
        counts: dict[str, int] = {}
        for request in self.requests.values():
            if request.authority:
                counts[request.authority] = counts.get(request.authority, 0) + 1
        return counts


def _fail(request: RequestRecord, event: _Failed, at_ms: int) -> None:
    for i, attempt in enumerate(request.attempts):
        if attempt.number == event.attempt:
            request.attempts[i] = msgspec.structs.replace(
                attempt, outcome=event.outcome, detail=event.detail, failed_ms=at_ms
            )


def _revision(request: RequestRecord, event: _Revision, at_ms: int) -> None:
    request.revisions.append(event.place)
    request.file_sha256 = event.revision.blob.sha256
    request.completed_ms = at_ms
    request.owed = request.owed or event.timestamp == "owed"
    if event.stamp is not None:
        request.authority = event.stamp.authority
