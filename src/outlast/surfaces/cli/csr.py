"""Certificate signing requests (PKCS #10, RFC 2986) for keys that a provider keeps: signed through its port."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Awaitable, Callable

from asn1crypto import csr
from asn1crypto import keys as asn1_keys
from asn1crypto import x509 as asn1_x509
from cryptography import x509

from outlast.core.errors import Refused
from outlast.ports.keys import Algorithm, KeyInfo
from outlast.signing.cms import verify_signature

_SIGNATURE: dict[Algorithm, str] = {
    "rsa-pkcs1-sha256": "sha256_rsa",
    "ecdsa-p256-sha256": "sha256_ecdsa",
    "ed25519": "ed25519",
}


async def build_csr(
    subject: str, info: KeyInfo, sign: Callable[[bytes], Awaitable[bytes]]
) -> bytes:
    """A request in PEM for a subject (RFC 4514 text such as ``CN=Acme seal,O=Acme,C=DE``).

    Raises Refused ``subject-malformed``, ``signature-invalid``, and what ``sign`` raises.
    """
    try:
        name = x509.Name.from_rfc4514_string(subject).public_bytes()
    except ValueError as error:
        raise Refused(
            "subject-malformed",
            f"{subject[:80]!r} is not a distinguished name",
            hint="For example: CN=Acme seal,O=Acme GmbH,C=DE",
        ) from error
    asked = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": asn1_x509.Name.load(name),
            "subject_pk_info": asn1_keys.PublicKeyInfo.load(info.spki_der),
            "attributes": [],
        }
    )
    tbs: bytes = asked.dump()
    value = await sign(tbs)
    verify_signature(info.spki_der, info.algorithm, tbs, value)
    request = csr.CertificationRequest(
        {
            "certification_request_info": asked,
            "signature_algorithm": {"algorithm": _SIGNATURE[info.algorithm]},
            "signature": value,
        }
    )
    body = textwrap.fill(base64.b64encode(request.dump()).decode(), 64)
    label = "CERTIFICATE REQUEST"
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n".encode()
