"""The local authority: what it issues verifies here and with openssl; what it does not understand it rejects."""

from __future__ import annotations

import hashlib
import pathlib
import shutil
import subprocess
from typing import Any

import msgspec
import pytest
from asn1crypto import algos, tsp
from hypothesis import given
from hypothesis import strategies as st

from outlast.core.asymmetric import KeyAlgorithm, generate_private_key, spki_der
from outlast.core.clock import ManualClock, SystemClock
from outlast.core.errors import Refused, Unavailable
from outlast.core.pki import certificate_der, certificate_pem, issue, make_ca
from outlast.core.rfc3161 import TsaRules, build_request, verify_response
from outlast.core.tsa import (
    LOCAL_POLICY_OID,
    MAX_REQUEST_BYTES,
    LocalAuthority,
    TokenSigner,
    gen_time,
    issue_token,
)

DIGEST = hashlib.sha256(b"document").digest()
CLOCK = SystemClock()
ALGORITHMS: tuple[KeyAlgorithm, ...] = ("rsa-pkcs1-sha256", "ecdsa-p256-sha256", "ed25519")


class Site:
    """A root, a signer and the rules that trust it."""

    def __init__(self, algorithm: KeyAlgorithm) -> None:
        self.root = make_ca("root", algorithm, CLOCK)
        key = generate_private_key(algorithm)
        certificate = issue(self.root, "tsa", spki_der(key), "tsa", CLOCK)
        self.signer = TokenSigner(key=key, certificate_der=certificate_der(certificate))
        self.rules = TsaRules(
            roots=(self.root.certificate_der,), policies=frozenset({LOCAL_POLICY_OID})
        )

    def changed(self, **changes: Any) -> TokenSigner:
        """The signer with other settings."""
        return msgspec.structs.replace(self.signer, **changes)


SITE = Site("ecdsa-p256-sha256")


def status_of(response: bytes) -> tuple[str, set[str]]:
    """Status and failure information of a response, read by schema."""
    info = tsp.PKIStatusInfo.load(response[2:] if response[1] < 0x80 else response[4:])
    return info["status"].native, set(info["fail_info"].native or ())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_tokens_verify_here(algorithm: KeyAlgorithm) -> None:
    """With each kind of key."""
    site = Site(algorithm)
    response = LocalAuthority(site.signer, CLOCK).respond(build_request(DIGEST, 7))
    token = verify_response(response, DIGEST, 7, site.rules, CLOCK.now_ms())
    assert token.policy_oid == LOCAL_POLICY_OID
    assert token.accuracy_us == 1_000_000
    assert not token.ordering


