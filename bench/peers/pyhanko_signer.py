"""pyHanko's own SimpleSigner: `sign_pdf` of a one-page document, PAdES B-B, P-256, wholly in memory.

python -m bench.peers.pyhanko_signer SECONDS     prints per_s (wall time, one thread) and cpu_ms per signature
"""

from __future__ import annotations

import io
import json
import sys
import time

from asn1crypto import keys, x509
from cryptography.hazmat.primitives.serialization import Encoding
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.sign import fields, signers
from pyhanko_certvalidator.registry import SimpleCertificateStore

from bench.sample import key_and_certificate, one_page_pdf, pkcs8


def main() -> None:
    """Sign for the given time."""
    key, certificate = key_and_certificate()
    signer = signers.SimpleSigner(
        signing_cert=x509.Certificate.load(certificate.public_bytes(Encoding.DER)),
        signing_key=keys.PrivateKeyInfo.load(pkcs8(key)),
        cert_registry=SimpleCertificateStore(),  # type: ignore[no-untyped-call]  # pyHanko's gap
    )
    meta = signers.PdfSignatureMetadata(
        field_name="Signature1", subfilter=fields.SigSeedSubFilter.PADES, md_algorithm="sha256"
    )
    document = one_page_pdf()

    def sign() -> io.BytesIO:
        out: io.BytesIO = signers.sign_pdf(
            IncrementalPdfFileWriter(io.BytesIO(document)), meta, signer
        )
        return out

    sign()
    seconds = float(sys.argv[1])
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        sign()
        count += 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"per_s": count / wall, "cpu_ms": 1000 * cpu / count}))


if __name__ == "__main__":
    main()
