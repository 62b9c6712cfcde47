"""Every check on a token: a good one passes, and each that is wrong in one way is refused for that reason."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from asn1crypto import cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from outlast.core.clock import to_datetime
from outlast.core.errors import Refused, Unavailable
from outlast.core.rfc3161 import MAX_RESPONSE_BYTES, VerifiedToken, verify_response, verify_token

NOW_MS = 1_800_000_000_000
NOW = to_datetime(NOW_MS)
DIGEST = hashlib.sha256(b"document").digest()
NONCE = 0x8000_0000_0000_0001
STAMPING = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), True)
CA = (x509.BasicConstraints(ca=True, path_length=None), True)


def verify(forge: Any, response: bytes, **rules: Any) -> VerifiedToken:
    """Verify under the forge's own rules, changed."""
    changed = msgspec.structs.replace(forge.rules, **rules)
    return verify_response(response, DIGEST, NONCE, changed, NOW_MS)


def reason(forge: Any, response: bytes, **rules: Any) -> str:
    """Why it is refused."""
    with pytest.raises(Refused) as caught:
        verify(forge, response, **rules)
    assert (caught.value.code, caught.value.retry) == ("tsa-bad-token", "elsewhere")
    return caught.value.message


def test_a_good_token_passes(forge: Any) -> None:
    """The forge's unchanged token passes, with all its fields read."""
    info = {"accuracy": {"seconds": 1, "millis": 2, "micros": 3}, "ordering": True}
    response = forge.response(info=info)
    token = verify(forge, response)
    assert (token.gen_time_ms, token.serial, token.policy_oid) == (NOW_MS, 77, "1.2.3.4")
    assert (token.accuracy_us, token.ordering) == (1_002_003, True)
    assert token.response_der == response
    assert token.path == tuple(
        c.public_bytes(Encoding.DER) for c in (forge.certificate, forge.root)
    )
    assert verify_token(token.der, DIGEST, forge.rules) == msgspec.structs.replace(
        token, response_der=b""
    )


PSS = {
    "algorithm": "rsassa_pss",
    "parameters": {
        "hash_algorithm": {"algorithm": "sha256"},
        "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": {"algorithm": "sha256"}},
        "salt_length": 32,
    },
}


@pytest.fixture(scope="module")
def rsa_forge(make_forge: Any) -> Any:
    """An authority with an RSA key."""
    return make_forge(rsa.generate_private_key(65537, 2048))


@pytest.mark.parametrize("algorithm", ["rsassa_pkcs1v15", "sha256_rsa"])
def test_rsa_pkcs1(rsa_forge: Any, algorithm: str) -> None:
    """RSA signatures pass whether the algorithm names the hash or, as many authorities do, not."""
    verify(rsa_forge, rsa_forge.response(algorithm={"algorithm": algorithm}))


def pss_signer(forge: Any, salt: int) -> Callable[[bytes], bytes]:
    """Signs with PSS."""
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    return lambda data: forge.key.sign(data, scheme, hashes.SHA256())


def test_rsa_pss(rsa_forge: Any) -> None:
    """RSA-PSS with a salt as long as the digest passes; another salt length is refused."""
    verify(rsa_forge, rsa_forge.response(algorithm=PSS, sign=pss_signer(rsa_forge, 32)))
    short = {**PSS, "parameters": {**PSS["parameters"], "salt_length": 0}}  # type: ignore[dict-item]  # nested literal
    assert "salt" in reason(
        rsa_forge, rsa_forge.response(algorithm=short, sign=pss_signer(rsa_forge, 0))
    )


def test_p384(make_forge: Any) -> None:
    """ECDSA on P-384 with SHA-384 passes."""
    key = ec.generate_private_key(ec.SECP384R1())
    forge = make_forge(key)
    verify(
        forge,
        forge.response(
            digest="sha384",
            algorithm={"algorithm": "sha384_ecdsa"},
            sign=lambda data: key.sign(data, ec.ECDSA(hashes.SHA384())),
        ),
    )


def test_ed25519(make_forge: Any) -> None:
    """Ed25519 passes."""
    forge = make_forge(ed25519.Ed25519PrivateKey.generate())
    verify(forge, forge.response(digest="sha512", algorithm={"algorithm": "ed25519"}))


@pytest.mark.parametrize("key", [ec.SECP521R1(), ec.SECP256K1()], ids=["P-521", "secp256k1"])
def test_other_curves_are_refused(make_forge: Any, key: ec.EllipticCurve) -> None:
    """Only P-256 and P-384."""
    forge = make_forge(ec.generate_private_key(key))
    assert "curve" in reason(forge, forge.response())


