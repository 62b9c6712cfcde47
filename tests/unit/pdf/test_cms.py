"""CMS structures: what is signed, what is refused, and that others read them."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import subprocess
from collections.abc import Mapping

import pytest
from asn1crypto import cms as asn1_cms
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from outlast.core.asymmetric import KEY_ALGORITHMS, KeyAlgorithm, sign_bytes, spki_der
from outlast.core.clock import ManualClock, to_datetime
from outlast.core.errors import Refused
from outlast.core.pki import DAY_MS, certificate_der, certificate_pem, subject_name
from outlast.signing.cms import (
    CmsTemplate,
    add_timestamp,
    check_certificate,
    der,
    message_digest,
    signature_value,
    signed_statement,
    timestamp_imprint,
    timestamp_tokens,
    verify_signature,
)
from outlast.testing.pdfs import LocalSigner

NOW_MS = 1_800_000_000_000
TOKEN = der.tlv(der.SEQUENCE, bytes.fromhex("06092a864886f70d010701"), b"\xa0\x03\x04\x01\x00")
SECOND_TOKEN = der.tlv(der.SEQUENCE, bytes.fromhex("06092a864886f70d010701"))

OID_CONTENT_TYPE = "1.2.840.113549.1.9.3"
OID_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
OID_SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"


def _digest(algorithm: KeyAlgorithm, data: bytes) -> bytes:
    return hashlib.new(message_digest(algorithm), data).digest()


@pytest.mark.parametrize("algorithm", KEY_ALGORITHMS)
def test_structure_is_der_as_asn1crypto_reads_it(
    signers: Mapping[KeyAlgorithm, LocalSigner], algorithm: KeyAlgorithm
) -> None:
    """An independent encoder writes back the same bytes, and the PAdES attributes are the ones allowed."""
    made = signers[algorithm].cms(_digest(algorithm, b"document"))
    info = asn1_cms.ContentInfo.load(made, strict=True)
    assert info.dump(force=True) == made
    signer_info = info["content"]["signer_infos"][0]
    oids = {attribute["type"].dotted for attribute in signer_info["signed_attrs"]}
    assert oids == {OID_CONTENT_TYPE, OID_MESSAGE_DIGEST, OID_SIGNING_CERTIFICATE_V2}
    assert signer_info["digest_algorithm"]["algorithm"].native == message_digest(algorithm)


@pytest.mark.parametrize("algorithm", KEY_ALGORITHMS)
def test_openssl_verifies_a_detached_signature(
    signers: Mapping[KeyAlgorithm, LocalSigner], algorithm: KeyAlgorithm, tmp_path: pathlib.Path
) -> None:
    """`openssl cms -verify` accepts the CMS over the file and rejects it over another."""
    signer = signers[algorithm]
    files = {
        "data": b"a file that is no PDF",
        "other": b"another file",
        "cms": signer.detached(_digest(algorithm, b"a file that is no PDF"), NOW_MS),
        "root": certificate_pem(signer.authority.certificate),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    command = "openssl cms -verify -binary -inform DER -in cms -CAfile root -purpose any -out out"
    at = ["-attime", str(NOW_MS // 1000)]
    good, bad = (
        subprocess.run(
            [*command.split(), *at, "-content", name],
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
        )
        for name in ("data", "other")
    )
    assert bad.returncode != 0
    if algorithm == "ed25519" and "invalid digest" in good.stderr:
        return  # OpenSSL before 3.2 knows no Ed25519 in CMS, whoever made it; see cms.template
    assert good.returncode == 0, good.stderr


@pytest.mark.parametrize(("year_ms", "tag"), [(NOW_MS, 0x17), (2_600_000_000_000, 0x18)])
def test_signing_time_changes_type_in_2050(signer: LocalSigner, year_ms: int, tag: int) -> None:
    """RFC 5652, 11.3: UTCTime through 2049, GeneralizedTime after."""
    template = CmsTemplate.for_certificate(signer.chain_der, signer.algorithm, "detached")
    tbs = template.signed_attributes(bytes(32), year_ms)
    attributes = asn1_cms.CMSAttributes.load(tbs, strict=True)
    assert attributes.dump(force=True) == tbs
    (time,) = [a["values"][0] for a in attributes if a["type"].native == "signing_time"]
    assert time.chosen.tag == tag & 0x1F
    assert time.native == to_datetime(year_ms)


def test_profiles_disagree_on_signing_time(signer: LocalSigner) -> None:
    """PAdES forbids the attribute, a detached signature needs it, and a digest has its length."""
    pades = CmsTemplate.for_certificate(signer.chain_der, signer.algorithm)
    detached = CmsTemplate.for_certificate(signer.chain_der, signer.algorithm, "detached")
    with pytest.raises(ValueError):
        pades.signed_attributes(bytes(32), NOW_MS)
    with pytest.raises(ValueError):
        detached.signed_attributes(bytes(32))
    with pytest.raises(ValueError):
        pades.signed_attributes(bytes(20))


def test_template_is_built_once_for_a_certificate(signer: LocalSigner) -> None:
    """The same chain gives the same object, so signing pays for the parsing once."""
    first = CmsTemplate.for_certificate(signer.chain_der, signer.algorithm)
    assert CmsTemplate.for_certificate(list(signer.chain_der), signer.algorithm) is first


def test_timestamps_are_added_without_touching_the_statement(signer: LocalSigner) -> None:
    """Both tokens are there, the signed attributes and the signature are the same bytes, the result is DER."""
    plain = signer.cms(bytes(32))
    stamped = add_timestamp(add_timestamp(plain, TOKEN), SECOND_TOKEN)
    assert set(timestamp_tokens(stamped)) == {TOKEN, SECOND_TOKEN}
    assert signed_statement(stamped) == signed_statement(plain)
    assert timestamp_imprint(stamped) == hashlib.sha256(signature_value(plain)).digest()
    template = CmsTemplate.for_certificate(signer.chain_der, signer.algorithm)
    tbs, signature = signed_statement(plain)
    assert template.finish(tbs, signature, TOKEN) == add_timestamp(plain, TOKEN)
    assert asn1_cms.ContentInfo.load(stamped, strict=True).dump(force=True) == stamped


@given(st.binary(max_size=200))
def test_reading_bytes_that_are_no_cms_only_refuses(data: bytes) -> None:
    """Whatever the bytes, the answer is a refusal."""
    with pytest.raises(Refused) as refusal:
        signature_value(data)
    assert refusal.value.code == "cms-malformed"


@given(
    cut=st.integers(0, 1 << 20), at=st.integers(0, 1 << 20), byte=st.binary(min_size=1, max_size=1)
)
def test_reading_a_damaged_cms_refuses_or_reads(
    signer: LocalSigner, cut: int, at: int, byte: bytes
) -> None:
    """One byte changed anywhere, or the end cut off: no exception but a refusal gets out."""
    good = add_timestamp(signer.cms(bytes(32)), TOKEN)
    at %= len(good)
    for damaged in (good[: cut % len(good)], good[:at] + byte + good[at + 1 :]):
        with contextlib.suppress(Refused):
            timestamp_tokens(damaged)
            signature_value(damaged)
            add_timestamp(damaged, TOKEN)


@pytest.mark.parametrize("algorithm", KEY_ALGORITHMS)
def test_a_signature_over_other_bytes_or_by_another_key_is_refused(
    signers: Mapping[KeyAlgorithm, LocalSigner], algorithm: KeyAlgorithm
) -> None:
    """What a lying provider could return does not pass."""
    signer = signers[algorithm]
    spki = spki_der(signer.key)
    good = sign_bytes(signer.key, b"tbs")
    verify_signature(spki, algorithm, b"tbs", good)
    for tbs, signature in ((b"other", good), (b"tbs", b"\x00 not a signature"), (b"tbs", b"")):
        with pytest.raises(Refused) as refusal:
            verify_signature(spki, algorithm, tbs, signature)
        assert refusal.value.code == "signature-invalid"
    wrong: KeyAlgorithm = "ed25519" if algorithm != "ed25519" else "ecdsa-p256-sha256"
    with pytest.raises(Refused) as refusal:
        verify_signature(spki, wrong, b"tbs", good)
    assert refusal.value.code == "key-unsupported"


@pytest.mark.parametrize("algorithm", KEY_ALGORITHMS)
def test_an_enrolled_certificate_tells_its_facts(
    signers: Mapping[KeyAlgorithm, LocalSigner], algorithm: KeyAlgorithm
) -> None:
    """Subject, issuer, times and fingerprint are those of the signing certificate."""
    signer = signers[algorithm]
    facts = check_certificate(signer.chain_der, signer.key_info, NOW_MS)
    assert facts.subject == f"CN=Test signer {algorithm}"
    assert facts.issuer == "CN=Root of Test signer"
    assert facts.not_before_ms <= NOW_MS < facts.not_after_ms
    assert facts.fingerprint_sha256 == hashlib.sha256(signer.chain_der[0]).hexdigest()


def test_certificates_that_must_not_be_enrolled_are_refused(
    signers: Mapping[KeyAlgorithm, LocalSigner],
) -> None:
    """Each with its own code: another key's, out of order, expired, not yet valid, unreadable, none."""
    signer, other = signers["ecdsa-p256-sha256"], signers["ed25519"]
    info = signer.key_info
    leaf, root = signer.chain_der
    cases = {
        "certificate-key-mismatch": (signer.chain_der, other.key_info, NOW_MS),
        "certificate-chain-broken": ((leaf, other.chain_der[1]), info, NOW_MS),
        "certificate-expired": (signer.chain_der, info, NOW_MS + 800 * DAY_MS),
        "certificate-not-yet-valid": (signer.chain_der, info, NOW_MS - DAY_MS),
        "certificate-malformed": ((leaf[:-9], root), info, NOW_MS),
    }
    for code, (chain, key_info, now_ms) in cases.items():
        with pytest.raises(Refused) as refusal:
            check_certificate(chain, key_info, now_ms)
        assert refusal.value.code == code
        assert refusal.value.hint
    with pytest.raises(Refused, match="certificate-malformed"):
        check_certificate((), info, NOW_MS)


