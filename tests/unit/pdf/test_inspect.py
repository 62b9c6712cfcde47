"""Intake: what is taken, what is refused and with which code, and that nothing else ever happens."""

from __future__ import annotations

import pathlib
import subprocess
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.core.errors import Refused
from outlast.signing.pdf.facts import MIB, Limits, PrepareOptions
from outlast.signing.pdf.inspect import inspect_pdf
from outlast.signing.pdf.intake import examine
from outlast.signing.pdf.prepare import prepare_revision
from outlast.signing.pdf.slots import SignatureFields
from outlast.testing.pdfs import (
    LocalSigner,
    build_pdf,
    build_pdf_with_streams,
    flate,
    page_objects,
    plain_pdf,
)

NOW = SignatureFields(signing_time_ms=1_800_000_000_000)
MAX_SECONDS = 5.0
"""No hostile file may take longer on a loaded machine; the slowest takes 0.2 s on an idle one."""


def _with(number: int, body: bytes, **more: bytes) -> bytes:
    """A plain document with one object added or replaced, and entries for its catalog or page."""
    objects = page_objects(**more)
    objects[number] = body
    return build_pdf(objects)


def _action(kind: bytes, *rest: bytes) -> bytes:
    return _with(
        6, b"<< /S " + kind + b" " + b" ".join(rest) + b" >>", catalog=b"/OpenAction 6 0 R"
    )


def _xref_stream(dictionary: bytes, rows: bytes) -> bytes:
    head = b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n"
    body = b"2 0 obj\n" + flate(rows, b"/Type /XRef /Root 1 0 R " + dictionary) + b"\nendobj\n"
    return head + body + b"startxref\n%d\n%%%%EOF\n" % len(head)


def _object_streams() -> bytes:
    objects = page_objects(2)
    plain = {n: objects.pop(n) for n in (5, 7)}
    return build_pdf_with_streams(plain, objects)


PLAIN = plain_pdf()
BOMB = bytes(20 * MIB)
"""What a bomb expands to: beyond LIMITS, and quick to make."""
LIMITS = Limits(max_decoded_bytes=8 * MIB)
DEEP = b"[" * 100_000

