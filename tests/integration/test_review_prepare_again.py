"""Preparing a further revision of a document that its class has let in."""

from __future__ import annotations

from pathlib import Path

import pytest

from outlast.core.errors import Refused, Unavailable
from outlast.signing.pdf.facts import Limits, PrepareOptions
from outlast.signing.pdf.inspect import inspect_pdf
from outlast.signing.pdf.refusals import too_costly
from outlast.signing.sandbox import PdfSandbox
from outlast.testing.pdfs import build_pdf
from outlast.wiring.config import Config, SiteSection, check
from outlast.wiring.site import open_site

pytestmark = pytest.mark.anyio


def many_pages(count: int) -> bytes:
    """A PDF with so many empty pages."""
    kids = b" ".join(b"%d 0 R" % (3 + i) for i in range(count))
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Count %d /Kids [%s] >>" % (count, kids),
    }
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] >>"
    objects.update({3 + i: page for i in range(count)})
    return build_pdf(objects)


@pytest.mark.slow
async def test_the_second_signature_knows_no_stricter_limits(tmp_path: Path) -> None:
    """A class may let in more pages than the parser's defaults; the second signature on such a document failed."""
    pdf = many_pages(Limits().max_pages + 1)
    with pytest.raises(Refused, match="pages"):
        inspect_pdf(pdf)
    async with open_site(check(Config(site=SiteSection(data=str(tmp_path / "data"))))) as site:
        prepared = await site.world.prepare(pdf, PrepareOptions(field_name="Second"))
    assert prepared.original_length == len(pdf)


async def test_a_busy_machine_fails_no_signature_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document passed intake; that its worker is too slow now, or was killed, is the machine's state."""

    async def examine(*_: object) -> None:
        raise too_costly("it took more than 20 s")

    async with open_site(check(Config(site=SiteSection(data=str(tmp_path / "data"))))) as site:
        monkeypatch.setattr(PdfSandbox, "examine", examine)
        with pytest.raises(Unavailable):
            await site.world.prepare(b"%PDF-1.7", PrepareOptions())
