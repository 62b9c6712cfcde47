"""Signing's jobs against providers and authorities that fail in every way they can."""

from __future__ import annotations

from pathlib import Path

import pytest

from outlast.core.errors import Corrupt, Refused
from outlast.core.log.entry import decode_entry
from outlast.core.store.port import StreamKey
from outlast.signing.api import PlaceAsk
from outlast.signing.cms import signature_value, timestamp_tokens
from outlast.signing.model import request as requests
from outlast.signing.pdf.revision import ContentsPlace, contents
from outlast.testing.desk import CALLER, Desk, chunks
from outlast.testing.keys import Fault
from outlast.testing.pdfs import plain_pdf
from outlast.testing.timestamp import Fault as StampFault

pytestmark = pytest.mark.anyio


def cms_in(document: bytes, request: requests.Request, place: int = 0) -> bytes:
    """The CMS of a signature in a signed PDF."""
    revision = request.signatures[place].revision
    assert revision is not None
    at = ContentsPlace(revision.contents_offset, revision.reserved_bytes)
    return contents(document, at)


@pytest.mark.parametrize("algorithm", ["ecdsa-p256-sha256", "rsa-pkcs1-sha256", "ed25519"])
async def test_signs_at_the_preferred_provider(tmp_path: Path, algorithm: str) -> None:
    """One call, one signature, both numbers start at one, and the value on record is the one in the file."""
    desk = Desk(tmp_path)
    await desk.enrol(algorithm)
    request_id = await desk.ask(await desk.upload(plain_pdf()), name="Ann", reason="agreed")
    await desk.work()
    request = await desk.request(request_id)
    assert request.label == "completed"
    signature = request.signatures[0]
    assert (signature.key_number, signature.document_number) == (1, 1)
    assert signature.pin is not None
    assert signature.pin.provider == "one"
    assert desk.signers["two"].calls == 0
    assert signature_value(cms_in(await desk.signed(request_id), request)) == signature.value


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("fail-before", "unreachable"),
        ("fail-after", "unknown"),
        ("throttle", "throttled"),
        ("garbage", "bad-answer"),
        ("other-bytes", "bad-answer"),
        ("hang", "unknown"),
        ("hang-after", "unknown"),
        ("refuse", "request-refused"),
    ],
)
async def test_fails_over_on_record(tmp_path: Path, kind: str, outcome: str) -> None:
    """Whatever the first provider does wrong, the second signs with its own certificate, and it is on record."""
    desk = Desk(tmp_path)
    await desk.enrol()
    desk.signers["one"].always(Fault(kind=kind))  # type: ignore[arg-type]  # parametrized
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    await desk.work()
    request = await desk.request(request_id)
    signature = request.signatures[0]
    assert request.label == "completed"
    assert signature.failovers == (f"one:{outcome}",)
    assert signature.pin is not None
    assert signature.pin.provider == "two"
    assert (signature.key_number, signature.document_number) == (1, 1)
    log = await desk.log()
    assert log.count("signing.attempt_started") == 2
    assert log.count("signing.attempt_failed") == 1
    assert log.count("signing.signature_obtained") == 1


async def test_a_late_answer_is_dropped(tmp_path: Path) -> None:
    """A provider that answers after its deadline finds its attempt closed; the other's signature stands."""
    desk = Desk(tmp_path)
    await desk.enrol()
    desk.signers["one"].plan(Fault(kind="late", delay_s=0.3))
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    await desk.work()
    request = await desk.request(request_id)
    assert request.signatures[0].pin is not None
    assert request.signatures[0].pin.provider == "two"
    late = requests.RecordSignature(
        at_ms=0, place=0, attempt=1, value=b"late", key_counter="k", document_counter="d"
    )
    with pytest.raises(Exception, match="not-this-signature"):
        requests.RequestDecider().decide(late, request)


async def test_waits_while_nobody_can_sign(tmp_path: Path) -> None:
    """With every provider down the request stays queued and is signed when one is back; nothing is lost."""
    desk = Desk(tmp_path)
    await desk.enrol()
    for signer in desk.signers.values():
        signer.down = True
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    await desk.work(rounds=5)
    assert (await desk.request(request_id)).label == "queued"
    desk.signers["two"].down = False
    await desk.work(rounds=60)
    assert (await desk.request(request_id)).label == "completed"


