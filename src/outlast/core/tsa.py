"""A time-stamping authority of our own: for tests, the demo and air-gapped sites. It is NOT qualified.

It answers one TimeStampReq with one TimeStampResp (RFC 3161, RFC 5816), in DER, whatever the request was. Its time
is that of this machine and its key is a file, so nobody outside has reason to believe it: its policy identifier
says so, and configuration must never declare it qualified. What it does not understand it rejects: extensions, other
policies, digests other than SHA-256, SHA-384 and SHA-512.

Policy LOCAL_POLICY_OID: "the time is the clock of a machine of an Outlast site; accuracy as stated in the token;
serial numbers are 127 random bits, unique without any record of those given out; not audited, not qualified".
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import msgspec
from asn1crypto import core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from outlast.core.clock import Clock, to_datetime
from outlast.core.der import tlv

LOCAL_POLICY_OID = "2.25.54365300016601145838825437045642558529"
"""Under the arc for UUIDs (ITU-T X.667), which needs no registration."""

MAX_REQUEST_BYTES = 4 * 1024
"""Largest request looked at; usual ones have 60 to 100 bytes."""

MAX_NONCE_BITS = 512
"""Longest nonce repeated back."""

DEFAULT_ACCURACY_MS = 1000
"""What this machine's clock is claimed to be good for, under NTP."""

StampingKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_DIGEST_BYTES = {"sha256": 32, "sha384": 48, "sha512": 64}
_SHA256 = bytes.fromhex("300b0609608648016503040201")
_SHA384 = bytes.fromhex("300b0609608648016503040202")
_SHA512 = bytes.fromhex("300b0609608648016503040203")
_RSA_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")
_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
_ED25519 = bytes.fromhex("300506032b6570")
_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")
_TST_INFO = bytes.fromhex("060b2a864886f70d0109100104")
_CONTENT_TYPE = bytes.fromhex("06092a864886f70d010903")
_MESSAGE_DIGEST = bytes.fromhex("06092a864886f70d010904")
_SIGNING_CERTIFICATE_V2 = bytes.fromhex("060b2a864886f70d010910022f")
_GRANTED = bytes.fromhex("3003020100")
_REJECTION = 2


class Rejection(Exception):
    """Why a request gets no token: a PKIFailureInfo name and words for people."""

    def __init__(self, fail_info: str, text: str) -> None:
        super().__init__(text)
        self.fail_info = fail_info
        self.text = text


class TokenSigner(msgspec.Struct, frozen=True, kw_only=True):
    """Whose tokens are issued: ``key`` and its certificate, further DER certificates to send along, policy, the
    accuracy stated, and whether times alone order the tokens."""

    key: StampingKey
    certificate_der: bytes
    chain_der: tuple[bytes, ...] = ()
    policy_oid: str = LOCAL_POLICY_OID
    accuracy_ms: int = DEFAULT_ACCURACY_MS
    ordering: bool = False


class LocalAuthority:
    """Answers requests with the time of ``clock``. Thread-safe; about 0.2 ms each with a P-256 key.

    While ``time_is_sound()`` is false it rejects with timeNotAvailable: better no token than one with a wrong time.
    """

    def __init__(
        self,
        signer: TokenSigner,
        clock: Clock,
        entropy: Callable[[int], bytes] = os.urandom,
        time_is_sound: Callable[[], bool] = lambda: True,
    ) -> None:
        self._signer = signer
        self._clock = clock
        self._entropy = entropy
        self._time_is_sound = time_is_sound

    def respond(self, request_der: bytes) -> bytes:
        """A TimeStampResp: a token, or a rejection that says why. Raises nothing for any input."""
        if not self._time_is_sound():
            return rejection_response(Rejection("time_not_available", "the clock has stepped back"))
        # 127 random bits: unique across restarts without a file that could be restored from a backup
        serial = int.from_bytes(self._entropy(16), "big") >> 1 | 1
        return issue_token(request_der, self._signer, serial, self._clock.now_ms())


def issue_token(request_der: bytes, signer: TokenSigner, serial: int, now_ms: int) -> bytes:
    """The TimeStampResp (DER) to a TimeStampReq at ``now_ms``, Unix milliseconds."""
    try:
        request = _parse(request_der, signer.policy_oid)
    except Rejection as rejection:
        return rejection_response(rejection)
    info = _tst_info(request, signer, serial, now_ms)
    return tlv(0x30, _GRANTED, _token(info, signer, with_certificates=request.with_certificates))


def rejection_response(rejection: Rejection) -> bytes:
    """A TimeStampResp (DER) that grants nothing."""
    status = {
        "status": _REJECTION,
        "status_string": [rejection.text],
        "fail_info": {rejection.fail_info},
    }
    # asn1crypto's TimeStampResp insists on a token, which RFC 3161 section 2.4.2 makes optional
    return tlv(0x30, tsp.PKIStatusInfo(status).dump())


class _Request(msgspec.Struct, frozen=True):
    imprint_der: bytes
    nonce_der: bytes
    with_certificates: bool


def _parse(request_der: bytes, policy_oid: str) -> _Request:
    if len(request_der) > MAX_REQUEST_BYTES:
        raise Rejection("bad_data_format", "the request is too long")
    try:
        return _checked(tsp.TimeStampReq.load(request_der, strict=True), policy_oid)
    except Rejection:
        raise
    except Exception as error:  # a parser of hostile bytes raises what it likes; the answer is one
        raise Rejection("bad_data_format", "the request is not a TimeStampReq") from error


