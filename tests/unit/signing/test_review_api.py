"""What a class permits is asked of the class that a request names, not only of the one a document came in with."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from outlast.core.commit import Receipt, Submission
from outlast.core.errors import OutlastError, Refused, Unavailable, Unknown
from outlast.signing.api import SignatureAsk
from outlast.signing.classes import DocumentClass
from outlast.testing.desk import CALLER, Desk, chunks
from outlast.testing.pdfs import plain_pdf

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("strict", "code"),
    [
        (DocumentClass(max_bytes=100), "body-too-large"),
        (DocumentClass(max_pages=0), "pdf-too-many-pages"),
    ],
)
async def test_a_class_holds_for_documents_that_came_in_under_another(
    tmp_path: Path, strict: DocumentClass, code: str
) -> None:
    """Uploading under a generous class must not be a way around a strict one."""
    desk = Desk(tmp_path)
    await desk.enrol()
    strict = msgspec.structs.replace(strict, name="strict", key="seal")
    classes = {**desk.world.classes, "strict": strict}
    object.__setattr__(desk.world, "classes", classes)
    document = await desk.upload(plain_pdf())
    with pytest.raises(Refused, match=code):
        await desk.signing.request(CALLER, SignatureAsk(document=document, class_name="strict"))
    await desk.signing.request(CALLER, SignatureAsk(document=document))


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (Unavailable("storage-full", "no room"), 0),
        (Refused("document-exists", "there is one"), 0),
        (Unknown("storage-lost", "perhaps"), 2),
    ],
)
async def test_an_upload_that_was_not_recorded_leaves_nothing_behind(
    tmp_path: Path, error: OutlastError, kept: int
) -> None:
    """On a full disk, callers that try again must not fill it further; what may have been recorded stays."""
    desk = Desk(tmp_path)

    class Door:
        async def submit(self, work: Submission) -> Receipt:
            raise error

    object.__setattr__(desk.world, "door", Door())
    with pytest.raises(type(error)):
        await desk.signing.add_document(CALLER, chunks(plain_pdf()))
    assert len(desk.blobs.stored) == kept
