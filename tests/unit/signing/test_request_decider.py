"""SignatureRequest, every transition: given events, when a command, then events."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from outlast.core.blobref import BlobRef
from outlast.core.decider import Command, Event, NewJob
from outlast.signing.model.request import (
    EVENTS,
    SETTLE_AFTER_MS,
    SETTLE_JOB,
    SIGN_JOB,
    TIMESTAMP_JOB,
    ApproveRequest,
    AttemptFailed,
    AttemptStarted,
    CancelRequest,
    FailAttempt,
    FailRequest,
    MissTimestamp,
    Pin,
    Place,
    PlaceJob,
    RecordRevision,
    RecordSignature,
    RequestApproved,
    RequestCancelled,
    RequestDecider,
    RequestFailed,
    RequestSignature,
    Revision,
    RevisionSigned,
    SettleTimestamp,
    SignatureObtained,
    SignatureRequested,
    Stamp,
    StartAttempt,
    TimestampMissed,
    TimestampSettled,
)
from outlast.testing.given import Given
from outlast.testing.given import given as given_events

NOW_MS = 1_800_000_000_000
NUMBERS = {"key": 7, "doc": 3}


def blob(name: str) -> BlobRef:
    """A reference to some body."""
    return BlobRef(name=name, sha256="ab" * 32, size=9)


ASK = RequestSignature(
    at_ms=NOW_MS,
    by="alice",
    document="d1",
    document_sha256="00" * 32,
    class_name="contracts",
    level="B-B",
    format="pades",
    places=(Place(key="seal"),),
)
TWO = (Place(key="seal"), Place(key="ceo", field="Sig2"))
FILE = Revision(blob=blob("r1"), contents_offset=10, reserved_bytes=20)
FILE_2 = Revision(blob=blob("r2"))
STAMP = Stamp(authority="tsa", gen_time_ms=NOW_MS, token_sha256="cd" * 32, blob=blob("t"))


def requested(**fields: Any) -> SignatureRequested:
    """The request as accepted."""
    names = SignatureRequested.__struct_fields__
    same = {name: getattr(ASK, name) for name in names if hasattr(ASK, name)}
    return SignatureRequested(**{**same, **fields})


REQUESTED = requested()
B_T = requested(level="B-T", owe_timestamp=True)
TWO_B_T = requested(level="B-T", owe_timestamp=True, places=TWO)
APPROVAL = requested(approval=True)


def pin(attempt: int = 1, provider: str = "hsm") -> Pin:
    """What an attempt is bound to."""
    return Pin(
        attempt=attempt,
        provider=provider,
        fingerprint="ef" * 32,
        tbs_sha256="12" * 32,
        signing_time_ms=NOW_MS,
    )


def started(attempt: int = 1, provider: str = "hsm", place: int = 0) -> AttemptStarted:
    """An attempt on record."""
    return AttemptStarted(place=place, pin=pin(attempt, provider), reason="preferred")


def obtained(attempt: int = 1, place: int = 0, provider: str = "hsm") -> SignatureObtained:
    """A value on record."""
    return SignatureObtained(
        place=place,
        attempt=attempt,
        provider=provider,
        value=b"sig",
        key_number=7,
        document_number=3,
    )


def failed(attempt: int = 1, outcome: str = "unknown", provider: str = "hsm") -> AttemptFailed:
    """An attempt that came to nothing."""
    return AttemptFailed(place=0, attempt=attempt, provider=provider, outcome=outcome, detail="x")


def signed(place: int = 0, **fields: Any) -> RevisionSigned:
    """A file on record."""
    usual: dict[str, Any] = {"at_ms": NOW_MS, "revision": FILE, "timestamp": "none"}
    return RevisionSigned(place=place, **{**usual, **fields})


def owed(place: int = 0) -> RevisionSigned:
    """A file that owes its timestamp."""
    return signed(place, timestamp="owed", due_ms=NOW_MS + 9)


def start(place: int = 0, provider: str = "hsm") -> StartAttempt:
    """Ask to start an attempt."""
    return StartAttempt(
        at_ms=NOW_MS,
        place=place,
        provider=provider,
        fingerprint="ef" * 32,
        tbs_sha256="12" * 32,
        signing_time_ms=NOW_MS,
        reason="preferred",
    )


def record(attempt: int = 1, place: int = 0) -> RecordSignature:
    """Bring a value."""
    return RecordSignature(
        at_ms=NOW_MS,
        numbers=NUMBERS,
        place=place,
        attempt=attempt,
        value=b"sig",
        key_counter="key",
        document_counter="doc",
    )


def fail_attempt(attempt: int = 1, outcome: str = "unknown") -> FailAttempt:
    """Say that an attempt came to nothing."""
    return FailAttempt(at_ms=NOW_MS, place=0, attempt=attempt, outcome=outcome, detail="x")


def produce(place: int = 0, **fields: Any) -> RecordRevision:
    """Bring a file."""
    return RecordRevision(at_ms=NOW_MS, place=place, revision=FILE, **fields)


def settle(*places: int, holder: int = 0) -> SettleTimestamp:
    """Bring a file with what was owed."""
    return SettleTimestamp(
        at_ms=NOW_MS, places=places, holder=holder, revision=FILE_2, stamp=STAMP, tried=("b:x",)
    )


def settled(*places: int, holder: int = 0) -> TimestampSettled:
    """What was owed is there."""
    return TimestampSettled(
        places=places, holder=holder, revision=FILE_2, stamp=STAMP, tried=("b:x",)
    )


def job(kind: str, place: int = 0, run_at_ms: int = 0) -> NewJob:
    """Work for a place."""
    return NewJob(kind=kind, payload=PlaceJob(place), run_at_ms=run_at_ms)


def given(*events: Event) -> Given:
    """A request with these events behind it."""
    return given_events(RequestDecider(), *events)


APPROVE = ApproveRequest(at_ms=NOW_MS, by="bob")
FAIL = FailRequest(at_ms=NOW_MS, reason="no more")
CANCEL = CancelRequest(at_ms=NOW_MS, reason="changed my mind")
MISS = MissTimestamp(at_ms=NOW_MS, place=0)
FAILED = RequestFailed(reason="no more")
CANCELLED = RequestCancelled(reason="changed my mind")

# -- accepting, approving -----------------------------------------------------------------------------


def test_request_queues_a_job() -> None:
    """A request is accepted with the job that signs its first place."""
    state = given().when(ASK).then(REQUESTED, jobs=(job(SIGN_JOB),))
    assert (state.label, state.current, len(state.signatures)) == ("queued", 0, 1)
    assert (state.requested_by, state.requested_ms) == ("alice", NOW_MS)


def test_request_is_made_once() -> None:
    """The same id again is refused: idempotency is the commit's, not the decider's."""
    given(REQUESTED).when(ASK).refused("request-exists")


def test_request_asks_for_something() -> None:
    """No signatures asked for: refused."""
    given().when(msgspec.structs.replace(ASK, places=())).refused("no-signatures")


@pytest.mark.parametrize(
    "command",
    [APPROVE, start(), fail_attempt(), record(), produce(), settle(0), MISS, FAIL, CANCEL],
    ids=lambda command: type(command).__name__,
)
def test_nothing_happens_to_a_request_that_is_not_there(command: Command) -> None:
    """Every other command needs a request."""
    given().when(command).refused("request-not-found")


def test_request_waits_for_approval() -> None:
    """Where the class wants a person's approval, nothing is signed before it."""
    ask = msgspec.structs.replace(ASK, approval=True)
    assert given().when(ask).then(APPROVAL).label == "awaiting-approval"
    given(APPROVAL).when(start()).refused("request-closed")
    given(APPROVAL).when(record()).refused("request-closed")