async def test_policy_outranks_availability(tmp_path: Path) -> None:
    """A provider that policy denies is not asked, even when it is the only one that works."""
    desk = Desk(tmp_path)
    await desk.enrol()
    desk.denials["two"] = "residency"
    desk.signers["one"].down = True
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    await desk.work(rounds=5)
    assert (await desk.request(request_id)).label == "queued"
    assert desk.signers["two"].calls == 0


async def test_disabled_key_is_refused_at_accept(tmp_path: Path) -> None:
    """A disabled key is refused with what to do; a request accepted before fails with the reason."""
    desk = Desk(tmp_path)
    await desk.enrol()
    document = await desk.upload(plain_pdf())
    request_id = await desk.ask(document)
    await desk.signing.disable_key(CALLER, "seal", reason="lost")
    with pytest.raises(Refused, match="key-disabled"):
        await desk.ask(document)
    await desk.work()
    request = await desk.request(request_id)
    assert request.label == "failed"
    assert "key-disabled" in request.reason


async def test_wrong_certificate_for_the_key_is_refused(tmp_path: Path) -> None:
    """A chain for another key cannot be enrolled."""
    desk = Desk(tmp_path)
    await desk.enrol()
    other = await desk.signers["two"].describe("ecdsa-p256-sha256")
    from outlast.core.pki import certificate_der, issue

    leaf = issue(desk.ca, "other", other.spki_der, "document-signing", desk.clock)
    with pytest.raises(Refused, match="certificate-key-mismatch"):
        await desk.signing.enrol_key(
            CALLER, "seal", "one", "ecdsa-p256-sha256", [certificate_der(leaf)]
        )


async def test_expired_certificates_keep_a_request_waiting(tmp_path: Path) -> None:
    """They can be renewed, or the clock may be wrong: the request is signed once a valid one is enrolled."""
    desk = Desk(tmp_path)
    await desk.enrol()
    document = await desk.upload(plain_pdf())
    desk.clock.advance(3 * 365 * 86_400_000)
    request_id = await desk.ask(document)
    await desk.work(rounds=3)
    assert (await desk.request(request_id)).label == "queued"
    assert desk.errors[0].code == "no-valid-certificate"
    await desk.enrol()
    await desk.work(rounds=80)
    assert (await desk.request(request_id)).label == "completed"


async def test_unknown_class_key_and_document_are_refused(tmp_path: Path) -> None:
    """Each with its own code, and nothing is written."""
    desk = Desk(tmp_path)
    await desk.enrol()
    document = await desk.upload(plain_pdf())
    before = await desk.log()
    for wish, code in (
        ({"class_name": "gold"}, "unknown-class"),
        ({"signatures": (PlaceAsk(key="nobody"),)}, "key-not-found"),
        ({"signatures": ()}, "signature-count"),
        ({"reason": "x" * 501}, "field-too-long"),
    ):
        with pytest.raises(Refused, match=code):
            await desk.ask(document, **wish)
    with pytest.raises(Refused, match="document-not-found"):
        await desk.ask(desk.ids.new())
    assert await desk.log() == before


async def test_signatures_in_order_each_a_revision(tmp_path: Path) -> None:
    """Three signatures on one document: each later file begins with the earlier one, byte for byte."""
    desk = Desk(tmp_path)
    await desk.enrol()
    document = await desk.upload(plain_pdf())
    request_id = await desk.ask(document, signatures=(PlaceAsk(), PlaceAsk(), PlaceAsk()))
    await desk.work()
    request = await desk.request(request_id)
    assert request.label == "completed"
    assert [s.document_number for s in request.signatures] == [1, 2, 3]
    files = []
    for signature in request.signatures:
        assert signature.revision is not None
        files.append(await desk.bodies.read("acme", signature.revision.blob))
    assert files[1].startswith(files[0])
    assert files[2].startswith(files[1])


async def test_timestamp_from_the_second_authority(tmp_path: Path) -> None:
    """An authority that lies is left for the next; the token is in the file and the failure on record."""
    desk = Desk(tmp_path, level="B-T")
    await desk.enrol()
    desk.authorities["clock-a"].always(StampFault(kind="other-digest"))
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    await desk.work()
    request = await desk.request(request_id)
    stamp = request.signatures[0].stamp
    assert request.label == "completed"
    assert stamp is not None
    assert stamp.authority == "clock-b"
    assert len(timestamp_tokens(cms_in(await desk.signed(request_id), request))) == 1


