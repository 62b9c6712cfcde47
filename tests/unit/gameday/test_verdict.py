"""The verdict finds what was lost or done twice, from the log's own bytes; planted faults are each found."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from outlast.core.blobref import BlobRef
from outlast.core.clock import hlc_text
from outlast.core.decider import Event
from outlast.core.log.entry import Entry, encode_entry
from outlast.core.routing.changes import ProviderEjected, ProviderRestored
from outlast.gameday.ledger import Ledger, Promise, Refusal
from outlast.gameday.record import Record
from outlast.gameday.verdict import Checked, Delivered, Verdict, judge
from outlast.operations.model.mode import ModeEntered
from outlast.signing.model.request import (
    AttemptFailed,
    AttemptStarted,
    Pin,
    Place,
    RequestFailed,
    Revision,
    RevisionSigned,
    SignatureObtained,
    SignatureRequested,
    Stamp,
    TimestampMissed,
    TimestampSettled,
)

START_MS = 1_800_000_000_000


def leaf(stream: str, event: Event, at_ms: int, seq: int = 1) -> bytes:
    """An entry as the site writes it."""
    return encode_entry(
        Entry(
            type=event.name,
            site="demo",
            hlc=hlc_text(at_ms << 16),
            vec={"demo": seq},
            tenant="default",
            stream=stream,
            seq=seq,
            epoch=0,
            actor="somebody",
            data=msgspec.Raw(msgspec.json.encode(event)),
        )
    )


def blob(sha256: str) -> BlobRef:
    """A reference to a signed file."""
    return BlobRef(name="blob", sha256=sha256, size=1)


class Story:
    """Writes the entries of requests, and the promises and files that belong to them."""

    def __init__(self) -> None:
        self.leaves: list[bytes] = []
        self.promises: list[Promise] = []
        self.delivered: list[Delivered] = []
        self.at_ms = START_MS

    def add(self, request: str, event: Event, after_ms: int = 1) -> Story:
        """One more entry of a request."""
        self.at_ms += after_ms
        self.leaves.append(leaf(f"signing.request/{request}", event, self.at_ms))
        return self

    def note(self, event: Event) -> Story:
        """One more entry of the site about itself."""
        self.leaves.append(leaf("operations.provider/appliance", event, self.at_ms))
        return self

    def requested(self, request: str, document: str = "d") -> Story:
        """It was accepted."""
        return self.add(
            request,
            SignatureRequested(
                at_ms=self.at_ms,
                by="client",
                document=document,
                document_sha256="00",
                class_name="default",
                level="B-T",
                format="pades",
                places=(Place(key="contracts"),),
            ),
        )

    def attempt(self, request: str, provider: str, number: int = 1) -> Story:
        """A provider was asked."""
        pin = Pin(
            attempt=number,
            provider=provider,
            fingerprint="f",
            tbs_sha256="t",
            signing_time_ms=self.at_ms,
        )
        return self.add(request, AttemptStarted(place=0, pin=pin))

    def failed(self, request: str, provider: str, number: int = 1, detail: str = "gone") -> Story:
        """It did not sign."""
        event = AttemptFailed(
            place=0, attempt=number, provider=provider, outcome="unavailable", detail=detail
        )
        return self.add(request, event, 5)

    def obtained(self, request: str, provider: str, number: int) -> Story:
        """It signed."""
        event = SignatureObtained(
            place=0,
            attempt=1,
            provider=provider,
            value=b"s",
            key_number=number,
            document_number=number,
        )
        return self.add(request, event, 3)

    def revision(self, request: str, *, owed: bool = False) -> Story:
        """The file was stored, with its timestamp or owing it."""
        return self.add(
            request,
            RevisionSigned(
                place=0,
                at_ms=self.at_ms,
                revision=Revision(blob=blob(f"file-{request}")),
                timestamp="owed" if owed else "present",
                stamp=None if owed else self._stamp("tsa-1"),
                due_ms=self.at_ms + 1 if owed else 0,
            ),
        )

    def settled(self, request: str) -> Story:
        """The owed timestamp came."""
        event = TimestampSettled(
            places=(0,),
            holder=0,
            revision=Revision(blob=blob(f"stamped-{request}")),
            stamp=self._stamp("tsa-2"),
        )
        return self.add(request, event)

    def promised(self, request: str, key: str = "", *, again: bool = False) -> Story:
        """The client was told of it."""
        self.promises.append(
            Promise(
                key=key or f"key-{request}",
                request=request,
                document="d",
                index=0,
                asked_ms=self.at_ms,
                acked_ms=self.at_ms + 2,
                attempts=1,
                again=again,
            )
        )
        return self

    def fetched(self, request: str, sha256: str = "") -> Story:
        """The client got its file."""
        file = Delivered(f"key-{request}", f"{request}.pdf", sha256 or f"file-{request}")
        self.delivered.append(file)
        return self

    def whole(self, request: str, number: int) -> Story:
        """A request as it should go."""
        self.requested(request).attempt(request, "appliance").obtained(request, "appliance", number)
        return self.revision(request).promised(request).fetched(request)

    def record(self) -> Record:
        """The entries, read."""
        record = Record()
        record.read(self.leaves)
        return record

    def judged(self, wanted: int, checked: Checked | None = None) -> Verdict:
        """The verdict, with everything verified unless said otherwise."""
        first = len({promise.key for promise in self.promises})
        good = Checked(documents=first, bundles=first, log_ok=True, log_entries=len(self.leaves))
        return judge(wanted, self.promises, self.record(), self.delivered, checked or good)

    @staticmethod
    def _stamp(authority: str) -> Stamp:
        return Stamp(authority=authority, gen_time_ms=1, token_sha256="00", blob=blob("token"))


def two() -> Story:
    """Two requests as they should go."""
    return Story().whole("a", 1).whole("b", 2)


def test_all_is_well() -> None:
    """Two requests, promised, signed once, fetched and verified: nothing to complain of, and the counts are right."""
    verdict = two().judged(2)
    assert verdict.ok
    assert (verdict.accepted, verdict.signed, verdict.completed) == (2, 2, 2)
    assert verdict.signed_by == {"appliance": 2}
    assert verdict.stamped_by == {"tsa-1": 2}
    assert verdict.failovers == 0


def test_answers_to_asking_again_are_no_duplicates() -> None:
    """The same key answered with the same request once more is as it should be."""
    assert two().promised("a", again=True).promised("b", again=True).judged(2).ok


LOST = {
    "never in the log": two().promised("c"),
    "never signed": two().requested("c").promised("c"),
    "given up": two().requested("c").add("c", RequestFailed(reason="no key")).promised("c"),
    "no file": two().requested("c").obtained("c", "local", 3).revision("c").promised("c"),
    "another file": (
        two().requested("c").obtained("c", "local", 3).revision("c").promised("c").fetched("c", "x")
    ),
}


@pytest.mark.parametrize("story", LOST.values(), ids=LOST.keys())
def test_lost(story: Story) -> None:
    """What was acknowledged and is not there as the log names it is lost, and the day is not proven."""
    verdict = story.judged(3)
    assert len(verdict.lost) == 1
    assert verdict.lost[0].startswith("key-c:")
    assert not verdict.ok


DUPLICATED = {
    "a key with two requests": two().whole("c", 3).promised("c", "key-a"),
    "a request for two keys": two().promised("a", "key-z").fetched("z", "other"),
    "a request nobody was promised": two().requested("c").obtained("c", "local", 3).revision("c"),
    "requested twice": two().requested("a"),
    "two signatures": two().obtained("a", "local", 3),
    "two signed files": two().revision("a"),
    "settled twice": (
        Story().requested("a").obtained("a", "local", 1).revision("a", owed=True).settled("a")
        .settled("a").promised("a").fetched("a", "stamped-a").whole("b", 2)
    ),
    "a number twice": two().whole("c", 2),
    "two files for a key": two().fetched("a", "more"),
    "one file for two keys": (
        two().requested("c").obtained("c", "local", 3).revision("c").promised("c")
        .fetched("c", "file-a")
    ),
}  # fmt: skip


@pytest.mark.parametrize("story", DUPLICATED.values(), ids=DUPLICATED.keys())
def test_duplicated(story: Story) -> None:
    """Whatever happened twice is found, and the day is not proven."""
    verdict = story.judged(len({promise.key for promise in story.promises}))
    assert verdict.duplicated
    assert not verdict.ok


def test_gap_in_numbers() -> None:
    """A number that no signature on record has is a fault, of the key and of the document."""
    verdict = Story().whole("a", 1).whole("b", 3).judged(2)
    assert [fault for fault in verdict.faults if "never used" in fault] == [
        "key contracts: 1 numbers up to 3 were never used",
        "document d: 1 numbers up to 3 were never used",
    ]


def test_owed_and_settled() -> None:
    """A timestamp still owed is a fault; settled it is none, and the file is the one with the timestamp."""
    story = Story().requested("a").obtained("a", "local", 1).revision("a", owed=True).promised("a")
    story.fetched("a")
    verdict = story.judged(1)
    assert (verdict.owed, verdict.settled, verdict.completed) == (1, 0, 0)
    assert verdict.faults == ("1 timestamps are still owed",)
    story.settled("a")
    story.delivered = []
    story.fetched("a", "stamped-a")
    settled = story.judged(1)
    assert settled.ok
    assert (settled.owed, settled.settled) == (1, 1)
    assert settled.stamped_by == {"tsa-2": 1}


def test_missed_deadline() -> None:
    """An owed timestamp that missed its deadline is a fault even if it came later."""
    story = Story().requested("a").obtained("a", "local", 1).revision("a", owed=True)
    story.add("a", TimestampMissed(place=0, due_ms=1)).settled("a").promised("a")
    verdict = story.fetched("a", "stamped-a").judged(1)
    assert verdict.faults == ("1 owed timestamps missed their deadline",)


@pytest.mark.parametrize(
    ("checked", "fault"),
    [
        (Checked(documents=1, bundles=2, log_ok=True), "1 of 2 documents verified"),
        (Checked(documents=2, bundles=1, log_ok=True), "1 of 2 evidence bundles verified"),
        (Checked(documents=2, bundles=2, log_says="forked"), "the log does not verify: forked"),
        (Checked(documents=2, bundles=2, log_ok=True, bad=("a.pdf: no",)), "a.pdf: no"),
    ],
)
def test_what_does_not_verify(checked: Checked, fault: str) -> None:
    """The word of the verifier counts."""
    assert two().judged(2, checked).faults == (fault,)


def test_not_all_accepted() -> None:
    """Fewer acknowledgements than requests is a fault."""
    assert two().judged(3).faults == ("1 of 3 requests were never acknowledged",)


def test_failover_is_measured() -> None:
    """A failed attempt and another provider's signature is a failover, with the time between them."""
    story = Story().requested("a").attempt("a", "appliance").failed("a", "appliance")
    story.attempt("a", "local", 2).obtained("a", "local", 1).revision("a").promised("a").fetched(
        "a"
    )
    record = story.record()
    assert [(f.instead_of, f.provider, f.took_ms) for f in record.failovers] == [
        ("appliance", "local", 5 + 1 + 3)
    ]
    assert story.judged(1).failovers == 1