def test_short_rsa_is_refused(make_forge: Any) -> None:
    """RSA under 2048 bits is refused."""
    forge = make_forge(rsa.generate_private_key(65537, 1024))
    assert "1024 bits" in reason(forge, forge.response(algorithm={"algorithm": "sha256_rsa"}))


def test_subject_key_identifier_names_the_signer(make_forge: Any) -> None:
    """A signer may be named by key identifier instead of issuer and serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    forge = make_forge(key, extensions=(STAMPING, (ski, False)))
    verify(forge, forge.response(by_key_id=True))


def test_signing_certificate_v1_binds_too(forge: Any) -> None:
    """The older attribute, which many authorities still send, binds; naming another certificate, it does not."""
    verify(forge, forge.response(binding="signing_certificate"))
    assert "names another certificate" in reason(
        forge, forge.response(binding="signing_certificate", bound=forge.root)
    )


IMPRINT = {"hash_algorithm": {"algorithm": "sha256"}, "hashed_message": DIGEST}


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"nonce": NONCE + 1}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"nonce": -NONCE}, "nonce"),
        ({"policy": "1.2.3.5"}, "policy"),
        ({"version": 2}, "not of version 1"),
        ({"message_imprint": {**IMPRINT, "hashed_message": bytes(32)}}, "another digest"),
        ({"message_imprint": {**IMPRINT, "hashed_message": DIGEST[:31]}}, "another digest"),
        (
            {"message_imprint": {"hash_algorithm": {"algorithm": "sha1"}, "hashed_message": b"x"}},
            "digest algorithm",
        ),
        ({"serial_number": 1 << 168}, "serial number"),
        ({"gen_time": NOW + timedelta(seconds=61)}, "from this site's clock"),
        ({"gen_time": NOW - timedelta(seconds=61)}, "from this site's clock"),
        ({"gen_time_text": b"20270115080000+0000"}, "form"),
        ({"gen_time_text": b"202701150800Z"}, "form"),
        ({"gen_time_text": b"20270115080000.50Z"}, "form"),
        ({"gen_time_text": b"20271515080000Z"}, "malformed"),
        ({"accuracy": {"millis": 1000}}, "accuracy"),
        ({"accuracy": {"seconds": -1}}, "accuracy"),
        (
            {"extensions": [{"extn_id": "2.5.29.99", "critical": True, "extn_value": b"\5\0"}]},
            "critical extension",
        ),
    ],
)
def test_wrong_contents_are_refused(forge: Any, info: dict[str, Any], expected: str) -> None:
    """Properly signed, but not what was asked for or not what RFC 3161 allows."""
    assert expected in reason(forge, forge.response(info=info))


def test_harmless_contents_pass(forge: Any) -> None:
    """A fraction of a second, an extension that is not critical, a big serial number, time within the bound."""
    for info in (
        {"gen_time_text": b"20270115080000.123456Z"},
        {"extensions": [{"extn_id": "2.5.29.99", "critical": False, "extn_value": b"\5\0"}]},
        {"serial_number": (1 << 160) - 1},
        {"gen_time": NOW + timedelta(seconds=60)},
    ):
        verify(forge, forge.response(info=info))


def test_any_policy_where_none_is_configured(forge: Any) -> None:
    """Without a list of policies every policy passes."""
    verify(forge, forge.response(info={"policy": "2.16.840.1"}), policies=None)


def without(kind: str) -> Callable[[list[cms.CMSAttribute]], list[cms.CMSAttribute]]:
    """Leave an attribute out."""
    return lambda all_: [a for a in all_ if a["type"].native != kind]


def twice(kind: str) -> Callable[[list[cms.CMSAttribute]], list[cms.CMSAttribute]]:
    """Give an attribute twice."""
    return lambda all_: all_ + [a for a in all_ if a["type"].native == kind]


def replaced(
    kind: str, value: object
) -> Callable[[list[cms.CMSAttribute]], list[cms.CMSAttribute]]:
    """Give an attribute another value."""
    made = cms.CMSAttribute({"type": kind, "values": [value]})
    return lambda all_: [*without(kind)(all_), made]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"attributes": without("content_type")}, "content type"),
        ({"attributes": replaced("content_type", "data")}, "content type"),
        ({"attributes": without("message_digest")}, "digest"),
        ({"attributes": replaced("message_digest", bytes(32))}, "digest"),
        ({"attributes": without("signing_certificate_v2")}, "signing-certificate"),
        ({"attributes": twice("message_digest")}, "more than once"),
        ({"attributes": lambda _: []}, "content type"),
        ({"signers": 2}, "2 signers"),
        ({"signers": 0}, "0 signers"),
        ({"digest": "sha1"}, "digest algorithm sha1"),
        ({"digest": "sha512"}, "different digest algorithms"),
        ({"algorithm": {"algorithm": "sha1_ecdsa"}}, "different digest algorithms"),
        ({"algorithm": {"algorithm": "sha256_rsa"}}, "does not fit"),
        ({"algorithm": {"algorithm": "ed25519"}}, "does not fit"),
        ({"sign": lambda _: bytes(70)}, "does not verify"),
        ({"content_type": "data"}, "not TSTInfo"),
        ({"certificates": []}, "missing"),
    ],
)
def test_wrong_signatures_are_refused(forge: Any, changes: dict[str, Any], expected: str) -> None:
    """Signed in a way that must not be believed."""
    assert expected in reason(forge, forge.response(**changes))


def test_a_signature_by_another_key_is_refused(forge: Any, make_forge: Any) -> None:
    """The right certificate with another authority's signature."""
    assert "does not verify" in reason(forge, forge.response(sign=make_forge().sign))


