"""The small certificate authority makes certificates that other people's software accepts for their purpose."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from outlast.core.asymmetric import KEY_ALGORITHMS, KeyAlgorithm, generate_private_key, spki_der
from outlast.core.clock import ManualClock, SystemClock, to_datetime
from outlast.core.errors import Corrupt, Refused
from outlast.core.pki import (
    BACKDATE_MS,
    DAY_MS,
    DOCUMENT_SIGNING_EKU,
    Purpose,
    certificate_pem,
    issue,
    load_authority,
    make_ca,
    private_key_pem,
    subject_name,
)

OPENSSL_PURPOSES: dict[Purpose, str] = {
    "server": "sslserver",
    "client": "sslclient",
    "tsa": "timestampsign",
    "document-signing": "any",
}


@pytest.mark.parametrize("algorithm", KEY_ALGORITHMS)
@pytest.mark.parametrize("purpose", OPENSSL_PURPOSES)
def test_openssl_verifies(tmp_path: Path, algorithm: KeyAlgorithm, purpose: Purpose) -> None:
    """openssl builds the chain in strict mode and takes the certificate for its purpose."""
    clock = SystemClock()
    ca = make_ca("Test CA", algorithm, clock)
    key = generate_private_key(algorithm)
    leaf = issue(ca, "leaf", spki_der(key), purpose, clock, dns_names=("localhost",))
    (tmp_path / "ca.pem").write_bytes(certificate_pem(ca.certificate))
    (tmp_path / "leaf.pem").write_bytes(certificate_pem(leaf))
    command = ["openssl", "verify", "-x509_strict", "-purpose", OPENSSL_PURPOSES[purpose]]
    result = subprocess.run(
        [*command, "-CAfile", "ca.pem", "leaf.pem"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_extensions_of_each_purpose() -> None:
    """Document signing and time stamping carry the usages their standards ask for, and nothing else does."""
    clock = ManualClock()
    ca = make_ca("Test CA", "ecdsa-p256-sha256", clock)
    spki = spki_der(generate_private_key("ed25519"))

    signing = issue(ca, "signer", spki, "document-signing", clock).extensions
    usage = signing.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert usage.value.content_commitment
    assert list(signing.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        DOCUMENT_SIGNING_EKU
    ]

    tsa = issue(ca, "tsa", spki, "tsa", clock).extensions
    eku = tsa.get_extension_for_class(x509.ExtendedKeyUsage)
    assert eku.critical
    assert list(eku.value) == [ExtendedKeyUsageOID.TIME_STAMPING]
    assert not tsa.get_extension_for_class(x509.KeyUsage).value.content_commitment

    issuer = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    authority = tsa.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert authority.value.key_identifier == issuer.value.digest


def test_validity_and_serials() -> None:
    """Validity starts a little in the past, ends with the CA at the latest; serials differ and have 64 bits or more."""
    clock = ManualClock()
    ca = make_ca("Test CA", "ed25519", clock, validity_days=30)
    spki = spki_der(generate_private_key("ed25519"))
    first = issue(ca, "a", spki, "client", clock, validity_days=365)
    second = issue(ca, "a", spki, "client", clock, validity_days=10)
    since = clock.now_ms() - BACKDATE_MS
    assert first.not_valid_before_utc == to_datetime(since)
    assert first.not_valid_after_utc == ca.certificate.not_valid_after_utc
    assert second.not_valid_after_utc == to_datetime(since + 10 * DAY_MS)
    assert first.serial_number != second.serial_number
    assert ca.certificate.serial_number.bit_length() > 64


def test_subject_order() -> None:
    """Country, organisation, common name: the order in which X.500 writes them."""
    name = subject_name("Contracts", organization="Example SA", country="FR")
    assert name.rfc4514_string() == "CN=Contracts,O=Example SA,C=FR"


def test_refuses_weak_keys() -> None:
    """A key the project would not sign with gets no certificate."""
    clock = ManualClock()
    ca = make_ca("Test CA", "ed25519", clock)
    weak = [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())]
    for key in weak:
        spki = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with pytest.raises(Refused, match="key-unsupported"):
            issue(ca, "weak", spki, "client", clock)
    with pytest.raises(Refused, match="key-unsupported"):
        issue(ca, "garbage", b"\x30\x03garbage", "client", clock)
    with pytest.raises(Refused, match="certificate-request-invalid"):
        issue(ca, "nameless", spki_der(generate_private_key("ed25519")), "server", clock)


def test_authority_comes_back_from_its_files() -> None:
    """An authority is its two PEM files; another's key, a wrong passphrase and noise are Corrupt."""
    clock = ManualClock()
    ca = make_ca("Test CA", "ecdsa-p256-sha256", clock)
    other = make_ca("Other CA", "ecdsa-p256-sha256", clock)
    certificate = certificate_pem(ca.certificate)
    again = load_authority(certificate, private_key_pem(ca.key, b"secret"), b"secret")
    assert again.certificate == ca.certificate
    wrong = [
        (certificate, private_key_pem(other.key), b""),
        (certificate, private_key_pem(ca.key, b"secret"), b"other"),
        (certificate, b"noise", b""),
        (b"noise", private_key_pem(ca.key), b""),
    ]
    for files in wrong:
        with pytest.raises(Corrupt, match="ca-unreadable"):
            load_authority(*files)
