"""SignatureRequest: one document, one or more signatures in order, each a revision of it.

    RequestSignature -> SignatureRequested           queued | awaiting-approval
    ApproveRequest   -> RequestApproved              queued
    StartAttempt     -> AttemptStarted               signing    pins provider, certificate, digest
    FailAttempt      -> AttemptFailed                queued     the pin is gone; a late answer finds none
    RecordSignature  -> SignatureObtained            signed     the value, before it is in any file
    RecordRevision   -> RevisionSigned               queued (next signature) | completed
    SettleTimestamp  -> TimestampSettled             completed  an owed timestamp was added
    MissTimestamp    -> TimestampMissed              completed  its deadline passed
    FailRequest      -> RequestFailed                failed
    CancelRequest    -> RequestCancelled             cancelled

**One effective signature**: an attempt is recorded before the provider is called, a signature before it is
embedded; the first `SignatureObtained` for a place wins and every later one is refused, whatever crashed or
answered late.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from outlast.core.blobref import BlobRef
from outlast.core.decider import Command, Decision, Event, NewJob
from outlast.core.errors import Conflict, Refused
from outlast.signing.classes import Format, Level

KIND = "signing.request"
SIGN_JOB = "signing.sign"
"""Obtain a signature for a place; at B-B also produce the file."""
TIMESTAMP_JOB = "signing.timestamp"
"""Obtain the timestamp of a fresh signature and produce the file, or owe it."""
SETTLE_JOB = "signing.settle"
"""Obtain a timestamp that is owed."""
SETTLE_AFTER_MS = 1_000
"""First try of an owed timestamp; afterwards the job's own backoff."""

TimestampState = Literal["none", "pending", "owed", "present", "missed"]


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One signature that is asked for: the name of the signing key, and optionally the empty field to fill."""

    key: str
    field: str = ""


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt is bound to: who signs with which certificate, and the SHA-256 (hex) of the exact bytes
    to be signed. ``signing_time_ms`` is the claimed time that those bytes contain."""

    attempt: int
    provider: str
    fingerprint: str
    tbs_sha256: str
    signing_time_ms: int


class Revision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A signed file. For PDFs: where in it the signature's CMS stands, and how many bytes it had when that
    signature was made (later revisions only append)."""

    blob: BlobRef
    contents_offset: int = 0
    reserved_bytes: int = 0
    length: int = 0


class Stamp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A timestamp token on record. ``blob`` refers to the whole response as received."""

    authority: str
    gen_time_ms: int
    token_sha256: str
    blob: BlobRef
    qualified: bool = False
    document: bool = False
    """A document timestamp in a revision of its own, not inside the signature."""


