"""Signed documents as other people's tools see them: pyHanko, pdfsig (NSS), openssl, qpdf.

Needs Debian's poppler-utils, qpdf and openssl; a missing one fails the test with FileNotFoundError.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
import subprocess
from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives import serialization

from outlast.core.asymmetric import KEY_ALGORITHMS, KeyAlgorithm, generate_private_key, spki_der
from outlast.core.clock import SystemClock
from outlast.core.errors import Refused
from outlast.core.pki import (
    Authority,
    certificate_der,
    certificate_pem,
    issue,
    make_ca,
    private_key_pem,
)
from outlast.signing.cms import add_timestamp, timestamp_imprint
from outlast.signing.pdf.facts import PrepareOptions
from outlast.signing.pdf.inspect import inspect_pdf
from outlast.signing.pdf.prepare import prepare_revision
from outlast.signing.pdf.revision import assemble, contents, embed_in_place, fill
from outlast.signing.pdf.slots import SignatureFields
from outlast.signing.pdf.verify import verify_cms, verify_pdf
from outlast.testing.pdfs import (
    LocalSigner,
    build_pdf,
    build_pdf_with_streams,
    page_objects,
    plain_pdf,
)

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
CLOCK = SystemClock()
PLAIN = plain_pdf()

TSA_CONFIG = """
[tsa]
default_tsa = here
[here]
serial = ./serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
ess_cert_id_chain = no
"""


class OpensslTsa:
    """A timestamp authority made of `openssl ts`."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.authority: Authority = make_ca("Root of the TSA", "ecdsa-p256-sha256", CLOCK)
        key = generate_private_key("ecdsa-p256-sha256")
        certificate = issue(self.authority, "Test TSA", spki_der(key), "tsa", CLOCK)
        (folder / "tsa.pem").write_bytes(certificate_pem(certificate))
        (folder / "key.pem").write_bytes(private_key_pem(key))
        (folder / "ca.pem").write_bytes(certificate_pem(self.authority.certificate))
        (folder / "tsa.cnf").write_text(TSA_CONFIG)
        (folder / "serial").write_text("01\n")

    @property
    def root_der(self) -> bytes:
        return certificate_der(self.authority.certificate)

    def token(self, digest: bytes) -> bytes:
        """A bare TimeStampToken over a SHA-256 digest."""
        run = ["openssl", "ts"]
        query = [*run, "-query", "-digest", digest.hex(), "-sha256", "-cert", "-out", "q.tsq"]
        reply = [*run, "-reply", "-config", "tsa.cnf", "-queryfile", "q.tsq", "-signer", "tsa.pem"]
        reply += ["-inkey", "key.pem", "-chain", "ca.pem", "-token_out", "-out", "token.der"]
        for command in (query, reply):
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        return (self.folder / "token.der").read_bytes()


@pytest.fixture(scope="module")
def signers() -> Mapping[KeyAlgorithm, LocalSigner]:
    """One of each algorithm, certificates valid now: the tools judge by the machine's clock."""
    return {algorithm: LocalSigner.make(algorithm, CLOCK) for algorithm in KEY_ALGORITHMS}


@pytest.fixture
def signer(signers: Mapping[KeyAlgorithm, LocalSigner]) -> LocalSigner:
    """The P-256 one."""
    return signers["ecdsa-p256-sha256"]


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> OpensslTsa:
    """An authority of its own."""
    return OpensslTsa(tmp_path_factory.mktemp("tsa"))


def _now() -> SignatureFields:
    return SignatureFields(signing_time_ms=CLOCK.now_ms(), name="Zoë", reason="I agree (all of it)")


def _tool(tmp_path: pathlib.Path, pdf: bytes, *command: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "it.pdf").write_bytes(pdf)
    return subprocess.run(
        [*command, "it.pdf"], cwd=tmp_path, check=False, capture_output=True, text=True
    )


