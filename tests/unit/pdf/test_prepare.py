"""Preparing, filling, assembling: the bytes that end up in the file, and what is refused on the way."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyhanko.pdf_utils.reader import PdfFileReader

from outlast.core.errors import Corrupt, Refused
from outlast.signing.cms import add_timestamp, der, timestamp_tokens
from outlast.signing.pdf.facts import PrepareOptions
from outlast.signing.pdf.inspect import inspect_pdf
from outlast.signing.pdf.prepare import prepare_revision
from outlast.signing.pdf.revision import (
    DocumentHash,
    Prepared,
    assemble,
    contents,
    embed_in_place,
    fill,
    signed_revision,
)
from outlast.signing.pdf.slots import SLOT_WIDTHS, SignatureFields, check_fields, text_string
from outlast.testing.pdfs import (
    LocalSigner,
    build_pdf,
    build_pdf_with_streams,
    page_objects,
    plain_pdf,
)

NOW_MS = 1_800_000_000_000
NOW = SignatureFields(signing_time_ms=NOW_MS)
PLAIN = plain_pdf()
TOKEN = der.tlv(der.SEQUENCE, bytes.fromhex("06092a864886f70d010701"), bytes(3000))


def _form(*fields: bytes) -> bytes:
    """A document whose form has these fields, from object 6 on, and one text field."""
    objects = page_objects(
        catalog=b"/AcroForm << /Fields [6 0 R %s] >>"
        % b" ".join(b"%d 0 R" % (7 + i) for i in range(len(fields)))
    )
    objects[6] = b"<< /FT /Tx /T (Name) /Type /Annot /Subtype /Widget /Rect [0 0 9 9] >>"
    objects.update({7 + i: body for i, body in enumerate(fields)})
    return build_pdf(objects)


EMPTY_FIELD = b"<< /FT /Sig /T (Approval) /Type /Annot /Subtype /Widget /Rect [0 0 9 9] /P 4 0 R >>"


def _signature_dictionary(pdf: bytes) -> dict[str, object]:
    """The last signature's entries, read by pyHanko."""
    embedded = PdfFileReader(io.BytesIO(pdf)).embedded_signatures[-1]
    return {key: embedded.sig_object[key] for key in embedded.sig_object}


def test_the_original_is_kept_and_the_byte_range_covers_all_but_contents(
    signer: LocalSigner,
) -> None:
    """The signed file begins with the original; the digest is that of everything outside /Contents."""
    prepared = prepare_revision(PLAIN)
    signed, filled = signer.sign(PLAIN, prepared, NOW)
    assert signed.startswith(PLAIN)
    place = filled.place()
    after = place.offset + 2 * place.reserved_bytes + 2
    covered = signed[: place.offset] + signed[after:]
    assert hashlib.sha256(covered).digest() == filled.digest
    assert _signature_dictionary(signed)["/ByteRange"] == [
        0,
        place.offset,
        after,
        len(signed) - after,
    ]
    assert contents(signed, place) == signed_cms(signed, place.offset)


def signed_cms(signed: bytes, offset: int) -> bytes:
    """The CMS as a reader of the PDF finds it."""
    raw = bytes.fromhex(signed[offset + 1 : signed.index(b">", offset)].decode())
    return raw[: der.read(raw).end]


def test_the_same_document_gives_the_same_revision() -> None:
    """Nothing random and no clock goes into it, so intake may be repeated."""
    assert prepare_revision(PLAIN) == prepare_revision(PLAIN)


def test_a_prepared_revision_is_stored_without_its_zeros() -> None:
    """It comes back as it was, from a tenth of the bytes; damage is Corrupt."""
    prepared = prepare_revision(PLAIN)
    stored = prepared.to_bytes()
    assert Prepared.from_bytes(stored) == prepared
    assert len(stored) < len(prepared.revision) / 5
    with pytest.raises(Corrupt):
        Prepared.from_bytes(stored[:100])


def test_chunks_of_a_large_document_do_as_well_as_the_whole() -> None:
    """A document fed in pieces is filled to the same digests."""
    prepared = prepare_revision(PLAIN)
    chunked = DocumentHash(PLAIN[i : i + 100] for i in range(0, len(PLAIN), 100))
    assert fill(chunked, prepared, NOW) == fill(PLAIN, prepared, NOW)
    assert fill(chunked, prepared, NOW, "ed25519") == fill(PLAIN, prepared, NOW, "ed25519")