def test_another_authority_is_refused(forge: Any, make_forge: Any) -> None:
    """A good token of an authority that is not pinned, also when it brings its root along."""
    other = make_forge()
    carried = [other.certificate, other.root]
    assert "not signed by" in reason(forge, other.response(certificates=carried))


def test_too_many_certificates_are_refused(forge: Any) -> None:
    """A token that is mostly certificates is not looked at."""
    assert "malformed" in reason(forge, forge.response(certificates=[forge.certificate] * 17))


def test_the_authoritys_name(forge: Any) -> None:
    """Where the token names its authority, the name is the certificate's."""
    names = {
        "tsa": asn1_x509.GeneralName("directory_name", asn1_x509.Name.build({"common_name": "tsa"}))
    }
    verify(forge, forge.response(info=names))
    names["tsa"] = asn1_x509.GeneralName(
        "directory_name", asn1_x509.Name.build({"common_name": "somebody"})
    )
    assert "another authority" in reason(forge, forge.response(info=names))


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        ((), "no extended key usage"),
        (
            ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), False),),
            "not critical",
        ),
        (
            (
                (
                    x509.ExtendedKeyUsage(
                        [ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING]
                    ),
                    True,
                ),
            ),
            "only",
        ),
        (((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), True),), "only"),
        (
            (STAMPING, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"), True)),
            "critical extension",
        ),
    ],
)
def test_certificates_not_for_stamping_are_refused(
    make_forge: Any, extensions: tuple[Any, ...], expected: str
) -> None:
    """RFC 3161 section 2.3: the purpose is time stamping, alone and critical."""
    forge = make_forge(extensions=extensions)
    assert expected in reason(forge, forge.response())


@pytest.mark.parametrize(
    "validity",
    [{"until": NOW - timedelta(seconds=1)}, {"since": NOW + timedelta(seconds=1)}],
    ids=["expired", "not yet valid"],
)
def test_certificates_not_valid_then_are_refused(make_forge: Any, validity: dict[str, Any]) -> None:
    """The certificate must have been valid at the token's time."""
    validity = {"since": NOW - timedelta(days=9), "until": NOW + timedelta(days=9), **validity}
    forge = make_forge(**validity)
    assert "not valid at" in reason(forge, forge.response())


def test_validity_is_judged_at_the_tokens_time(make_forge: Any) -> None:
    """Long after the certificate has expired, its token still verifies offline."""
    forge = make_forge(until=NOW + timedelta(seconds=5))
    assert verify_token(forge.token(), DIGEST, forge.rules).gen_time_ms == NOW_MS


def test_a_pinned_certificate_needs_no_root(forge: Any) -> None:
    """The authority's own certificate may be pinned; the token need not carry it then."""
    pinned = forge.certificate.public_bytes(Encoding.DER)
    token = verify(forge, forge.response(certificates=[]), roots=(pinned,))
    assert token.path == (pinned,)


KEY_USAGE_NONE = x509.KeyUsage(False, False, False, False, False, False, True, False, False)


