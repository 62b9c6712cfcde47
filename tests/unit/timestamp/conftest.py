"""A forge: tokens built field by field and signed properly, so that each can be wrong in exactly one way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from asn1crypto import cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from outlast.core.clock import to_datetime
from outlast.core.rfc3161 import TsaRules

NOW_MS = 1_800_000_000_000
NOW = to_datetime(NOW_MS)
DIGEST = hashlib.sha256(b"document").digest()
NONCE = 0x8000_0000_0000_0001
POLICY = "1.2.3.4"


def name(common: str) -> x509.Name:
    """A distinguished name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def certify(
    subject: str,
    public_key: Any,
    issuer: str,
    issuer_key: Any,
    *extensions: tuple[x509.ExtensionType, bool],
    since: datetime = NOW - timedelta(days=1),
    until: datetime = NOW + timedelta(days=1),
    digest: hashes.HashAlgorithm | None = None,
) -> x509.Certificate:
    """A certificate with just these extensions."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    algorithm = (
        None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else digest or hashes.SHA256()
    )
    return builder.sign(issuer_key, algorithm)


STAMPING = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), True)
CA = (x509.BasicConstraints(ca=True, path_length=None), True)


class Forge:
    """One authority: a root, a certificate, a key. ``response(...)`` builds what it would answer."""

    def __init__(self, key: Any = None, **certificate: Any) -> None:
        self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.root = certify("root", self.root_key.public_key(), "root", self.root_key, CA)
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        extensions = certificate.pop("extensions", (STAMPING,))
        self.certificate = certify(
            "tsa", self.key.public_key(), "root", self.root_key, *extensions, **certificate
        )
        self.rules = TsaRules(roots=(der(self.root),), policies=frozenset({POLICY}))

    def token(
        self,
        *,
        info: dict[str, Any] | None = None,
        attributes: Callable[[list[cms.CMSAttribute]], list[cms.CMSAttribute]] = lambda same: same,
        digest: str = "sha256",
        algorithm: dict[str, Any] | None = None,
        sign: Callable[[bytes], bytes] | None = None,
        content_type: str = "tst_info",
        signers: int = 1,
        certificates: list[x509.Certificate] | None = None,
        binding: str = "signing_certificate_v2",
        bound: x509.Certificate | None = None,
        by_key_id: bool = False,
    ) -> bytes:
        """A TimeStampToken; every argument departs from a good one."""
        content = self.info(**(info or {})).dump()
        signed = attributes(self.attributes(content, digest, content_type, binding, bound))
        # sorted as DER wants a SET OF; asn1crypto does it on dump
        signed_attributes = cms.CMSAttributes(signed)
        signature = (sign or self.sign)(signed_attributes.dump())
        parsed = asn1_x509.Certificate.load(der(self.certificate))
        sid: dict[str, Any] | core.OctetString = {
            "issuer": parsed.issuer,
            "serial_number": parsed.serial_number,
        }
        sid_name = "issuer_and_serial_number"
        if by_key_id:
            sid_name, sid = "subject_key_identifier", core.OctetString(parsed.key_identifier)
        signer = {
            "version": "v3" if by_key_id else "v1",
            "sid": cms.SignerIdentifier(sid_name, sid),
            "digest_algorithm": {"algorithm": digest},
            "signed_attrs": signed_attributes,
            "signature_algorithm": algorithm or {"algorithm": "sha256_ecdsa"},
            "signature": signature,
        }
        carried = [self.certificate] if certificates is None else certificates
        data: dict[str, Any] = {
            "version": "v3",
            "digest_algorithms": [{"algorithm": digest}],
            "encap_content_info": {
                "content_type": content_type,
                "content": core.ParsableOctetString(content),
            },
            "signer_infos": [signer] * signers,
            "certificates": [asn1_x509.Certificate.load(der(c)) for c in carried],
        }
        result: bytes = cms.ContentInfo({"content_type": "signed_data", "content": data}).dump()
        return result

    def response(self, **changes: Any) -> bytes:
        """A granted TimeStampResp around ``token``."""
        status = tsp.PKIStatusInfo({"status": 0}).dump()
        return sequence(status + self.token(**changes))

    def info(self, **changes: Any) -> tsp.TSTInfo:
        """TSTInfo; ``gen_time`` as bytes replaces the time's text."""
        fields: dict[str, Any] = {
            "version": 1,
            "policy": POLICY,
            "message_imprint": {
                "hash_algorithm": {"algorithm": "sha256"},
                "hashed_message": DIGEST,
            },
            "serial_number": 77,
            "gen_time": NOW,
            "nonce": NONCE,
        }
        text = changes.pop("gen_time_text", None)
        fields.update(changes)
        made = tsp.TSTInfo({k: v for k, v in fields.items() if v is not None})
        if text is not None:
            made["gen_time"] = core.GeneralizedTime.load(bytes([0x18, len(text)]) + text)
        return made

    def attributes(
        self,
        content: bytes,
        digest: str,
        content_type: str,
        binding: str,
        bound: x509.Certificate | None,
    ) -> list[cms.CMSAttribute]:
        """Content type, message digest, signing certificate."""
        certificate = der(bound or self.certificate)
        if binding == "signing_certificate_v2":
            named: Any = tsp.SigningCertificateV2(
                {"certs": [{"cert_hash": hashlib.sha256(certificate).digest()}]}
            )
        else:
            named = tsp.SigningCertificate(
                {"certs": [{"cert_hash": hashlib.sha1(certificate).digest()}]}
            )
        message_digest = hashlib.new(digest, content).digest()
        return [
            cms.CMSAttribute({"type": "content_type", "values": [content_type]}),
            cms.CMSAttribute({"type": "message_digest", "values": [message_digest]}),
            cms.CMSAttribute({"type": binding, "values": [named]}),
        ]

    def sign(self, data: bytes) -> bytes:
        """With SHA-256, in the usual way for the kind of key."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(data)
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        signature: bytes = self.key.sign(data, ec.ECDSA(hashes.SHA256()))
        return signature


def der(certificate: x509.Certificate) -> bytes:
    """A certificate's DER."""
    return certificate.public_bytes(Encoding.DER)


def sequence(contents: bytes) -> bytes:
    """A DER SEQUENCE."""
    made: bytes = core.Sequence(contents=contents).dump()
    return made


@pytest.fixture(scope="session")
def forge() -> Forge:
    """An authority with a P-256 key."""
    return Forge()


@pytest.fixture(scope="session")
def make_forge() -> type[Forge]:
    """To make authorities with another key or certificate."""
    return Forge


@pytest.fixture(scope="session")
def make_certificate() -> Callable[..., x509.Certificate]:
    """``certify`` and its constants, for paths."""
    return certify
