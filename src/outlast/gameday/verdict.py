"""The verdict of a game day: what was promised, held against what the log says and what is in the files.

Pure. **Lost** is a promise (an acknowledged idempotency key) without a completed request, or without its signed file.
**Duplicated** is anything that happened twice: two requests for one key, a request in the log that nobody was
promised, two signatures or files for one place, a number of a key or document given twice. A gap in those numbers is
neither, and counted as a fault: a signature may have been made that is on no record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from outlast.gameday.ledger import Promise
from outlast.gameday.record import Record, RequestRecord

MAX_SHOWN = 10
"""Faults that are told one by one; the rest is counted."""


class Delivered(msgspec.Struct, frozen=True):
    """The file that the site handed out for a key, by its SHA-256; ``name`` is where it was put."""

    key: str
    name: str
    sha256: str


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What `outlast verify` and `outlast log fsck` said, run as processes of their own on the files.

    ``bad`` names each file that failed with the reason. ``log_entries`` is how many entries were recomputed,
    ``log_extends`` the size of the checkpoint kept from before the site was killed, if the log still contains it.
    """

    documents: int = 0
    bundles: int = 0
    bad: tuple[str, ...] = ()
    log_ok: bool = False
    log_entries: int = 0
    log_extends: int | None = None
    log_says: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. ``faults`` are everything that must not be, in words; empty: all is well."""

    wanted: int
    accepted: int
    signed: int
    completed: int
    owed: int
    settled: int
    failovers: int
    interrupted: int
    signed_by: dict[str, int]
    stamped_by: dict[str, int]
    lost: tuple[str, ...]
    duplicated: tuple[str, ...]
    faults: tuple[str, ...]
    checked: Checked

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, nothing duplicated, everything settled and everything verifies."""
        return not (self.lost or self.duplicated or self.faults)


def judge(
    wanted: int,
    promises: Sequence[Promise],
    record: Record,
    delivered: Sequence[Delivered],
    checked: Checked,
) -> Verdict:
    """Hold them against each other. ``promises`` include the answers to asking again, marked so."""
    first: dict[str, Promise] = {}
    for promise in promises:
        first.setdefault(promise.key, promise)
    files = {item.key: item for item in delivered}
    lost = [*_lost(first, record, files)]
    duplicated = [*_doubly_promised(promises), *_unpromised(first, record)]
    for request in record.requests.values():
        duplicated += _done_twice(request)
    duplicated += _same_file(delivered)
    repeats, gaps = _numbers(record)
    faults = [*_unfinished(wanted, first, record), *gaps, *_unverified(first, checked)]
    return Verdict(
        wanted=wanted,
        accepted=len(first),
        signed=record.signed,
        completed=record.completed,
        owed=record.owed,
        settled=record.settled,
        failovers=len(record.failovers),
        interrupted=sum(r.interrupted for r in record.requests.values()),
        signed_by=record.by_provider(),
        stamped_by=record.by_authority(),
        lost=tuple(lost),
        duplicated=(*duplicated, *repeats),
        faults=tuple(faults),
        checked=checked,
    )


def _lost(
    first: Mapping[str, Promise], record: Record, files: Mapping[str, Delivered]
) -> Iterable[str]:
    for key, promise in first.items():
        request, file = record.requests.get(promise.request), files.get(key)
        if request is None or not request.times_requested:
            yield f"{key}: acknowledged, but its request is not in the log"
        elif not request.obtained or not request.revisions:
            yield f"{key}: never signed{f' ({request.failed})' if request.failed else ''}"
        elif file is None:
            yield f"{key}: its signed file could not be fetched"
        elif file.sha256 != request.file_sha256:
            yield f"{key}: {file.name} is not the file that the log names"


def _doubly_promised(promises: Sequence[Promise]) -> Iterable[str]:
    by_key: dict[str, str] = {}
    by_request: dict[str, str] = {}
    for promise in promises:
        if by_key.setdefault(promise.key, promise.request) != promise.request:
            yield f"{promise.key}: answered with two different requests"
        if by_request.setdefault(promise.request, promise.key) != promise.key:
            yield f"{promise.request}: one request for two keys"


def _unpromised(first: Mapping[str, Promise], record: Record) -> Iterable[str]:
    promised = {promise.request for promise in first.values()}
    for request in record.requests:
        if request not in promised:
            yield f"{request}: in the log, but no key was ever answered with it"


def _done_twice(request: RequestRecord) -> list[str]:
    found = []
    if request.times_requested > 1:
        found.append(f"{request.id}: requested {request.times_requested} times")
    for what, places in (
        ("signatures", [obtained.place for obtained in request.obtained]),
        ("signed files", request.revisions),
    ):
        if len(places) != len(set(places)):
            found.append(f"{request.id}: {len(places)} {what} for {len(set(places))} places")
    if request.settled > 1:
        found.append(f"{request.id}: its owed timestamp was settled {request.settled} times")
    return found


def _same_file(delivered: Sequence[Delivered]) -> Iterable[str]:
    seen: dict[str, str] = {}
    keys: set[str] = set()
    for item in delivered:
        if item.key in keys:
            yield f"{item.key}: two files for one key"
        keys.add(item.key)
        if seen.setdefault(item.sha256, item.key) != item.key:
            yield f"{item.key}: the same file as {seen[item.sha256]}"


def _numbers(record: Record) -> tuple[list[str], list[str]]:
    """Repeats and gaps in the numbers that keys and documents give their signatures."""
    given: dict[str, list[int]] = {}
    for request in record.requests.values():
        for obtained in request.obtained:
            key = request.keys[obtained.place] if obtained.place < len(request.keys) else "?"
            given.setdefault(f"key {key}", []).append(obtained.key_number)
            given.setdefault(f"document {request.document}", []).append(obtained.document_number)
    repeats, gaps = [], []
    for whose, numbers in given.items():
        if len(set(numbers)) != len(numbers):
            repeats.append(f"{whose}: {len(numbers) - len(set(numbers))} numbers given twice")
        missing = len(set(range(1, max(numbers) + 1)) - set(numbers))
        if missing:
            gaps.append(f"{whose}: {missing} numbers up to {max(numbers)} were never used")
    return repeats, gaps


def _unfinished(wanted: int, first: Mapping[str, Promise], record: Record) -> Iterable[str]:
    if len(first) != wanted:
        yield f"{wanted - len(first)} of {wanted} requests were never acknowledged"
    if record.settled != record.owed:
        yield f"{record.owed - record.settled} timestamps are still owed"
    missed = sum(request.missed for request in record.requests.values())
    if missed:
        yield f"{missed} owed timestamps missed their deadline"


def _unverified(first: Mapping[str, Promise], checked: Checked) -> Iterable[str]:
    for what, count in (("documents", checked.documents), ("evidence bundles", checked.bundles)):
        if count != len(first):
            yield f"{count} of {len(first)} {what} verified"
    yield from checked.bad
    if not checked.log_ok:
        yield f"the log does not verify: {checked.log_says}"