async def test_without_permission_no_timestamp_means_waiting(tmp_path: Path) -> None:
    """A class that does not permit owing keeps the document until an authority answers."""
    desk = Desk(tmp_path, level="B-T")
    await desk.enrol()
    for authority in desk.authorities.values():
        authority.down = True
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    await desk.work(rounds=15)
    assert (await desk.request(request_id)).label == "signed"
    desk.authorities["clock-a"].down = False
    await desk.work(rounds=60)
    assert (await desk.request(request_id)).signatures[0].timestamp == "present"


async def test_policy_may_forbid_to_owe(tmp_path: Path) -> None:
    """A class that permits owing is overruled by a policy that does not: the file waits for its timestamp."""
    desk = Desk(tmp_path, level="B-T", owe_timestamp=True, timestamp_patience_ms=0)
    desk.denials["timestamp-owed"] = "no-debts"
    await desk.enrol()
    for authority in desk.authorities.values():
        authority.down = True
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    await desk.work(rounds=10)
    assert (await desk.request(request_id)).label == "signed"


async def test_owed_timestamp_is_settled_in_place(tmp_path: Path) -> None:
    """Released without a timestamp, on record with a deadline; later it goes into the reserved space."""
    desk = Desk(tmp_path, level="B-T", owe_timestamp=True, timestamp_patience_ms=1_000)
    await desk.enrol()
    for authority in desk.authorities.values():
        authority.down = True
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    await desk.work(rounds=8)
    request = await desk.request(request_id)
    assert request.label == "completed"
    assert request.signatures[0].timestamp == "owed"
    before = await desk.signed(request_id)
    for authority in desk.authorities.values():
        authority.down = False
    await desk.work(rounds=200)
    request = await desk.request(request_id)
    after = await desk.signed(request_id)
    assert request.signatures[0].timestamp == "present"
    assert len(after) == len(before)
    assert timestamp_tokens(cms_in(before, request)) == ()
    assert len(timestamp_tokens(cms_in(after, request))) == 1


async def test_owed_under_later_signatures_needs_a_document_timestamp(tmp_path: Path) -> None:
    """What a later signature covers cannot be changed: one document timestamp settles all that is owed."""
    desk = Desk(tmp_path, level="B-T", owe_timestamp=True, timestamp_patience_ms=200)
    await desk.enrol()
    for authority in desk.authorities.values():
        authority.down = True
    document = await desk.upload(plain_pdf())
    request_id = await desk.ask(document, signatures=(PlaceAsk(), PlaceAsk()))
    await desk.work(rounds=10)
    before = await desk.signed(request_id)
    assert [s.timestamp for s in (await desk.request(request_id)).signatures] == ["owed", "owed"]
    for authority in desk.authorities.values():
        authority.down = False
    await desk.work(rounds=200)
    request = await desk.request(request_id)
    after = await desk.signed(request_id)
    assert [s.timestamp for s in request.signatures] == ["present", "present"]
    assert after.startswith(before)
    assert b"/DocTimeStamp" in after[len(before) :]


async def test_missed_deadline_is_said_and_can_be_replayed(tmp_path: Path) -> None:
    """Past its deadline the debt is on record as missed and the job is dead, not silently retried for ever."""
    desk = Desk(
        tmp_path, level="B-T", owe_timestamp=True, timestamp_patience_ms=100, timestamp_deadline_s=5
    )
    await desk.enrol()
    for authority in desk.authorities.values():
        authority.down = True
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    await desk.work(rounds=60)
    request = await desk.request(request_id)
    assert request.signatures[0].timestamp == "missed"
    assert (await desk.store.job_counts()).dead == 1
    assert "signing.timestamp_missed" in await desk.log()


async def test_detached_cms_for_other_files(tmp_path: Path) -> None:
    """Any file is signed as a detached CMS, timestamp included."""
    desk = Desk(tmp_path, level="B-T")
    await desk.enrol()
    document = await desk.upload(b"hello, world", "text/plain")
    request_id = await desk.ask(document)
    await desk.work()
    request = await desk.request(request_id)
    assert request.format == "cms"
    signed = await desk.signed(request_id)
    assert signature_value(signed) == request.signatures[0].value
    assert len(timestamp_tokens(signed)) == 1