def test_intermediates(make_forge: Any, make_certificate: Any) -> None:
    """A path over an intermediate passes from token or configuration, and only if each step may issue."""
    middle_key, forge = ec.generate_private_key(ec.SECP256R1()), make_forge()

    def middle(*extensions: Any, **changes: Any) -> x509.Certificate:
        made: x509.Certificate = make_certificate(
            "middle", middle_key.public_key(), "root", forge.root_key, *extensions, **changes
        )
        return made

    forge.certificate = make_certificate(
        "tsa", forge.key.public_key(), "middle", middle_key, STAMPING
    )
    good = middle(CA)
    assert len(verify(forge, forge.response(certificates=[forge.certificate, good])).path) == 3
    verify(forge, forge.response(), intermediates=(good.public_bytes(Encoding.DER),))
    for bad, expected in (
        (middle(), "not a certificate authority"),
        (middle((x509.BasicConstraints(ca=False, path_length=None), True)), "not a certificate"),
        (middle(CA, (KEY_USAGE_NONE, True)), "may not sign certificates"),
        (
            middle(CA, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)),
            "for time stamping",
        ),
        (middle(CA, since=NOW - timedelta(days=9), until=NOW - timedelta(days=8)), "not valid at"),
        (
            make_certificate(
                "middle",
                middle_key.public_key(),
                "root",
                ec.generate_private_key(ec.SECP256R1()),
                CA,
            ),
            "not signed by",
        ),
    ):
        assert expected in reason(forge, forge.response(certificates=[forge.certificate, bad]))
    assert "no pinned root" in reason(forge, forge.response())


def test_path_length_is_kept(make_forge: Any, make_certificate: Any) -> None:
    """A root that allows no authority below it is taken at its word."""
    forge = make_forge()
    middle_key = ec.generate_private_key(ec.SECP256R1())
    forge.root = make_certificate(
        "root",
        forge.root_key.public_key(),
        "root",
        forge.root_key,
        (x509.BasicConstraints(ca=True, path_length=0), True),
    )
    middle = make_certificate("middle", middle_key.public_key(), "root", forge.root_key, CA)
    forge.certificate = make_certificate(
        "tsa", forge.key.public_key(), "middle", middle_key, STAMPING
    )
    response = forge.response(certificates=[forge.certificate, middle])
    root = forge.root.public_bytes(Encoding.DER)
    assert "that many authorities" in reason(forge, response, roots=(root,))


def test_circles_of_certificates_end(make_forge: Any, make_certificate: Any) -> None:
    """Authorities that certify each other in circles cost a bounded number of tries and lead nowhere."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    forge = make_forge()
    forge.certificate = make_certificate("tsa", forge.key.public_key(), "c0", keys[0], STAMPING)
    circle = [
        make_certificate(f"c{a}", keys[a].public_key(), f"c{b}", keys[b], CA)
        for a in range(3)
        for b in range(3)
    ]
    assert "no pinned root" in reason(
        forge, forge.response(certificates=[forge.certificate, *circle])
    )


def test_statuses(forge: Any) -> None:
    """Granted with modifications passes the same checks; granted without a token and every other status do not."""
    token = forge.token()

    def response(status: int, token: bytes = b"", **more: Any) -> bytes:
        info = tsp.PKIStatusInfo({"status": status, **more}).dump()
        made: bytes = core.Sequence(contents=info + token).dump()
        return made

    verify(forge, response(1, token))
    assert "has none" in reason(forge, response(0))
    for status in (2, 3, 4, 5):
        with pytest.raises(Refused) as caught:
            verify(forge, response(status, token, status_string=["no\x07way " + "x" * 500]))
        assert caught.value.code == "tsa-rejected"
        assert "no way" in caught.value.message
        assert len(caught.value.message) < 300
    for broken in ({"time_not_available"}, {"system_failure"}):
        with pytest.raises(Unavailable):
            verify(forge, response(2, fail_info=broken))


def test_large_responses_are_not_parsed(forge: Any) -> None:
    """The bound is on bytes, before any parsing."""
    assert "more than" in reason(forge, forge.response() + bytes(MAX_RESPONSE_BYTES))
    with pytest.raises(Refused, match="more than"):
        verify_token(bytes(MAX_RESPONSE_BYTES + 1), DIGEST, forge.rules)


def test_trailing_bytes_are_refused(forge: Any) -> None:
    """Nothing may follow the response, the token, or the TSTInfo."""
    assert "malformed" in reason(forge, forge.response() + b"\0")
    with pytest.raises(Refused):
        verify_token(forge.token() + b"\0", DIGEST, forge.rules)


def test_any_flipped_byte_is_harmless(forge: Any) -> None:
    """Each byte of a good response, changed in three ways: refused, or the very same statement verifies."""
    good = forge.response(info={"accuracy": {"seconds": 1}})
    wanted = verify(forge, good)
    survivors = 0
    for at in range(len(good)):
        for flip in (0x01, 0x80, 0xFF):
            bad = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
            try:
                token = verify(forge, bad)
            except Refused:
                continue
            except Unavailable:
                continue  # the status became a rejection for a passing reason
            survivors += 1
            assert token.path == wanted.path
            for field in ("gen_time_ms", "serial", "policy_oid", "accuracy_us", "ordering"):
                assert getattr(token, field) == getattr(wanted, field)
    assert survivors <= 12  # "granted with modifications", and NULL parameters written otherwise
