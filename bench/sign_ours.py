"""One PAdES B-B signature by Outlast, in the process, without the service around it.

    python -m bench.sign_ours SECONDS prepared     the document was prepared at intake: fill, hash, CMS, sign, verify
    python -m bench.sign_ours SECONDS whole        the same, and preparing each document too
    python -m bench.sign_ours SECONDS key          the key's own signature over as many bytes, nothing else

Prints per_s (wall time, one thread) and cpu_ms per signature. The last document is judged by pyHanko's validator.
"""

from __future__ import annotations

import io
import json
import sys
import time

from asn1crypto import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.sign.validation import validate_pdf_signature
from pyhanko_certvalidator import ValidationContext

from bench.sample import key_and_certificate, one_page_pdf
from outlast.core.clock import SystemClock
from outlast.signing.cms import CmsTemplate, verify_signature
from outlast.signing.pdf.prepare import prepare_revision
from outlast.signing.pdf.revision import assemble, fill
from outlast.signing.pdf.slots import SignatureFields


def main() -> None:
    """Sign for the given time."""
    key, certificate = key_and_certificate()
    der = certificate.public_bytes(Encoding.DER)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    document = one_page_pdf()
    prepared_at_intake = prepare_revision(document)
    clock = SystemClock()
    whole = sys.argv[2] == "whole"

    def sign() -> bytes:
        prepared = prepare_revision(document) if whole else prepared_at_intake
        fields = SignatureFields(signing_time_ms=clock.now_ms(), name="Ada", reason="I agree")
        filled = fill(document, prepared, fields)
        template = CmsTemplate.for_certificate([der], "ecdsa-p256-sha256")
        tbs = template.signed_attributes(filled.digest)
        signature = key.sign(tbs, ec.ECDSA(hashes.SHA256()))
        verify_signature(spki, "ecdsa-p256-sha256", tbs, signature)
        return assemble(document, filled, template.finish(tbs, signature))

    signed = sign()
    tbs = CmsTemplate.for_certificate([der], "ecdsa-p256-sha256").signed_attributes(bytes(32))

    def sign_alone() -> bytes:
        return key.sign(tbs, ec.ECDSA(hashes.SHA256()))

    work = sign_alone if sys.argv[2] == "key" else sign
    seconds = float(sys.argv[1])
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        work()
        count += 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    _judge(signed if work is not sign else sign(), der)
    print(json.dumps({"per_s": count / wall, "cpu_ms": 1000 * cpu / count}))


def _judge(signed: bytes, der: bytes) -> None:
    """Raises when pyHanko's validator does not find the signature valid, trusted and covering the file."""
    trusted = ValidationContext(trust_roots=[x509.Certificate.load(der)])
    embedded = PdfFileReader(io.BytesIO(signed)).embedded_signatures[0]
    status = validate_pdf_signature(embedded, signer_validation_context=trusted)
    if not status.bottom_line:
        raise RuntimeError(f"pyHanko does not accept our signature: {status.summary()}")


if __name__ == "__main__":
    main()