@pytest.mark.parametrize("algorithm", ["rsa-pkcs1-sha256", "ecdsa-p256-sha256"])
@pytest.mark.parametrize("accuracy_ms", [1000, 1, 127, 128, 999, 61_500])
def test_tokens_verify_with_openssl(
    algorithm: KeyAlgorithm, accuracy_ms: int, tmp_path: pathlib.Path
) -> None:
    """openssl takes the request and verifies the token (it has no Ed25519 in ``ts``)."""
    assert shutil.which("openssl"), "install openssl (Debian: apt install openssl)"
    site = Site(algorithm)
    request = build_request(DIGEST, (1 << 64) - 1, LOCAL_POLICY_OID)
    signer = site.changed(accuracy_ms=accuracy_ms, ordering=True)
    response = issue_token(request, signer, (1 << 127) - 1, CLOCK.now_ms())
    (tmp_path / "query").write_bytes(request)
    (tmp_path / "reply").write_bytes(response)
    (tmp_path / "root.pem").write_bytes(certificate_pem(site.root.certificate))
    checked = subprocess.run(
        ["openssl", "ts", "-verify", "-in", "reply", "-queryfile", "query", "-CAfile", "root.pem"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Verification: OK" in checked.stdout, checked.stderr
    token = verify_response(response, DIGEST, (1 << 64) - 1, site.rules, CLOCK.now_ms())
    assert token.accuracy_us == accuracy_ms * 1000
    assert token.ordering
    text = subprocess.run(
        ["openssl", "ts", "-reply", "-in", "reply", "-text"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert f"Policy OID: {LOCAL_POLICY_OID}" in text


@pytest.mark.parametrize(("name", "size"), [("sha384", 48), ("sha512", 64)])
def test_other_digests_are_stamped(name: str, size: int) -> None:
    """SHA-384 and SHA-512 imprints come back as they were sent."""
    imprint = {"hash_algorithm": {"algorithm": name}, "hashed_message": b"d" * size}
    request = tsp.TimeStampReq({"version": 1, "message_imprint": imprint, "cert_req": True}).dump()
    response = issue_token(request, SITE.signer, 1, CLOCK.now_ms())
    info = tsp.TimeStampResp.load(response)["time_stamp_token"]["content"]["encap_content_info"][
        "content"
    ].parsed
    assert info["message_imprint"].native["hash_algorithm"]["algorithm"] == name
    assert info["message_imprint"]["hashed_message"].native == b"d" * size
    assert info["nonce"].native is None


def test_certificates_come_only_when_asked_for() -> None:
    """RFC 3161 section 2.4.1: without certReq the token carries none."""
    imprint = {"hash_algorithm": {"algorithm": "sha256"}, "hashed_message": DIGEST}
    request = tsp.TimeStampReq({"version": 1, "message_imprint": imprint, "nonce": 3}).dump()
    response = issue_token(request, SITE.signer, 1, CLOCK.now_ms())
    assert SITE.signer.certificate_der not in response
    pinned = msgspec.structs.replace(SITE.rules, intermediates=(SITE.signer.certificate_der,))
    verify_response(response, DIGEST, 3, pinned, CLOCK.now_ms())


def request(**changes: Any) -> bytes:
    """A TimeStampReq, changed."""
    imprint = {"hash_algorithm": {"algorithm": "sha256"}, "hashed_message": DIGEST}
    made: bytes = tsp.TimeStampReq({"version": 1, "message_imprint": imprint, **changes}).dump()
    return made


SHORT = {"hash_algorithm": {"algorithm": "sha256"}, "hashed_message": DIGEST[:20]}
SHA1 = {"hash_algorithm": {"algorithm": "sha1"}, "hashed_message": DIGEST[:20]}
EXTENSION = {"extn_id": "2.5.29.99", "critical": False, "extn_value": b"\5\0"}


@pytest.mark.parametrize(
    ("sent", "fail_info"),
    [
        (b"", "bad_data_format"),
        (b"hello", "bad_data_format"),
        (request() + b"\0", "bad_data_format"),
        (bytes(MAX_REQUEST_BYTES + 1), "bad_data_format"),
        (request(version=2), "bad_request"),
        (request(message_imprint=SHORT), "bad_data_format"),
        (request(message_imprint=SHA1), "bad_alg"),
        (request(req_policy="1.2.3"), "unaccepted_policy"),
        (request(extensions=[EXTENSION]), "unaccepted_extensions"),
        (request(nonce=1 << 600), "bad_data_format"),
    ],
)
def test_rejections(sent: bytes, fail_info: str) -> None:
    """Each wrong request gets a response with the reason, and our client says Refused."""
    response = LocalAuthority(SITE.signer, CLOCK).respond(sent)
    assert status_of(response) == ("rejection", {fail_info})
    with pytest.raises(Refused) as caught:
        verify_response(response, DIGEST, 1, SITE.rules, CLOCK.now_ms())
    assert caught.value.code == "tsa-rejected"


@given(st.binary(max_size=200))
def test_noise_is_rejected(noise: bytes) -> None:
    """Whatever is sent, a well-formed response comes back."""
    assert status_of(issue_token(noise, SITE.signer, 1, 0))[0] == "rejection"


def test_no_tokens_while_the_clock_is_wrong() -> None:
    """A clock that has stepped back stamps nothing; the client may come again."""
    authority = LocalAuthority(SITE.signer, CLOCK, time_is_sound=lambda: False)
    with pytest.raises(Unavailable) as caught:
        verify_response(
            authority.respond(build_request(DIGEST, 1)), DIGEST, 1, SITE.rules, CLOCK.now_ms()
        )
    assert caught.value.code == "tsa-unavailable"


def test_serial_numbers_need_no_memory() -> None:
    """Two authorities with the same key, as after a restart, never give the same serial number."""
    serials = set()
    for _ in range(20):
        authority = LocalAuthority(SITE.signer, CLOCK)
        for _ in range(5):
            response = authority.respond(build_request(DIGEST, 1))
            token = verify_response(response, DIGEST, 1, SITE.rules, CLOCK.now_ms())
            serials.add(token.serial)
    assert len(serials) == 100
    assert min(serials) > 0


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (1_800_000_000_000, b"20270115080000Z"),
        (1_800_000_000_001, b"20270115080000.001Z"),
        (1_800_000_000_120, b"20270115080000.12Z"),
        (1_800_000_000_500, b"20270115080000.5Z"),
    ],
)
def test_times_have_the_prescribed_form(ms: int, text: bytes) -> None:
    """RFC 3161 section 2.4.2: no trailing zeros, no empty fraction."""
    assert gen_time(ms) == text


def test_time_is_the_clocks() -> None:
    """The token's time is the clock's, to the millisecond."""
    clock = ManualClock(CLOCK.now_ms() // 1000 * 1000 + 123)
    response = LocalAuthority(SITE.signer, clock).respond(build_request(DIGEST, 1))
    token = verify_response(response, DIGEST, 1, SITE.rules, clock.now_ms())
    assert token.gen_time_ms == clock.now_ms()


def test_the_policy_is_under_the_uuid_arc() -> None:
    """The identifier encodes and decodes as it is written."""
    assert algos.ObjectIdentifier(LOCAL_POLICY_OID).dotted == LOCAL_POLICY_OID