def test_approval_queues_the_job() -> None:
    """Another person's approval lets it go on, once."""
    approved = RequestApproved(by="bob")
    state = given(APPROVAL).when(APPROVE).then(approved, jobs=(job(SIGN_JOB),))
    assert state.label == "queued"
    given(APPROVAL, approved).when(APPROVE).nothing()
    given(REQUESTED).when(APPROVE).nothing()
    given(APPROVAL, CANCELLED).when(APPROVE).refused("request-closed")


def test_nobody_approves_what_they_asked_for() -> None:
    """Four eyes: whoever asked cannot approve."""
    own = ApproveRequest(at_ms=NOW_MS, by="alice")
    given(APPROVAL).when(own).refused("self-approval")


# -- attempts -----------------------------------------------------------------------------------------


def test_attempt_is_pinned() -> None:
    """An attempt is on record, bound to provider, certificate and digest, before the provider is called."""
    outcome = given(REQUESTED).when(start())
    state = outcome.then(started())
    assert outcome.decision.reply == pin()
    assert (state.label, state.signatures[0].pin, state.signatures[0].attempts) == (
        "signing",
        pin(),
        1,
    )


def test_one_attempt_at_a_time() -> None:
    """While an attempt is open no other starts, whoever asks."""
    given(REQUESTED, started()).when(start(provider="other")).conflicts("attempt-open")