def test_another_document_is_not_filled() -> None:
    """The bytes are locked at intake: one byte changed, or one more, is Corrupt."""
    prepared = prepare_revision(PLAIN)
    for changed in (PLAIN.replace(b"Helvetica", b"Helvetics"), PLAIN + b"\n"):
        with pytest.raises(Corrupt, match="document-changed"):
            fill(changed, prepared, NOW)
        with pytest.raises(Corrupt, match="document-changed"):
            fill(DocumentHash([changed]), prepared, NOW)
    with pytest.raises(Corrupt, match="document-changed"):
        assemble(PLAIN + b"\n", fill(PLAIN, prepared, NOW), b"\x30\x00")


def test_fields_are_written_as_typed(signer: LocalSigner) -> None:
    """Delimiters, other alphabets and line ends come back from a PDF reader as they went in."""
    fields = SignatureFields(
        signing_time_ms=NOW_MS,
        name="Zoë Ångström",
        reason="I agree (mostly) \\ >> /Contents <00>\nreally)",
        location="Αθήνα 😀",
        contact="zoe@example.org",
    )
    signed, _ = signer.sign(PLAIN, prepare_revision(PLAIN), fields)
    entries = _signature_dictionary(signed)
    assert entries["/Name"] == fields.name
    assert entries["/Reason"] == fields.reason
    assert entries["/Location"] == fields.location
    assert entries["/ContactInfo"] == fields.contact
    assert entries["/M"] == "D:20270115080000+00'00'"


def test_unused_slots_leave_no_entries(signer: LocalSigner) -> None:
    """Only the time is always there."""
    signed, _ = signer.sign(PLAIN, prepare_revision(PLAIN), NOW)
    entries = _signature_dictionary(signed)
    assert "/M" in entries
    assert not {"/Name", "/Reason", "/Location", "/ContactInfo"} & set(entries)


@given(st.text(max_size=150))
def test_any_text_fits_or_is_refused_and_never_breaks_out(reason: str) -> None:
    """Whatever a person types, the dictionary around it reads as before."""
    prepared = prepare_revision(PLAIN)
    fields = SignatureFields(signing_time_ms=NOW_MS, reason=reason)
    signed = PLAIN + fill(PLAIN, prepared, fields).revision
    reader = PdfFileReader(io.BytesIO(signed))
    entries = reader.root["/AcroForm"]["/Fields"][0]["/V"]
    assert set(entries) - {"/Reason"} == {
        "/Type",
        "/Filter",
        "/SubFilter",
        "/ByteRange",
        "/Contents",
        "/M",
    }
    assert str(entries["/Reason"] if reason else "") == reason