@pytest.mark.parametrize(
    "usage",
    [x509.KeyUsage(False, False, True, False, False, False, False, False, False), None],
    ids=["encryption", "none named"],
)
def test_a_certificate_not_for_signing_is_refused(
    signer: LocalSigner, usage: x509.KeyUsage | None
) -> None:
    """Verifiers want digital signature or non-repudiation in keyUsage: without it nothing is enrolled that
    they would not accept."""
    chain = (_self_signed(signer, usage),)
    with pytest.raises(Refused, match="certificate-key-usage"):
        check_certificate(chain, signer.key_info, NOW_MS)


def test_a_small_rsa_key_is_refused() -> None:
    """2048 bits are below the bound."""
    key = rsa.generate_private_key(65537, 2048)
    clock = ManualClock(NOW_MS)
    small = LocalSigner.make("ed25519", clock)
    info = small.key_info.__class__(
        key_ref="small", algorithm="rsa-pkcs1-sha256", spki_der=spki_der(key)
    )
    with pytest.raises(Refused, match="key-unsupported"):
        check_certificate(small.chain_der, info, NOW_MS)


def _self_signed(signer: LocalSigner, usage: x509.KeyUsage | None) -> bytes:
    name = subject_name("encrypts only")
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(signer.key.public_key())
        .serial_number(7)
        .not_valid_before(to_datetime(NOW_MS - DAY_MS))
        .not_valid_after(to_datetime(NOW_MS + DAY_MS))
    )
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    return certificate_der(builder.sign(signer.key, hashes.SHA256()))