def test_failed_attempt_makes_room_for_the_next() -> None:
    """A failure closes the attempt and is kept; the next attempt has the next number."""
    state = given(REQUESTED, started()).when(fail_attempt()).then(failed())
    assert (state.label, state.signatures[0].pin) == ("queued", None)
    assert state.signatures[0].failovers == ("hsm:unknown",)
    again = given(REQUESTED, started(), failed()).when(start(provider="b"))
    again.then(started(2, "b"))


def test_failure_is_recorded_once() -> None:
    """An attempt that is closed, superseded or signed cannot fail again."""
    given(REQUESTED).when(fail_attempt()).nothing()
    given(REQUESTED, started(), failed()).when(fail_attempt()).nothing()
    given(REQUESTED, started(), failed(), started(2)).when(fail_attempt(1)).nothing()
    given(REQUESTED, started(), obtained()).when(fail_attempt()).nothing()


def test_only_the_newest_failures_are_kept_in_the_state() -> None:
    """The state does not grow with an outage; the log has every failure."""
    events: list[Event] = [REQUESTED]
    for attempt in range(1, 40):
        events += [started(attempt), failed(attempt)]
    signature = given(*events).state.signatures[0]
    assert (signature.attempts, len(signature.failovers)) == (39, 16)


# -- signatures ---------------------------------------------------------------------------------------


def test_signature_is_recorded_before_it_is_in_a_file() -> None:
    """The value is on record with its numbers; at B-B the same job goes on to the file."""
    state = given(REQUESTED, started()).when(record()).then(obtained())
    signature = state.signatures[0]
    assert (state.label, signature.value, signature.timestamp) == ("signed", b"sig", "none")
    assert (signature.key_number, signature.document_number) == (7, 3)
    assert state.revision is None


def test_signature_at_b_t_asks_for_its_timestamp() -> None:
    """At B-T the timestamp is a job of its own, made with the value."""
    state = given(B_T, started()).when(record()).then(obtained(), jobs=(job(TIMESTAMP_JOB),))
    assert state.signatures[0].timestamp == "pending"


def test_first_signature_wins() -> None:
    """One effective signature: with a value on record, every other is refused and no attempt starts."""
    stream = given(REQUESTED, started(), obtained())
    stream.when(record()).conflicts("already-signed")
    stream.when(record(2)).conflicts("already-signed")
    stream.when(start()).conflicts("already-signed")


