"""CMS SignedData built from parts that are encoded once for each certificate (RFC 5652, EN 319 122-1).

Guarantees: the output is DER; the bytes handed out for signing are exactly the signed attributes that end up in
the structure; the signing certificate is bound by its SHA-256 digest (signing-certificate-v2, RFC 5035), so
another certificate for the same key cannot be put in its place. Leaves to others: holding keys, verifying the
signature value (`verify_signature`), judging the certificate (`check_certificate`).

Two profiles. ``pades`` (EN 319 142-1, 6.3): no signing-time attribute, the claimed time is the PDF's /M entry.
``detached``: a CAdES-style detached signature over a file, with signing-time.

Ed25519: RFC 8419, section 2.3 and 3.1: with signed attributes the message digest is SHA-512, and pyHanko holds
us to it, so the digest depends on the algorithm: see `message_digest`. Who can check it: pyHanko does; OpenSSL
3.0 can neither make nor verify Ed25519 in CMS ("invalid digest"), and NSS (pdfsig) does not know it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from outlast.core.clock import to_datetime
from outlast.core.errors import Refused
from outlast.ports.keys import Algorithm
from outlast.signing.cms import der

Profile = Literal["pades", "detached"]
DigestName = Literal["sha256", "sha512"]

MAX_CHAIN = 10
"""Certificates accepted in one chain."""

TEMPLATES_KEPT = 256
"""Templates kept, one for each certificate and profile: a few KiB each."""

_LAST_UTCTIME_YEAR = 2049  # RFC 5652, 11.3

_OID_DATA = bytes.fromhex("06092a864886f70d010701")
_OID_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")
_OID_CONTENT_TYPE = bytes.fromhex("06092a864886f70d010903")
_OID_MESSAGE_DIGEST = bytes.fromhex("06092a864886f70d010904")
_OID_SIGNING_TIME = bytes.fromhex("06092a864886f70d010905")
_OID_SIGNING_CERTIFICATE_V2 = bytes.fromhex("060b2a864886f70d010910022f")
OID_TIMESTAMP_TOKEN = bytes.fromhex("060b2a864886f70d010910020e")
"""id-aa-timeStampToken (RFC 3161, appendix A), encoded."""

# AlgorithmIdentifiers. Digests carry no parameters (RFC 5754, 2); RSA carries NULL (RFC 4055, 5).
_DIGESTS: dict[DigestName, bytes] = {
    "sha256": bytes.fromhex("300b0609608648016503040201"),
    "sha512": bytes.fromhex("300b0609608648016503040203"),
}
_SIGNATURES: dict[Algorithm, bytes] = {
    "rsa-pkcs1-sha256": bytes.fromhex("300d06092a864886f70d01010b0500"),
    "ecdsa-p256-sha256": bytes.fromhex("300a06082a8648ce3d040302"),
    "ed25519": bytes.fromhex("300506032b6570"),
}
_DIGEST_BYTES: dict[DigestName, int] = {"sha256": 32, "sha512": 64}
_VERSION_1 = b"\x02\x01\x01"


def message_digest(algorithm: Algorithm) -> DigestName:
    """The digest that the document must be hashed with for a signature of this algorithm."""
    return "sha512" if algorithm == "ed25519" else "sha256"


class CmsTemplate(msgspec.Struct, frozen=True):
    """Everything of a SignedData that does not change between two signatures with one certificate."""

    algorithm: Algorithm
    profile: Profile
    digest_name: DigestName
    chain_sha256: bytes
    _constant_attributes: tuple[bytes, ...]
    _signed_data_head: bytes
    _signer_info_head: bytes

    @classmethod
    def for_certificate(
        cls, chain_der: Sequence[bytes], algorithm: Algorithm, profile: Profile = "pades"
    ) -> CmsTemplate:
        """The template for a chain (DER, signing certificate first); cached.

        Raises Refused ``certificate-malformed`` (unreadable, none, or more than MAX_CHAIN).
        """
        return _template(tuple(chain_der), algorithm, profile)

    def signed_attributes(self, digest: bytes, signing_time_ms: int | None = None) -> bytes:
        """The DER SET OF signed attributes over a message digest: the bytes to sign.

        ``digest`` has `digest_name`'s length. ``signing_time_ms`` (Unix milliseconds) is required by the
        ``detached`` profile and forbidden by ``pades``; the seconds are kept. Raises ValueError on misuse.
        """
        if len(digest) != _DIGEST_BYTES[self.digest_name]:
            raise ValueError(f"a {self.digest_name} digest is needed, not {len(digest)} bytes")
        if (signing_time_ms is None) != (self.profile == "pades"):
            raise ValueError(f"signing time does not fit profile {self.profile}")
        changing = [_attribute(_OID_MESSAGE_DIGEST, der.tlv(der.OCTET_STRING, digest))]
        if signing_time_ms is not None:
            changing.append(_attribute(_OID_SIGNING_TIME, _time(signing_time_ms)))
        return der.set_of((*self._constant_attributes, *changing))

    def finish(self, tbs: bytes, signature: bytes, timestamp_token: bytes | None = None) -> bytes:
        """The ContentInfo, from the signed attributes as they were signed and the signature value.

        ``timestamp_token``: a TimeStampToken (DER) over SHA-256 of ``signature``, carried unsigned.
        """
        unsigned = b""
        if timestamp_token is not None:
            unsigned = der.tlv(der.CONTEXT_1, _attribute(OID_TIMESTAMP_TOKEN, timestamp_token))
        signer_info = der.tlv(
            der.SEQUENCE,
            self._signer_info_head,
            b"\xa0",  # signedAttrs: the same bytes, with the SET's tag made implicit [0] (RFC 5652, 5.4)
            tbs[1:],
            _SIGNATURES[self.algorithm],
            der.tlv(der.OCTET_STRING, signature),
            unsigned,
        )
        signed_data = der.tlv(der.SEQUENCE, self._signed_data_head, der.tlv(der.SET, signer_info))
        return der.tlv(der.SEQUENCE, _OID_SIGNED_DATA, der.tlv(der.CONTEXT_0, signed_data))


@functools.lru_cache(maxsize=TEMPLATES_KEPT)
def _template(chain_der: tuple[bytes, ...], algorithm: Algorithm, profile: Profile) -> CmsTemplate:
    certificate = _leaf(chain_der)
    digest_name = message_digest(algorithm)
    signing_certificate = _attribute(
        _OID_SIGNING_CERTIFICATE_V2,
        # SigningCertificateV2 > certs > ESSCertIDv2; SHA-256 is the DEFAULT, so it is left out
        der.tlv(
            der.SEQUENCE,
            der.tlv(
                der.SEQUENCE,
                der.tlv(der.SEQUENCE, der.tlv(der.OCTET_STRING, _sha256(chain_der[0]))),
            ),
        ),
    )
    serial = certificate.serial_number
    serial_der = der.tlv(der.INTEGER, serial.to_bytes(serial.bit_length() // 8 + 1, "big"))
    return CmsTemplate(
        algorithm,
        profile,
        digest_name,
        _sha256(b"".join(chain_der)),
        (_attribute(_OID_CONTENT_TYPE, _OID_DATA), signing_certificate),
        _VERSION_1
        + der.tlv(der.SET, _DIGESTS[digest_name])
        + der.tlv(der.SEQUENCE, _OID_DATA)
        + der.set_of(chain_der, der.CONTEXT_0),
        _VERSION_1
        + der.tlv(der.SEQUENCE, certificate.issuer.public_bytes(), serial_der)
        + _DIGESTS[digest_name],
    )


def _leaf(chain_der: tuple[bytes, ...]) -> x509.Certificate:
    if not 0 < len(chain_der) <= MAX_CHAIN:
        raise Refused(
            "certificate-malformed",
            f"the certificate chain has {len(chain_der)} entries",
            hint=f"Supply 1 to {MAX_CHAIN} DER certificates, the signing certificate first.",
        )
    try:
        return x509.load_der_x509_certificate(chain_der[0])
    except ValueError as error:
        raise Refused(
            "certificate-malformed",
            "the signing certificate cannot be read",
            hint="Supply the X.509 certificate in DER.",
        ) from error


def _attribute(oid: bytes, value: bytes) -> bytes:
    return der.tlv(der.SEQUENCE, oid, der.tlv(der.SET, value))


def _time(ms: int) -> bytes:
    """UTCTime through 2049, GeneralizedTime from 2050 (RFC 5652, 11.3)."""
    moment = to_datetime(ms)
    if moment.year <= _LAST_UTCTIME_YEAR:
        return der.tlv(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())
    return der.tlv(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode())


def _sha256(data: bytes) -> bytes:
    state = Hash(SHA256())
    state.update(data)
    return state.finalize()