def _check_qpdf(tmp_path: pathlib.Path, pdf: bytes) -> None:
    done = _tool(tmp_path, pdf, "qpdf", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def _documents() -> dict[str, bytes]:
    packed = page_objects(2)
    streams = {n: packed.pop(n) for n in (5, 7)}
    made = {
        "plain": PLAIN,
        "object streams": build_pdf_with_streams(streams, packed),
        "a form": build_pdf(
            {
                **page_objects(catalog=b"/AcroForm 6 0 R", page=b"/Annots [7 0 R]"),
                6: b"<< /Fields [7 0 R] >>",
                7: b"<< /FT /Sig /T (Approval) /Type /Annot /Subtype /Widget /Rect [9 9 99 99] /P 4 0 R >>",
            }
        ),
    }
    examples = {path.name: path.read_bytes() for path in sorted(EXAMPLES.glob("*.pdf"))}
    assert examples, "examples/*.pdf is empty: run examples/make_pdfs.py"
    return made | examples


DOCUMENTS = _documents()


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("algorithm", KEY_ALGORITHMS)
def test_pyhanko_pdfsig_and_qpdf_accept_a_signed_document(
    signers: Mapping[KeyAlgorithm, LocalSigner],
    algorithm: KeyAlgorithm,
    name: str,
    tmp_path: pathlib.Path,
) -> None:
    """Each kind of document, each algorithm. NSS, which pdfsig uses, does not know Ed25519."""
    signer, original = signers[algorithm], DOCUMENTS[name]
    signed, _ = signer.sign(original, prepare_revision(original), _now())
    verdict = verify_pdf(signed, signer.roots_der, CLOCK.now_ms())
    assert (verdict.verdict, verdict.reason) == ("valid", "")
    (one,) = verdict.signatures
    assert (one.coverage, one.changes, one.kind) == ("file", "none", "signature")
    assert one.signer is not None
    assert one.signer.subject == f"CN=Test signer {algorithm}"
    _check_qpdf(tmp_path, signed)
    seen = _tool(tmp_path, signed, "pdfsig", "-nocert").stdout
    assert "Total document signed" in seen
    assert "ETSI.CAdES.detached" in seen
    if algorithm == "ed25519":
        assert "Signature is Valid" in seen or "corrupted data" in seen
    else:
        assert "Signature is Valid" in seen


@pytest.mark.parametrize("algorithm", KEY_ALGORITHMS)
def test_openssl_verifies_the_cms_in_the_document(
    signers: Mapping[KeyAlgorithm, LocalSigner], algorithm: KeyAlgorithm, tmp_path: pathlib.Path
) -> None:
    """The CMS taken out of the PDF, over the bytes its ByteRange names, with no PDF software at all."""
    signer = signers[algorithm]
    signed, filled = signer.sign(PLAIN, prepare_revision(PLAIN), _now())
    place = filled.place()
    after = place.offset + 2 * place.reserved_bytes + 2
    (tmp_path / "covered").write_bytes(signed[: place.offset] + signed[after:])
    (tmp_path / "cms").write_bytes(contents(signed, place))
    (tmp_path / "root").write_bytes(certificate_pem(signer.authority.certificate))
    command = (
        "openssl cms -verify -binary -inform DER -in cms -content covered -CAfile root -purpose any"
    )
    done = subprocess.run(
        [*command.split(), "-out", "out"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    if algorithm == "ed25519" and "invalid digest" in done.stderr:
        return  # OpenSSL before 3.2 knows no Ed25519 in CMS, whoever made it; see cms.template
    assert done.returncode == 0, done.stderr


def test_each_signer_adds_a_revision_and_keeps_the_earlier_ones(
    signers: Mapping[KeyAlgorithm, LocalSigner], tmp_path: pathlib.Path
) -> None:
    """A certification and three approvals with three algorithms: all valid, all but the last cover a revision."""
    document = DOCUMENTS["a form"]
    steps = [
        ("ecdsa-p256-sha256", PrepareOptions(kind="certification")),
        ("rsa-pkcs1-sha256", PrepareOptions(field_name="Approval")),
        ("ed25519", PrepareOptions()),
        ("ecdsa-p256-sha256", PrepareOptions()),
    ]
    for algorithm, options in steps:
        document, _ = signers[algorithm].sign(document, prepare_revision(document, options), _now())
    roots = [one.authority.certificate_der for one in signers.values()]
    verdict = verify_pdf(document, roots, CLOCK.now_ms())
    assert verdict.verdict == "valid"
    assert [one.coverage for one in verdict.signatures] == ["revision"] * 3 + ["file"]
    assert {one.changes for one in verdict.signatures} <= {"form-filling", "none"}
    assert inspect_pdf(document).docmdp_permission == 2
    _check_qpdf(tmp_path, document)
    seen = _tool(tmp_path, document, "pdfsig", "-nocert").stdout
    assert seen.count("Signature is Valid") == 3


def test_earlier_signatures_of_other_software_stay_valid(
    signer: LocalSigner, shared_pdfs: pathlib.Path | None, tmp_path: pathlib.Path
) -> None:
    """A document signed twice elsewhere: both stay intact under our revision, and pdfsig agrees."""
    if shared_pdfs is None:
        return  # the collection is not beside this checkout
    original = (shared_pdfs / "minimal-signed-twice-both-created.pdf").read_bytes()
    signed, _ = signer.sign(original, prepare_revision(original), _now())
    verdict = verify_pdf(signed, signer.roots_der, CLOCK.now_ms())
    assert [one.intact for one in verdict.signatures] == [True] * 3
    assert [one.verdict for one in verdict.signatures] == ["untrusted", "untrusted", "valid"]
    assert _tool(tmp_path, signed, "pdfsig", "-nocert").stdout.count("Signature is Valid") == 3


def test_other_documents_are_signed(
    signer: LocalSigner, shared_pdfs: pathlib.Path | None, tmp_path: pathlib.Path
) -> None:
    """Every document of the collection that intake takes: signed, valid, and sound for qpdf and pdfsig."""
    for path in sorted(shared_pdfs.glob("*.pdf")) if shared_pdfs else ():
        original = path.read_bytes()
        try:
            inspect_pdf(original)
        except Refused:
            continue
        signed, _ = signer.sign(original, prepare_revision(original), _now())
        verdict = verify_pdf(signed, signer.roots_der, CLOCK.now_ms())
        assert verdict.signatures[-1].verdict == "valid", path.name
        _check_qpdf(tmp_path, signed)
        assert "Signature is Valid" in _tool(tmp_path, signed, "pdfsig", "-nocert").stdout


def test_a_timestamp_added_later_in_place_is_seen_by_verifiers(
    signer: LocalSigner, tsa: OpensslTsa, tmp_path: pathlib.Path
) -> None:
    """B-B becomes B-T without a new revision: pyHanko trusts the timestamp, pdfsig the signature."""
    signed, filled = signer.sign(PLAIN, prepare_revision(PLAIN), _now())
    place = filled.place()
    cms = contents(signed, place)
    stamped = embed_in_place(signed, place, add_timestamp(cms, tsa.token(timestamp_imprint(cms))))
    verdict = verify_pdf(stamped, (*signer.roots_der, tsa.root_der), CLOCK.now_ms())
    assert verdict.verdict == "valid"
    timestamp = verdict.signatures[0].timestamp
    assert timestamp is not None
    assert (timestamp.verdict, timestamp.reason) == ("valid", "")
    assert timestamp.authority is not None
    assert timestamp.authority.subject == "CN=Test TSA"
    assert "Signature is Valid" in _tool(tmp_path, stamped, "pdfsig", "-nocert").stdout
    _check_qpdf(tmp_path, stamped)


def test_a_timestamp_over_other_bytes_is_not_taken(signer: LocalSigner, tsa: OpensslTsa) -> None:
    """A genuine token of a trusted authority, for another signature: the verdict is not "valid"."""
    signed, filled = signer.sign(PLAIN, prepare_revision(PLAIN), _now())
    place = filled.place()
    wrong = tsa.token(hashlib.sha256(b"other").digest())
    stamped = embed_in_place(signed, place, add_timestamp(contents(signed, place), wrong))
    verdict = verify_pdf(stamped, (*signer.roots_der, tsa.root_der), CLOCK.now_ms())
    assert verdict.verdict == "indeterminate"
    assert "timestamp" in verdict.reason


def test_an_untrusted_authority_does_not_spoil_a_signature(
    signer: LocalSigner, tsa: OpensslTsa
) -> None:
    """The signature is valid as before; its timestamp is told to be untrusted."""
    signed, filled = signer.sign(PLAIN, prepare_revision(PLAIN), _now())
    place = filled.place()
    cms = contents(signed, place)
    stamped = embed_in_place(signed, place, add_timestamp(cms, tsa.token(timestamp_imprint(cms))))
    verdict = verify_pdf(stamped, signer.roots_der, CLOCK.now_ms())
    assert verdict.verdict == "valid"
    assert verdict.signatures[0].timestamp is not None
    assert verdict.signatures[0].timestamp.verdict == "untrusted"


def test_a_trusted_timestamp_outlives_the_certificate(signer: LocalSigner, tsa: OpensslTsa) -> None:
    """After the signer's certificate has expired: valid with a timestamp, untrusted without."""
    signed, filled = signer.sign(PLAIN, prepare_revision(PLAIN), _now())
    place = filled.place()
    cms = contents(signed, place)
    stamped = embed_in_place(signed, place, add_timestamp(cms, tsa.token(timestamp_imprint(cms))))
    # the authority lives as long as the signer here, so the signer's certificate must end sooner
    brief = _short_lived(signer)
    later_ms = CLOCK.now_ms() + 10 * 24 * 3600 * 1000
    signed, filled = brief.sign(PLAIN, prepare_revision(PLAIN), _now())
    cms = contents(signed, filled.place())
    token = tsa.token(timestamp_imprint(cms))
    stamped = embed_in_place(signed, filled.place(), add_timestamp(cms, token))
    roots = (*brief.roots_der, tsa.root_der)
    assert verify_pdf(signed, roots, later_ms).verdict == "untrusted"
    verdict = verify_pdf(stamped, roots, later_ms)
    assert verdict.verdict == "valid"
    assert verdict.signatures[0].judged_at_ms != later_ms


def _short_lived(signer: LocalSigner) -> LocalSigner:
    leaf = issue(
        signer.authority,
        "One day",
        spki_der(signer.key),
        "document-signing",
        CLOCK,
        validity_days=1,
    )
    return LocalSigner(
        algorithm=signer.algorithm,
        key=signer.key,
        chain_der=(certificate_der(leaf), signer.chain_der[1]),
        authority=signer.authority,
    )


def test_a_document_timestamp_covers_what_is_there(
    signer: LocalSigner, tsa: OpensslTsa, tmp_path: pathlib.Path
) -> None:
    """The way to settle an owed timestamp once a later revision is in the way."""
    signed, _ = signer.sign(PLAIN, prepare_revision(PLAIN), _now())
    prepared = prepare_revision(signed, PrepareOptions(kind="document-timestamp"))
    filled = fill(signed, prepared, None)
    stamped = assemble(signed, filled, tsa.token(filled.digest))
    verdict = verify_pdf(stamped, (*signer.roots_der, tsa.root_der), CLOCK.now_ms())
    assert verdict.verdict == "valid"
    assert [one.kind for one in verdict.signatures] == ["signature", "document-timestamp"]
    assert verdict.signatures[0].changes == "archival"
    assert verdict.signatures[1].coverage == "file"
    _check_qpdf(tmp_path, stamped)


def test_changes_after_signing_are_found(signer: LocalSigner) -> None:
    """A byte changed, a page replaced by a later revision, a signature moved to other content."""
    signed, filled = signer.sign(PLAIN, prepare_revision(PLAIN), _now())
    start = signed.index(b"/Helvetica")
    changed = signed[:start] + b"/Times-Bold" + signed[start + 11 :]
    other = plain_pdf(2)
    moved = assemble(other, fill(other, prepare_revision(other), _now()), signer.cms(filled.digest))
    for document in (changed, _page_replaced(signed), moved):
        verdict = verify_pdf(document, signer.roots_der, CLOCK.now_ms())
        assert verdict.verdict == "invalid", verdict
        assert verdict.reason


def _page_replaced(signed: bytes) -> bytes:
    """An incremental update that puts other content under a signed page."""
    base = len(signed)
    content = b"BT /F1 12 Tf 72 720 Td (You owe me a million) Tj ET"
    update = b"5 0 obj\n<< /Length %d >>\nstream\n%s\nendstream\nendobj\n" % (len(content), content)
    previous = int(signed[signed.rindex(b"startxref") :].split()[1])
    xref = b"xref\n5 1\n%010d 00000 n \n" % base
    size = max(int(number) for number in re.findall(rb"/Size (\d+)", signed))
    trailer = b"trailer\n<< /Size %d /Root 1 0 R /Prev %d >>\n" % (size, previous)
    return signed + update + xref + trailer + b"startxref\n%d\n%%%%EOF\n" % (base + len(update))


def test_a_detached_signature_is_judged(
    signer: LocalSigner, tsa: OpensslTsa, tmp_path: pathlib.Path
) -> None:
    """Valid over the file (as bytes and as a stream), with its time; invalid over another; its timestamp seen."""
    data = b"a file that is no PDF"
    cms = signer.detached(hashlib.sha256(data).digest(), 1_800_000_000_000)
    stamped = add_timestamp(cms, tsa.token(timestamp_imprint(cms)))
    roots = (*signer.roots_der, tsa.root_der)
    now_ms = CLOCK.now_ms()
    verdict = verify_cms(data, stamped, roots, now_ms)
    assert (verdict.verdict, verdict.claimed_time_ms) == ("valid", 1_800_000_000_000)
    assert verdict.timestamp is not None
    assert verdict.timestamp.verdict == "valid"
    (tmp_path / "data").write_bytes(data)
    with (tmp_path / "data").open("rb") as stream:
        assert verify_cms(stream, stamped, roots, now_ms) == verdict
    assert verify_cms(b"another", cms, roots, now_ms).verdict == "invalid"
    assert verify_cms(data, cms, (), now_ms).verdict == "untrusted"
    assert verify_cms(data, b"garbage", roots, now_ms).verdict == "indeterminate"


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7", PLAIN, PLAIN[:300], b"\x00" * 5000])
def test_anything_else_is_indeterminate(data: bytes) -> None:
    """No signature, or nothing that can be read: a verdict, not an exception."""
    verdict = verify_pdf(data, (), CLOCK.now_ms())
    assert verdict.verdict == "indeterminate"
    assert verdict.reason


def test_a_damaged_signature_is_never_valid(signer: LocalSigner) -> None:
    """Single bytes changed all over what the signature covers: another verdict each time, never an exception."""
    signed, filled = signer.sign(PLAIN, prepare_revision(PLAIN), _now())
    place = filled.place()
    after = place.offset + 2 * place.reserved_bytes + 2
    for at in (*range(0, place.offset, 31), *range(after, len(signed), 31)):
        changed = signed[:at] + bytes((signed[at] ^ 1,)) + signed[at + 1 :]
        verdict = verify_pdf(changed, signer.roots_der, CLOCK.now_ms())
        assert verdict.verdict in ("invalid", "indeterminate"), at


def test_certificates_are_encoded_as_given(signer: LocalSigner) -> None:
    """The chain in the CMS is the enrolled one, byte for byte."""
    cms = signer.cms(bytes(32))
    for certificate in signer.chain_der:
        assert certificate in cms
    encoding = serialization.Encoding.DER
    assert signer.authority.certificate.public_bytes(encoding) == signer.chain_der[1]