async def test_interrupted_attempt_is_closed_and_redone(tmp_path: Path) -> None:
    """A process that dies between pin and answer leaves an open attempt; the next run closes it as unknown."""
    desk = Desk(tmp_path)
    await desk.enrol()
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    desk.signers["one"].plan(Fault(kind="hang-after"))
    (row,) = await desk.claim()
    import asyncio

    running = asyncio.create_task(desk.run(row))
    for _ in range(10_000):
        if (await desk.request(request_id)).signatures[0].pin is not None:
            break
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    desk.clock.advance(60_000)
    await desk.work()
    request = await desk.request(request_id)
    assert request.label == "completed"
    assert request.signatures[0].failovers[0] == "one:unknown"
    assert (await desk.log()).count("signing.signature_obtained") == 1


async def test_changed_document_is_never_signed(tmp_path: Path) -> None:
    """A blob that is not what was locked at intake stops the job as corrupt; no provider is asked."""
    desk = Desk(tmp_path)
    await desk.enrol()
    document = await desk.upload(plain_pdf())
    request_id = await desk.ask(document)
    for name, stored in list(desk.blobs.stored.items()):
        desk.blobs.stored[name] = stored[:-1] + bytes([stored[-1] ^ 1])
    fresh = desk.bodies._recent  # what a restarted process would not have
    fresh._bodies.clear()
    await desk.work(rounds=3)
    assert isinstance(desk.errors[0], Corrupt)
    assert (await desk.request(request_id)).label == "queued"
    assert desk.signers["one"].calls == 0


async def test_personal_fields_are_not_in_the_log(tmp_path: Path) -> None:
    """Names and reasons are sealed; destroying the subject's key leaves the record readable without them."""
    desk = Desk(tmp_path)
    await desk.enrol()
    request_id = await desk.ask(
        await desk.upload(plain_pdf()), name="Ann Secretname", reason="Zweck"
    )
    leaves = await desk.store.stream_entries(StreamKey("acme", requests.KIND, request_id))
    assert leaves
    for _, leaf in leaves:
        assert b"Secretname" not in leaf
        assert b"Zweck" not in leaf
        assert decode_entry(leaf).tenant == "acme"


async def test_another_tenant_sees_nothing(tmp_path: Path) -> None:
    """Documents, requests and keys of a tenant do not exist for another."""
    desk = Desk(tmp_path)
    await desk.enrol()
    document = await desk.upload(plain_pdf())
    from outlast.signing.api import Caller, SignatureAsk

    stranger = Caller("other", "api-key:eve")
    with pytest.raises(Refused, match="document-not-found"):
        await desk.signing.request(stranger, SignatureAsk(document=document))
    assert await desk.signing.keys(stranger) == ()


async def test_repeated_upload_is_one_document(tmp_path: Path) -> None:
    """The same idempotency key and bytes give the first document; other bytes are refused; no blob is left over."""
    desk = Desk(tmp_path)
    first = await desk.signing.add_document(CALLER, chunks(plain_pdf()), idempotency_key="k")
    stored = set(desk.blobs.stored)
    again = await desk.signing.add_document(CALLER, chunks(plain_pdf()), idempotency_key="k")
    assert (again.stream, again.replayed) == (first.stream, True)
    with pytest.raises(Refused, match="idempotency-key-reused"):
        await desk.signing.add_document(
            CALLER, chunks(b"other"), media_type="text/plain", idempotency_key="k"
        )
    assert set(desk.blobs.stored) == stored


async def test_approval_by_a_second_person(tmp_path: Path) -> None:
    """A class that needs approval waits for somebody else; oneself is refused."""
    from outlast.signing.api import Caller

    desk = Desk(tmp_path, manual_approval=True)
    await desk.enrol()
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    await desk.work(rounds=2)
    assert (await desk.request(request_id)).label == "awaiting-approval"
    with pytest.raises(Refused, match="self-approval"):
        await desk.signing.approve(CALLER, request_id)
    await desk.signing.approve(Caller("acme", "api-key:bob"), request_id)
    await desk.work()
    assert (await desk.request(request_id)).label == "completed"
