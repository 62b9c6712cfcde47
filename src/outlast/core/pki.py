"""A certificate authority small enough to read: for the embedded site, the demo, the appliance and the tests.

It issues end-entity certificates of four purposes, one level below a self-signed root, with the extensions that
verifiers of each purpose insist on (RFC 5280; RFC 9336 document signing; RFC 3161 section 2.3 time stamping). It refuses
to certify a public key it would not sign with. It keeps no register and revokes nothing: it is **not** a
qualified or audited authority, and certificates from it say so in their subject only if the caller does.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from outlast.core.asymmetric import (
    KeyAlgorithm,
    PrivateKey,
    PublicKey,
    as_private_key,
    generate_private_key,
    load_public_key,
)
from outlast.core.clock import Clock, to_datetime
from outlast.core.errors import Corrupt, Refused

Purpose = Literal["document-signing", "tsa", "server", "client"]

DAY_MS = 24 * 60 * 60 * 1000

CA_VALIDITY_DAYS = 3650
LEAF_VALIDITY_DAYS = 730
BACKDATE_MS = 5 * 60 * 1000
"""A certificate is valid from this long before it is issued, so that a verifier whose clock is behind takes it."""

DOCUMENT_SIGNING_EKU = ObjectIdentifier("1.3.6.1.5.5.7.3.36")
"""id-kp-documentSigning, RFC 9336."""

_EKU: dict[Purpose, ObjectIdentifier] = {
    "document-signing": DOCUMENT_SIGNING_EKU,
    "tsa": ExtendedKeyUsageOID.TIME_STAMPING,
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
}


class Authority(msgspec.Struct, frozen=True, kw_only=True):
    """A root certificate and its key. Hold it only while issuing; keep it with `private_key_pem`."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def certificate_der(self) -> bytes:
        """The root, DER."""
        return certificate_der(self.certificate)


def make_ca(
    name: str,
    algorithm: KeyAlgorithm,
    clock: Clock,
    *,
    organization: str = "",
    validity_days: int = CA_VALIDITY_DAYS,
) -> Authority:
    """A fresh self-signed root that may sign end-entity certificates and CRLs, but no further CA."""
    key = generate_private_key(algorithm)
    subject = subject_name(name, organization=organization)
    since, until = _validity(clock, validity_days)
    ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(subject, subject, key.public_key(), since, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(ski, critical=False)
        .sign(key, _hash_for(key))
    )
    return Authority(certificate=certificate, key=key)


def issue(
    ca: Authority,
    subject: x509.Name | str,
    public_key_spki_der: bytes,
    purpose: Purpose,
    clock: Clock,
    *,
    validity_days: int = LEAF_VALIDITY_DAYS,
    dns_names: tuple[str, ...] = (),
    ip_addresses: tuple[str, ...] = (),
) -> x509.Certificate:
    """An end-entity certificate for a public key (SubjectPublicKeyInfo, DER).

    ``subject`` as text is a common name. Servers need at least one of ``dns_names`` and ``ip_addresses``. The
    validity ends with the CA's at the latest. Raises Refused ``key-unsupported`` or ``certificate-request-invalid``.
    """
    public_key = load_public_key(public_key_spki_der)
    if purpose == "server" and not (dns_names or ip_addresses):
        raise Refused("certificate-request-invalid", "a server certificate needs a name or address")
    since, until = _validity(clock, validity_days)
    name = subject_name(subject) if isinstance(subject, str) else subject
    builder = _builder(
        name,
        ca.certificate.subject,
        public_key,
        since,
        min(until, ca.certificate.not_valid_after_utc),
    )
    for extension, critical in _leaf_extensions(ca, public_key, purpose):
        builder = builder.add_extension(extension, critical=critical)
    if dns_names or ip_addresses:
        alternatives: list[x509.GeneralName] = [x509.DNSName(n) for n in dns_names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(a)) for a in ip_addresses]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(ca.key, _hash_for(ca.key))


def subject_name(common_name: str, *, organization: str = "", country: str = "") -> x509.Name:
    """A distinguished name, most general part first, as X.500 orders them."""
    parts: list[x509.NameAttribute[str]] = []
    if country:
        parts.append(x509.NameAttribute(NameOID.COUNTRY_NAME, country))
    if organization:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    parts.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    return x509.Name(parts)


def certificate_der(certificate: x509.Certificate) -> bytes:
    """DER, as CMS and enrolment carry it."""
    return certificate.public_bytes(serialization.Encoding.DER)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """PEM, as TLS libraries and openssl read it."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_key_pem(key: PrivateKey, passphrase: bytes = b"") -> bytes:
    """PKCS#8 PEM, encrypted where a passphrase is given. The caller writes it to a file of mode 0600.

    Signing keys that last are kept by ``adapters.keys.software`` with a stronger derivation than this one.
    """
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def load_authority(certificate: bytes, key: bytes, passphrase: bytes = b"") -> Authority:
    """An authority from its two PEM files. Raises Corrupt ``ca-unreadable`` where they do not fit together."""
    try:
        root = x509.load_pem_x509_certificate(certificate)
        private = as_private_key(
            serialization.load_pem_private_key(key, password=passphrase or None)
        )
    except (ValueError, TypeError) as error:
        raise Corrupt("ca-unreadable", "the CA certificate or key cannot be read") from error
    if private.public_key() != root.public_key():
        raise Corrupt("ca-unreadable", "the CA key does not belong to the CA certificate")
    return Authority(certificate=root, key=private)


def _leaf_extensions(
    ca: Authority, public_key: PublicKey, purpose: Purpose
) -> list[tuple[x509.ExtensionType, bool]]:
    issuer_ski = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_ski.value)
    subject_id = x509.SubjectKeyIdentifier.from_public_key(public_key)
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(content_commitment=purpose == "document-signing", digital=True), True),
        # RFC 3161 section 2.3: the only purpose, and critical
        (x509.ExtendedKeyUsage([_EKU[purpose]]), purpose == "tsa"),
        (subject_id, False),
        (authority_id, False),
    ]


def _key_usage(
    *,
    digital: bool = False,
    content_commitment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    """``content_commitment`` is the bit once called nonRepudiation."""
    return x509.KeyUsage(
        digital_signature=digital,
        content_commitment=content_commitment,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: PublicKey, since: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )


def _validity(clock: Clock, days: int) -> tuple[datetime, datetime]:
    now_ms = clock.now_ms()
    # X.509 times have whole seconds
    since_ms = (now_ms - BACKDATE_MS) // 1000 * 1000
    return to_datetime(since_ms), to_datetime(since_ms + days * DAY_MS)


def _hash_for(key: PrivateKey) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