HOSTILE: dict[str, tuple[str, bytes]] = {
    "empty": ("not-a-pdf", b""),
    "a picture": ("not-a-pdf", b"\x89PNG\r\n\x1a\n" + bytes(2000)),
    "text before the header": ("pdf-malformed", b"MZ\x90\x00" + PLAIN),
    "an archive after the end": ("pdf-malformed", PLAIN + b"PK\x05\x06" + bytes(18)),
    "the second half missing": ("pdf-truncated", PLAIN[: len(PLAIN) // 2]),
    "the last line missing": ("pdf-truncated", PLAIN.removesuffix(b"%%EOF\n")),
    "xref points nowhere": ("pdf-malformed", PLAIN.replace(b"startxref\n", b"startxref\n9")),
    "xref entries shifted": ("pdf-malformed", PLAIN.replace(b"00000 n ", b"0000 n  ")),
    "xref claims a billion entries": (
        "pdf-malformed",
        PLAIN.replace(b"xref\n0 6", b"xref\n0 999999999"),
    ),
    "xref chain in a circle": (
        "pdf-malformed",
        build_pdf(page_objects(), trailer=b"/Prev %d" % PLAIN.rfind(b"xref\n0")),
    ),
    "no root": ("pdf-malformed", PLAIN.replace(b"/Root 1 0 R", b"/Rxxt 1 0 R")),
    "numbers for new objects taken": ("pdf-malformed", PLAIN.replace(b"/Size 6", b"/Size 4")),
    "xref stream of zero-width entries": (
        "pdf-malformed",
        _xref_stream(b"/W [0 0 0] /Size 3 /Index [0 999999999]", b"x"),
    ),
    "xref stream claims a billion entries": (
        "pdf-too-large",
        _xref_stream(b"/W [1 4 2] /Size 999999999", bytes(70)),
    ),
    "page tree in a circle": (
        "pdf-page-tree-cycle",
        _with(2, b"<< /Type /Pages /Kids [4 0 R 2 0 R] /Count 2 >>"),
    ),
    "page is its own parent": (
        "pdf-page-tree-cycle",
        _with(4, b"<< /Type /Pages /Parent 2 0 R /Kids [2 0 R] /Count 1 >>"),
    ),
    "a million pages claimed": (
        "pdf-too-many-pages",
        _with(2, b"<< /Type /Pages /Kids [4 0 R] /Count 1000000 >>"),
    ),
    "more pages claimed than there are": (
        "pdf-malformed",
        _with(2, b"<< /Type /Pages /Kids [4 0 R] /Count 2 >>"),
    ),
    "no page at all": ("pdf-malformed", _with(2, b"<< /Type /Pages /Kids [] /Count 0 >>")),
    "one page ten thousand times": (
        "pdf-page-tree-cycle",
        _with(2, b"<< /Type /Pages /Kids [" + b"4 0 R " * 4000 + b"] /Count 4000 >>"),
    ),
    "form fields in a circle": (
        "pdf-malformed",
        _with(6, b"<< /T (a) /Kids [6 0 R] >>", catalog=b"/AcroForm << /Fields [6 0 R] >>"),
    ),
    "nested beyond reason": ("pdf-malformed", _with(1, DEEP)),
    "bomb": ("pdf-bomb", _with(6, flate(BOMB))),
    "bomb in a bomb": ("pdf-bomb", _with(6, flate(BOMB, layers=3))),
    "bomb in text armour": (
        "pdf-bomb",
        _with(
            6,
            b"<< /Filter [/ASCIIHexDecode /FlateDecode] >>\nstream\n%s>\nendstream"
            % zlib.compress(BOMB).hex().encode(),
        ),
    ),
    "bomb of two kinds": (
        "pdf-bomb",
        _with(6, b"<< /Filter [/LZWDecode /FlateDecode] /Length 1 >>\nstream\nx\nendstream"),
    ),
    "script": ("pdf-active-content", _action(b"/JavaScript", b"/JS (app.alert\\(1\\))")),
    "script, its name disguised": ("pdf-active-content", _action(b"/Java#53cript", b"/JS (1)")),
    "script in an object stream": (
        "pdf-active-content",
        build_pdf_with_streams(
            {5: page_objects()[5]},
            {**{n: b for n, b in page_objects().items() if n != 5}, 6: b"<< /S /JavaScript >>"},
        ),
    ),
    "program start": ("pdf-active-content", _action(b"/Launch", b"/F (cmd.exe)")),
    "form sent away": ("pdf-active-content", _action(b"/SubmitForm", b"/F (http://x.example)")),
    "XFA form": (
        "pdf-active-content",
        _with(6, b"(x)", catalog=b"/AcroForm << /Fields [] /XFA 6 0 R >>"),
    ),
    "embedded file opened": ("pdf-active-content", _action(b"/GoToE", b"/T << /R /C >>")),
    "content kept elsewhere": (
        "pdf-active-content",
        _with(5, b"<< /F (http://x.example/page) /Length 0 >>\nstream\n\nendstream"),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_its_code(name: str) -> None:
    """In bounded time, with a word for programs and a hint for people."""
    code, data = HOSTILE[name]
    start = time.monotonic()
    with pytest.raises(Refused) as refusal:
        inspect_pdf(data, LIMITS)
    assert refusal.value.code == code
    assert refusal.value.hint
    assert time.monotonic() - start < MAX_SECONDS


def test_an_encrypted_file_is_refused(tmp_path: pathlib.Path) -> None:
    """Also when its user password is empty, so that any viewer opens it."""
    (tmp_path / "in.pdf").write_bytes(PLAIN)
    command = ["qpdf", "--encrypt", "", "owner", "256", "--", "in.pdf", "out.pdf"]
    subprocess.run(command, cwd=tmp_path, check=True)
    with pytest.raises(Refused, match="pdf-encrypted"):
        inspect_pdf((tmp_path / "out.pdf").read_bytes())


def test_limits_are_kept() -> None:
    """Bytes, pages, objects and decoded bytes each have their own."""
    cases = {
        "pdf-too-large": (Limits(max_bytes=100), Limits(max_objects=4)),
        "pdf-too-many-pages": (Limits(max_pages=2),),
        "pdf-bomb": (Limits(max_decoded_bytes=20),),
    }
    for code, all_limits in cases.items():
        for limits in all_limits:
            with pytest.raises(Refused, match=code):
                inspect_pdf(plain_pdf(3), limits)
    assert inspect_pdf(plain_pdf(3), Limits(max_pages=3)).pages == 3


def test_facts_of_a_plain_document() -> None:
    """Pages, version, objects; no form and no signature."""
    facts = inspect_pdf(plain_pdf(3))
    assert (facts.version, facts.pages, facts.objects, facts.revisions) == ("1.7", 3, 9, 1)
    assert (facts.has_form, facts.signatures, facts.empty_signature_fields) == (False, (), ())


def test_facts_of_a_document_in_object_streams() -> None:
    """Objects in streams are counted and pages in streams are found."""
    facts = inspect_pdf(_object_streams())
    assert facts.pages == 2
    assert facts.objects == 9


def test_signatures_already_there_are_told(signer: LocalSigner) -> None:
    """Two in turn: both named, only the later one covers the file, the certification level is known."""
    first = prepare_revision(PLAIN, PrepareOptions(kind="certification", field_name="Certified"))
    once, _ = signer.sign(PLAIN, first, NOW)
    twice, _ = signer.sign(once, prepare_revision(once), NOW)
    facts = inspect_pdf(twice)
    assert [(s.field_name, s.covers_file) for s in facts.signatures] == [
        ("Certified", False),
        ("Signature1", True),
    ]
    assert {s.sub_filter for s in facts.signatures} == {"ETSI.CAdES.detached"}
    assert (facts.docmdp_permission, facts.revisions) == (2, 3)


def test_a_document_certified_against_changes_is_refused(signer: LocalSigner) -> None:
    """DocMDP P=1: any further signature would break the certifier's."""
    prepared = prepare_revision(PLAIN, PrepareOptions(kind="certification"))
    certified, _ = signer.sign(PLAIN, prepared, NOW)
    locked = certified.replace(b"/V /1.2 /P 2", b"/V /1.2 /P 1")
    with pytest.raises(Refused, match="pdf-certified-no-changes"):
        inspect_pdf(locked)


def test_text_about_scripts_is_not_a_script() -> None:
    """The word in compressed page text, and longer names that begin like a watched one, are harmless."""
    objects = page_objects(content=b"How to use /JavaScript and /Launch in a PDF")
    objects[6] = b"<< /LaunchDate (today) /JavaScripts 1 >>"
    assert inspect_pdf(build_pdf(objects)).pages == 1


@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes) -> None:
    """Random bytes, with and without a header and an end, only ever raise Refused."""
    for framed in (data, b"%PDF-1.7\n" + data + b"\nstartxref\n9\n%%EOF"):
        with pytest.raises(Refused):
            inspect_pdf(framed)


@given(
    base=st.sampled_from([PLAIN, _object_streams()]),
    edits=st.lists(
        st.tuples(
            st.integers(0, 1 << 16),
            st.integers(0, 8),
            st.one_of(
                st.binary(max_size=4),
                st.sampled_from(
                    [b"<<", b">>", b"[", b"(", b"1 0 R", b"99999999999", b"-1", b"null"]
                ),
            ),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_a_damaged_document_is_examined_or_refused(
    base: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    """Whatever a few edits do to a good file, inspection and preparation end in an answer, and soon."""
    data = base
    for at, gone, inserted in edits:
        at %= len(data) + 1
        data = data[:at] + inserted + data[at + gone :]
    start = time.monotonic()
    try:
        examine(data, Limits(), None)
    except Refused:
        pass  # an answer as good as any
    assert time.monotonic() - start < MAX_SECONDS


SIGNABLE = {
    "libtasn1.pdf": 36,
    "minimal-hybrid-xref.pdf": 1,
    "minimal-signed-twice-both-created.pdf": 1,
    "minimal-two-pages.pdf": 2,
    "minimal-with-simple-form.pdf": 1,
    "minimal.pdf": 1,
    "shared-mime-info-spec.pdf": 17,
    "uncompressed-objstream-sample.pdf": 1,
}
REFUSED = {
    "broken-objstream1.pdf": "pdf-malformed",
    "circular-page-tree.pdf": "pdf-page-tree-cycle",
    "minimal-aes256.pdf": "pdf-encrypted",
}


def test_documents_from_elsewhere(shared_pdfs: pathlib.Path | None) -> None:
    """The collection beside the repository, where it is there: each is taken or refused as its list says."""
    for name, pages in SIGNABLE.items() if shared_pdfs else ():
        assert inspect_pdf((shared_pdfs / name).read_bytes()).pages == pages
    for name, code in REFUSED.items() if shared_pdfs else ():
        with pytest.raises(Refused) as refusal:
            inspect_pdf((shared_pdfs / name).read_bytes())
        assert refusal.value.code == code