def test_late_answer_finds_its_attempt_closed() -> None:
    """A provider that answers after its attempt was given up: the value is not used, whatever came since."""
    given(REQUESTED, started(), failed()).when(record(1)).conflicts("attempt-superseded")
    newer = given(REQUESTED, started(), failed(), started(2, "b"))
    newer.when(record(1)).conflicts("attempt-superseded")
    newer.when(record(2)).then(obtained(2, provider="b"))
    given(REQUESTED).when(record()).conflicts("attempt-superseded")


def test_signature_for_another_place_is_refused() -> None:
    """Signatures are made in order: not before their turn, not after, not beyond the last."""
    stream = given(requested(places=TWO), started())
    for place in (1, 2, 99):
        stream.when(record(place=place)).conflicts("not-this-signature")
        stream.when(start(place=place)).conflicts("not-this-signature")
    over = given(requested(places=TWO), started(), obtained(), signed())
    over.when(record(place=0)).conflicts("not-this-signature")


# -- files --------------------------------------------------------------------------------------------


def test_file_completes_a_request() -> None:
    """With its last file a request is completed."""
    state = given(REQUESTED, started(), obtained()).when(produce()).then(signed())
    assert (state.label, state.current, state.completed_ms) == ("completed", 1, NOW_MS)
    assert state.revision == FILE


def test_file_needs_a_signature() -> None:
    """No file without a value on record."""
    given(REQUESTED, started()).when(produce()).conflicts("not-signed")


def test_file_is_recorded_once() -> None:
    """A second worker that produced the same file is told that it came late."""
    done = given(REQUESTED, started(), obtained(), signed())
    done.when(produce()).conflicts("not-this-signature")


def test_second_signature_follows_the_first_file() -> None:
    """A file with places left queues the next one, which starts from scratch."""
    two = requested(places=TWO)
    state = (
        given(two, started(), obtained())
        .when(produce())
        .then(signed(), jobs=(job(SIGN_JOB, place=1),))
    )
    assert (state.label, state.current, state.completed_ms) == ("queued", 1, 0)
    assert (state.signatures[1].pin, state.signatures[1].field) == (None, "Sig2")
    second = given(two, started(), obtained(), signed(), started(place=1), obtained(place=1))
    state = second.when(produce(1)).then(signed(1))
    assert state.label == "completed"


def test_b_t_file_has_its_timestamp() -> None:
    """With a token the file is complete at once."""
    stream = given(B_T, started(), obtained())
    event = signed(timestamp="present", stamp=STAMP, tried=("a:unknown",))
    state = stream.when(produce(stamp=STAMP, tried=("a:unknown",))).then(event)
    assert (state.signatures[0].timestamp, state.signatures[0].stamp) == ("present", STAMP)


def test_b_t_file_without_timestamp_is_refused() -> None:
    """Neither a token nor a deadline to owe it by: not B-T."""
    given(B_T, started(), obtained()).when(produce()).refused("timestamp-missing")


# -- owing --------------------------------------------------------------------------------------------


def test_owed_timestamp_has_a_job_and_a_deadline() -> None:
    """The file is released now; a job settles the debt, and the request is completed meanwhile."""
    state = (
        given(B_T, started(), obtained())
        .when(produce(due_ms=NOW_MS + 9))
        .then(owed(), jobs=(job(SETTLE_JOB, run_at_ms=NOW_MS + SETTLE_AFTER_MS),))
    )
    assert (state.label, state.signatures[0].timestamp) == ("completed", "owed")
    assert state.signatures[0].timestamp_due_ms == NOW_MS + 9


def test_owing_does_not_hold_up_the_next_signature() -> None:
    """With places left, both jobs are made: the next signature, and the settlement."""
    jobs = (job(SIGN_JOB, place=1), job(SETTLE_JOB, run_at_ms=NOW_MS + SETTLE_AFTER_MS))
    given(TWO_B_T, started(), obtained()).when(produce(due_ms=NOW_MS + 9)).then(owed(), jobs=jobs)