def test_text_that_does_not_fit_is_refused() -> None:
    """Before the document is signed: at accept, and again when filling."""
    width = SLOT_WIDTHS["Reason"] - len("/Reason ()")
    check_fields(SignatureFields(signing_time_ms=NOW_MS, reason="x" * width))
    for reason in ("x" * (width + 1), "é" * (width // 4), "(" * (width // 2 + 1)):
        fields = SignatureFields(signing_time_ms=NOW_MS, reason=reason)
        for ask in (
            lambda fields=fields: check_fields(fields),
            lambda fields=fields: fill(PLAIN, prepare_revision(PLAIN), fields),
        ):
            with pytest.raises(Refused, match="field-too-long"):
                ask()
    with pytest.raises(Refused, match="field-not-text"):
        text_string("\ud800")


def test_an_empty_field_is_used_by_its_name(signer: LocalSigner) -> None:
    """The field that the author put there gets the signature; no new one is made."""
    original = _form(EMPTY_FIELD)
    assert inspect_pdf(original).empty_signature_fields == ("Approval",)
    prepared = prepare_revision(original, PrepareOptions(field_name="Approval"))
    signed, _ = signer.sign(original, prepared, NOW)
    facts = inspect_pdf(signed)
    assert [s.field_name for s in facts.signatures] == ["Approval"]
    assert facts.empty_signature_fields == ()


def test_field_names_that_cannot_be_used_are_refused(signer: LocalSigner) -> None:
    """Signed already, not a signature field, or no name for a new one."""
    original = _form(EMPTY_FIELD)
    signed, _ = signer.sign(
        original, prepare_revision(original, PrepareOptions(field_name="Approval")), NOW
    )
    cases = (
        ("field-already-signed", "Approval"),
        ("field-not-a-signature", "Name"),
        ("field-name-invalid", "a.b"),
        ("field-name-invalid", "x" * 65),
    )
    for code, name in cases:
        with pytest.raises(Refused, match=code):
            prepare_revision(signed, PrepareOptions(field_name=name))
    for reserve in (10, 10**7):
        with pytest.raises(Refused, match="reservation-out-of-range"):
            prepare_revision(signed, PrepareOptions(reserve_bytes=reserve))


def test_new_names_are_unique(signer: LocalSigner) -> None:
    """Three signatures without a name asked for: three names."""
    document = _form(EMPTY_FIELD.replace(b"Approval", b"Signature2"))
    for _ in range(3):
        document, _ = signer.sign(document, prepare_revision(document), NOW)
    assert {s.field_name for s in inspect_pdf(document).signatures} == {
        "Signature1",
        "Signature3",
        "Signature4",
    }


def test_a_certification_is_first_or_refused(signer: LocalSigner) -> None:
    """ISO 32000-2, 12.8.2.2: at most one, and before any other signature."""
    signed, _ = signer.sign(PLAIN, prepare_revision(PLAIN), NOW)
    with pytest.raises(Refused, match="certification-not-first"):
        prepare_revision(signed, PrepareOptions(kind="certification"))


def test_documents_of_every_build_are_prepared(signer: LocalSigner) -> None:
    """Direct and indirect annotation arrays, forms without fields, cross-reference streams, no last newline."""
    packed = page_objects()
    streams = {5: packed.pop(5)}
    builds = {
        "annotations in the page": build_pdf(page_objects(page=b"/Annots [3 0 R]")),
        "annotations apart": build_pdf({**page_objects(page=b"/Annots 6 0 R"), 6: b"[]"}),
        "a form without fields": build_pdf(page_objects(catalog=b"/AcroForm << >>")),
        "a form apart": build_pdf(
            {**page_objects(catalog=b"/AcroForm 6 0 R"), 6: b"<< /Fields 7 0 R >>", 7: b"[]"}
        ),
        "object streams": build_pdf_with_streams(streams, packed),
        "an identifier": build_pdf(page_objects(), trailer=b"/ID [<0123> <4567>]"),
        "no newline at the end": PLAIN.rstrip(),
    }
    for name, original in builds.items():
        signed, _ = signer.sign(original, prepare_revision(original), NOW)
        facts = inspect_pdf(signed)
        assert [s.covers_file for s in facts.signatures] == [True], name


def test_a_reservation_too_small_is_refused(signer: LocalSigner) -> None:
    """The document is left as it was prepared: nothing is cut off."""
    filled = fill(PLAIN, prepare_revision(PLAIN, PrepareOptions(reserve_bytes=1024)), NOW)
    cms = signer.cms(filled.digest)
    with pytest.raises(Refused, match="reservation-too-small"):
        signed_revision(filled, cms + bytes(1024))


def test_a_timestamp_is_written_into_the_reserved_space(signer: LocalSigner) -> None:
    """Later, in place: only /Contents changes, and the signature's bytes in it stay."""
    signed, filled = signer.sign(PLAIN, prepare_revision(PLAIN), NOW)
    place = filled.place()
    stamped = embed_in_place(signed, place, add_timestamp(contents(signed, place), TOKEN))
    end = place.offset + 2 * place.reserved_bytes + 2
    assert (stamped[: place.offset], stamped[end:]) == (signed[: place.offset], signed[end:])
    assert timestamp_tokens(contents(stamped, place)) == (TOKEN,)


def test_embedding_in_place_refuses_what_would_break_a_signature(signer: LocalSigner) -> None:
    """A later revision covers the space; another signature is not an addition; elsewhere is nowhere."""
    signed, filled = signer.sign(PLAIN, prepare_revision(PLAIN), NOW)
    place = filled.place()
    stamped = add_timestamp(contents(signed, place), TOKEN)
    later, _ = signer.sign(signed, prepare_revision(signed), NOW)
    with pytest.raises(Refused, match="later-revision-covers"):
        embed_in_place(later, place, stamped)
    with pytest.raises(Refused, match="signature-differs"):
        embed_in_place(signed, place, signer.cms(bytes(32)))
    with pytest.raises(Corrupt, match="contents-not-found"):
        embed_in_place(signed, type(place)(place.offset + 2, place.reserved_bytes), stamped)


def test_a_document_timestamp_says_nothing_but_the_token(signer: LocalSigner) -> None:
    """EN 319 142-1, 5.4.3: /Type /DocTimeStamp, /SubFilter /ETSI.RFC3161, no signer's entries."""
    prepared = prepare_revision(PLAIN, PrepareOptions(kind="document-timestamp"))
    stamped = assemble(PLAIN, fill(PLAIN, prepared, None), signer.cms(bytes(32)))
    entries = _signature_dictionary(stamped)
    assert entries["/Type"] == "/DocTimeStamp"
    assert entries["/SubFilter"] == "/ETSI.RFC3161"
    assert not {"/M", "/Name", "/Reason"} & set(entries)