def test_interrupted_is_no_failover() -> None:
    """An attempt that the site's own death cut off is counted as that."""
    story = Story().requested("a").attempt("a", "appliance")
    story.failed("a", "appliance", detail="interrupted").attempt("a", "local", 2)
    story.obtained("a", "local", 1).revision("a").promised("a").fetched("a")
    verdict = story.judged(1)
    assert (verdict.failovers, verdict.interrupted) == (0, 1)
    assert verdict.ok


def test_notes() -> None:
    """What the site notes about providers and its mode becomes the story; the rest is passed over."""
    ejected = ProviderEjected(
        provider="appliance", at_ms=1, reason="failing", text="3 failures", until_ms=2, ejections=1
    )
    restored = ProviderRestored(provider="appliance", at_ms=1, reason="ok", text="", out_ms=1500)
    mode = ModeEntered(mode="degraded", previous="normal", reasons=(), actor="site", at_ms=1)
    record = Story().note(ejected).note(restored).note(mode).record()
    assert [(note.kind, note.subject, note.text) for note in record.notes] == [
        ("ejected", "appliance", "3 failures"),
        ("restored", "appliance", "back after 1.5 s"),
        ("mode", "degraded", "normal"),
    ]
    assert record.size == 3


def test_entries_may_come_in_pieces() -> None:
    """Reading the log as it grows gives what reading it at once gives."""
    story, piecewise = two(), Record()
    for one in story.leaves:
        piecewise.read([one])
    assert piecewise.requests == story.record().requests


def lines(path: Path) -> Iterable[Promise]:
    """A ledger's file."""
    return [msgspec.json.decode(line, type=Promise) for line in path.read_bytes().splitlines()]


def test_ledger(tmp_path: Path) -> None:
    """Each acknowledgement is in the file at once; the first answer for a key counts, refusals are kept apart."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    first, second = two().promises
    again = msgspec.structs.replace(first, request="other", again=True)
    for promise in (first, second, again):
        ledger.acknowledged(promise)
    ledger.refused(Refusal(key="key-c", code="key-disabled", detail=""))
    assert lines(tmp_path / "ledger.jsonl") == [first, second, again]
    assert ledger.accepted == 2
    assert ledger.by_key()[first.key].request == first.request
    ledger.close()