OWED = (B_T, started(), obtained(), owed())


def test_debt_is_settled() -> None:
    """The late timestamp replaces the file, on record with who gave it and who did not."""
    state = given(*OWED).when(settle(0)).then(settled(0))
    assert (state.signatures[0].timestamp, state.revision) == ("present", FILE_2)
    given(*OWED, settled(0)).when(settle(0)).nothing()


def test_only_debts_are_settled() -> None:
    """Places that owe nothing are left out; a file whose timestamp is there is not replaced."""
    given(B_T, started(), obtained(), signed(timestamp="present", stamp=STAMP)).when(
        settle(0)
    ).nothing()
    both = given(
        TWO_B_T, started(), obtained(), owed(), started(place=1), obtained(place=1), owed(1)
    )
    state = both.when(settle(0, 1, holder=1)).then(settled(0, 1, holder=1))
    assert [s.timestamp for s in state.signatures] == ["present", "present"]
    assert (state.signatures[0].revision, state.revision) == (FILE, FILE_2)


def test_missed_deadline_is_on_record() -> None:
    """Past its deadline a debt is missed, once; and a timestamp may still come, late."""
    missed = TimestampMissed(place=0, due_ms=NOW_MS + 9)
    assert given(*OWED).when(MISS).then(missed).signatures[0].timestamp == "missed"
    given(*OWED, missed).when(MISS).nothing()
    given(*OWED, settled(0)).when(MISS).nothing()
    assert given(*OWED, missed).when(settle(0)).then(settled(0)).label == "completed"


# -- ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [(REQUESTED,), (APPROVAL,), (REQUESTED, started()), (REQUESTED, started(), obtained())],
    ids=["queued", "awaiting-approval", "signing", "signed"],
)
def test_request_fails_with_a_reason(events: tuple[Event, ...]) -> None:
    """Whatever is not at its end can be given up."""
    state = given(*events).when(FAIL).then(FAILED)
    assert (state.label, state.reason) == ("failed", "no more")


@pytest.mark.parametrize("end", [FAILED, CANCELLED], ids=["failed", "cancelled"])
def test_closed_request_stays_closed(end: Event) -> None:
    """After its end nothing is signed: late answers, new attempts and files are refused."""
    closed = given(REQUESTED, started(), end)
    for command in (start(), record(), produce(), fail_attempt()):
        closed.when(command).refused("request-closed")
    closed.when(FAIL).nothing()


def test_completed_request_neither_fails_nor_goes_away() -> None:
    """What is signed is signed."""
    done = given(REQUESTED, started(), obtained(), signed())
    done.when(FAIL).nothing()
    done.when(CANCEL).refused("too-late")


@pytest.mark.parametrize(
    "events",
    [(REQUESTED,), (APPROVAL,), (REQUESTED, started()), (REQUESTED, started(), failed())],
    ids=["queued", "awaiting-approval", "signing", "failed-over"],
)
def test_request_is_withdrawn_before_its_first_signature(events: tuple[Event, ...]) -> None:
    """Until a value is on record it can be withdrawn, also while a provider is being asked."""
    assert given(*events).when(CANCEL).then(CANCELLED).label == "cancelled"
    given(*events, CANCELLED).when(CANCEL).nothing()


def test_request_with_a_signature_is_not_withdrawn() -> None:
    """With a value on record it is too late, in later places too; and after failure."""
    given(REQUESTED, started(), obtained()).when(CANCEL).refused("too-late")
    given(requested(places=TWO), started(), obtained(), signed()).when(CANCEL).refused("too-late")
    given(REQUESTED, FAILED).when(CANCEL).refused("too-late")


def test_every_event_is_known() -> None:
    """Each event has a name of its own and a place in the fold."""
    names = [event.name for event in EVENTS]
    assert len(set(names)) == len(names)
    assert all(name.startswith("signing.") for name in names)
    assert set(RequestDecider().events) == set(EVENTS)
