"""Signing's jobs: waits that are too long, and ways out that were missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from outlast.core.commit import Finish, Idempotency, Settle
from outlast.core.errors import Refused, Unavailable
from outlast.signing.api import PlaceAsk, SignatureAsk, Signing
from outlast.testing.desk import CALLER, Desk
from outlast.testing.keys import Fault
from outlast.testing.pdfs import plain_pdf

pytestmark = pytest.mark.anyio


async def wait_after_two_rounds(tmp_path: Path, one: Fault, two: Fault) -> int:
    """How long a job that failed twice waits, in milliseconds, with the providers' faults."""
    desk = Desk(tmp_path)
    await desk.enrol()
    desk.signers["one"].always(one)
    desk.signers["two"].always(two)
    await desk.ask(await desk.upload(plain_pdf()))
    wait_ms = 0
    for _ in range(2):
        desk.clock.advance(wait_ms)
        (row,) = await desk.claim()
        await desk.run(row)
        job = await desk.store.job(row.id)
        assert job is not None
        assert job.state == "ready"
        wait_ms = job.run_at_ms - desk.clock.now_ms()
    return wait_ms


async def test_one_throttling_provider_does_not_delay_the_retry_at_another(tmp_path: Path) -> None:
    """One asked to be left alone for ten minutes, the other fails for a moment: it is asked again within seconds."""
    throttle = Fault(kind="throttle", retry_after_s=600.0)
    assert await wait_after_two_rounds(tmp_path, throttle, Fault(kind="fail-before")) < 15_000


async def test_when_all_providers_throttle_the_shortest_wait_is_kept(tmp_path: Path) -> None:
    """Nobody is asked sooner than he said, and nobody much later."""
    one = Fault(kind="throttle", retry_after_s=600.0)
    two = Fault(kind="throttle", retry_after_s=30.0)
    assert 25_000 <= await wait_after_two_rounds(tmp_path, one, two) < 60_000


SMALL = 1_700
"""Bytes: room for a signature with its chain, not for a timestamp as well."""


async def test_an_owed_timestamp_that_does_not_fit_becomes_a_document_timestamp(
    tmp_path: Path,
) -> None:
    """The space reserved in the file is too small for the token: the debt is settled all the same."""
    desk = Desk(tmp_path, level="B-T", owe_timestamp=True, reserve_bytes=SMALL)
    await desk.enrol()
    for authority in desk.authorities.values():
        authority.down = True
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    await desk.work(rounds=10)
    assert (await desk.request(request_id)).signatures[0].timestamp == "owed"
    for authority in desk.authorities.values():
        authority.down = False
    await desk.work(rounds=200, step_ms=1_000)
    stamp = (await desk.request(request_id)).signatures[0].stamp
    assert stamp is not None, desk.errors[-1:]
    assert stamp.document


async def test_a_fresh_timestamp_that_does_not_fit_is_owed_where_the_class_permits(
    tmp_path: Path,
) -> None:
    """A signature on record is not given up because its timestamp is too large for the space."""
    desk = Desk(tmp_path, level="B-T", owe_timestamp=True, reserve_bytes=SMALL)
    await desk.enrol()
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    await desk.work(rounds=200, step_ms=1_000)
    request = await desk.request(request_id)
    assert request.label == "completed", request.reason
    assert request.signatures[0].timestamp == "present"


def key(name: str) -> Idempotency:
    """A caller's key, with the body it came with."""
    return Idempotency(name, b"body")


async def test_a_repeated_request_gets_its_answer_though_it_would_be_refused_now(
    tmp_path: Path,
) -> None:
    """The answer was lost, the key disabled since: "refused" would make the caller have it signed elsewhere too."""
    desk = Desk(tmp_path)
    await desk.enrol()
    ask = SignatureAsk(document=await desk.upload(plain_pdf()))
    first = await desk.signing.request(CALLER, ask, key("k"))
    await desk.signing.disable_key(CALLER, "seal")
    again = await desk.signing.request(CALLER, ask, key("k"))
    assert (again.stream, again.replayed) == (first.stream, True)
    with pytest.raises(Refused, match="key-disabled"):
        await desk.signing.request(CALLER, ask, key("fresh"))
    with pytest.raises(Refused, match="idempotency-key-reused"):
        await desk.signing.request(CALLER, ask, Idempotency("k", b"another body"))


async def test_a_repeated_request_gets_its_answer_from_a_site_that_takes_nothing_new(
    tmp_path: Path,
) -> None:
    """Read-only says "nothing was accepted": never to somebody whose request was."""
    desk = Desk(tmp_path)
    await desk.enrol()
    ask = SignatureAsk(document=await desk.upload(plain_pdf()))
    first = await desk.signing.request(CALLER, ask, key("k"))

    @contextmanager
    def closed(tenant: str) -> Iterator[None]:
        if tenant:
            raise Unavailable("read-only", "nothing was accepted")
        yield

    signing = Signing(desk.world, desk.store, desk.intake, desk.ids, closed)
    again = await signing.request(CALLER, ask, key("k"))
    assert (again.stream, again.replayed) == (first.stream, True)
    with pytest.raises(Unavailable, match="read-only"):
        await signing.request(CALLER, ask, key("fresh"))


async def test_a_missed_deadline_is_on_record_while_later_signatures_are_stuck(
    tmp_path: Path,
) -> None:
    """The second signature finds no provider: the first one's timestamp is overdue all the same."""
    desk = Desk(tmp_path, level="B-T", owe_timestamp=True, timestamp_deadline_s=20)
    await desk.enrol()
    for authority in desk.authorities.values():
        authority.down = True
    places = (PlaceAsk(), PlaceAsk())
    request_id = await desk.ask(await desk.upload(plain_pdf()), signatures=places)
    while (await desk.request(request_id)).signatures[0].timestamp != "owed":
        await desk.work(rounds=1)
    for signer in desk.signers.values():
        signer.down = True
    await desk.work(rounds=60, step_ms=1_000)
    request = await desk.request(request_id)
    assert request.label in ("queued", "signing")
    assert request.signatures[0].timestamp == "missed"


async def test_a_missing_blob_fails_no_request_for_good(tmp_path: Path) -> None:
    """A volume that was not mounted: the job becomes a dead letter, to be replayed once the bytes are back."""
    desk = Desk(tmp_path)
    await desk.enrol()
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    away = dict(desk.blobs.stored)
    desk.blobs.stored.clear()
    desk.bodies._recent = type(desk.bodies._recent)()  # as after a restart
    await desk.work(rounds=3)
    assert (await desk.request(request_id)).label == "queued"
    assert (await desk.store.job_counts()).dead == 1
    desk.blobs.stored.update(away)
    (dead,) = await desk.store.jobs("acme", state="dead")
    again = Finish(job=dead.id, lease=dead.lease, expect="dead", state="ready")
    await desk.committer.settle(Settle("acme", again))
    await desk.work()
    assert (await desk.request(request_id)).label == "completed"
