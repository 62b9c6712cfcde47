"""What a finished CMS says, read without judging trust: whose it is, over which digest, with which value.

Guarantees: the signature in a `CmsFacts` is valid, over exactly ``tbs``, by the key of ``certificate``, which the signed
attributes bind (signing-certificate, RFC 5035). Raises Refused ``cms-malformed`` for everything else.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec
from asn1crypto import cms as asn1
from cryptography.hazmat.primitives.serialization import Encoding

from outlast.core.certpath import load_certificate
from outlast.core.errors import OutlastError, Refused
from outlast.core.signerinfo import (
    SignerError,
    check_binding,
    check_signature,
    only_signer,
    raw_signed_data,
    signed_attributes,
    signers_certificate,
)
from outlast.signing.cms import signed_statement, timestamp_tokens


class CmsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """``tbs``: the signed attributes as they were signed; ``digest`` with ``digest_name``: what they say of the
    content; ``certificate``: the signer's, DER; ``tokens``: the signature's timestamps."""

    value: bytes
    tbs: bytes
    digest_name: str
    digest: bytes
    certificate: bytes
    tokens: tuple[bytes, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the signer's certificate, hex."""
        return sha256(self.certificate).hexdigest()

    @property
    def tbs_sha256(self) -> str:
        """SHA-256 of what was signed, hex."""
        return sha256(self.tbs).hexdigest()


def read_cms(cms_der: bytes) -> CmsFacts:
    """The facts of a CMS SignedData with one signer and signed attributes."""
    try:
        return _read(cms_der)
    except OutlastError:
        raise
    except SignerError as error:
        raise Refused("cms-malformed", f"the signature cannot be used: {error}") from error
    except (
        Exception
    ) as error:  # parsers of hostile bytes raise what they like; here it has one meaning
        raise Refused(
            "cms-malformed", f"the signature cannot be read ({type(error).__name__})"
        ) from error


def _read(cms_der: bytes) -> CmsFacts:
    signed = asn1.ContentInfo.load(cms_der, strict=True)["content"]
    signer = only_signer(signed)
    raw = raw_signed_data(cms_der)
    leaf = signers_certificate(signer, [load_certificate(der) for der in raw.certificates])
    attributes = signed_attributes(signer)
    if attributes["content_type"].native != "data":
        raise SignerError("it is not over plain data")
    check_binding(attributes, leaf)
    check_signature(signer, raw.attributes, leaf)
    tbs, value = signed_statement(cms_der)
    return CmsFacts(
        value=value,
        tbs=tbs,
        digest_name=str(signer["digest_algorithm"]["algorithm"].native),
        digest=bytes(attributes["message_digest"]),
        certificate=leaf.public_bytes(Encoding.DER),
        tokens=timestamp_tokens(cms_der),
    )