class Signature(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One place and how far it has got."""

    key: str
    field: str = ""
    attempts: int = 0
    pin: Pin | None = None
    value: bytes = b""
    key_number: int = 0
    document_number: int = 0
    failovers: tuple[str, ...] = ()
    revision: Revision | None = None
    timestamp: TimestampState = "none"
    timestamp_due_ms: int = 0
    stamp: Stamp | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request's state. ``current`` is the place being signed (its length: none left)."""

    label: str
    document: str
    document_sha256: str
    class_name: str
    level: Level
    format: Format
    owe_timestamp: bool = False
    requested_ms: int = 0
    requested_by: str = ""
    sealed: str = ""
    signatures: tuple[Signature, ...] = ()
    current: int = 0
    reason: str = ""
    completed_ms: int = 0

    @property
    def revision(self) -> Revision | None:
        """The newest signed file."""
        return next((s.revision for s in reversed(self.signatures) if s.revision), None)


class PlaceJob(msgspec.Struct, frozen=True):
    """Payload of every job here: the place (index into the request's signatures). The job's stream is the
    request."""

    place: int


# -- events ---------------------------------------------------------------------------------------------------


class SignatureRequested(Event, frozen=True, kw_only=True):
    """A request was accepted."""

    name: ClassVar[str] = "signing.requested"
    at_ms: int
    by: str
    document: str
    document_sha256: str
    class_name: str
    level: Level
    format: Format
    places: tuple[Place, ...]
    owe_timestamp: bool = False
    approval: bool = False
    sealed: str = ""


class RequestApproved(Event, frozen=True, kw_only=True):
    """A person approved a request whose class needs it."""

    name: ClassVar[str] = "signing.approved"
    by: str


class AttemptStarted(Event, frozen=True, kw_only=True):
    """A provider is about to be asked."""

    name: ClassVar[str] = "signing.attempt_started"
    place: int
    pin: Pin
    reason: str = ""


class AttemptFailed(Event, frozen=True, kw_only=True):
    """A provider did not sign. ``outcome``: refused, unavailable, unknown, bad-signature."""

    name: ClassVar[str] = "signing.attempt_failed"
    place: int
    attempt: int
    provider: str
    outcome: str
    detail: str = ""


class SignatureObtained(Event, frozen=True, kw_only=True):
    """A verified signature value; ``key_number`` and ``document_number`` count without gaps."""

    name: ClassVar[str] = "signing.signature_obtained"
    place: int
    attempt: int
    provider: str
    value: bytes
    key_number: int
    document_number: int


class RevisionSigned(Event, frozen=True, kw_only=True):
    """The file with the signature in it was stored."""

    name: ClassVar[str] = "signing.revision_signed"
    place: int
    at_ms: int
    revision: Revision
    timestamp: TimestampState
    stamp: Stamp | None = None
    due_ms: int = 0
    tried: tuple[str, ...] = ()


class TimestampSettled(Event, frozen=True, kw_only=True):
    """Timestamps that were owed are in the file; ``places`` are those it settles, ``holder`` the place whose
    file it is."""

    name: ClassVar[str] = "signing.timestamp_settled"
    places: tuple[int, ...]
    holder: int
    revision: Revision
    stamp: Stamp
    tried: tuple[str, ...] = ()


class TimestampMissed(Event, frozen=True, kw_only=True):
    """No timestamp by its deadline."""

    name: ClassVar[str] = "signing.timestamp_missed"
    place: int
    due_ms: int


class RequestFailed(Event, frozen=True, kw_only=True):
    """The request cannot be fulfilled."""

    name: ClassVar[str] = "signing.failed"
    reason: str


class RequestCancelled(Event, frozen=True, kw_only=True):
    """The request was withdrawn before its first signature."""

    name: ClassVar[str] = "signing.cancelled"
    reason: str = ""


EVENTS = (
    SignatureRequested, RequestApproved, AttemptStarted, AttemptFailed, SignatureObtained,
    RevisionSigned, TimestampSettled, TimestampMissed, RequestFailed, RequestCancelled,
)  # fmt: skip

# -- commands -------------------------------------------------------------------------------------------------


class RequestSignature(Command, frozen=True, kw_only=True):
    """Ask for signatures on a document that intake has locked."""

    by: str
    document: str
    document_sha256: str
    class_name: str
    level: Level
    format: Format
    places: tuple[Place, ...]
    owe_timestamp: bool = False
    approval: bool = False
    sealed: str = ""


class ApproveRequest(Command, frozen=True, kw_only=True):
    """Let a request go on; not by whoever made it."""

    by: str


class StartAttempt(Command, frozen=True, kw_only=True):
    """Pin an attempt before the provider is called."""

    place: int
    provider: str
    fingerprint: str
    tbs_sha256: str
    signing_time_ms: int
    reason: str = ""


class FailAttempt(Command, frozen=True, kw_only=True):
    """An attempt came to nothing usable."""

    place: int
    attempt: int
    outcome: str
    detail: str = ""


class RecordSignature(Command, frozen=True, kw_only=True):
    """A verified value for the open attempt. ``numbers`` holds the counters it was submitted with."""

    place: int
    attempt: int
    value: bytes
    key_counter: str
    document_counter: str


class RecordRevision(Command, frozen=True, kw_only=True):
    """The signed file is stored. ``stamp`` when it has its timestamp, ``due_ms`` when it owes one."""

    place: int
    revision: Revision
    stamp: Stamp | None = None
    due_ms: int = 0
    tried: tuple[str, ...] = ()


class SettleTimestamp(Command, frozen=True, kw_only=True):
    """A file with what was owed is stored."""

    places: tuple[int, ...]
    holder: int
    revision: Revision
    stamp: Stamp
    tried: tuple[str, ...] = ()


class MissTimestamp(Command, frozen=True, kw_only=True):
    """The deadline has passed."""

    place: int


class FailRequest(Command, frozen=True, kw_only=True):
    """Give up, with the reason."""

    reason: str


class CancelRequest(Command, frozen=True, kw_only=True):
    """Withdraw."""

    reason: str = ""


class RequestDecider:
    """`Decider` of signature requests."""

    kind = KIND
    state = Request
    events = EVENTS

    def decide(self, command: Any, state: Request | None) -> Decision[Any]:
        """See the table in the module's docstring."""
        if isinstance(command, RequestSignature):
            return _request(command, state)
        if state is None:
            raise Refused("request-not-found", "no such signature request")
        decision: Decision[Any] = _DECIDE[type(command)](command, state)
        return decision

    def evolve(self, state: Request | None, event: Any) -> Request:
        """The state after an event."""
        if isinstance(event, SignatureRequested):
            return _requested(event)
        assert state is not None, f"{event.name} cannot be a request's first event"
        request: Request = _EVOLVE[type(event)](state, event)
        return request


# -- decide ---------------------------------------------------------------------------------------------------


def _request(command: RequestSignature, state: Request | None) -> Decision[Any]:
    if state is not None:
        raise Refused("request-exists", "a signature request with this id exists already")
    if not command.places:
        raise Refused("no-signatures", "a request asks for at least one signature")
    event = SignatureRequested(
        at_ms=command.at_ms,
        by=command.by,
        document=command.document,
        document_sha256=command.document_sha256,
        class_name=command.class_name,
        level=command.level,
        format=command.format,
        places=command.places,
        owe_timestamp=command.owe_timestamp,
        approval=command.approval,
        sealed=command.sealed,
    )
    jobs = () if command.approval else (NewJob(kind=SIGN_JOB, payload=PlaceJob(0)),)
    return Decision(events=(event,), jobs=jobs)


def _approve(command: ApproveRequest, state: Request) -> Decision[Any]:
    if state.label in ("failed", "cancelled"):
        raise Refused("request-closed", f"the request is {state.label}")
    if state.label != "awaiting-approval":
        return Decision()
    if command.by == state.requested_by:
        raise Refused(
            "self-approval",
            "whoever made a request cannot approve it",
            hint="Ask somebody else with the signatures:approve scope.",
        )
    return Decision(
        events=(RequestApproved(by=command.by),),
        jobs=(NewJob(kind=SIGN_JOB, payload=PlaceJob(0)),),
    )


def _open(state: Request, place: int) -> Signature:
    """The signature at a place whose turn it is, or refuse."""
    if state.label in ("failed", "cancelled", "awaiting-approval"):
        raise Refused("request-closed", f"the request is {state.label}")
    if place != state.current or place >= len(state.signatures):
        raise Conflict("not-this-signature", f"signature {place} is not next", retry="never")
    return state.signatures[place]


def _start(command: StartAttempt, state: Request) -> Decision[Any]:
    signature = _open(state, command.place)
    if signature.value:
        raise Conflict("already-signed", "a signature is on record for this place", retry="never")
    if signature.pin is not None:
        raise Conflict("attempt-open", f"attempt {signature.pin.attempt} is open", retry="never")
    pin = Pin(
        attempt=signature.attempts + 1,
        provider=command.provider,
        fingerprint=command.fingerprint,
        tbs_sha256=command.tbs_sha256,
        signing_time_ms=command.signing_time_ms,
    )
    started = AttemptStarted(place=command.place, pin=pin, reason=command.reason)
    return Decision(events=(started,), reply=pin)


def _fail_attempt(command: FailAttempt, state: Request) -> Decision[Any]:
    signature = _open(state, command.place)
    pin = signature.pin
    if signature.value or pin is None or pin.attempt != command.attempt:
        return Decision()
    failed = AttemptFailed(
        place=command.place,
        attempt=command.attempt,
        provider=pin.provider,
        outcome=command.outcome,
        detail=command.detail,
    )
    return Decision(events=(failed,))


def _record_signature(command: RecordSignature, state: Request) -> Decision[Any]:
    signature = _open(state, command.place)
    pin = signature.pin
    if signature.value:
        raise Conflict("already-signed", "a signature is on record for this place", retry="never")
    if pin is None or pin.attempt != command.attempt:
        raise Conflict(
            "attempt-superseded", f"attempt {command.attempt} is no longer open", retry="never"
        )
    obtained = SignatureObtained(
        place=command.place,
        attempt=command.attempt,
        provider=pin.provider,
        value=command.value,
        key_number=command.numbers[command.key_counter],
        document_number=command.numbers[command.document_counter],
    )
    stamp = NewJob(kind=TIMESTAMP_JOB, payload=PlaceJob(command.place))
    return Decision(events=(obtained,), jobs=(stamp,) if state.level == "B-T" else ())


def _record_revision(command: RecordRevision, state: Request) -> Decision[Any]:
    signature = _open(state, command.place)
    if not signature.value:
        raise Conflict("not-signed", "no signature is on record for this place", retry="never")
    timestamp: TimestampState = "none"
    if command.stamp is not None:
        timestamp = "present"
    elif command.due_ms:
        timestamp = "owed"
    elif state.level == "B-T":
        raise Refused("timestamp-missing", "a B-T signature needs a timestamp, or leave to owe it")
    signed = RevisionSigned(
        place=command.place,
        at_ms=command.at_ms,
        revision=command.revision,
        timestamp=timestamp,
        stamp=command.stamp,
        due_ms=command.due_ms,
        tried=command.tried,
    )
    jobs = []
    if command.place + 1 < len(state.signatures):
        jobs.append(NewJob(kind=SIGN_JOB, payload=PlaceJob(command.place + 1)))
    if timestamp == "owed":
        run_at_ms = command.at_ms + SETTLE_AFTER_MS
        settle = NewJob(kind=SETTLE_JOB, payload=PlaceJob(command.place), run_at_ms=run_at_ms)
        jobs.append(settle)
    return Decision(events=(signed,), jobs=tuple(jobs))


def _settle(command: SettleTimestamp, state: Request) -> Decision[Any]:
    owed = tuple(i for i in command.places if state.signatures[i].timestamp in ("owed", "missed"))
    if not owed:
        return Decision()
    settled = TimestampSettled(
        places=owed,
        holder=command.holder,
        revision=command.revision,
        stamp=command.stamp,
        tried=command.tried,
    )
    return Decision(events=(settled,))


def _miss(command: MissTimestamp, state: Request) -> Decision[Any]:
    signature = state.signatures[command.place]
    if signature.timestamp != "owed":
        return Decision()
    missed = TimestampMissed(place=command.place, due_ms=signature.timestamp_due_ms)
    return Decision(events=(missed,))


def _fail(command: FailRequest, state: Request) -> Decision[Any]:
    if state.label in ("completed", "failed", "cancelled"):
        return Decision()
    return Decision(events=(RequestFailed(reason=command.reason),))


def _cancel(command: CancelRequest, state: Request) -> Decision[Any]:
    if state.label == "cancelled":
        return Decision()
    if any(s.value for s in state.signatures) or state.label in ("completed", "failed"):
        raise Refused("too-late", f"the request is {state.label}; it cannot be withdrawn")
    return Decision(events=(RequestCancelled(reason=command.reason),))


_DECIDE: dict[type, Any] = {
    ApproveRequest: _approve,
    StartAttempt: _start,
    FailAttempt: _fail_attempt,
    RecordSignature: _record_signature,
    RecordRevision: _record_revision,
    SettleTimestamp: _settle,
    MissTimestamp: _miss,
    FailRequest: _fail,
    CancelRequest: _cancel,
}

# -- evolve ---------------------------------------------------------------------------------------------------


def _requested(event: SignatureRequested) -> Request:
    return Request(
        label="awaiting-approval" if event.approval else "queued",
        document=event.document,
        document_sha256=event.document_sha256,
        class_name=event.class_name,
        level=event.level,
        format=event.format,
        owe_timestamp=event.owe_timestamp,
        requested_ms=event.at_ms,
        requested_by=event.by,
        sealed=event.sealed,
        signatures=tuple(Signature(key=p.key, field=p.field) for p in event.places),
    )


def _with(state: Request, place: int, **changes: Any) -> tuple[Signature, ...]:
    changed = msgspec.structs.replace(state.signatures[place], **changes)
    return (*state.signatures[:place], changed, *state.signatures[place + 1 :])


def _started(state: Request, event: AttemptStarted) -> Request:
    signatures = _with(state, event.place, attempts=event.pin.attempt, pin=event.pin)
    return msgspec.structs.replace(state, label="signing", signatures=signatures)


def _attempt_failed(state: Request, event: AttemptFailed) -> Request:
    signature = state.signatures[event.place]
    failovers = (*signature.failovers, f"{event.provider}:{event.outcome}")[-16:]
    signatures = _with(state, event.place, pin=None, failovers=failovers)
    return msgspec.structs.replace(state, label="queued", signatures=signatures)


def _obtained(state: Request, event: SignatureObtained) -> Request:
    signatures = _with(
        state,
        event.place,
        value=event.value,
        key_number=event.key_number,
        document_number=event.document_number,
        timestamp="pending" if state.level == "B-T" else "none",
    )
    return msgspec.structs.replace(state, label="signed", signatures=signatures)


def _revision_signed(state: Request, event: RevisionSigned) -> Request:
    signatures = _with(
        state,
        event.place,
        revision=event.revision,
        timestamp=event.timestamp,
        timestamp_due_ms=event.due_ms,
        stamp=event.stamp,
    )
    current = event.place + 1
    last = current == len(signatures)
    return msgspec.structs.replace(
        state,
        label="completed" if last else "queued",
        signatures=signatures,
        current=current,
        completed_ms=event.at_ms if last else 0,
    )


def _settled(state: Request, event: TimestampSettled) -> Request:
    signatures = list(state.signatures)
    for place in event.places:
        signatures[place] = msgspec.structs.replace(
            signatures[place], timestamp="present", stamp=event.stamp
        )
    holder = signatures[event.holder]
    signatures[event.holder] = msgspec.structs.replace(holder, revision=event.revision)
    return msgspec.structs.replace(state, signatures=tuple(signatures))


def _missed(state: Request, event: TimestampMissed) -> Request:
    return msgspec.structs.replace(state, signatures=_with(state, event.place, timestamp="missed"))


_EVOLVE: dict[type, Any] = {
    RequestApproved: lambda s, e: msgspec.structs.replace(s, label="queued"),
    AttemptStarted: _started,
    AttemptFailed: _attempt_failed,
    SignatureObtained: _obtained,
    RevisionSigned: _revision_signed,
    TimestampSettled: _settled,
    TimestampMissed: _missed,
    RequestFailed: lambda s, e: msgspec.structs.replace(s, label="failed", reason=e.reason),
    RequestCancelled: lambda s, e: msgspec.structs.replace(s, label="cancelled", reason=e.reason),
}