def _checked(request: tsp.TimeStampReq, policy_oid: str) -> _Request:
    imprint = request["message_imprint"]
    if int(request["version"]) != 1:
        raise Rejection("bad_request", "the request is not of version 1")
    expected = _DIGEST_BYTES.get(imprint["hash_algorithm"]["algorithm"].native)
    if expected is None or imprint["hash_algorithm"]["parameters"].native is not None:
        raise Rejection("bad_alg", "the digest algorithm is not SHA-256, SHA-384 or SHA-512")
    if len(bytes(imprint["hashed_message"])) != expected:
        raise Rejection("bad_data_format", "the digest's length does not fit its algorithm")
    if request["req_policy"].native is not None and request["req_policy"].dotted != policy_oid:
        raise Rejection("unaccepted_policy", "tokens are issued under another policy")
    if request["extensions"].native:
        raise Rejection("unaccepted_extensions", "extensions are not supported")
    nonce = request["nonce"]
    if nonce.native is not None and nonce.native.bit_length() > MAX_NONCE_BITS:
        raise Rejection("bad_data_format", "the nonce is too long")
    return _Request(
        imprint_der=imprint.dump(force=True),
        nonce_der=b"" if nonce.native is None else core.Integer(nonce.native).dump(),
        with_certificates=request["cert_req"].native,
    )


def _tst_info(request: _Request, signer: TokenSigner, serial: int, now_ms: int) -> bytes:
    return tlv(
        0x30,
        b"\x02\x01\x01",
        core.ObjectIdentifier(signer.policy_oid).dump(),
        request.imprint_der,
        core.Integer(serial).dump(),
        tlv(0x18, gen_time(now_ms)),
        _accuracy(signer.accuracy_ms),
        b"\x01\x01\xff" if signer.ordering else b"",
        request.nonce_der,
    )


def _accuracy(accuracy_ms: int) -> bytes:
    seconds, millis = divmod(accuracy_ms, 1000)
    parts = core.Integer(seconds).dump() if seconds else b""
    if millis:
        parts += tlv(0x80, core.Integer(millis).contents)
    return tlv(0x30, parts) if parts else b""


def gen_time(now_ms: int) -> bytes:
    """Unix milliseconds as RFC 3161's GeneralizedTime: UTC, no trailing zeros in the fraction."""
    fraction = f".{now_ms % 1000:03d}".rstrip("0").rstrip(".")
    return f"{to_datetime(now_ms):%Y%m%d%H%M%S}{fraction}Z".encode()


def _token(info: bytes, signer: TokenSigner, *, with_certificates: bool) -> bytes:
    """CMS SignedData over TSTInfo (RFC 5652 section 5.1, version 3 because the content is not id-data)."""
    digest_algorithm, signature_algorithm = _algorithms(signer.key)
    attributes = _attributes(info, signer.certificate_der, digest_algorithm)
    issuer_and_serial = _issuer_and_serial(signer.certificate_der)
    signer_info = tlv(
        0x30,
        b"\x02\x01\x01",
        issuer_and_serial,
        digest_algorithm,
        tlv(0xA0, attributes),
        signature_algorithm,
        tlv(0x04, _sign(signer.key, tlv(0x31, attributes))),
    )
    certificates = b""
    if with_certificates:
        certificates = tlv(0xA0, *sorted((signer.certificate_der, *signer.chain_der)))
    signed_data = tlv(
        0x30,
        b"\x02\x01\x03",
        tlv(0x31, digest_algorithm),
        tlv(0x30, _TST_INFO, tlv(0xA0, tlv(0x04, info))),
        certificates,
        tlv(0x31, signer_info),
    )
    return tlv(0x30, _SIGNED_DATA, tlv(0xA0, signed_data))


def _attributes(info: bytes, certificate: bytes, digest_algorithm: bytes) -> bytes:
    """Content type, message digest and signing-certificate-v2 (RFC 5035), in DER's order."""
    name = {_SHA256: "sha256", _SHA384: "sha384", _SHA512: "sha512"}[digest_algorithm]
    digest = hashlib.new(name, info).digest()
    # SHA-256 is the default of ESSCertIDv2 and therefore left out
    cert_id = tlv(0x30, tlv(0x04, hashlib.sha256(certificate).digest()))
    signing_certificate = tlv(0x30, tlv(0x30, cert_id))
    return b"".join(
        sorted(
            (
                _attribute(_CONTENT_TYPE, _TST_INFO),
                _attribute(_MESSAGE_DIGEST, tlv(0x04, digest)),
                _attribute(_SIGNING_CERTIFICATE_V2, signing_certificate),
            )
        )
    )


def _attribute(kind: bytes, value: bytes) -> bytes:
    return tlv(0x30, kind, tlv(0x31, value))


def _issuer_and_serial(certificate_der: bytes) -> bytes:
    certificate = asn1_x509.Certificate.load(certificate_der)
    return tlv(0x30, certificate.issuer.dump(), core.Integer(certificate.serial_number).dump())


def _algorithms(key: StampingKey) -> tuple[bytes, bytes]:
    """AlgorithmIdentifiers of digest and signature. Ed25519 goes with SHA-512 (RFC 8419 section 3)."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _SHA512, _ED25519
    if isinstance(key, rsa.RSAPrivateKey):
        return _SHA256, _RSA_SHA256
    if key.curve.name == "secp384r1":
        return _SHA384, _ECDSA_SHA384
    return _SHA256, _ECDSA_SHA256


def _sign(key: StampingKey, data: bytes) -> bytes:
    """ECDSA is deterministic (RFC 6979): one thing less that a machine's randomness must be good for."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if key.curve.name == "secp384r1":
        return key.sign(data, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    return key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
