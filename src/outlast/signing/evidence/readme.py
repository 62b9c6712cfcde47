"""The text that tells an auditor how to check a bundle without our program."""

from __future__ import annotations

from hashlib import sha256

from outlast.signing.evidence.manifest import Manifest
from outlast.signing.model.request import Request

_HEAD = """\
EVIDENCE BUNDLE
Signature request {id}
Document SHA-256 {document}
Signed file(s): {signed}

bundle.json lists every file with its SHA-256 and tells who signed what, when, through which provider, and which
providers failed before. Everything below works offline, with public tools only. Run it in the folder that this
bundle was unpacked to. Trust is yours to give: compare certificates/*.pem and log/keys.txt with what you were
given earlier and by another way.
"""

_PDF = """
The signatures in the PDF
     pdfsig -dump signed.pdf          (poppler-utils; NSS decides about trust)
"""

_CMS_IN_PDF = """\
   Signature {number}, with OpenSSL alone:
     {{ head -c {start} signed.pdf; tail -c +{after} signed.pdf | head -c {rest}; }} > covered-{number}.bin
     openssl cms -verify -binary -inform DER -in signatures/{number}.p7s -content covered-{number}.bin \\
         -certfile certificates/{number}.pem -noverify -out /dev/null
     (-noverify leaves out trust in the certificate; with the issuer's root use: -CAfile root.pem -purpose any)
"""

_CMS = """
Detached signature {number}
     openssl cms -verify -binary -inform DER -in signed-{number}.p7s -content document.bin \\
         -certfile certificates/{number}.pem -noverify -out /dev/null
"""

_STAMP = """
Timestamp of signature {number} ({authority}, {qualified})
     openssl ts -reply -in timestamps/{number}.tsr -text
   With the authority's root certificate:
     openssl ts -verify -in timestamps/{number}.tsr -digest {digest} -CAfile tsa-root.pem
"""

_LOG = """
The log
   log/entries/*.json are log entries, byte for byte. log/proofs/*.tlog-proof prove that each is in the append-only
   log "{origin}" under a checkpoint that the log signed (formats: c2sp.org/tlog-proof, c2sp.org/tlog-checkpoint,
   RFC 6962 hashing). Any tlog-proof verifier takes an entry, its proof, and a key of log/keys.txt.

All of it at once
     outlast verify THIS.zip
"""


def readme(manifest: Manifest, request: Request) -> str:
    """README.txt of a bundle."""
    parts = [
        _HEAD.format(
            id=manifest.request.id,
            document=request.document_sha256,
            signed=", ".join(manifest.signed),
        )
    ]
    if request.format == "pades":
        parts.append(_PDF)
    for part in manifest.signatures:
        signature, number = request.signatures[part.place], part.place + 1
        revision = signature.revision
        if request.format == "cms":
            parts.append(_CMS.format(number=number))
        elif revision is not None and revision.reserved_bytes:
            after = revision.contents_offset + 2 * revision.reserved_bytes + 2
            parts.append(
                _CMS_IN_PDF.format(
                    number=number,
                    start=revision.contents_offset,
                    after=after + 1,
                    rest=revision.length - after,
                )
            )
        if signature.stamp is not None and not signature.stamp.document:
            qualified = "qualified" if signature.stamp.qualified else "not qualified"
            parts.append(
                _STAMP.format(
                    number=number,
                    authority=signature.stamp.authority,
                    qualified=qualified,
                    digest=sha256(signature.value).hexdigest(),
                )
            )
    parts.append(_LOG.format(origin=manifest.origin))
    return "".join(parts)
