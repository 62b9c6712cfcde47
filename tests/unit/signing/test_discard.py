"""A job that a person discards takes what hangs on it along."""

from __future__ import annotations

from pathlib import Path

import pytest

from outlast.testing.desk import CALLER, Desk
from outlast.testing.pdfs import plain_pdf

pytestmark = pytest.mark.anyio


async def test_request_of_a_discarded_job_has_failed(tmp_path: Path) -> None:
    """It does not stay queued for a job that will never come; the reason is on record."""
    desk = Desk(tmp_path)
    await desk.enrol()
    request_id = await desk.ask(await desk.upload(plain_pdf()))
    (job,) = await desk.claim()
    await desk.signing.job_discarded(CALLER, job, "a test document")
    request = await desk.request(request_id)
    assert (request.label, request.reason) == ("failed", "job-discarded: a test document")
    await desk.signing.job_discarded(CALLER, job, "again")
    assert (await desk.request(request_id)).reason == "job-discarded: a test document"
